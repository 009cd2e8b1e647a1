//! What can go wrong before or during a run, in words for a person.

use std::fmt;

/// Why a run ended without a report.
#[derive(Debug)]
#[non_exhaustive]
pub enum LoadError {
    /// The options contradict each other or the machine.
    Plan(String),
    /// No connection could be made.
    Connect {
        /// The address as given.
        target: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The server answered bytes that are not the chosen protocol.
    Garbage {
        /// The address as given.
        target: String,
        /// The protocol that was expected.
        protocol: &'static str,
        /// The beginning of what came instead.
        bytes: Vec<u8>,
    },
    /// No answer came for a long time though requests were outstanding.
    Stalled {
        /// The address as given.
        target: String,
        /// How long the generator waited, in seconds.
        seconds: u64,
        /// Requests without an answer.
        outstanding: u64,
    },
    /// The system refused something that the generator needs.
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: std::io::Error,
    },
}

impl LoadError {
    /// Shorthand for the system's refusals.
    pub fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> LoadError {
        move |error| LoadError::System { what, error }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Plan(text) => f.write_str(text),
            LoadError::Connect { target, error } => {
                write!(f, "cannot reach {target}: {error}")?;
                if error.kind() == std::io::ErrorKind::ConnectionRefused {
                    write!(f, "\n  is the server running, and on that port?")?;
                }
                Ok(())
            }
            LoadError::Garbage { target, protocol, bytes } => write!(
                f,
                "{target} does not speak the {protocol} protocol: it answered \"{}\"\n  \
                 to change it:  --protocol text|meta|binary|resp",
                bytes.escape_ascii()
            ),
            LoadError::Stalled { target, seconds, outstanding } => write!(
                f,
                "{target} has not answered for {seconds} s; {outstanding} requests are outstanding"
            ),
            LoadError::System { what, error } => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for LoadError {}
