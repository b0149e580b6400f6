//! exec, attach and port-forward: an HTTP upgrade passed through to the runtime's streaming server.
//!
//! In: the caller's request, the URL that CRI gave. Out: the runtime's own answer; after a 101, bytes are copied both ways without being
//! looked at, so SPDY/3.1 and WebSocket both work and neither is implemented here.
//! Traps: the protocol header `X-Stream-Protocol-Version` is repeated and every one must arrive; the answer's headers are the runtime's; the first
//! bytes may come glued to the 101, so both sides are taken over through hyper and not from raw sockets.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::listen::stopped;

const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the runtime's streaming server could not be used.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("the runtime's streaming URL {0:?} cannot be used")]
    Url(String),
    #[error("connect to the runtime's streaming server at {address}")]
    Connect {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the runtime's streaming server at {0} does not answer")]
    Silent(String),
    #[error("talk to the runtime's streaming server at {address}")]
    Http {
        address: String,
        #[source]
        source: hyper::Error,
    },
}

/// Whether the caller asks for an upgrade at all.
pub(crate) fn is_upgrade(headers: &HeaderMap) -> bool {
    let lists_upgrade = |v: &http::HeaderValue| {
        v.to_str().is_ok_and(|t| {
            t.split(',')
                .any(|p| p.trim().eq_ignore_ascii_case("upgrade"))
        })
    };
    headers.contains_key(header::UPGRADE)
        && headers
            .get_all(header::CONNECTION)
            .iter()
            .any(lists_upgrade)
}

/// Passes `request` to `url` and splices the connections. `stop` ends running streams.
pub(crate) async fn pass_through(
    request: Request<Body>,
    url: &str,
    stop: watch::Receiver<bool>,
) -> Response {
    match forward(request, url, stop).await {
        Ok(response) => response,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|s| format!(": {s}"));
            let text = format!("{error}{}", cause.unwrap_or_default());
            tracing::warn!("{text}");
            (StatusCode::BAD_GATEWAY, text).into_response()
        }
    }
}

async fn forward(
    mut request: Request<Body>,
    url: &str,
    stop: watch::Receiver<bool>,
) -> Result<Response, StreamError> {
    let bad = || StreamError::Url(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| bad())?;
    let authority = uri.authority().ok_or_else(bad)?.clone();
    let address = match authority.port() {
        Some(_) => authority.to_string(),
        None => format!("{authority}:80"),
    };
    let caller = hyper::upgrade::on(&mut request);
    let outgoing = outgoing(&request, &uri, &authority).ok_or_else(bad)?;

    let silent = || StreamError::Silent(address.clone());
    let http_error = |source| StreamError::Http {
        address: address.clone(),
        source,
    };
    let stream = tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(&address))
        .await
        .map_err(|_| silent())?
        .map_err(|source| StreamError::Connect {
            address: address.clone(),
            source,
        })?;
    let _ = stream.set_nodelay(true);
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(http_error)?;
    // Ends with the stream: the connection is driven until its upgrade is taken over or it closes.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to the runtime's streaming server");
        }
    });
    let mut answer = tokio::time::timeout(DIAL_TIMEOUT, send.send_request(outgoing))
        .await
        .map_err(|_| silent())?
        .map_err(http_error)?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let runtime = hyper::upgrade::on(&mut answer);
        // Ends with either side, or with the server.
        tokio::spawn(splice(caller, runtime, stop));
    }
    Ok(answer.map(Body::new))
}

/// The caller's request, addressed to the runtime: all headers as they came, but for credentials and the host.
fn outgoing(
    request: &Request<Body>,
    uri: &Uri,
    authority: &http::uri::Authority,
) -> Option<Request<Body>> {
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut out = Request::builder()
        .method(request.method().clone())
        .uri(path)
        .body(Body::empty())
        .ok()?;
    *out.headers_mut() = request.headers().clone();
    let headers = out.headers_mut();
    headers.remove(header::AUTHORIZATION);
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::TRANSFER_ENCODING);
    let host = http::HeaderValue::from_str(authority.as_str()).ok()?;
    headers.insert(header::HOST, host);
    Some(out)
}

async fn splice(
    caller: hyper::upgrade::OnUpgrade,
    runtime: hyper::upgrade::OnUpgrade,
    mut stop: watch::Receiver<bool>,
) {
    let copy = async move {
        let (caller, runtime) = tokio::try_join!(caller, runtime)?;
        let (mut caller, mut runtime) = (TokioIo::new(caller), TokioIo::new(runtime));
        let copied = tokio::io::copy_bidirectional(&mut caller, &mut runtime).await;
        Ok::<_, hyper::Error>(copied)
    };
    tokio::select! {
        // Cancel-safe: both arms end the stream for good.
        done = copy => match done {
            Ok(Ok((sent, received))) => tracing::debug!(sent, received, "a stream ended"),
            Ok(Err(error)) => tracing::debug!(%error, "a stream broke"),
            Err(error) => tracing::warn!(%error, "take over an upgraded connection"),
        },
        () = stopped(&mut stop) => tracing::debug!("a stream was ended by shutdown"),
    }
}
