//! The control plane's transport: who may speak, and calls between nodes.
//!
//! A connection goes one way: whoever dialled asks, the other side answers. Two
//! nodes that ask each other have two connections. It opens like this:
//!
//! ```text
//! dialler                                   listener
//!   preface, 8 bytes in the clear  ------>    "SWL" | version | kind | core u16 LE | 0
//!        kind 'D': the socket is handed to the data cores, nothing more is read
//!        kind 'C': what follows
//!   TLS, if configured, both sides prove themselves by a certificate
//!   Hello {cluster, version, node, incarnation}  ->
//!                                      <-   Hello, or Refused {reason}
//!   frames                             <->  frames
//!
//! frame   bytes u32 LE | id u64 LE | kind u8 | body (bytes - 9)
//! ```
//!
//! Frames with the same id belong together. Calls overtake each other. Whatever
//! is not understood ends its connection, with a line in the log, and nothing
//! else. Nothing here knows what is asked: kinds below [`frame::KINDS_OWN`] are
//! the handlers'.

pub mod data;
pub mod frame;
pub mod hello;
pub mod peers;
pub mod refusals;
pub mod serve;
pub mod tls;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cluster::topology::Incarnation;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::Log;

pub use data::{DataLink, dial, welcome};
pub use hello::PeerInfo;
pub use peers::{CallError, Peers};
pub use refusals::{Refusal, Refusals};
pub use serve::{Handler, Server};
pub use tls::{Tls, TlsError, TlsFiles};

/// Version of everything said on a control connection.
pub const VERSION: u8 = 1;

/// A future that can be kept in a box and sent to another thread.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who this node is, and the bounds of its conversations.
#[derive(Clone)]
pub struct WireSettings {
    /// Name of the cluster: nodes of others are refused.
    pub cluster: String,
    /// Name of this node.
    pub node: String,
    /// This life of its process.
    pub incarnation: Incarnation,
    /// Certificates; without them everything is in the clear.
    pub tls: Option<Arc<Tls>>,
    /// Longest frame that is read or written. A whole topology must fit: some
    /// 10 bytes a partition and 64 a node.
    pub frame_bytes_max: u32,
    /// Calls that may be under way on one connection; further ones wait.
    pub calls_max: usize,
    /// Connections that are served at once.
    pub connections_max: usize,
    /// How long a connection may take to be established.
    pub connect_timeout: Duration,
    /// How long both sides have for TLS and Hello.
    pub greeting_timeout: Duration,
    /// Least time between two attempts to reach the same address.
    pub retry_every: Duration,
    /// An idle connection is asked for a sign of life this often.
    pub ping_every: Duration,
    /// A peer that gave no sign of life for so long is gone.
    pub silence_max: Duration,
    /// Where lines for the operator go.
    pub log: Log,
    /// Connections that were refused, here or there.
    pub refusals: Arc<Refusals>,
}

impl WireSettings {
    /// The usual bounds.
    pub fn new(cluster: &str, node: &str, incarnation: Incarnation, log: Log) -> WireSettings {
        WireSettings {
            cluster: cluster.into(),
            node: node.into(),
            incarnation,
            tls: None,
            frame_bytes_max: 16 << 20,
            calls_max: 256,
            connections_max: 8192,
            connect_timeout: Duration::from_millis(200),
            greeting_timeout: Duration::from_secs(1),
            retry_every: Duration::from_millis(50),
            ping_every: Duration::from_millis(250),
            silence_max: Duration::from_secs(1),
            log,
            refusals: Arc::default(),
        }
    }
}

impl fmt::Debug for WireSettings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("WireSettings")
            .field("cluster", &self.cluster)
            .field("node", &self.node)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

/// Bytes in both directions, in the clear or not.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Sends small frames at once, and notices a peer whose machine has gone.
pub(crate) fn tune(stream: &TcpStream, silence_max: Duration) -> std::io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    let silence_ms = silence_max.as_millis().clamp(1, 60_000) as u32;
    sockopt::set_tcp_user_timeout(stream, silence_ms)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(1))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(1))?;
    sockopt::set_tcp_keepcnt(stream, 2)?;
    Ok(())
}
