//! What can go wrong when the runtime is asked for something, sorted by what the caller does about it.

use std::fmt;

/// A failed request: which one, about what, why. `Display` reads `StartContainer 3fa…: runtime unavailable: …`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation} {object}: {kind}{}{message}", if message.is_empty() { "" } else { ": " })]
pub struct Error {
    /// The CRI method, as the specification spells it.
    pub operation: &'static str,
    /// The id or name it was about; may be empty for requests about the runtime itself.
    pub object: String,
    /// What the caller can do about it.
    pub kind: Kind,
    /// The runtime's own words.
    pub message: String,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The object does not exist (any more).
    NotFound,
    /// The object exists already.
    AlreadyExists,
    /// Nobody answers on the socket, or the runtime is going away: keep state, ask again.
    Unavailable,
    /// No answer in time: the request may or may not have happened.
    DeadlineExceeded,
    /// The runtime does not know this method.
    Unimplemented,
    /// The runtime refuses the request as it stands; the same request will be refused again.
    Invalid,
    /// Everything else: the runtime tried and failed.
    Failed,
}

/// The result of a request to the runtime.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error from its parts.
    pub fn new(
        operation: &'static str,
        object: impl Into<String>,
        kind: Kind,
        message: impl Into<String>,
    ) -> Self {
        Self {
            operation,
            object: object.into(),
            kind,
            message: message.into(),
        }
    }

    /// The runtime could not be asked, or did not answer: nothing is known about the object.
    pub fn is_runtime_down(&self) -> bool {
        matches!(self.kind, Kind::Unavailable | Kind::DeadlineExceeded)
    }

    /// The object is gone.
    pub fn is_not_found(&self) -> bool {
        self.kind == Kind::NotFound
    }

    pub(crate) fn from_status(
        operation: &'static str,
        object: &str,
        status: &tonic::Status,
    ) -> Self {
        Self::new(operation, object, kind_of(status), describe(status))
    }
}

fn kind_of(status: &tonic::Status) -> Kind {
    use tonic::Code;
    match status.code() {
        Code::NotFound => Kind::NotFound,
        Code::AlreadyExists => Kind::AlreadyExists,
        Code::Unavailable => Kind::Unavailable,
        Code::DeadlineExceeded => Kind::DeadlineExceeded,
        // A dropped connection cancels the streams on it; a timeout of our own ends in DeadlineExceeded instead.
        Code::Cancelled => Kind::Unavailable,
        Code::Unimplemented => Kind::Unimplemented,
        Code::InvalidArgument | Code::OutOfRange => Kind::Invalid,
        // tonic reports a connection that broke under a request as Unknown with a transport error as its source.
        Code::Unknown if has_transport_source(status) => Kind::Unavailable,
        _ => Kind::Failed,
    }
}

fn has_transport_source(status: &tonic::Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// The message, and below it what tonic hides in the source chain (`connection refused`).
fn describe(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "not found",
            Self::AlreadyExists => "exists already",
            Self::Unavailable => "runtime unavailable",
            Self::DeadlineExceeded => "no answer in time",
            Self::Unimplemented => "not implemented by the runtime",
            Self::Invalid => "refused",
            Self::Failed => "failed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sorted_by_what_the_caller_does() {
        let check = |status: tonic::Status, expected| assert_eq!(kind_of(&status), expected);
        check(tonic::Status::not_found("x"), Kind::NotFound);
        check(tonic::Status::unavailable("x"), Kind::Unavailable);
        check(tonic::Status::cancelled("x"), Kind::Unavailable);
        check(
            tonic::Status::deadline_exceeded("x"),
            Kind::DeadlineExceeded,
        );
        check(tonic::Status::unknown("x"), Kind::Failed);
        check(
            tonic::Status::from_error(Box::new(std::io::Error::other("broken pipe"))),
            Kind::Unavailable,
        );
    }

    #[test]
    fn display_names_operation_and_object() {
        let error = Error::new("StartContainer", "c1", Kind::NotFound, "no such container");
        assert_eq!(
            error.to_string(),
            "StartContainer c1: not found: no such container"
        );
    }
}
