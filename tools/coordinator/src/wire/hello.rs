//! How two nodes make sure that they belong together.
//!
//! The preface is read before anything is believed, and tells control from data
//! connections. After TLS each side says who it is; the listener answers with
//! its own Hello or with the reason for which it refuses, so that the logs on
//! both sides say the same.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use cluster::topology::Incarnation;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{VERSION, WireSettings};

/// Bytes of a preface.
pub const PREFACE_BYTES: usize = 8;
/// Longest greeting.
const GREETING_BYTES_MAX: u32 = 4096;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preface {
    /// Calls of the control plane.
    Control,
    /// Replication between two cores.
    Data {
        /// The listener's core.
        core: u16,
    },
}

impl Preface {
    /// The eight bytes.
    pub fn encode(self) -> [u8; PREFACE_BYTES] {
        let (kind, core) = match self {
            Preface::Control => (b'C', 0),
            Preface::Data { core } => (b'D', core),
        };
        let [low, high] = core.to_le_bytes();
        [b'S', b'W', b'L', VERSION, kind, low, high, 0]
    }

    /// Whether they are Seawall's, if perhaps of another version.
    pub fn is_ours(bytes: [u8; PREFACE_BYTES]) -> bool {
        bytes.starts_with(b"SWL")
    }

    /// What the eight bytes say, or what is wrong with them.
    pub fn decode(bytes: [u8; PREFACE_BYTES]) -> Result<Preface, String> {
        match bytes {
            [b'S', b'W', b'L', VERSION, b'C', ..] => Ok(Preface::Control),
            [b'S', b'W', b'L', VERSION, b'D', low, high, _] => {
                Ok(Preface::Data { core: u16::from_le_bytes([low, high]) })
            }
            [b'S', b'W', b'L', VERSION, kind, ..] => {
                Err(format!("asks for an unknown kind of connection ({kind:#04x})"))
            }
            [b'S', b'W', b'L', version, ..] => {
                Err(format!("speaks version {version} of the peer protocol, this node {VERSION}"))
            }
            _ => Err("does not speak Seawall's peer protocol".into()),
        }
    }
}

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its name.
    pub node: String,
    /// The life of its process.
    pub incarnation: Incarnation,
    /// Its end of the connection.
    pub address: SocketAddr,
}

impl fmt::Display for PeerInfo {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({})", self.node, self.address)
    }
}

/// The first words in each direction.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Greeting {
    /// This is me.
    Hello { cluster: String, version: u8, node: String, incarnation: u64 },
    /// I do not talk with you.
    Refused { reason: String },
}

/// Why a peer was not accepted.
#[derive(Debug)]
pub(super) enum GreetingError {
    /// We do not talk with it.
    Refused(String),
    /// It does not talk with us.
    RefusedByPeer(String),
    /// The connection failed, or these are no greetings.
    Io(io::Error),
}

impl fmt::Display for GreetingError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GreetingError::Refused(reason) => write!(out, "refused: {reason}"),
            GreetingError::RefusedByPeer(reason) => write!(out, "it refuses us: {reason}"),
            GreetingError::Io(error) => error.fmt(out),
        }
    }
}

impl From<io::Error> for GreetingError {
    fn from(error: io::Error) -> GreetingError {
        GreetingError::Io(error)
    }
}

/// The dialler's side.
pub(super) async fn greet(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    settings: &WireSettings,
    address: SocketAddr,
) -> Result<PeerInfo, GreetingError> {
    write(stream, &hello(settings)).await?;
    let greeting = read(stream).await?;
    examine(greeting, settings, address)
}

/// The listener's side.
pub(super) async fn welcome(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    settings: &WireSettings,
    address: SocketAddr,
) -> Result<PeerInfo, GreetingError> {
    let greeting = read(stream).await?;
    match examine(greeting, settings, address) {
        Ok(peer) => {
            write(stream, &hello(settings)).await?;
            Ok(peer)
        }
        Err(error) => {
            if let GreetingError::Refused(reason) = &error {
                write(stream, &Greeting::Refused { reason: reason.clone() }).await?;
            }
            Err(error)
        }
    }
}

/// Tells a dialler that got no further than its preface why it is not wanted. What
/// else it sends is read: unread, it would tear down the answer.
pub(super) async fn refuse(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    reason: String,
) -> io::Result<()> {
    let _ = read(stream).await;
    write(stream, &Greeting::Refused { reason }).await
}

fn hello(settings: &WireSettings) -> Greeting {
    Greeting::Hello {
        cluster: settings.cluster.clone(),
        version: VERSION,
        node: settings.node.clone(),
        incarnation: settings.incarnation.0,
    }
}

fn examine(
    greeting: Greeting,
    settings: &WireSettings,
    address: SocketAddr,
) -> Result<PeerInfo, GreetingError> {
    match greeting {
        Greeting::Refused { reason } => Err(GreetingError::RefusedByPeer(reason)),
        Greeting::Hello { cluster, node, .. } if cluster != settings.cluster => {
            Err(GreetingError::Refused(format!(
                "node {node} belongs to cluster {cluster:?}, node {} to {:?}",
                settings.node, settings.cluster
            )))
        }
        Greeting::Hello { version, node, .. } if version != VERSION => {
            Err(GreetingError::Refused(format!(
                "node {node} speaks version {version} of the peer protocol, node {} speaks {VERSION}",
                settings.node
            )))
        }
        Greeting::Hello { node, incarnation, .. } => {
            Ok(PeerInfo { node, incarnation: Incarnation(incarnation), address })
        }
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), greeting: &Greeting) -> io::Result<()> {
    let body = postcard::to_allocvec(greeting).map_err(io::Error::other)?;
    let bytes = [&(body.len() as u32).to_le_bytes()[..], &body].concat();
    stream.write_all(&bytes).await?;
    stream.flush().await
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Greeting> {
    let wrong = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
    let bytes = stream.read_u32_le().await?;
    if bytes > GREETING_BYTES_MAX {
        return Err(wrong("its first words are no greeting"));
    }
    let mut body = vec![0; bytes as usize];
    stream.read_exact(&mut body).await?;
    postcard::from_bytes(&body).map_err(|_| wrong("its first words are no greeting"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preface_is_read_as_written() {
        for preface in [Preface::Control, Preface::Data { core: 0 }, Preface::Data { core: 513 }] {
            assert_eq!(Preface::decode(preface.encode()), Ok(preface));
        }
    }

    #[test]
    fn other_prefaces_are_told_apart() {
        assert!(Preface::decode(*b"GET / HT").unwrap_err().contains("does not speak"));
        assert!(Preface::decode(*b"SWL\x07C\0\0\0").unwrap_err().contains("version 7"));
        assert!(Preface::decode(*b"SWL\x01X\0\0\0").unwrap_err().contains("0x58"));
    }
}
