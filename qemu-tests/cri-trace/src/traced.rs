//! A response body that notes its call when it is over, trailers included.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::Log;

pub struct Call {
    pub method: String,
    pub start: Instant,
}

pub struct Traced {
    body: Incoming,
    call: Call,
    log: Log,
}

impl Traced {
    pub fn new(body: Incoming, call: Call, log: Log) -> Self {
        Self { body, call, log }
    }
}

impl Body for Traced {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// hyper drops the body when the last frame has been handed to the connection, or when the stream is reset.
impl Drop for Traced {
    fn drop(&mut self) {
        self.log.add(&self.call);
    }
}
