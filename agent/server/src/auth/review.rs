//! Questions to the API server with remembered answers.
//!
//! In: a key, and what the key stands for. Out: the answer, from memory while it is fresh. The same question asked twice at once is sent
//! once. One task per kind of question owns its memory, which is bounded.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{AccessRequest, User};
use crate::node::{NodeError, SharedNode};

/// Entries remembered; the ones that end soonest go first.
const ENTRIES: usize = 256;
const TOKEN_LIFE: Duration = Duration::from_secs(120);
const ALLOW_LIFE: Duration = Duration::from_secs(300);
const DENY_LIFE: Duration = Duration::from_secs(30);
/// A review that takes longer counts as failed.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);

/// The API server could not be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReviewError(pub String);

type Answer<V> = Result<V, ReviewError>;
type Asked<V> = Pin<Box<dyn Future<Output = Result<V, NodeError>> + Send>>;

struct Question<K, Q, V> {
    key: K,
    content: Q,
    answer: oneshot::Sender<Answer<V>>,
}

/// Asks questions of one kind. Cloning is cheap.
pub struct Reviews<K, Q, V>(mpsc::Sender<Question<K, Q, V>>);

impl<K, Q, V> Clone for Reviews<K, Q, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, Q, V> Reviews<K, Q, V> {
    /// The answer to `content`, which `key` identifies.
    pub async fn ask(&self, key: K, content: Q) -> Answer<V> {
        let (answer, answered) = oneshot::channel();
        let question = Question {
            key,
            content,
            answer,
        };
        let ended = || ReviewError("the server is shutting down".to_owned());
        self.0.send(question).await.map_err(|_| ended())?;
        answered.await.unwrap_or_else(|_| Err(ended()))
    }
}

/// TokenReviews.
pub(super) fn tokens(
    node: SharedNode,
) -> (
    Reviews<[u8; 32], String, Option<User>>,
    impl Future<Output = ()> + Send + 'static,
) {
    let ask = move |_: &[u8; 32], token: String| -> Asked<Option<User>> {
        let node = node.clone();
        Box::pin(async move { node.review_token(token).await })
    };
    // An unknown token is forgotten as soon as a denied one: it may be about to exist.
    let life = |user: &Option<User>| match user {
        Some(_) => TOKEN_LIFE,
        None => DENY_LIFE,
    };
    memory(ask, life)
}

/// SubjectAccessReviews.
pub(super) fn access(
    node: SharedNode,
) -> (
    Reviews<AccessRequest, (), bool>,
    impl Future<Output = ()> + Send + 'static,
) {
    let ask = move |request: &AccessRequest, (): ()| -> Asked<bool> {
        let (node, request) = (node.clone(), request.clone());
        Box::pin(async move { node.review_access(request).await })
    };
    memory(ask, |allowed| if *allowed { ALLOW_LIFE } else { DENY_LIFE })
}

