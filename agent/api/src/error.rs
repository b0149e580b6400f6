//! What can go wrong between this node and its API server, as choices a caller can act on.
//!
//! Every error names the operation and the object. [`ApiError::remedy`] says what an operator can do, when there is something.
//! Deliberately absent: retrying. Loops decide that by [`ApiError::class`].

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use kube::core::Status;

/// The command that grants a node what the service proxy reads. Part of messages, and of the README.
pub const NODE_PROXIER_COMMAND: &str = "kubectl create clusterrolebinding kedge-node-proxier --clusterrole=system:node-proxier --group=system:nodes";

/// What was being done to which object: "patch Pod default/web".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    verb: &'static str,
    object: String,
}

impl Operation {
    pub fn new(verb: &'static str, object: impl Into<String>) -> Self {
        Self {
            verb,
            object: object.into(),
        }
    }

    /// "list", "patch", …
    pub fn verb(&self) -> &'static str {
        self.verb
    }

    /// "Pod default/web".
    pub fn object(&self) -> &str {
        &self.object
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.object)
    }
}

/// Why no connection could be had. Cloned to everyone who waited for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    #[error("this node has not joined a cluster yet")]
    NotJoined,
    #[error("cannot reach the API server at {address}: {problem}")]
    Unreachable { address: String, problem: String },
    #[error("{address} is not a Kubernetes API server: {evidence}")]
    NotKubernetes { address: String, evidence: String },
    #[error("TLS with the API server at {address} failed: {problem}")]
    Tls {
        address: String,
        problem: TlsProblem,
    },
}

/// Why TLS failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsProblem {
    #[error(
        "this node's clock says {now}, but the server's certificate is valid only from {not_before}; set the clock"
    )]
    ClockBehind {
        now: Timestamp,
        not_before: Timestamp,
    },
    #[error(
        "the server's certificate expired at {not_after}, and this node's clock says {now}; renew the certificate, or set the clock if it is wrong"
    )]
    Expired {
        now: Timestamp,
        not_after: Timestamp,
    },
    #[error("the server's certificate is not signed by the cluster's CA that this node trusts")]
    UnknownIssuer,
    #[error("the server's certificate is not for {expected}, but for {presented}")]
    WrongName { expected: String, presented: String },
    #[error("{0}")]
    Other(String),
}

/// A request that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("cannot {operation}: {cause}")]
    NoConnection {
        operation: Operation,
        cause: DialError,
    },
    #[error("{operation}: the connection broke")]
    Broken {
        operation: Operation,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{operation}: no answer within {} s", after.as_secs())]
    TimedOut {
        operation: Operation,
        after: Duration,
    },
    #[error("{operation}: not authenticated (401): {message}")]
    Unauthorized {
        operation: Operation,
        message: String,
    },
    #[error("{operation}: not allowed (403): {message}")]
    Forbidden {
        operation: Operation,
        message: String,
    },
    #[error("{operation}: the API server does not know this kind of object")]
    KindMissing { operation: Operation },
    #[error("{operation}: not found")]
    NotFound { operation: Operation },
    #[error("{operation}: already exists")]
    AlreadyExists { operation: Operation },
    #[error("{operation}: conflict: {message}")]
    Conflict {
        operation: Operation,
        message: String,
    },
    #[error("{operation}: this resource version is gone")]
    Gone { operation: Operation },
    #[error("{operation}: refused as invalid: {message}")]
    Invalid {
        operation: Operation,
        message: String,
    },
    #[error("{operation}: the API server is busy or failing ({status}): {message}")]
    Busy {
        operation: Operation,
        status: u16,
        message: String,
        retry_after: Option<Duration>,
    },
    #[error("{operation}: refused ({status}): {message}")]
    Refused {
        operation: Operation,
        status: u16,
        message: String,
    },
    #[error("{operation}: the answer of {size} bytes or more exceeds the limit of {limit}")]
    TooLarge {
        operation: Operation,
        size: usize,
        limit: usize,
    },
    #[error("{operation}: cannot read the answer")]
    Decode {
        operation: Operation,
        #[source]
        source: serde_json::Error,
    },
    #[error("{operation}: cannot build the request")]
    Build {
        operation: Operation,
        #[source]
        source: kube::core::request::Error,
    },
}

