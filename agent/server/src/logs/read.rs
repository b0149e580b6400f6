//! Reading a log file block by block, following it while it grows, is renamed and made anew.
//!
//! In: a path, options, "does the container still run". Out: blocks of what is to be shown, into a bounded channel: a slow reader slows the
//! reading. File calls run on blocking threads, few at a time, so that a slow disk stops neither the loop nor other work.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kedge_pods::logs::filter::Filter;
use kedge_pods::logs::tail::Tail;
use tokio::sync::{Semaphore, mpsc};

use super::LogOptions;
use crate::node::{LogSource, SharedNode};

const BLOCK: usize = 32 * 1024;
/// Blocking file reads for logs at once.
const LANE: usize = 4;
/// How often a file that is being followed is looked at. Kernel notification would need `sys`; a stat five times a second per follower is
/// cheap, and a person does not notice the delay.
const POLL: Duration = Duration::from_millis(200);

/// What goes to the response's body.
pub type Blocks = mpsc::Receiver<io::Result<Bytes>>;

/// The lane that log reads share.
#[derive(Clone, Debug)]
pub struct Lane(Arc<Semaphore>);

impl Default for Lane {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LANE)))
    }
}

impl Lane {
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        // The semaphore is never closed; if it were, one read too many would do no harm.
        let _permit = self.0.acquire().await.ok();
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|e| Err(io::Error::other(e)))
    }
}

/// An open log with its reading position.
struct Log {
    file: File,
    inode: u64,
    position: u64,
    /// Read no further than here.
    end: u64,
}

/// What the path says about the file that is open.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Same,
    /// Rotated: another file has the name.
    Renamed,
    /// Shorter than what was read: emptied in place.
    Truncated,
    /// Between rename and reopen, or removed with its pod.
    Missing,
}

/// Opens the log and starts reading. An error here is the request's; later ones break the stream.
pub async fn start(
    node: SharedNode,
    lane: Lane,
    source: LogSource,
    options: &LogOptions,
    filter: Filter,
) -> io::Result<Blocks> {
    let (path, tail, follow) = (source.path.clone(), options.tail_lines, options.follow);
    let log = lane.run(move || Log::open(&path, tail, follow)).await?;
    let (blocks, out) = mpsc::channel(4);
    let reader = Reader {
        node,
        lane,
        source,
        follow: options.follow,
        filter,
        blocks,
    };
    // Ends with the log, or when the caller is gone (the channel closes).
    tokio::spawn(reader.run(log));
    Ok(out)
}

struct Reader {
    node: SharedNode,
    lane: Lane,
    source: LogSource,
    follow: bool,
    filter: Filter,
    blocks: mpsc::Sender<io::Result<Bytes>>,
}

impl Reader {
    async fn run(mut self, log: Log) {
        if let Err(error) = self.read(log).await {
            tracing::warn!(path = %self.source.path.display(), %error, "read a container's log");
            // Breaks the response, so that the caller does not take a part for the whole.
            let _ = self.blocks.send(Err(error)).await;
        }
    }

    async fn read(&mut self, mut log: Log) -> io::Result<()> {
        loop {
            // Asked before reading: whatever a container wrote before it ended is then read before giving up.
            let running = self.follow && self.node.is_running(&self.source.container_id);
            log = match self.drain(log).await? {
                Some(log) => log,
                None => return Ok(()),
            };
            if !self.follow {
                return Ok(());
            }
            let path = self.source.path.clone();
            let (kept, standing) = self
                .lane
                .run(move || {
                    let standing = log.standing(&path)?;
                    Ok((log, standing))
                })
                .await?;
            log = kept;
            match standing {
                Standing::Renamed | Standing::Truncated => {
                    // The rest of the old file was written before it was renamed; it may have come after our last read.
                    log = match self.drain(log).await? {
                        Some(_) => {
                            let path = self.source.path.clone();
                            self.lane.run(move || Log::open(&path, None, true)).await?
                        }
                        None => return Ok(()),
                    };
                    continue;
                }
                Standing::Same | Standing::Missing if !running => return Ok(()),
                Standing::Same | Standing::Missing => {}
            }
            tokio::select! {
                // Cancel-safe: nothing is held.
                () = tokio::time::sleep(POLL) => {}
                () = self.blocks.closed() => return Ok(()),
            }
        }
    }

    /// Reads what is there; `None` when nothing more is wanted.
    async fn drain(&mut self, mut log: Log) -> io::Result<Option<Log>> {
        loop {
            if self.filter.done() {
                return Ok(None);
            }
            let (kept, block) = self
                .lane
                .run(move || {
                    let block = log.block()?;
                    Ok((log, block))
                })
                .await?;
            log = kept;
            if block.is_empty() {
                return Ok(Some(log));
            }
            let mut out = Vec::new();
            self.filter.push(&block, &mut out);
            if !out.is_empty() && self.blocks.send(Ok(out.into())).await.is_err() {
                return Ok(None);
            }
        }
    }
}

impl Log {
    /// Without `follow` the log is what it is now: lines that a container adds while we read would be more than the last `tail`, and need never end.
    fn open(path: &PathBuf, tail: Option<u64>, follow: bool) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        let position = match tail {
            Some(lines) => tail_start(&mut file, lines, metadata.len())?,
            None => 0,
        };
        file.seek(SeekFrom::Start(position))?;
        Ok(Self {
            file,
            inode: metadata.ino(),
            position,
            end: if follow { u64::MAX } else { metadata.len() },
        })
    }

    fn block(&mut self) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.end.saturating_sub(self.position)).unwrap_or(BLOCK);
        let mut block = vec![0; left.min(BLOCK)];
        let length = self.file.read(&mut block)?;
        block.truncate(length);
        self.position += length as u64;
        Ok(block)
    }

    fn standing(&self, path: &Path) -> io::Result<Standing> {
        match std::fs::metadata(path) {
            Ok(named) if named.ino() != self.inode => Ok(Standing::Renamed),
            Ok(named) if named.len() < self.position => Ok(Standing::Truncated),
            Ok(_) => Ok(Standing::Same),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Standing::Missing),
            Err(e) => Err(e),
        }
    }
}

/// Where the last `lines` lines begin, reading backwards.
fn tail_start(file: &mut File, lines: u64, size: u64) -> io::Result<u64> {
    let mut tail = Tail::new(lines, size);
    while let Some((offset, length)) = tail.next(BLOCK as u64) {
        let mut block = vec![0; usize::try_from(length).unwrap_or(BLOCK)];
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(&mut block)?;
        if let Some(start) = tail.push(&block, size) {
            return Ok(start);
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Seen under load: `kubectl logs --tail=1` gave two lines, the second written after the first was found.
    #[test]
    fn lines_that_come_while_the_tail_is_read_are_left_to_who_follows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        for (follow, expected) in [(false, "two\n"), (true, "two\nthree\n")] {
            std::fs::write(&path, "one\ntwo\n").unwrap();
            let mut log = Log::open(&path, Some(1), follow).unwrap();
            let mut writer = std::fs::OpenOptions::new().append(true).open(&path);
            writer.as_mut().unwrap().write_all(b"three\n").unwrap();
            let mut read = Vec::new();
            while let block = log.block().unwrap()
                && !block.is_empty()
            {
                read.extend(block);
            }
            assert_eq!(
                String::from_utf8(read).unwrap(),
                expected,
                "follow {follow}"
            );
        }
    }
}
