//! Requests to the API server: typed objects in and out, one deadline, typed errors.
//!
//! In: what to do with which kind of object. Out: the decoded answer or an [`ApiError`] that names both. Built on `kube::core`'s
//! request builder and types; sent by [`Transport`].
//! Deliberately absent: retries of requests the server may have seen (callers know what is safe), gzip, protobuf.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body as _;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use kedge_tasks::Registry;
use kube::core::params::{
    DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, WatchParams,
};
use kube::core::{Request, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::time::Instant;

mod counted;

use counted::Counted;

use crate::error::{self, ApiError, Operation};
use crate::transport::{Slot, Transport};

/// From sending a request to the end of its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest single object: etcd's own limit is 1.5 MiB, JSON of it can be longer.
const OBJECT_LIMIT: usize = 4 * 1024 * 1024;
/// Largest page of a list.
const PAGE_LIMIT: usize = 64 * 1024 * 1024;
/// What we call ourselves towards the API server; also the field manager of our patches.
pub const FIELD_MANAGER: &str = "kedge";
const USER_AGENT: &str = concat!("kedge/", env!("CARGO_PKG_VERSION"));

/// Sends requests through one [`Transport`].
#[derive(Clone, Debug)]
pub struct Client {
    transport: Transport,
    registry: Registry,
    unauthorized: Arc<Notify>,
}

/// The body of a running watch. Its stream is given back when dropped.
pub(crate) struct WatchBody {
    body: Incoming,
    _slot: Slot,
}

impl WatchBody {
    /// The next bytes; `None` at the end of the stream.
    pub(crate) async fn chunk(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        loop {
            match self.body.frame().await? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => return Some(Ok(data)),
                    Err(_trailers) => continue,
                },
                Err(e) => return Some(Err(e)),
            }
        }
    }
}

