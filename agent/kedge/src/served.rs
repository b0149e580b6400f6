//! The node as its servers see it: [`kedge_server::node::Node`] over the kubelet's and the API's handles. One call, one answer;
//! the only work here is to sort errors for the caller.

use std::time::Duration;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::Pod;
use kedge_api::ApiHandle;
use kedge_kubelet::{KubeletHandle, LookupError};
use kedge_metrics::expo::Source;
use kedge_server::auth::{AccessRequest, User};
use kedge_server::node::{
    Answer, ContainerRef, Counted, HealthCheck, LogSource, Node, NodeError, Page, PodRef, Streams,
};
use kedge_tasks::meter::{self, Family, Meters};
use tokio::sync::watch;

use crate::stats::Pages;

/// See the module.
pub struct Served {
    pub name: String,
    pub kubelet: KubeletHandle,
    pub api: ApiHandle,
    /// Why the sync loop is not healthy; empty when it is.
    pub problems: watch::Receiver<Vec<String>>,
    /// What `/configz` shows.
    pub configuration: serde_json::Value,
    pub pages: Pages,
    pub meters: Meters,
}

/// Upstream's.
const REQUEST: &[&str] = &["long_running", "method", "path", "server_type"];
static REQUESTS: Family = Family::counter(
    "kubelet_http_requests_total",
    REQUEST,
    "Requests to the kubelet's ports.",
);
static DURATION: Family = Family::histogram(
    "kubelet_http_requests_duration_seconds",
    REQUEST,
    meter::BUCKETS,
    "Time from a request to the kubelet's ports until the end of its answer.",
);
static INFLIGHT: Family = Family::gauge(
    "kubelet_http_inflight_requests",
    REQUEST,
    "Requests to the kubelet's ports that are being answered.",
);
static RESPONSES: Family = Family::counter(
    "kedge_http_responses_total",
    &["code", "path", "server_type"],
    "Answers of the kubelet's ports by HTTP status; none for clients that went away before.",
);
static WEBSOCKETS: Family = Family::counter(
    "kubelet_websocket_streaming_requests_total",
    &["subresource"],
    "Streams of exec, attach and port-forward that began as WebSockets.",
);
static CHECK: Family = Family::gauge(
    "kubernetes_healthcheck",
    &["name", "type"],
    "1 when the last check succeeded, else 0.",
)
.on(meter::Page::Slis);
static CHECKS: Family = Family::counter(
    "kubernetes_healthchecks_total",
    &["name", "status", "type"],
    "Results of health checks.",
)
.on(meter::Page::Slis);

impl Node for Served {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn pods(&self) -> Vec<Pod> {
        self.kubelet.pod_objects()
    }