/// How a loop should treat an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The same request may succeed later.
    Retry,
    /// This node's credentials are not accepted.
    Unauthorized,
    /// An operator has to grant something.
    Forbidden,
    /// The API server has no such kind.
    KindMissing,
    /// The object is gone or another of the same name.
    ObjectGone,
    /// The watch must list again.
    Expired,
    /// The same request will never succeed.
    Permanent,
}

impl ApiError {
    pub fn class(&self) -> Class {
        match self {
            Self::NoConnection { .. }
            | Self::Broken { .. }
            | Self::TimedOut { .. }
            | Self::Busy { .. } => Class::Retry,
            Self::Unauthorized { .. } => Class::Unauthorized,
            Self::Forbidden { .. } => Class::Forbidden,
            Self::KindMissing { .. } => Class::KindMissing,
            Self::NotFound { .. } | Self::Conflict { .. } => Class::ObjectGone,
            Self::Gone { .. } => Class::Expired,
            Self::AlreadyExists { .. }
            | Self::Invalid { .. }
            | Self::Refused { .. }
            | Self::TooLarge { .. }
            | Self::Decode { .. }
            | Self::Build { .. } => Class::Permanent,
        }
    }

    /// The server did not get or did not answer the request (as against: it answered with a refusal).
    pub fn is_connection(&self) -> bool {
        matches!(
            self,
            Self::NoConnection { .. } | Self::Broken { .. } | Self::TimedOut { .. }
        )
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// How long the server asked to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// What an operator can do about it.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Forbidden { operation, message } => {
                Some(forbidden_remedy(operation, message))
            }
            Self::Unauthorized { .. } => Some(
                "the API server does not accept this node's credentials; give it a new token in kedge.yaml on the seed volume".to_owned(),
            ),
            _ => None,
        }
    }

    /// The error, its causes and the remedy in one line, for logs and the console.
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        if let Some(remedy) = self.remedy() {
            text.push_str("; ");
            text.push_str(&remedy);
        }
        text
    }
}

/// The Node authorizer lets a node list only itself, and neither it nor ClusterRole `system:node` covers EndpointSlices: what the
/// service proxy reads needs one binding of the operator's.
fn forbidden_remedy(operation: &Operation, message: &str) -> String {
    let of_proxy = ["Service", "EndpointSlice", "Node"]
        .iter()
        .any(|kind| operation.object() == *kind);
    if of_proxy {
        format!("grant it with: {NODE_PROXIER_COMMAND}")
    } else {
        format!("check the authorization of the user named here: {message}")
    }
}

/// Turns an answer that is not 2xx into an error. `body` is what the server said.
pub(crate) fn from_response(
    operation: Operation,
    status: http::StatusCode,
    retry_after: Option<Duration>,
    body: &[u8],
) -> ApiError {
    let parsed: Option<Status> = serde_json::from_slice(body).ok();
    let (reason, message, names_object) = match &parsed {
        Some(s) => (
            s.reason.as_str(),
            s.message.clone(),
            s.details.as_ref().is_some_and(|d| !d.name.is_empty()),
        ),
        None => ("", excerpt(body), false),
    };
    match status.as_u16() {
        401 => ApiError::Unauthorized { operation, message },
        403 => ApiError::Forbidden { operation, message },
        404 if names_object => ApiError::NotFound { operation },
        404 => ApiError::KindMissing { operation },
        409 if reason == "AlreadyExists" => ApiError::AlreadyExists { operation },
        409 => ApiError::Conflict { operation, message },
        410 => ApiError::Gone { operation },
        // A patch that names the uid of an earlier object of the name.
        422 if is_about_uid(parsed.as_ref()) => ApiError::Conflict { operation, message },
        422 => ApiError::Invalid { operation, message },
        code @ (408 | 429 | 500..) => ApiError::Busy {
            operation,
            status: code,
            message,
            retry_after,
        },
        code => ApiError::Refused {
            operation,
            status: code,
            message,
        },
    }
}

