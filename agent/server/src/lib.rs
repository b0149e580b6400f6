//! What others call on this node: the kubelet's ports and the proxy's.
//!
//! | port | who may | what |
//! | --- | --- | --- |
//! | 10250 HTTPS | clients of the cluster's CA or bearer tokens, and only what a SubjectAccessReview allows | [`routes`] |
//! | 10255 HTTP | everyone; off unless the config turns it on | `/healthz`, `/pods`, `/metrics…`, `/stats/summary`, `/spec` |
//! | 10248 HTTP, 127.0.0.1 | everyone on the node | `/healthz` |
//! | 10256 HTTP | everyone | the proxy's `/healthz`, `/livez` |
//! | 10249 HTTP, 127.0.0.1 | everyone on the node | `/proxyMode`, `/healthz` |
//! | loopback, free port | containerd | [`embedded`]: images of the root |
//!
//! In: the [`node::Node`] trait, implemented by the composition root; certificates and the cluster's CA by `watch`. Out: HTTP.
//! Tasks: one accept loop per port ([`listen`]), one per connection inside it, two for reviews ([`auth::review`]), one per upgraded stream. All end
//! when the futures returned here are dropped.
//! Deliberately absent: anonymous access, SPDY and WebSocket framing (bytes are spliced to the runtime's streaming server), deciding anything
//! about pods.

pub mod auth;
pub mod embedded;
pub mod listen;
pub mod logs;
pub mod node;
pub mod pages;
pub mod proxy;
pub mod routes;
mod stream;
#[cfg(test)]
mod testing;
pub mod tls;
