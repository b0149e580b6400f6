//! A node that answers from a table, a CA with its leaves, and HTTPS clients for tests.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::Pod;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::auth::{AccessRequest, User};
use crate::node::{
    Answer, ContainerRef, Counted, HealthCheck, LogSource, Node, NodeError, Page, PodRef, Streams,
};
use kedge_metrics::expo::{Kind, Source, Value, Writer};

/// What was asked for, in words.
pub(crate) type Asked = Mutex<Vec<String>>;

#[derive(Default)]
pub(crate) struct FakeNode {
    pub(crate) asked: Asked,
    /// (user, verb, subresource) that are allowed.
    pub(crate) allowed: Mutex<BTreeSet<(String, String, String)>>,
    pub(crate) reviews: AtomicU32,
    pub(crate) stream_url: Mutex<String>,
    pub(crate) log: Mutex<Option<LogSource>>,
    pub(crate) running: Mutex<BTreeSet<String>>,
    pub(crate) sick: Mutex<Option<String>>,
    pub(crate) reviews_fail: Mutex<bool>,
    /// Requests that ended.
    pub(crate) served: Mutex<Vec<String>>,
    /// Requests that did not yet.
    pub(crate) inflight: Mutex<Vec<Counted>>,
    /// Pages have this many lines more …
    pub(crate) lines: AtomicU32,
    /// … of which so many bytes were made.
    pub(crate) made: Arc<AtomicUsize>,
}

/// A page that says which one it is, and goes on for as many lines as it is told.
struct OnePage {
    page: Option<Page>,
    lines: u32,
    made: Arc<AtomicUsize>,
}

impl Source for OnePage {
    fn write(&mut self, to: &mut Writer) -> bool {
        let before = to.out.len();
        let more = self.next(to);
        self.made
            .fetch_add(to.out.len() - before, Ordering::Relaxed);
        more
    }
}

impl OnePage {
    fn next(&mut self, to: &mut Writer) -> bool {
        let Some(page) = self.page.take() else {
            if self.lines == 0 {
                return false;
            }
            self.lines -= 1;
            to.family("line", Kind::Gauge, "A line.");
            let number = self.lines.to_string();
            to.sample("", &[("n", &number)], Value::Int(1), None);
            return true;
        };
        match page {
            Page::Summary { .. } | Page::Spec | Page::Statusz => {
                to.out
                    .extend_from_slice(format!("{{\"page\":\"{page:?}\"}}").as_bytes());
            }
            _ => {
                to.family("page_total", Kind::Counter, "Which page.");
                to.sample("", &[("page", &format!("{page:?}"))], Value::Int(1), None);
            }
        }
        true
    }
}

impl FakeNode {
    pub(crate) fn allow(&self, user: &str, verb: &str, subresource: &str) {
        let entry = (user.to_owned(), verb.to_owned(), subresource.to_owned());
        self.allowed.lock().unwrap().insert(entry);
    }

    fn note(&self, text: String) {
        self.asked.lock().unwrap().push(text);
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn url(&self) -> Answer<'_, String> {
        let url = self.stream_url.lock().unwrap().clone();
        Box::pin(async move { Ok(url) })
    }
}

fn known(target: &ContainerRef) -> Result<(), NodeError> {
    if target.pod != "web" {
        return Err(NodeError::NotFound(format!(
            "pod {:?} not found",
            target.pod
        )));
    }
    Ok(())
}

impl Node for FakeNode {
    fn name(&self) -> String {
        "edge-7".to_owned()
    }

