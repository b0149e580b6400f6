//! When pods change, to the millisecond: `kubectl get --watch`, its lines stamped by our clock as they come.
//!
//! In: a cluster. Out: [`PodWatch`], which waits for a pod's phase or its container's end and says when that was.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cluster::Cluster;

/// One line per event: name, phase, state of the first container.
const TEMPLATE: &str = "go-template={{.metadata.name}} {{.status.phase}} {{range .status.containerStatuses}}{{range $state, $_ := .state}}{{$state}}{{end}}{{end}}{{\"\\n\"}}";

/// Pod and word (a phase, or a container's state) to the first time it was seen.
type Seen = BTreeMap<(String, String), Instant>;

pub struct PodWatch {
    child: Child,
    shared: Arc<(Mutex<Seen>, Condvar)>,
}

impl PodWatch {
    pub fn start(cluster: &Cluster) -> Result<Self> {
        let mut child = cluster
            .kubectl_command(&[
                "get",
                "pods",
                "--namespace",
                "default",
                "--watch",
                "-o",
                TEMPLATE,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start kubectl get --watch")?;
        let pipe = child.stdout.take().context("no output pipe")?;
        let shared = Arc::new((Mutex::new(Seen::new()), Condvar::new()));
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("pod-watch".into())
            .spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(|line| line.ok()) {
                    note(&theirs, &line, Instant::now());
                }
            })
            .context("start a thread")?;
        Ok(Self { child, shared })
    }

    /// When `pod` was first seen with `word`; waits for it.
    pub fn when(&self, pod: &str, word: &str, timeout: Duration) -> Result<Instant> {
        let key = (pod.to_owned(), word.to_owned());
        let (seen, changed) = &*self.shared;
        let guard = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (guard, _) = changed
            .wait_timeout_while(guard, timeout, |seen| !seen.contains_key(&key))
            .unwrap_or_else(PoisonError::into_inner);
        match guard.get(&key) {
            Some(at) => Ok(*at),
            None => bail!("pod {pod} was not {word} within {} s", timeout.as_secs()),
        }
    }
}

fn note(shared: &(Mutex<Seen>, Condvar), line: &str, now: Instant) {
    let mut words = line.split_whitespace();
    let Some(pod) = words.next() else { return };
    let mut seen = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
    for word in words {
        seen.entry((pod.to_owned(), word.to_owned())).or_insert(now);
    }
    drop(seen);
    shared.1.notify_all();
}

impl Drop for PodWatch {
    fn drop(&mut self) {
        // It ends with its pipe in any case; nothing to do about a failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_time_counts() {
        let shared = (Mutex::new(Seen::new()), Condvar::new());
        let start = Instant::now();
        note(&shared, "a Pending ", start);
        note(&shared, "a Running running", start + Duration::from_secs(1));
        note(&shared, "a Running running", start + Duration::from_secs(2));
        note(&shared, "", start);
        let seen = shared.0.into_inner().unwrap();
        let key = ("a".to_owned(), "Running".to_owned());
        assert_eq!(seen[&key], start + Duration::from_secs(1));
        assert_eq!(seen.len(), 3);
    }
}
