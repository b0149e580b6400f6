//! A stream that can be cut from outside, as if the peer had reset it.
//!
//! hyper drives HTTP/2 connections in a task of its own; dropping what it returns drains instead of ending. A connection from an address that
//! this node no longer has must end at once, streams included.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

/// `inner` until the watched number changes.
pub(super) struct Cut<S> {
    inner: S,
    signal: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_cut: bool,
}

impl<S> Cut<S> {
    pub(super) fn new(inner: S, mut cut: watch::Receiver<u64>) -> Self {
        cut.mark_unchanged();
        let signal = Box::pin(async move {
            if cut.changed().await.is_err() {
                // Nobody is left who could cut.
                std::future::pending::<()>().await;
            }
        });
        Self {
            inner,
            signal,
            is_cut: false,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Cut<S> {
    /// An open connection always waits to read, so this is where the signal is seen.
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_cut || self.signal.as_mut().poll(cx).is_ready() {
            self.is_cut = true;
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cut<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
