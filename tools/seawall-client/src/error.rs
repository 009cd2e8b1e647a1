//! What went wrong, and whether asking again is safe.
//!
//! The question behind every kind is: can it have been executed? A read may
//! always be repeated. A write may be repeated only if it surely was not.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Why a request has no answer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// Nothing was executed: nobody could be reached, or nobody takes the key now.
    Refused {
        /// What the last attempt met.
        why: String,
    },
    /// It may or may not have been executed: it was sent, and no answer came.
    Unknown {
        /// What happened to the answer.
        why: String,
    },
    /// The time for the request is over.
    Timeout {
        /// How long it was tried.
        after: Duration,
        /// It left this process, so it may have been executed. (False also for
        /// reads: they change nothing.)
        maybe_executed: bool,
    },
    /// The server answered with an error of its own.
    Server {
        /// Its words.
        message: String,
        /// The server says that it did not do it.
        not_executed: bool,
    },
    /// The request is wrong and will stay so: a key too long, a value too
    /// large, a number that is none.
    Client {
        /// What is wrong with it.
        message: String,
    },
    /// The answer is none of the protocol; the connection was closed.
    Protocol {
        /// What came.
        message: String,
        /// It may have been executed.
        maybe_executed: bool,
    },
    /// The loader given to [`Client::get_or_load`](crate::Client::get_or_load) failed.
    Load(Arc<dyn StdError + Send + Sync>),
}

impl Error {
    /// Whether the same request may be sent again without any danger of being
    /// executed twice. (Of a wrong request: it may, but in vain.)
    pub fn is_retry_safe(&self) -> bool {
        match self {
            Error::Refused { .. } | Error::Client { .. } | Error::Load(_) => true,
            Error::Unknown { .. } => false,
            Error::Timeout { maybe_executed, .. } | Error::Protocol { maybe_executed, .. } => {
                !maybe_executed
            }
            Error::Server { not_executed, .. } => *not_executed,
        }
    }

    /// Whether asking again later, unchanged, can have another outcome.
    pub fn is_passing(&self) -> bool {
        !matches!(self, Error::Client { .. } | Error::Load(_))
    }

    pub(crate) fn client(message: impl Into<String>) -> Error {
        Error::Client { message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused { why } => write!(to, "not executed: {why}"),
            Error::Unknown { why } => write!(to, "the outcome is unknown: {why}"),
            Error::Timeout { after, maybe_executed: false } => {
                write!(to, "no answer after {after:?}; nothing was changed")
            }
            Error::Timeout { after, maybe_executed: true } => {
                write!(to, "no answer after {after:?}; the outcome is unknown")
            }
            Error::Server { message, .. } => write!(to, "the server answered: {message}"),
            Error::Client { message } => write!(to, "wrong request: {message}"),
            Error::Protocol { message, .. } => {
                write!(to, "a protocol violation: {message}")
            }
            Error::Load(error) => write!(to, "the loader failed: {error}"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Error::Load(error) => Some(error.as_ref()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_happened_is_not_repeated() {
        let after = Duration::from_secs(1);
        let safe = [
            Error::Refused { why: "x".into() },
            Error::Timeout { after, maybe_executed: false },
            Error::Server { message: "x".into(), not_executed: true },
            Error::client("x"),
        ];
        let unsafe_ = [
            Error::Unknown { why: "x".into() },
            Error::Timeout { after, maybe_executed: true },
            Error::Server { message: "x".into(), not_executed: false },
            Error::Protocol { message: "x".into(), maybe_executed: true },
        ];
        assert!(safe.iter().all(Error::is_retry_safe));
        assert!(!unsafe_.iter().any(Error::is_retry_safe));
    }

    #[test]
    fn errors_speak_to_a_person() {
        let error = Error::Timeout { after: Duration::from_millis(1500), maybe_executed: true };
        assert_eq!(error.to_string(), "no answer after 1.5s; the outcome is unknown");
        let error = Error::Load(Arc::from(Box::from("no such table")));
        assert_eq!(error.to_string(), "the loader failed: no such table");
        assert!(error.source().is_some());
    }
}