/// "Pod default/web", "Node edge-7", "Pod".
pub(crate) fn object_name(kind: &str, namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

impl Client {
    pub fn new(transport: Transport) -> Self {
        Self::reporting(transport, Registry::default())
    }

    /// One whose requests, and the loops around it, are found in `registry`.
    pub fn reporting(transport: Transport, registry: Registry) -> Self {
        Self {
            transport,
            registry,
            unauthorized: Arc::new(Notify::new()),
        }
    }

    /// Notified whenever the server answers 401: the credentials may have become worthless.
    pub(crate) fn unauthorized(&self) -> Arc<Notify> {
        self.unauthorized.clone()
    }

    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Where this crate's loops report.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub async fn get<K>(&self, namespace: Option<&str>, name: &str) -> Result<K, ApiError>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let operation = operation::<K>("get", namespace, name);
        let request = request::<K>(namespace).get(name, &GetParams::default());
        self.exchange(operation, request).await
    }

    /// Objects that both selectors match; for small sets that are asked for now and then, not a watch's cache.
    pub async fn list<K>(
        &self,
        namespace: Option<&str>,
        fields: &str,
        labels: &str,
    ) -> Result<Vec<K>, ApiError>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        #[derive(serde::Deserialize)]
        struct Items<K> {
            items: Vec<K>,
        }
        let operation = operation::<K>("list", namespace, "");
        let params = ListParams::default().fields(fields).labels(labels);
        let request = request::<K>(namespace).list(&params);
        let list: Items<K> = self.exchange(operation, request).await?;
        Ok(list.items)
    }

    pub async fn create<K>(&self, namespace: Option<&str>, object: &K) -> Result<K, ApiError>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Serialize,
    {
        let name = object.meta().name.clone().unwrap_or_default();
        let operation = operation::<K>("create", namespace, &name);
        let body = encode(&operation, object)?;
        let request = request::<K>(namespace).create(&post(), body);
        self.exchange(operation, request).await
    }

    /// Strategic merge patch of the object.
    pub async fn patch<K>(
        &self,
        namespace: Option<&str>,
        name: &str,
        patch: &serde_json::Value,
    ) -> Result<K, ApiError>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let operation = operation::<K>("patch", namespace, name);
        let request =
            request::<K>(namespace).patch(name, &patch_params(), &Patch::Strategic(patch));
        self.exchange(operation, request).await
    }

    /// Strategic merge patch of the object's status.
    pub async fn patch_status<K>(
        &self,
        namespace: Option<&str>,
        name: &str,
        patch: &serde_json::Value,
    ) -> Result<K, ApiError>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        self.patch_subresource("status", namespace, name, patch)
            .await
    }

    /// Strategic merge patch of a subresource.
    pub async fn patch_subresource<K>(
        &self,
        subresource: &str,
        namespace: Option<&str>,
        name: &str,
        patch: &serde_json::Value,
    ) -> Result<K, ApiError>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let what = object_name(&K::kind(&()), namespace, name);
        let operation = Operation::new("patch", format!("{subresource} of {what}"));
        let request = request::<K>(namespace).patch_subresource(
            subresource,
            name,
            &patch_params(),
            &Patch::Strategic(patch),
        );
        self.exchange(operation, request).await
    }

    /// Asks for deletion; the answer may be the object or a Status and is not needed.
    pub async fn delete<K>(
        &self,
        namespace: Option<&str>,
        name: &str,
        params: &DeleteParams,
    ) -> Result<(), ApiError>
    where
        K: Resource<DynamicType = ()>,
    {
        let operation = operation::<K>("delete", namespace, name);
        let request = request::<K>(namespace).delete(name, params);
        self.bytes(operation, request, OBJECT_LIMIT).await?;
        Ok(())
    }

    /// `POST` to a subresource (`token`).
    pub async fn create_subresource<K, B>(
        &self,
        namespace: Option<&str>,
        name: &str,
        subresource: &str,
        body: &B,
    ) -> Result<B, ApiError>
    where
        K: Resource<DynamicType = ()>,
        B: Serialize + DeserializeOwned,
    {
        let what = format!(
            "{subresource} of {}",
            object_name(&K::kind(&()), namespace, name)
        );
        let operation = Operation::new("create", what);
        let body = encode(&operation, body)?;
        let request = request::<K>(namespace).create_subresource(subresource, name, &post(), body);
        self.exchange(operation, request).await
    }

    /// `POST` of a review object that has no name of its own (TokenReview, SubjectAccessReview).
    pub async fn review<K>(&self, object: &K) -> Result<K, ApiError>
    where
        K: k8s_openapi::Resource + Serialize + DeserializeOwned,
    {
        let operation = Operation::new("create", K::KIND);
        let path = format!("/apis/{}/{}", K::API_VERSION, K::URL_PATH_SEGMENT);
        let body = encode(&operation, object)?;
        let request = Request::new(path).create(&post(), body);
        self.exchange(operation, request).await
    }

    /// A path outside the object tree, such as `/version`.
    pub async fn get_path(&self, path: &str) -> Result<Bytes, ApiError> {
        let operation = Operation::new("get", path);
        let request = http::Request::get(path)
            .body(Vec::new())
            .map_err(kube::core::request::Error::BuildRequest);
        self.bytes(operation, request, OBJECT_LIMIT).await
    }

    /// One page of a list at a collection's path, undecoded.
    pub(crate) async fn list_page(
        &self,
        kind: &str,
        path: &str,
        params: &ListParams,
    ) -> Result<Bytes, ApiError> {
        let operation = Operation::new("list", kind);
        let request = Request::new(path).list(params);
        self.bytes(operation, request, PAGE_LIMIT).await
    }

    /// Opens a watch at a collection's path.
    pub(crate) async fn open_watch(
        &self,
        kind: &str,
        path: &str,
        params: &WatchParams,
        version: &str,
    ) -> Result<WatchBody, ApiError> {
        let operation = Operation::new("watch", kind);
        let request = Request::new(path).watch(params, version);
        let request = request.map_err(|source| ApiError::Build {
            operation: operation.clone(),
            source,
        })?;
        let work = self.open(&operation, request);
        let (response, slot) = deadline(&operation, work).await?;
        Ok(WatchBody {
            body: response.into_body(),
            _slot: slot,
        })
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        operation: Operation,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<T, ApiError> {
        let body = self.bytes(operation.clone(), request, OBJECT_LIMIT).await?;
        serde_json::from_slice(&body).map_err(|source| ApiError::Decode { operation, source })
    }

    async fn bytes(
        &self,
        operation: Operation,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
        limit: usize,
    ) -> Result<Bytes, ApiError> {
        let request = request.map_err(|source| ApiError::Build {
            operation: operation.clone(),
            source,
        })?;
        let work = async {
            let (response, _slot) = self.open(&operation, request).await?;
            collect(&operation, response, limit).await
        };
        deadline(&operation, work).await
    }

    /// Sends the request and reads the answer's head; answers other than 2xx become errors.
    async fn open(
        &self,
        operation: &Operation,
        request: http::Request<Vec<u8>>,
    ) -> Result<(http::Response<Incoming>, Slot), ApiError> {
        let (response, slot) = self.counted(operation, request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok((response, slot));
        }
        if status == http::StatusCode::UNAUTHORIZED {
            self.unauthorized.notify_one();
        }
        let retry_after = response
            .headers()
            .get(http::header::RETRY_AFTER)
            .and_then(|v| v.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let body = collect(operation, response, OBJECT_LIMIT).await?;
        Err(error::from_response(
            operation.clone(),
            status,
            retry_after,
            &body,
        ))
    }

    async fn counted(
        &self,
        operation: &Operation,
        request: http::Request<Vec<u8>>,
    ) -> Result<(http::Response<Incoming>, Slot), ApiError> {
        let mut counted = Counted::new(self.registry.meters().clone(), request.method());
        let (sent, began) = (request.body().len(), Instant::now());
        let mut answer = self.send(operation, request, &mut counted).await;
        let status = answer.as_ref().ok().map(|(response, _)| response.status());
        counted.answered(status, sent, began.elapsed());
        if let Ok((response, _)) = &mut answer {
            response.extensions_mut().insert(counted);
        }
        answer
    }

    /// Sends once, and once more when the connection turned out to be closed before anything of the request left.
    async fn send(
        &self,
        operation: &Operation,
        request: http::Request<Vec<u8>>,
        counted: &mut Counted,
    ) -> Result<(http::Response<Incoming>, Slot), ApiError> {
        let (parts, body) = request.into_parts();
        let body = Bytes::from(body);
        let mut retried = false;
        loop {
            let mut lease =
                self.transport
                    .lease()
                    .await
                    .map_err(|cause| ApiError::NoConnection {
                        operation: operation.clone(),
                        cause,
                    })?;
            counted.host = lease.target.endpoint.to_string();
            let request = complete(operation, &parts, body.clone(), &lease.target)?;
            match lease.send.try_send_request(request).await {
                Ok(response) => return Ok((response, lease.slot)),
                Err(mut failed) => {
                    let unsent = failed.take_message().is_some();
                    if !unsent || retried {
                        return Err(ApiError::Broken {
                            operation: operation.clone(),
                            source: failed.into_error().into(),
                        });
                    }
                    retried = true;
                    counted.retried();
                }
            }
        }
    }
}

/// Adds what HTTP/2 and the API server want: an absolute URI, credentials, media types.
fn complete(
    operation: &Operation,
    parts: &http::request::Parts,
    body: Bytes,
    target: &crate::transport::Target,
) -> Result<http::Request<Full<Bytes>>, ApiError> {
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let mut builder = http::Request::builder()
        .method(parts.method.clone())
        .uri(format!("https://{}{path}", target.endpoint))
        .header(http::header::USER_AGENT, USER_AGENT)
        .header(http::header::ACCEPT, "application/json");
    if let Some(content_type) = parts.headers.get(http::header::CONTENT_TYPE) {
        builder = builder.header(http::header::CONTENT_TYPE, content_type);
    }
    if let Some(bearer) = &target.bearer {
        builder = builder.header(http::header::AUTHORIZATION, bearer);
    }
    builder.body(Full::new(body)).map_err(|e| ApiError::Build {
        operation: operation.clone(),
        source: kube::core::request::Error::BuildRequest(e),
    })
}

async fn collect(
    operation: &Operation,
    mut response: http::Response<Incoming>,
    limit: usize,
) -> Result<Bytes, ApiError> {
    let counted = response.extensions_mut().remove::<Counted>();
    let body = response.into_body();
    let announced = body.size_hint().lower();
    match Limited::new(body, limit).collect().await {
        Ok(collected) => {
            let bytes = collected.to_bytes();
            if let Some(counted) = counted {
                counted.read(bytes.len());
            }
            Ok(bytes)
        }
        Err(e) if e.is::<http_body_util::LengthLimitError>() => Err(ApiError::TooLarge {
            operation: operation.clone(),
            size: usize::try_from(announced).unwrap_or(usize::MAX).max(limit),
            limit,
        }),
        Err(source) => Err(ApiError::Broken {
            operation: operation.clone(),
            source,
        }),
    }
}

async fn deadline<T>(
    operation: &Operation,
    work: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    tokio::time::timeout(REQUEST_TIMEOUT, work)
        .await
        .unwrap_or_else(|_| {
            Err(ApiError::TimedOut {
                operation: operation.clone(),
                after: REQUEST_TIMEOUT,
            })
        })
}

fn operation<K: Resource<DynamicType = ()>>(
    verb: &'static str,
    namespace: Option<&str>,
    name: &str,
) -> Operation {
    Operation::new(verb, object_name(&K::kind(&()), namespace, name))
}

fn request<K: Resource<DynamicType = ()>>(namespace: Option<&str>) -> Request {
    Request::new(K::url_path(&(), namespace))
}

fn encode<T: Serialize>(operation: &Operation, object: &T) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(object).map_err(|source| ApiError::Build {
        operation: operation.clone(),
        source: kube::core::request::Error::SerializeBody(source),
    })
}

fn post() -> PostParams {
    PostParams {
        dry_run: false,
        field_manager: Some(FIELD_MANAGER.to_owned()),
    }
}

fn patch_params() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}
