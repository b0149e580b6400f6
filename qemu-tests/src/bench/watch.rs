//! When pods change, to the millisecond: `kubectl get --watch`, its lines stamped by our clock as they come.
//!
//! In: a cluster. Out: [`PodWatch`], which waits for a pod's phase or its container's end and says when that was. The API server ends watches after
//! half an hour or an hour: then it is begun again. What came about in between is stamped late, so a time across that is an error, a wait is not.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cluster::Cluster;

/// One line per event: name, phase, state of the first container.
const TEMPLATE: &str = "go-template={{.metadata.name}} {{.status.phase}} {{range .status.containerStatuses}}{{range $state, $_ := .state}}{{$state}}{{end}}{{end}}{{\"\\n\"}}";
/// After a watch that ended, before the next.
const PAUSE: Duration = Duration::from_secs(1);

/// When something was first seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sight {
    at: Instant,
    /// The first line of the watch that saw it. What is older than that may have come about unseen.
    watching_since: Instant,
}

impl Sight {
    /// Seconds from `start`, if the watch has seen all of them.
    fn seconds_from(&self, start: Instant) -> Result<f64> {
        ensure!(
            self.watching_since <= start,
            "the watch of pods was begun again in between: the time is not known"
        );
        // The watch may be faster than the answer to the request that began it.
        Ok(self.at.saturating_duration_since(start).as_secs_f64())
    }
}

#[derive(Default)]
struct State {
    /// Pod and word (a phase, or a container's state) to the first time it was seen.
    seen: BTreeMap<(String, String), Sight>,
    child: Option<Child>,
    /// How often kubectl has ended by itself.
    ends: usize,
    /// Why there is no watch any more.
    failure: Option<String>,
    stop: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct PodWatch {
    shared: Arc<Shared>,
}

impl PodWatch {
    pub fn start(cluster: &Cluster) -> Result<Self> {
        let arguments = [
            "get",
            "pods",
            "--namespace",
            "default",
            "--watch",
            "-o",
            TEMPLATE,
        ];
        Self::of(cluster.kubectl_command(&arguments))
    }

    fn of(mut command: Command) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let shared = Arc::new(Shared::default());
        let pipe = spawn(&mut command, &mut shared.lock())?;
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("pod-watch".into())
            .spawn(move || follow(&theirs, command, pipe))
            .context("start a thread")?;
        Ok(Self { shared })
    }

    /// Waits until `pod` has been seen with `word`.
    pub fn when(&self, pod: &str, word: &str, timeout: Duration) -> Result<()> {
        self.sight(pod, &[word], timeout).map(drop)
    }

    /// Waits until `pod` was seen with one of the words; says with which.
    pub fn which<'a>(&self, pod: &str, words: &[&'a str], timeout: Duration) -> Result<&'a str> {
        self.sight(pod, words, timeout).map(|(word, _)| word)
    }

    /// Seconds from `start` until `pod` was first seen with `word`; waits for it.
    pub fn seconds(&self, start: Instant, pod: &str, word: &str, timeout: Duration) -> Result<f64> {
        let (_, sight) = self.sight(pod, &[word], timeout)?;
        sight
            .seconds_from(start)
            .with_context(|| format!("pod {pod} until {word}"))
    }

    fn sight<'a>(
        &self,
        pod: &str,
        words: &[&'a str],
        timeout: Duration,
    ) -> Result<(&'a str, Sight)> {
        let find = |state: &State| {
            words.iter().find_map(|word| {
                let sight = state.seen.get(&(pod.to_owned(), (*word).to_owned()))?;
                Some((*word, *sight))
            })
        };
        let state = self.shared.lock();
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, timeout, |state| {
                find(state).is_none() && state.failure.is_none()
            })
            .unwrap_or_else(PoisonError::into_inner);
        let wanted = words.join(" or ");
        match (find(&state), &state.failure) {
            (Some(found), _) => Ok(found),
            (None, Some(failure)) => bail!("pod {pod} until {wanted}: {failure}"),
            (None, None) => bail!(
                "pod {pod} was not {wanted} within {} s (the watch has ended {} times)",
                timeout.as_secs(),
                state.ends
            ),
        }
    }
}