    fn running_pods(&self) -> Answer<'_, Vec<Pod>> {
        Box::pin(async move {
            let pods = self.kubelet.running_pods().await;
            pods.map_err(|error| NodeError::Failed(format!("list what runs: {error}")))
        })
    }

    fn exec_url(
        &self,
        target: ContainerRef,
        command: Vec<String>,
        streams: Streams,
    ) -> Answer<'_, String> {
        Box::pin(async move {
            self.kubelet
                .exec(&wanted(target, false), command, of(streams))
                .await
                .map_err(told)
        })
    }

    fn attach_url(&self, target: ContainerRef, streams: Streams) -> Answer<'_, String> {
        Box::pin(async move {
            self.kubelet
                .attach(&wanted(target, false), of(streams))
                .await
                .map_err(told)
        })
    }

    fn port_forward_url(&self, target: PodRef, ports: Vec<u16>) -> Answer<'_, String> {
        Box::pin(async move {
            let ports = ports.into_iter().map(i32::from).collect();
            let PodRef {
                namespace,
                pod,
                uid,
            } = target;
            self.kubelet
                .port_forward(&namespace, &pod, uid.as_deref(), ports)
                .await
                .map_err(told)
        })
    }

    fn run(&self, target: ContainerRef, command: Vec<String>) -> Answer<'_, Vec<u8>> {
        Box::pin(async move {
            let answer = self
                .kubelet
                .exec_sync(&wanted(target, false), command, None)
                .await
                .map_err(told)?;
            let mut output = answer.stdout.to_vec();
            output.extend_from_slice(&answer.stderr);
            if answer.exit_code == 0 {
                return Ok(output);
            }
            let said = String::from_utf8_lossy(&output);
            Err(NodeError::Failed(format!(
                "command exited with code {}: {said}",
                answer.exit_code
            )))
        })
    }

    fn log_source(&self, target: ContainerRef, previous: bool) -> Answer<'_, LogSource> {
        let found = self.kubelet.locate(&wanted(target, previous));
        let source = found
            .map(|l| LogSource {
                path: l.log_path,
                container_id: l.id,
            })
            .map_err(told);
        Box::pin(async move { source })
    }

    fn is_running(&self, container_id: &str) -> bool {
        let views = self.kubelet.pods();
        views.iter().any(|v| {
            v.observed
                .containers
                .iter()
                .any(|c| c.id == container_id && c.running())
        })
    }

    fn review_token(&self, token: String) -> Answer<'_, Option<User>> {
        Box::pin(async move {
            let status = self
                .api
                .review_token(&token)
                .await
                .map_err(|e| NodeError::Failed(e.report()))?;
            let user = status.user.filter(|_| status.authenticated == Some(true));
            Ok(user.map(|u| User {
                name: u.username.unwrap_or_default(),
                uid: u.uid.unwrap_or_default(),
                groups: u.groups.unwrap_or_default(),
                extra: u.extra.unwrap_or_default(),
            }))
        })
    }

    fn review_access(&self, request: AccessRequest) -> Answer<'_, bool> {
        Box::pin(async move {
            let status = self
                .api
                .review_access(review(request))
                .await
                .map_err(|e| NodeError::Failed(e.report()))?;
            Ok(status.allowed)
        })
    }

    fn health(&self) -> Vec<HealthCheck> {
        let problems = self.problems.borrow();
        let problem = (!problems.is_empty()).then(|| problems.join("; "));
        let checks = vec![HealthCheck {
            name: "syncloop",
            problem,
        }];
        // Whoever answers this is alive: the server's own check.
        let ping = HealthCheck {
            name: "ping",
            problem: None,
        };
        checked(&self.meters, &[ping]);
        checked(&self.meters, &checks);
        checks
    }

    fn page(&self, page: Page) -> Answer<'_, Box<dyn Source>> {
        if page == Page::Slis {
            // The page shows checks made now, not those of the last visitor.
            let _ = self.health();
        }
        Box::pin(self.pages.page(page))
    }

    fn begun(&self, request: &Counted) {
        begun(&self.meters, request);
    }

    fn ended(&self, request: &Counted, status: Option<u16>, took: Duration) {
        ended(&self.meters, request, status, took);
    }

    fn configuration(&self) -> serde_json::Value {
        self.configuration.clone()
    }
}

fn labels(request: &Counted) -> [&'static str; 4] {
    let long = match request.long_running {
        true => "true",
        false => "false",
    };
    [long, request.method, request.path, request.server]
}

fn begun(meters: &Meters, request: &Counted) {
    let labels = labels(request);
    meters.count(&REQUESTS, &labels);
    meters.shift(&INFLIGHT, &labels, 1.0);
}

fn ended(meters: &Meters, request: &Counted, status: Option<u16>, took: Duration) {
    let labels = labels(request);
    meters.shift(&INFLIGHT, &labels, -1.0);
    meters.observe(&DURATION, &labels, took);
    let code = status.map_or_else(|| "none".to_owned(), |s| s.to_string());
    meters.count(&RESPONSES, &[&code, request.path, request.server]);
    if request.websocket && request.long_running && status == Some(101) {
        meters.count(&WEBSOCKETS, &[&request.path.to_lowercase()]);
    }
}

fn checked(meters: &Meters, checks: &[HealthCheck]) {
    for check in checks {
        let (level, status) = match check.problem {
            None => (1.0, "success"),
            Some(_) => (0.0, "error"),
        };
        meters.set(&CHECK, &[check.name, "healthz"], level);
        meters.count(&CHECKS, &[check.name, status, "healthz"]);
    }
}

fn wanted(target: ContainerRef, previous: bool) -> kedge_kubelet::ContainerRef {
    let ContainerRef {
        namespace,
        pod,
        uid,
        container,
    } = target;
    kedge_kubelet::ContainerRef {
        namespace,
        pod,
        uid,
        container,
        previous,
    }
}

fn of(streams: Streams) -> kedge_kubelet::Streams {
    let Streams {
        stdin,
        stdout,
        stderr,
        tty,
    } = streams;
    kedge_kubelet::Streams {
        stdin,
        stdout,
        stderr,
        tty,
    }
}

fn told(error: LookupError) -> NodeError {
    let text = error.to_string();
    match error {
        LookupError::NoPod(..) | LookupError::NoContainer(..) => NodeError::NotFound(text),
        LookupError::Waiting(..)
        | LookupError::NoPrevious(..)
        | LookupError::NotRunning(..)
        | LookupError::NoSandbox(..) => NodeError::NotNow(text),
        LookupError::Runtime(_) => NodeError::Failed(text),
    }
}

