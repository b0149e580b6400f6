//! What a probe or a lifecycle hook does, with names resolved: ports are numbers, hosts are addresses, commands expanded.
//!
//! In: the API's handler, the container, the pod's address. Out: [`Handler`], data that the executor acts on.

/// One check or hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handler {
    Http(HttpGet),
    Tcp {
        host: String,
        port: u16,
    },
    /// Run inside the container (CRI ExecSync).
    Exec {
        command: Vec<String>,
    },
    /// gRPC health check, plaintext; an empty service asks for the server as a whole.
    Grpc {
        host: String,
        port: u16,
        service: String,
    },
    /// Lifecycle hooks only.
    Sleep {
        seconds: u64,
    },
}

/// GET with the headers to send; `User-Agent`, `Accept` and `Host` are already decided (RFC 9110 7.2: a `Host` header given
/// by the pod replaces the one made from the address).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpGet {
    pub https: bool,
    /// Address or name to connect to.
    pub host: String,
    pub port: u16,
    /// With query, starting with `/`.
    pub path: String,
    /// In order; names as written. Contains no `Host`.
    pub headers: Vec<(String, String)>,
    /// The `Host` header's value when the pod overrides it.
    pub host_header: Option<String>,
}