fn spawn(command: &mut Command, state: &mut State) -> Result<ChildStdout> {
    let mut child = command.spawn().context("start kubectl get --watch")?;
    let pipe = child.stdout.take().context("no output pipe")?;
    state.child = Some(child);
    Ok(pipe)
}

/// Reads one watch after the other until it is told to stop.
fn follow(shared: &Shared, mut command: Command, mut pipe: ChildStdout) {
    loop {
        let mut since = None;
        for line in BufReader::new(pipe).lines().map_while(|line| line.ok()) {
            let now = Instant::now();
            note(shared, &line, now, *since.get_or_insert(now));
        }
        let mut state = shared.lock();
        if let Some(mut child) = state.child.take() {
            // The pipe has ended: so does the child, if it has not yet.
            let _ = child.kill();
            let _ = child.wait();
        }
        state.ends += 1;
        let (mut state, _) = shared
            .changed
            .wait_timeout_while(state, PAUSE, |state| !state.stop)
            .unwrap_or_else(PoisonError::into_inner);
        if state.stop {
            return;
        }
        match spawn(&mut command, &mut state) {
            Ok(next) => pipe = next,
            Err(error) => {
                state.failure = Some(format!("{error:#}"));
                shared.changed.notify_all();
                return;
            }
        }
    }
}

fn note(shared: &Shared, line: &str, now: Instant, watching_since: Instant) {
    let mut words = line.split_whitespace();
    let Some(pod) = words.next() else { return };
    let mut state = shared.lock();
    for word in words {
        state
            .seen
            .entry((pod.to_owned(), word.to_owned()))
            .or_insert(Sight {
                at: now,
                watching_since,
            });
    }
    drop(state);
    shared.changed.notify_all();
}

impl Drop for PodWatch {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stop = true;
        if let Some(child) = &mut state.child {
            // The thread sees its pipe end, and waits for it. Nothing to do about a failure.
            let _ = child.kill();
        }
        drop(state);
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn the_first_time_counts() {
        let shared = Shared::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        note(&shared, "a Pending ", start, start);
        note(&shared, "a Running running", at(1), start);
        note(&shared, "a Running running", at(2), start);
        note(&shared, "", start, start);
        let seen = &shared.lock().seen;
        let key = ("a".to_owned(), "Running".to_owned());
        assert_eq!(seen[&key].at, at(1));
        assert_eq!(seen.len(), 3);
    }

    #[test]
    fn a_time_across_two_watches_is_not_known() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let sight = Sight {
            at: at(9),
            watching_since: at(3),
        };
        assert_eq!(sight.seconds_from(at(4)).unwrap(), 5.0);
        assert_eq!(sight.seconds_from(at(10)).unwrap(), 0.0);
        let error = sight.seconds_from(at(2)).unwrap_err();
        assert!(error.to_string().contains("begun again"), "{error}");
    }

    #[test]
    fn a_watch_that_ends_is_begun_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        // The first run says one thing and ends, the second says another and stays.
        let script =
            "if mkdir first; then echo a Running; else echo b Running; exec sleep 1000; fi";
        command.args(["-c", script]).current_dir(directory.path());
        let start = Instant::now();
        let watch = PodWatch::of(command).unwrap();
        watch.when("b", "Running", LONG).unwrap();
        assert!(watch.seconds(start, "b", "Running", LONG).is_err());
        assert_eq!(watch.shared.lock().ends, 1);
    }

    #[test]
    fn a_watch_that_cannot_go_on_says_so_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("once");
        std::os::unix::fs::symlink("/bin/true", &program).unwrap();
        let watch = PodWatch::of(Command::new(&program)).unwrap();
        std::fs::remove_file(&program).unwrap();
        let start = Instant::now();
        assert!(watch.when("a", "Running", LONG * 10).is_err());
        assert!(start.elapsed() < LONG);
    }
}
