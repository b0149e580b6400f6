//! Pages of metrics as HTTP answers: the format by `Accept`, gzip by `Accept-Encoding`, written a piece at a time.
//!
//! In: a [`Source`], the request's headers. Out: a response whose body is made as fast as the client reads it: a piece is made only when all
//! but one of those before have left for the socket. Bounded: pages under way ([`PAGES`], 503 beyond), gzip encoders ([`ENCODERS`], plain text
//! beyond), pieces of a page in memory ([`PIECES`]), time per page ([`LONGEST`]: a client that stopped reading then holds nothing but its last
//! pieces, whether the HTTP library asks for more, as HTTP/1.1 does, or waits for the client's window, as HTTP/2 does).

mod accept;
mod meters;

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use http::{HeaderMap, StatusCode, header};
use kedge_metrics::expo::{Format, Source, Writer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use meters::Counted;

/// A scraper that keeps connections open without reading holds its generation of samples in memory.
const PAGES: usize = 40;
/// An encoder takes a third of a megabyte.
const ENCODERS: usize = 4;
/// Text of one piece.
const PIECE: usize = 16 * 1024;
/// Pieces of one page that may wait for the socket. The HTTP library would take a hundred kilobytes and more from each page.
const PIECES: usize = 2;
/// A client that reads slower than this is cut off.
const LONGEST: Duration = Duration::from_secs(60);

/// What limits pages; one per process.
#[derive(Clone)]
pub(crate) struct Limits {
    pages: Arc<Semaphore>,
    encoders: Arc<Semaphore>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pages: Arc::new(Semaphore::new(PAGES)),
            encoders: Arc::new(Semaphore::new(ENCODERS)),
        }
    }
}

/// A permit to write a page, taken before anything is read for it.
pub(crate) struct Permit {
    _page: OwnedSemaphorePermit,
    encoder: Option<OwnedSemaphorePermit>,
}

/// As many pages are being written as may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Busy;

impl IntoResponse for Busy {
    fn into_response(self) -> Response {
        let text = "too many pages are being read already\n";
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

impl Limits {
    /// Takes a page that is not compressed.
    pub(crate) fn plain(&self) -> Result<Permit, Busy> {
        self.take(&HeaderMap::new())
    }

    /// Takes a page, and an encoder when the client reads gzip and one is free.
    pub(crate) fn take(&self, headers: &HeaderMap) -> Result<Permit, Busy> {
        let Ok(page) = self.pages.clone().try_acquire_owned() else {
            return Err(Busy);
        };
        let encoder = accept::gzip(headers)
            .then(|| self.encoders.clone().try_acquire_owned().ok())
            .flatten();
        Ok(Permit {
            _page: page,
            encoder,
        })
    }
}

/// A page of metrics.
pub(crate) fn metrics(permit: Permit, headers: &HeaderMap, source: Box<dyn Source>) -> Response {
    let format = accept::format(headers);
    respond(permit, format, format.content_type(), source)
}

/// A document: what the source writes is sent as it is.
pub(crate) fn json(permit: Permit, source: Box<dyn Source>) -> Response {
    respond(permit, Format::Text, "application/json", source)
}

fn respond(
    permit: Permit,
    format: Format,
    content_type: &'static str,
    source: Box<dyn Source>,
) -> Response {
    let compressed = permit.encoder.is_some();
    let page = Page {
        source: Some(source),
        writer: Writer::new(format),
        gzip: compressed.then(|| GzEncoder::new(Vec::new(), Compression::fast())),
    };
    let mut response = paced(permit, page).into_response();
    let headers = response.headers_mut();
    let value = header::HeaderValue::from_static;
    headers.insert(header::CONTENT_TYPE, value(content_type));
    if compressed {
        headers.insert(header::CONTENT_ENCODING, value("gzip"));
    }
    headers.insert(header::VARY, value("accept, accept-encoding"));
    response
}

/// Something that is made piece by piece.
pub(crate) trait Pieces: Send + 'static {
    /// The next bytes, perhaps none yet; `None` at the end.
    fn next(&mut self) -> Option<std::io::Result<Vec<u8>>>;
}

/// A body whose pieces are made as the ones before leave. Needs a running runtime: its end is a timer of its own.
pub(crate) fn paced(permit: Permit, pieces: impl Pieces) -> Body {
    let until = Instant::now() + LONGEST;
    let work = Arc::new(Mutex::new(Some(Work {
        pieces,
        _permit: permit,
    })));
    let late = work.clone();
    let body = Paced {
        work,
        room: Arc::new(Semaphore::new(PIECES)),
        until,
        end: tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            take(&late);
        }),
    };
    Body::from_stream(stream::unfold(body, |mut body| async move {
        let piece = body.piece().await?;
        Some((piece, body))
    }))
}

/// What a page holds while it is under way.
struct Work<P> {
    pieces: P,
    _permit: Permit,
}

struct Paced<P> {
    /// `None`: the time is over.
    work: Arc<Mutex<Option<Work<P>>>>,
    room: Arc<Semaphore>,
    until: Instant,
    /// Takes the work away when the time is over.
    end: JoinHandle<()>,
}

impl<P> Drop for Paced<P> {
    fn drop(&mut self) {
        // An aborted task is dropped some time later.
        self.end.abort();
        take(&self.work);
    }
}

/// Gives back what the page held.
fn take<P>(work: &Mutex<Option<Work<P>>>) {
    drop(work.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// A piece on its way to the socket; gone with its last byte.
struct Piece {
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<P: Pieces> Paced<P> {
    async fn piece(&mut self) -> Option<std::io::Result<Bytes>> {
        let room = tokio::time::timeout_at(self.until, self.room.clone().acquire_owned());
        // The semaphore is never closed.
        let Ok(Ok(room)) = room.await else {
            return Some(Err(late()));
        };
        loop {
            match self.next() {
                None => return None,
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => {
                    let piece = Piece { bytes, _room: room };
                    return Some(Ok(Bytes::from_owner(piece)));
                }
                Some(Err(error)) => return Some(Err(error)),
            }
            // Compressing a large page is work: others get their turn between the pieces.
            tokio::task::yield_now().await;
        }
    }

    fn next(&self) -> Option<std::io::Result<Vec<u8>>> {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        match work.as_mut() {
            Some(work) => work.pieces.next(),
            None => Some(Err(late())),
        }
    }
}

fn late() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "read too slowly")
}

/// A page being written.
struct Page {
    source: Option<Box<dyn Source>>,
    writer: Writer,
    gzip: Option<GzEncoder<Vec<u8>>>,
}

impl Pieces for Page {
    fn next(&mut self) -> Option<std::io::Result<Vec<u8>>> {
        self.fill()?;
        Some(self.drain())
    }
}

impl Page {
    /// Fills the writer. `None`: everything was sent.
    fn fill(&mut self) -> Option<()> {
        let Some(source) = self.source.as_mut() else {
            return self.gzip.is_some().then_some(());
        };
        while self.writer.out.len() < PIECE {
            if !source.write(&mut self.writer) {
                self.writer.end();
                self.source = None;
                break;
            }
        }
        Some(())
    }

    /// What can be sent of it.
    fn drain(&mut self) -> std::io::Result<Vec<u8>> {
        let Some(mut gzip) = self.gzip.take() else {
            return Ok(std::mem::take(&mut self.writer.out));
        };
        gzip.write_all(&self.writer.out)?;
        self.writer.out.clear();
        if self.source.is_none() {
            return gzip.finish();
        }
        let ready = std::mem::take(gzip.get_mut());
        self.gzip = Some(gzip);
        Ok(ready)
    }
}

#[cfg(test)]
mod tests;
