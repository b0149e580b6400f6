//! Samples for whoever asks, and pages made of them.
//!
//! In: questions from the servers, the kubelet's views. Out: generations of samples. Nothing is read while nobody asks; questions until a second
//! after a reading's end share its generation; the files are read in slices on the blocking pool, so that neither this loop nor a small machine's only processor
//! is held for long. A question for a rate waits for a second sample one second after the first, others do not wait with it. Filesystems are
//! asked for their sizes apart ([`patience`]): one that does not answer has no values, and delays nobody for longer than a moment, once.

pub mod extras;
mod features;
mod node;
mod own;
mod pages;
mod patience;
mod process;
mod storage;
mod subjects;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kedge_kubelet::{KubeletHandle, Views};
use kedge_metrics::cgroup::Depth;
use kedge_metrics::disk::Mount;
use kedge_metrics::sample::{Filesystem, Generation, Sampler, Stamp};
use kedge_metrics::subject::Subject;
use kedge_metrics::{Error, Root};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

pub use pages::{Ends, Facts, Pages};
use patience::Patience;

/// A generation serves questions this long, from when it was read: on a machine so slow that reading takes a second itself, who asks for one page after
/// another would otherwise have everything read for each.
const FRESH: Duration = Duration::from_secs(1);
/// A rate over a longer time than this says nothing about now.
const STALE: Duration = Duration::from_secs(60);
/// After this long without a question the samples are let go.
const IDLE: Duration = Duration::from_secs(120);
/// The hierarchy is looked at again after this long; pods are known at once.
const HIERARCHY: Duration = Duration::from_secs(60);
/// Cgroups read in one go: about a millisecond's work.
const SLICE: usize = 16;

/// Starts the service and makes what the servers ask for pages. Reads the machine's facts once.
pub fn pages(
    tasks: &mut kedge_tasks::Tasks,
    node: &str,
    kubelet: &KubeletHandle,
    registry: &kedge_tasks::Registry,
    ends: Ends,
) -> Pages {
    let root = Root::new("/");
    let machine = crate::readings::machine(&root);
    let (stats, run) = service(root, kubelet.watch());
    tasks.spawn("stats", run);
    let facts = Facts {
        node: node.to_owned(),
        boot: own::Boot::read(Path::new(kedge_machine::paths::RUN_INIT)),
        started_ms: stamp().wall_ms,
    };
    Pages {
        stats,
        measure: extras::Measure::new(node.to_owned(), kubelet.clone(), registry.meters().clone()),
        kubelet: kubelet.clone(),
        registry: registry.clone(),
        facts: Arc::new(facts),
        machine: Arc::new(machine),
        ends,
        writers: Arc::default(),
    }
}

/// A generation and, for rates, the one before it.
#[derive(Clone, Debug)]
pub struct Taken {
    pub now: Arc<Generation>,
    /// At least a second and at most [`STALE`] older.
    pub before: Option<Arc<Generation>>,
}

struct Question {
    depth: Depth,
    rate: bool,
    answer: oneshot::Sender<Taken>,
}

/// Asks. Cheap to clone.
#[derive(Clone)]
pub struct Stats(mpsc::Sender<Question>);

impl Stats {
    /// A generation whose reading ended less than a second ago. `None` only while the agent ends.
    pub async fn take(&self, depth: Depth, rate: bool) -> Option<Taken> {
        let (answer, answered) = oneshot::channel();
        let question = Question {
            depth,
            rate,
            answer,
        };
        self.0.send(question).await.ok()?;
        answered.await.ok()
    }
}

/// The service: its handle, and the task to be spawned.
pub fn service(
    root: Root,
    views: watch::Receiver<Views>,
) -> (Stats, impl Future<Output = ()> + Send + use<>) {
    asking(root, views, filesystem)
}

/// How a filesystem is asked for its sizes.
type Ask = fn(Mount) -> Option<Filesystem>;

fn asking(
    root: Root,
    views: watch::Receiver<Views>,
    ask: Ask,
) -> (Stats, impl Future<Output = ()> + Send + use<>) {
    let (to, questions) = mpsc::channel(64);
    let service = Service {
        root: root.clone(),
        reading: Some(Sampler::new(root)),
        ask,
        patience: Patience::default(),
        views,
        subjects: Arc::default(),
        looked: None,
        now: None,
        before: None,
        waiting: Vec::new(),
    };
    (Stats(to), service.run(questions))
}

/// A generation, and when reading it began and ended.
struct Reading {
    generation: Arc<Generation>,
    began: Instant,
    ended: Instant,
}

impl Reading {
    fn answers(&self, question: &Question) -> bool {
        self.ended.elapsed() < FRESH && self.generation.depth >= question.depth
    }
}

struct Service {
    root: Root,
    /// Absent while a slice is read.
    reading: Option<Sampler>,
    ask: Ask,
    patience: Patience,
    views: watch::Receiver<Views>,
    subjects: Arc<Vec<Arc<Subject>>>,
    /// When the subjects were listed.
    looked: Option<Instant>,
    now: Option<Reading>,
    before: Option<Reading>,
    /// Questions for a rate that has no first sample yet.
    waiting: Vec<Question>,
}

impl Service {
    async fn run(mut self, mut questions: mpsc::Receiver<Question>) {
        loop {
            let taken = self.now.as_ref().map(|now| now.began);
            let due = match taken {
                Some(at) if !self.waiting.is_empty() => at + FRESH,
                Some(at) => at + IDLE,
                None => Instant::now() + IDLE,
            };
            // Both arms only wait: a question stays in the channel until it is taken out.
            tokio::select! {
                question = questions.recv() => match question {
                    Some(question) => self.on_question(question).await,
                    None => return,
                },
                () = tokio::time::sleep_until(due) => self.on_due().await,
            }
        }
    }

