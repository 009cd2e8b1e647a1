//! Where the server listens, and sockets to it.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// Longest wait for a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `HOST:PORT`.
    Tcp(String),
    /// `unix:PATH`.
    Unix(PathBuf),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err("unix: needs a path, for example unix:/run/seawall.sock".into());
            }
            return Ok(Target::Unix(path.into()));
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Target::Tcp(text.into()))
            }
            _ => Err("HOST:PORT or unix:PATH, for example 127.0.0.1:11211".into()),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Tcp(address) => f.write_str(address),
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Target {
    /// The same host on another port; a Unix socket has none and stays.
    pub fn with_port(&self, port: u16) -> Target {
        match self {
            Target::Tcp(address) => {
                let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
                Target::Tcp(format!("{host}:{port}"))
            }
            Target::Unix(path) => Target::Unix(path.clone()),
        }
    }

    /// Connects; the socket is non-blocking and sends without delay.
    pub fn connect(&self) -> io::Result<Socket> {
        match self {
            Target::Tcp(address) => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for address in address.to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                        Ok(stream) => {
                            stream.set_nodelay(true)?;
                            stream.set_nonblocking(true)?;
                            return Ok(Socket(stream.into()));
                        }
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
            Target::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_nonblocking(true)?;
                Ok(Socket(stream.into()))
            }
        }
    }
}

/// A connected stream socket of either family.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        assert_eq!("a:1".parse(), Ok(Target::Tcp("a:1".into())));
        assert_eq!("[::1]:11211".parse(), Ok(Target::Tcp("[::1]:11211".into())));
        assert_eq!("unix:/x".parse(), Ok(Target::Unix("/x".into())));
        assert!("host".parse::<Target>().is_err());
        assert!("host:x".parse::<Target>().is_err());
        assert!("unix:".parse::<Target>().is_err());
        let target: Target = "[::1]:1".parse().expect("an address");
        assert_eq!(target.with_port(7).to_string(), "[::1]:7");
    }
}