fn memory<K, Q, V>(
    ask: impl Fn(&K, Q) -> Asked<V> + Send + 'static,
    life: impl Fn(&V) -> Duration + Send + 'static,
) -> (Reviews<K, Q, V>, impl Future<Output = ()> + Send + 'static)
where
    K: Ord + Clone + Send + 'static,
    Q: Send + 'static,
    V: Clone + Send + 'static,
{
    let (questions, inbox) = mpsc::channel(64);
    let memory = Memory {
        ask,
        life,
        known: BTreeMap::new(),
        waiting: BTreeMap::new(),
        running: JoinSet::new(),
    };
    (Reviews(questions), memory.run(inbox))
}

struct Memory<K, V, A, L> {
    ask: A,
    life: L,
    known: BTreeMap<K, (V, Instant)>,
    waiting: BTreeMap<K, Vec<oneshot::Sender<Answer<V>>>>,
    running: JoinSet<(K, Answer<V>)>,
}

impl<K, V, A, L> Memory<K, V, A, L>
where
    K: Ord + Clone + Send + 'static,
    V: Clone + Send + 'static,
    L: Fn(&V) -> Duration,
{
    async fn run<Q>(mut self, mut inbox: mpsc::Receiver<Question<K, Q, V>>)
    where
        A: Fn(&K, Q) -> Asked<V>,
    {
        loop {
            tokio::select! {
                // Cancel-safe: neither loses anything.
                question = inbox.recv() => match question {
                    Some(question) => self.question(question),
                    None => return,
                },
                Some(done) = self.running.join_next() => match done {
                    Ok((key, answer)) => self.answered(&key, answer),
                    // The waiters' channels close with the entry, below, at the next question of that key.
                    Err(error) => tracing::error!(%error, "a review ended badly"),
                },
            }
        }
    }

    fn question<Q>(&mut self, question: Question<K, Q, V>)
    where
        A: Fn(&K, Q) -> Asked<V>,
    {
        let now = Instant::now();
        if let Some((value, until)) = self.known.get(&question.key)
            && *until > now
        {
            let _ = question.answer.send(Ok(value.clone()));
            return;
        }
        let waiting = self.waiting.entry(question.key.clone()).or_default();
        waiting.retain(|w| !w.is_closed());
        waiting.push(question.answer);
        if waiting.len() == 1 {
            let asked = (self.ask)(&question.key, question.content);
            let key = question.key;
            self.running.spawn(async move {
                let answer = match tokio::time::timeout(REVIEW_TIMEOUT, asked).await {
                    Ok(answer) => answer.map_err(|e| ReviewError(e.to_string())),
                    Err(_) => Err(ReviewError("the API server does not answer".to_owned())),
                };
                (key, answer)
            });
        }
    }

    fn answered(&mut self, key: &K, answer: Answer<V>) {
        if let Ok(value) = &answer {
            let until = Instant::now() + (self.life)(value);
            self.make_room();
            self.known.insert(key.clone(), (value.clone(), until));
        }
        for waiter in self.waiting.remove(key).into_iter().flatten() {
            let _ = waiter.send(answer.clone());
        }
    }

    fn make_room(&mut self) {
        if self.known.len() >= ENTRIES {
            let now = Instant::now();
            self.known.retain(|_, (_, until)| *until > now);
        }
        if self.known.len() >= ENTRIES {
            let soonest = self.known.iter().min_by_key(|(_, (_, until))| *until);
            if let Some(key) = soonest.map(|(key, _)| key.clone()) {
                self.known.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn counting() -> (Reviews<u32, (), bool>, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let count = asked.clone();
        let ask = move |key: &u32, (): ()| -> Asked<bool> {
            count.fetch_add(1, Ordering::Relaxed);
            let key = *key;
            Box::pin(async move {
                match key {
                    0 => Err(NodeError::Failed("down".to_owned())),
                    n => Ok(n % 2 == 1),
                }
            })
        };
        let (reviews, task) = memory(ask, |yes| if *yes { ALLOW_LIFE } else { DENY_LIFE });
        tokio::spawn(task);
        (reviews, asked)
    }

    #[tokio::test(start_paused = true)]
    async fn a_yes_lasts_five_minutes_and_a_no_thirty_seconds() {
        let (reviews, asked) = counting();
        for (after, key, total) in [
            (0, 1, 1),
            (299, 1, 1),
            (2, 1, 2),
            (0, 2, 3),
            (29, 2, 3),
            (2, 2, 4),
        ] {
            tokio::time::advance(Duration::from_secs(after)).await;
            assert_eq!(reviews.ask(key, ()).await, Ok(key == 1));
            assert_eq!(asked.load(Ordering::Relaxed), total, "{after} {key}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_not_remembered() {
        let (reviews, asked) = counting();
        for _ in 0..2 {
            assert!(reviews.ask(0, ()).await.is_err());
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_question_at_once_is_sent_once() {
        let (reviews, asked) = counting();
        let (a, b) = tokio::join!(reviews.ask(3, ()), reviews.ask(3, ()));
        assert_eq!((a, b), (Ok(true), Ok(true)));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let (reviews, asked) = counting();
        for key in 1..=2 * u32::try_from(ENTRIES).unwrap() {
            reviews.ask(key, ()).await.unwrap();
        }
        let before = asked.load(Ordering::Relaxed);
        reviews.ask(2, ()).await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), before + 1);
    }
}