    fn pods(&self) -> Vec<Pod> {
        let pod = |name: &str| Pod {
            metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                name: Some(name.to_owned()),
                ..Default::default()
            },
            ..Pod::default()
        };
        vec![pod("a"), pod("b")]
    }

    fn running_pods(&self) -> Answer<'_, Vec<Pod>> {
        Box::pin(async { Err(NodeError::Failed("the runtime is down".to_owned())) })
    }

    fn exec_url(
        &self,
        target: ContainerRef,
        command: Vec<String>,
        streams: Streams,
    ) -> Answer<'_, String> {
        self.note(format!("exec {target:?} {command:?} {streams:?}"));
        match known(&target) {
            Ok(()) => self.url(),
            Err(error) => Box::pin(async { Err(error) }),
        }
    }

    fn attach_url(&self, target: ContainerRef, streams: Streams) -> Answer<'_, String> {
        self.note(format!("attach {target:?} {streams:?}"));
        self.url()
    }

    fn port_forward_url(&self, target: PodRef, ports: Vec<u16>) -> Answer<'_, String> {
        self.note(format!("port-forward {target:?} {ports:?}"));
        self.url()
    }

    fn run(&self, target: ContainerRef, command: Vec<String>) -> Answer<'_, Vec<u8>> {
        self.note(format!("run {} {command:?}", target.container));
        Box::pin(async { Ok(b"output".to_vec()) })
    }

    fn log_source(&self, target: ContainerRef, previous: bool) -> Answer<'_, LogSource> {
        self.note(format!("log {} previous={previous}", target.container));
        let log = self.log.lock().unwrap().clone();
        Box::pin(async move {
            known(&target)?;
            log.ok_or_else(|| NodeError::NotNow("container is waiting to start".to_owned()))
        })
    }

    fn is_running(&self, container_id: &str) -> bool {
        self.running.lock().unwrap().contains(container_id)
    }

    fn review_token(&self, token: String) -> Answer<'_, Option<User>> {
        self.reviews.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            Ok((token == "good").then(|| User {
                name: "prometheus".to_owned(),
                ..User::default()
            }))
        })
    }

    fn review_access(&self, request: AccessRequest) -> Answer<'_, bool> {
        assert_eq!(request.node, "edge-7");
        let entry = (
            request.user.name,
            request.verb.to_owned(),
            request.subresource.to_owned(),
        );
        let allowed = self.allowed.lock().unwrap().contains(&entry);
        let fail = *self.reviews_fail.lock().unwrap();
        Box::pin(async move {
            match fail {
                true => Err(NodeError::Failed("the API server is away".to_owned())),
                false => Ok(allowed),
            }
        })
    }

    fn health(&self) -> Vec<HealthCheck> {
        vec![HealthCheck {
            name: "syncloop",
            problem: self.sick.lock().unwrap().clone(),
        }]
    }

    fn page(&self, page: Page) -> Answer<'_, Box<dyn Source>> {
        self.note(format!("page {page:?}"));
        let sick = self.sick.lock().unwrap().clone();
        let one = OnePage {
            page: Some(page),
            lines: self.lines.load(Ordering::Relaxed),
            made: self.made.clone(),
        };
        Box::pin(async move {
            match sick {
                Some(why) => Err(NodeError::Failed(why)),
                None => Ok(Box::new(one) as Box<dyn Source>),
            }
        })
    }

    fn begun(&self, request: &Counted) {
        self.inflight.lock().unwrap().push(*request);
    }

    fn ended(&self, request: &Counted, status: Option<u16>, _took: std::time::Duration) {
        let mut inflight = self.inflight.lock().unwrap();
        let began = inflight.iter().position(|r| r == request);
        inflight.remove(began.expect("what ended had begun"));
        let Counted {
            method,
            path,
            server,
            long_running,
            websocket: _,
        } = request;
        let status = status.unwrap_or(0);
        let line = format!("{method} {path} {server} {long_running} {status}");
        self.served.lock().unwrap().push(line);
    }

    fn configuration(&self) -> serde_json::Value {
        serde_json::json!({ "kind": "KubeletConfiguration" })
    }
}

/// A CA for tests.
pub(crate) struct Ca {
    params: CertificateParams,
    key: KeyPair,
    pub(crate) der: CertificateDer<'static>,
}

pub(crate) type Leaf = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let der = params.self_signed(&key).unwrap().der().clone();
        Self { params, key, der }
    }

    pub(crate) fn leaf(&self, name: &str, group: &str, host: &str) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        (vec![certificate.der().clone()], key.into())
    }
}

pub(crate) fn certified((chain, key): Leaf) -> Arc<CertifiedKey> {
    let provider = rustls::crypto::ring::default_provider();
    Arc::new(CertifiedKey::from_der(chain, key, &provider).unwrap())
}