fn is_about_uid(status: Option<&Status>) -> bool {
    let details = status.and_then(|s| s.details.as_ref());
    details.is_some_and(|d| d.causes.iter().any(|c| c.field == "metadata.uid"))
}

/// An `ERROR` event inside a watch carries a Status as its object.
pub(crate) fn from_watch_status(operation: Operation, status: Status) -> ApiError {
    let code =
        http::StatusCode::from_u16(status.code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let expired = status.reason == "Expired" || status.reason == "Gone";
    match serde_json::to_vec(&status) {
        Ok(_) if expired => ApiError::Gone { operation },
        Ok(body) => from_response(operation, code, None, &body),
        Err(source) => ApiError::Decode { operation, source },
    }
}

/// The beginning of a body, fit for one line of a log.
pub(crate) fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, object: &str, body: &str) -> ApiError {
        let status = http::StatusCode::from_u16(status).unwrap();
        from_response(
            Operation::new("list", object),
            status,
            None,
            body.as_bytes(),
        )
    }

    #[test]
    fn a_missing_binding_is_answered_with_the_command_that_grants_it() {
        let body = r#"{"kind":"Status","status":"Failure","reason":"Forbidden","code":403,
            "message":"endpointslices.discovery.k8s.io is forbidden: User \"system:node:a\" cannot list resource","details":{"group":"discovery.k8s.io","kind":"endpointslices"}}"#;
        let error = of(403, "EndpointSlice", body);
        assert_eq!(error.class(), Class::Forbidden);
        assert!(
            error.report().contains(NODE_PROXIER_COMMAND),
            "{}",
            error.report()
        );
    }

    #[test]
    fn a_missing_kind_and_a_missing_object_are_told_apart() {
        assert_eq!(
            of(404, "RuntimeClass", "404 page not found\n").class(),
            Class::KindMissing
        );
        let unknown = r#"{"kind":"Status","status":"Failure","reason":"NotFound","code":404,"message":"the server could not find the requested resource","details":{}}"#;
        assert_eq!(of(404, "RuntimeClass", unknown).class(), Class::KindMissing);
        let object = r#"{"kind":"Status","status":"Failure","reason":"NotFound","code":404,"message":"pods \"a\" not found","details":{"name":"a","kind":"pods"}}"#;
        assert!(of(404, "Pod", object).is_not_found());
    }

    #[test]
    fn a_patch_for_an_earlier_object_of_the_name_finds_it_gone() {
        // As kube-apiserver v1.37.1 answers.
        let body = r#"{"kind":"Status","status":"Failure","reason":"Invalid","code":422,"message":"Pod \"web\" is invalid: metadata.uid: Invalid value: field is immutable",
            "details":{"name":"web","kind":"Pod","causes":[{"reason":"FieldValueInvalid","message":"field is immutable","field":"metadata.uid"}]}}"#;
        assert_eq!(of(422, "Pod", body).class(), Class::ObjectGone);
    }

    #[test]
    fn statuses_fall_into_the_classes_loops_act_on() {
        for (status, class) in [
            (401, Class::Unauthorized),
            (409, Class::ObjectGone),
            (410, Class::Expired),
            (422, Class::Permanent),
            (400, Class::Permanent),
            (429, Class::Retry),
            (500, Class::Retry),
            (503, Class::Retry),
        ] {
            assert_eq!(of(status, "Pod", "{}").class(), class, "{status}");
        }
    }

    #[test]
    fn an_expired_version_inside_a_watch_asks_for_a_new_list() {
        let status: Status = serde_json::from_str(
            r#"{"status":"Failure","reason":"Expired","code":410,"message":"too old resource version"}"#,
        )
        .unwrap();
        let error = from_watch_status(Operation::new("watch", "Pod"), status);
        assert_eq!(error.class(), Class::Expired);
    }
}
