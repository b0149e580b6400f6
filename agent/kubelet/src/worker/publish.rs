//! What of the status is sent, and when. One patch at a time; nothing is sent that the API server already has.
//!
//! The base of a patch is the newest copy known: from the watch, or from the answer to the last patch. When the API server
//! keeps something else than was sent (a field it does not know), the same status is not sent again at once: that would
//! never end.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kedge_pods::status;
use serde_json::Value;
use tokio::time::Instant;

use super::ApiCopy;
use crate::execute::LastWord;
use crate::outbound::ApiError;

/// After a failure, doubling up to the longest.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(10);
/// A status that the API server did not keep is sent again this often.
const INSIST: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub(super) struct Publisher {
    /// What the API server has, as far as known.
    base: Option<PodStatus>,
    /// The last copy from the watch, to notice a new one.
    copy: Option<ApiCopy>,
    /// The last status generated and meant for sending.
    published: Option<PodStatus>,
    /// The status under way.
    sending: Option<PodStatus>,
    sent: Option<(PodStatus, Instant)>,
    retry: Option<(Duration, Instant)>,
    /// The object is gone or another one: nothing more is sent to it.
    gone: Option<String>,
}

impl Publisher {
    pub(super) fn new(published: Option<PodStatus>) -> Self {
        Self {
            base: published.clone(),
            copy: None,
            published,
            sending: None,
            sent: None,
            retry: None,
            gone: None,
        }
    }

    /// What `pods` takes for published.
    pub(super) fn published(&self) -> Option<&PodStatus> {
        self.published.as_ref()
    }

    /// Takes a new copy from the watch as base.
    pub(super) fn follow(&mut self, copy: Option<&ApiCopy>) {
        if copy == self.copy.as_ref() {
            return;
        }
        self.copy = copy.cloned();
        if let Some(copy) = copy {
            self.base = Some(copy.status.clone());
            if self.published.is_none() {
                self.published = Some(copy.status.clone());
            }
        }
    }

    /// The patch to send now, if any; moves `wake` to when to ask again.
    pub(super) fn next(
        &mut self,
        copy: Option<&ApiCopy>,
        status: PodStatus,
        wake: &mut Instant,
    ) -> Option<Value> {
        self.published = Some(status.clone());
        let copy = copy?;
        if self.sending.is_some() || self.gone.as_ref() == Some(&copy.uid) {
            return None;
        }
        let now = Instant::now();
        if let Some((_, at)) = self.retry
            && at > now
        {
            *wake = (*wake).min(at);
            return None;
        }
        let base = self.base.clone().unwrap_or_default();
        let patch = status::patch(&copy.uid, &base, &status)?;
        if let Some((sent, at)) = &self.sent
            && *sent == status
            && *at + INSIST > now
        {
            *wake = (*wake).min(*at + INSIST);
            return None;
        }
        self.sending = Some(status);
        Some(patch)
    }

    /// The patch that the last action sends.
    pub(super) fn last_word(&mut self, copy: Option<&ApiCopy>, status: PodStatus) -> LastWord {
        let base = self.base.clone().unwrap_or_default();
        let patch = copy.and_then(|copy| status::patch(&copy.uid, &base, &status));
        self.published = Some(status);
        LastWord { patch }
    }

    /// The end of a patch.
    pub(super) fn patched(&mut self, result: Result<Pod, ApiError>) {
        let sent = self.sending.take();
        match result {
            Ok(pod) => {
                self.retry = None;
                self.base = pod.status.or_else(|| sent.clone());
                self.sent = sent.map(|status| (status, Instant::now()));
            }
            Err(ApiError::NotFound(_) | ApiError::Conflict(_)) => {
                self.gone = self.copy.as_ref().map(|copy| copy.uid.clone());
            }
            Err(error) => {
                let wait = self
                    .retry
                    .map_or(RETRY_FIRST, |(wait, _)| (wait * 2).min(RETRY_LONGEST));
                if self.retry.is_none() {
                    tracing::warn!(%error, "status update failed, tried again until it succeeds");
                }
                self.retry = Some((wait, Instant::now() + wait));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(phase: &str) -> PodStatus {
        PodStatus {
            phase: Some(phase.into()),
            ..PodStatus::default()
        }
    }

    fn copy(phase: &str) -> ApiCopy {
        ApiCopy {
            uid: "u".into(),
            status: status(phase),
        }
    }

    fn ask(publisher: &mut Publisher, phase: &str) -> bool {
        let mut wake = Instant::now() + Duration::from_secs(3600);
        let api = copy("Pending");
        publisher
            .next(Some(&api), status(phase), &mut wake)
            .is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_server_has_is_not_sent() {
        let mut publisher = Publisher::new(None);
        publisher.follow(Some(&copy("Pending")));
        assert!(!ask(&mut publisher, "Pending"));
        assert!(ask(&mut publisher, "Running"));
    }

    #[tokio::test(start_paused = true)]
    async fn one_patch_is_under_way_at_a_time() {
        let mut publisher = Publisher::new(None);
        publisher.follow(Some(&copy("Pending")));
        assert!(ask(&mut publisher, "Running"));
        assert!(!ask(&mut publisher, "Failed"));
        publisher.patched(Ok(Pod {
            status: Some(status("Running")),
            ..Pod::default()
        }));
        assert!(ask(&mut publisher, "Failed"));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_each_time() {
        let mut publisher = Publisher::new(None);
        publisher.follow(Some(&copy("Pending")));
        for wait in [1, 2, 4, 8, 10, 10] {
            assert!(ask(&mut publisher, "Running"), "{wait}");
            publisher.patched(Err(ApiError::Unavailable("down".into())));
            tokio::time::advance(Duration::from_millis(wait * 1000 - 1)).await;
            assert!(!ask(&mut publisher, "Running"), "{wait}");
            tokio::time::advance(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_keeps_something_else_is_not_asked_for_ever() {
        let mut publisher = Publisher::new(None);
        publisher.follow(Some(&copy("Pending")));
        assert!(ask(&mut publisher, "Running"));
        publisher.patched(Ok(Pod {
            status: Some(status("Pending")),
            ..Pod::default()
        }));
        assert!(!ask(&mut publisher, "Running"));
        tokio::time::advance(INSIST).await;
        assert!(ask(&mut publisher, "Running"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_is_gone_gets_no_more_patches() {
        let mut publisher = Publisher::new(None);
        publisher.follow(Some(&copy("Pending")));
        assert!(ask(&mut publisher, "Running"));
        publisher.patched(Err(ApiError::NotFound("pod".into())));
        assert!(!ask(&mut publisher, "Failed"));
    }
}
