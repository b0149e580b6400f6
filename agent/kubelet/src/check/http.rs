//! One GET, with redirects to the same host followed.
//!
//! 200–399 is success; a redirect to another host is a success with a warning, since what it leads to is not the pod.
//! At most 10 redirects and 10 KiB of body are read.

use http::{HeaderName, HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use kedge_pods::hook::HttpGet;
use kedge_pods::probe::Answer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::tls;

const MAX_REDIRECTS: usize = 10;
const MAX_BODY: usize = 10 * 1024;

/// What came back in the end.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub body: String,
    /// Set when a redirect led away from the host and was not followed.
    pub redirected_to: Option<String>,
}

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("connect to {0}: {1}")]
    Connect(String, std::io::Error),
    #[error("TLS with {0}")]
    NotTls(String),
    #[error("GET {0}: {1}")]
    Exchange(String, String),
    #[error("stopped after {MAX_REDIRECTS} redirects")]
    TooManyRedirects,
}

pub async fn probe(get: &HttpGet) -> Answer {
    match fetch(get).await {
        Ok(Response {
            redirected_to: Some(to),
            ..
        }) => Answer::Warning(format!(
            "probe was redirected to {to}, which is not followed"
        )),
        Ok(response) if (200..400).contains(&response.status) => Answer::Success,
        Ok(response) => {
            Answer::Failure(format!("HTTP probe failed with status {}", response.status))
        }
        Err(error) => Answer::Failure(error.to_string()),
    }
}

/// Sends the request and follows redirects that stay on the host.
pub async fn fetch(get: &HttpGet) -> Result<Response, FetchError> {
    let mut current = get.clone();
    for _ in 0..=MAX_REDIRECTS {
        let (status, location, body) = once(&current).await?;
        let Some(location) = location.filter(|_| (300..400).contains(&status)) else {
            return Ok(Response {
                status,
                body,
                redirected_to: None,
            });
        };
        match follow(&current, &location) {
            Some(next) => current = next,
            None => {
                return Ok(Response {
                    status,
                    body,
                    redirected_to: Some(location),
                });
            }
        }
    }
    Err(FetchError::TooManyRedirects)
}

/// The next request, if `location` is on the same host (the port and the scheme may change).
fn follow(from: &HttpGet, location: &str) -> Option<HttpGet> {
    if let Some(path) = location.strip_prefix('/')
        && !path.starts_with('/')
    {
        let mut next = from.clone();
        next.path = location.to_owned();
        return Some(next);
    }
    let uri: Uri = location.parse().ok()?;
    let Some(host) = uri.host() else {
        // Relative to the current directory.
        let base = from.path.split('?').next().unwrap_or("/");
        let directory = base.rsplit_once('/').map_or("", |(before, _)| before);
        let mut next = from.clone();
        next.path = format!("{directory}/{location}");
        return Some(next);
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let named = from.host_header.as_deref().unwrap_or(&from.host);
    let same = host == from.host || named.split(':').next() == Some(host);
    if !same {
        return None;
    }
    let https = uri.scheme_str() == Some("https");
    let mut next = from.clone();
    next.https = https;
    next.port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    next.path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    Some(next)
}

async fn once(get: &HttpGet) -> Result<(u16, Option<String>, String), FetchError> {
    let target = authority(get);
    let stream = TcpStream::connect((get.host.as_str(), get.port))
        .await
        .map_err(|error| FetchError::Connect(target.clone(), error))?;
    if !get.https {
        return exchange(stream, get, &target).await;
    }
    let not_tls = || FetchError::NotTls(target.clone());
    let config = tls::config().ok_or_else(not_tls)?;
    let name = get
        .host_header
        .as_deref()
        .and_then(|name| name.split(':').next())
        .unwrap_or(&get.host)
        .to_owned();
    let name = rustls::pki_types::ServerName::try_from(name)
        .or_else(|_| rustls::pki_types::ServerName::try_from(get.host.clone()))
        .map_err(|_| not_tls())?;
    let stream = tokio_rustls::TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|_| not_tls())?;
    exchange(stream, get, &target).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    get: &HttpGet,
    target: &str,
) -> Result<(u16, Option<String>, String), FetchError> {
    let failed = |error: String| FetchError::Exchange(format!("{target}{}", get.path), error);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(error.to_string()))?;
    let request = request(get, target).map_err(|error| failed(error.to_string()))?;
    let talk = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let status = response.status().as_u16();
        let location = response
            .headers()
            .get(header::LOCATION)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        // A body that is too long or breaks off does not change the verdict.
        let body = Limited::new(response.into_body(), MAX_BODY)
            .collect()
            .await
            .map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned())
            .unwrap_or_default();
        Ok((status, location, body))
    };
    // The connection future moves the bytes; when it ends first, the sender says why.
    let drive = async {
        let _ = connection.await;
        std::future::pending::<std::convert::Infallible>().await
    };
    tokio::select! {
        result = talk => result,
        never = drive => match never {},
    }
}

fn request(get: &HttpGet, target: &str) -> Result<Request<Empty<Bytes>>, http::Error> {
    let host = get.host_header.as_deref().unwrap_or(target);
    let mut builder = Request::get(&get.path)
        .header(header::HOST, host)
        .header(header::CONNECTION, "close");
    for (name, value) in &get.headers {
        let name = HeaderName::try_from(name.as_str())?;
        // An empty Accept or User-Agent in the pod removes the header.
        if value.is_empty() && (name == header::ACCEPT || name == header::USER_AGENT) {
            continue;
        }
        builder = builder.header(name, HeaderValue::try_from(value.as_str())?);
    }
    builder.body(Empty::new())
}

fn authority(get: &HttpGet) -> String {
    if get.host.contains(':') {
        format!("[{}]:{}", get.host, get.port)
    } else {
        format!("{}:{}", get.host, get.port)
    }
}
