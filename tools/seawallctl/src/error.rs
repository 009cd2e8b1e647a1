//! What can go wrong, in words that say where and what to do.

use std::{fmt, io};

/// Why a command could not be carried out.
#[derive(Debug)]
#[non_exhaustive]
pub enum CtlError {
    /// The memcached port does not answer.
    Server {
        /// The address as given.
        address: String,
        /// What the system said.
        error: io::Error,
    },
    /// The admin port does not answer.
    Admin {
        /// The address as given.
        address: String,
        /// What the client said.
        error: String,
    },
    /// The admin port answered with a refusal.
    Refused {
        /// What was asked.
        request: String,
        /// The status.
        status: u16,
        /// The answer's first line.
        text: String,
    },
    /// The server answered a command with an error.
    Answer {
        /// What was sent.
        command: String,
        /// What came.
        answer: String,
    },
    /// An answer was not what the protocol says.
    Unexpected {
        /// What was asked.
        request: String,
        /// What came, or what was wrong with it.
        found: String,
    },
    /// The command line asks for something impossible.
    Usage(String),
    /// A file could not be written.
    File {
        /// The file.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// Standard output could not be written.
    Output(io::Error),
}

impl CtlError {
    /// Whether the reader of our output has gone.
    pub fn is_closed_output(&self) -> bool {
        matches!(self, CtlError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl From<io::Error> for CtlError {
    fn from(error: io::Error) -> Self {
        CtlError::Output(error)
    }
}

/// The system's words without `(os error 111)`.
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".into(),
        io::ErrorKind::UnexpectedEof => "the server closed the connection".into(),
        _ => text.to_lowercase(),
    }
}

impl fmt::Display for CtlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CtlError::Server { address, error } => {
                write!(f, "cannot reach {address}: {}", plain(error))?;
                match error.kind() {
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => write!(
                        f,
                        "\n  is seawalld running?  systemctl status seawalld\n  \
                         another address:      --server HOST:PORT, or --server unix:PATH"
                    ),
                    _ => Ok(()),
                }
            }
            CtlError::Admin { address, error } => write!(
                f,
                "cannot reach the admin port {address}: {error}\n  \
                 is seawalld running, and not with --admin-listen off?\n  \
                 another address:  --admin HOST:PORT"
            ),
            CtlError::Refused { request, status: 404, text } => write!(
                f,
                "{request}: the server does not know this request ({text})\n  \
                 is --admin the admin port of a seawalld of this version?"
            ),
            CtlError::Refused { request, status, text } => {
                write!(f, "{request}: refused with status {status}: {text}")
            }
            CtlError::Answer { command, answer } if answer == "ERROR" => write!(
                f,
                "`{command}`: the server does not know this command\n  \
                 is --server a Seawall node, and not another memcached?"
            ),
            CtlError::Answer { command, answer } => {
                write!(f, "`{command}`: the server answered {answer}")
            }
            CtlError::Unexpected { request, found } => {
                write!(f, "{request}: an unexpected answer: {found}")
            }
            CtlError::Usage(text) => f.write_str(text),
            CtlError::File { path, error } => write!(f, "cannot write {path}: {}", plain(error)),
            CtlError::Output(error) => write!(f, "cannot write the output: {}", plain(error)),
        }
    }
}

impl std::error::Error for CtlError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_where_and_what_to_do() {
        let error = CtlError::Server {
            address: "127.0.0.1:1".into(),
            error: io::Error::from_raw_os_error(111),
        };
        let text = error.to_string();
        assert!(text.starts_with("cannot reach 127.0.0.1:1: connection refused\n"), "{text}");
        assert!(text.contains("is seawalld running?"), "{text}");
        let error = CtlError::Answer { command: "invalidate tag a".into(), answer: "ERROR".into() };
        assert!(error.to_string().contains("is --server a Seawall node"));
    }
}