    async fn on_question(&mut self, question: Question) {
        if !self.now.as_ref().is_some_and(|now| now.answers(&question)) {
            self.sample(question.depth).await;
        }
        if question.rate && self.past().is_none() {
            self.waiting.push(question);
        } else {
            self.answer(question);
        }
    }

    async fn on_due(&mut self) {
        if self.waiting.is_empty() {
            // Nobody asked for long.
            (self.now, self.before) = (None, None);
            return;
        }
        let depth = self.waiting.iter().map(|q| q.depth).max();
        self.sample(depth.unwrap_or_default()).await;
        for question in std::mem::take(&mut self.waiting) {
            self.answer(question);
        }
    }

    fn answer(&self, question: Question) {
        if let Some(now) = &self.now {
            let taken = Taken {
                now: now.generation.clone(),
                before: self.past(),
            };
            // Whoever asked may be gone.
            let _ = question.answer.send(taken);
        }
    }

    /// The sample before, if it makes a rate.
    fn past(&self) -> Option<Arc<Generation>> {
        let (now, before) = (self.now.as_ref()?, self.before.as_ref()?);
        let apart = now.began.saturating_duration_since(before.began);
        (apart >= FRESH && apart <= STALE).then(|| before.generation.clone())
    }

    /// Takes a generation.
    async fn sample(&mut self, depth: Depth) {
        let began = Instant::now();
        let subjects = self.list().await;
        let sampler = self.reading.take();
        let sampler = sampler.unwrap_or_else(|| Sampler::new(self.root.clone()));
        // A panic in there would be a defect: it is in the log, and the next question starts anew.
        let Some((sampler, mut generation, mounts)) = read(sampler, depth, subjects).await else {
            return;
        };
        self.reading = Some(sampler);
        generation.filesystems = self.filesystems(mounts).await;
        let old = self.now.replace(Reading {
            generation: Arc::new(generation),
            began,
            ended: Instant::now(),
        });
        // Two depths within a second share the sample before.
        if let Some(old) = old
            && began.saturating_duration_since(old.began) >= FRESH
        {
            self.before = Some(old);
        }
    }

    /// Sizes of those that answer. A mount is found by its path, and something that hangs may have been mounted over it.
    async fn filesystems(&self, mounts: Vec<Mount>) -> Vec<Filesystem> {
        let mut found = Vec::with_capacity(mounts.len());
        for mount in mounts {
            let (ask, path) = (self.ask, mount.path.clone());
            let sizes = self.patience.call(&path, move || ask(mount)).await;
            found.extend(sizes.flatten());
        }
        found
    }

    /// The subjects, listed anew when pods changed or the last look at the hierarchy is old.
    async fn list(&mut self) -> Arc<Vec<Arc<Subject>>> {
        let old = self.looked.is_none_or(|at| at.elapsed() > HIERARCHY);
        if old || self.views.has_changed().unwrap_or(false) {
            let root = self.root.clone();
            let groups = tokio::task::spawn_blocking(move || kedge_metrics::cgroup::groups(&root));
            let groups = groups.await.unwrap_or_default();
            let views = self.views.borrow_and_update();
            self.subjects = Arc::new(subjects::all(&views, &groups));
            self.looked = Some(Instant::now());
        }
        self.subjects.clone()
    }
}

/// Reads a generation slice by slice; then which filesystems there are, when they are wanted.
async fn read(
    mut sampler: Sampler,
    depth: Depth,
    subjects: Arc<Vec<Arc<Subject>>>,
) -> Option<(Sampler, Generation, Vec<Mount>)> {
    let mut generation;
    (sampler, generation) = blocking(move || {
        let generation = sampler.begin(depth, stamp());
        (sampler, generation)
    })
    .await?;
    let mut next = 0;
    while next < subjects.len() {
        let slice = subjects.clone();
        (sampler, generation) = blocking(move || {
            for subject in slice.iter().skip(next).take(SLICE) {
                sampler.sample(&mut generation, subject, stamp());
            }
            (sampler, generation)
        })
        .await?;
        next += SLICE;
    }
    blocking(move || {
        let mounts = match depth {
            Depth::Full => sampler.mounts(),
            Depth::Light => Vec::new(),
        };
        log(sampler.end(&mut generation));
        (sampler, generation, mounts)
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Some(done),
        Err(error) => {
            tracing::error!(%error, "sampling");
            None
        }
    }
}

/// Sizes of a filesystem.
fn filesystem(mount: Mount) -> Option<Filesystem> {
    let sizes = kedge_sys::fs::usage(Path::new(&*mount.path)).ok()?;
    Some(Filesystem {
        mount,
        total: sizes.total,
        free: sizes.free,
        available: sizes.available,
        inodes: sizes.inodes,
        inodes_free: sizes.inodes_free,
    })
}

fn log(errors: Vec<Error>) {
    for error in errors {
        tracing::warn!(%error, "a metric is missing");
    }
}

/// Both clocks, now.
pub fn stamp() -> Stamp {
    let now = kedge_sys::time::now();
    Stamp {
        mono_ns: u64::try_from(now.mono.as_nanos()).unwrap_or(u64::MAX),
        wall_ms: i64::try_from(now.wall.as_millis()).unwrap_or(i64::MAX),
    }
}

#[cfg(test)]
mod tests;