fn review(request: AccessRequest) -> SubjectAccessReviewSpec {
    let AccessRequest {
        user,
        verb,
        node,
        subresource,
    } = request;
    SubjectAccessReviewSpec {
        user: Some(user.name),
        uid: (!user.uid.is_empty()).then_some(user.uid),
        groups: Some(user.groups),
        extra: (!user.extra.is_empty()).then_some(user.extra),
        resource_attributes: Some(ResourceAttributes {
            verb: Some(verb.to_owned()),
            version: Some("v1".to_owned()),
            resource: Some("nodes".to_owned()),
            subresource: Some(subresource.to_owned()),
            name: Some(node),
            ..ResourceAttributes::default()
        }),
        non_resource_attributes: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kedge_tasks::meter::Reading;

    #[test]
    fn a_request_is_under_way_until_its_answer_ended() {
        let meters = Meters::default();
        let request = Counted {
            method: "GET",
            path: "metrics",
            server: "readwrite",
            long_running: false,
            websocket: false,
        };
        let labels = ["false", "GET", "metrics", "readwrite"];
        let level = || meters.reading(&INFLIGHT, &labels);
        begun(&meters, &request);
        begun(&meters, &request);
        assert_eq!(level(), Some(Reading::Level(2.0)));
        ended(&meters, &request, Some(403), Duration::from_millis(7));
        ended(&meters, &request, None, Duration::from_millis(7));
        assert_eq!(level(), Some(Reading::Level(0.0)));
        assert_eq!(meters.reading(&REQUESTS, &labels), Some(Reading::Count(2)));
        for code in ["403", "none"] {
            let answers = meters.reading(&RESPONSES, &[code, "metrics", "readwrite"]);
            assert_eq!(answers, Some(Reading::Count(1)));
        }
        assert!(matches!(
            meters.reading(&DURATION, &labels),
            Some(Reading::Spread(_, _))
        ));
    }

    #[test]
    fn websockets_are_counted_when_the_stream_begins() {
        let meters = Meters::default();
        let request = |path, websocket| Counted {
            method: "GET",
            path,
            server: "readwrite",
            long_running: path != "metrics",
            websocket,
        };
        for (request, status) in [
            (request("exec", true), 101),
            (request("exec", true), 403),
            (request("exec", false), 101),
            (request("portForward", true), 101),
            (request("metrics", true), 101),
        ] {
            begun(&meters, &request);
            ended(&meters, &request, Some(status), Duration::ZERO);
        }
        let (_, series) = meters.family(WEBSOCKETS.name).unwrap();
        let one = |name: &str| (vec![Box::from(name)], Reading::Count(1));
        assert_eq!(series, [one("exec"), one("portforward")]);
    }

    #[test]
    fn every_health_check_is_counted_by_its_result() {
        let meters = Meters::default();
        let check = |problem: Option<&str>| HealthCheck {
            name: "syncloop",
            problem: problem.map(str::to_owned),
        };
        checked(&meters, &[check(None)]);
        checked(&meters, &[check(Some("stuck"))]);
        let labels = ["syncloop", "healthz"];
        assert_eq!(meters.reading(&CHECK, &labels), Some(Reading::Level(0.0)));
        for status in ["success", "error"] {
            let counted = meters.reading(&CHECKS, &["syncloop", status, "healthz"]);
            assert_eq!(counted, Some(Reading::Count(1)));
        }
    }

    #[test]
    fn access_is_reviewed_for_this_node_alone() {
        let user = User {
            name: "alice".into(),
            ..User::default()
        };
        let request = AccessRequest {
            user,
            verb: "create",
            node: "edge-7".into(),
            subresource: "proxy",
        };
        let attributes = review(request).resource_attributes.unwrap();
        assert_eq!(
            (
                attributes.resource.as_deref(),
                attributes.name.as_deref(),
                attributes.subresource.as_deref()
            ),
            (Some("nodes"), Some("edge-7"), Some("proxy"))
        );
    }

    #[test]
    fn errors_are_sorted_by_whose_fault_they_are() {
        let check = |error: LookupError, expected: fn(String) -> NodeError| {
            let text = error.to_string();
            assert_eq!(told(error), expected(text));
        };
        check(
            LookupError::NoPod("a".into(), "b".into()),
            NodeError::NotFound,
        );
        check(
            LookupError::NotRunning("a".into(), "b".into()),
            NodeError::NotNow,
        );
    }
}
