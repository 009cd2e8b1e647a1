//! Connections between two data cores: who is at the other end is made sure of
//! here, as on control connections; then the socket, and with TLS its keys, go to
//! the core, which speaks on it by itself.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls;

use super::hello::{self, PeerInfo, Preface};
use super::{WireSettings, tune};

/// A connection that both ends have agreed upon.
#[derive(Debug)]
pub struct DataLink {
    /// The socket. Nothing beyond the greeting was read from it, but what may lie
    /// in `tls` already.
    pub socket: TcpStream,
    /// The session, if the cluster uses certificates.
    pub tls: Option<Box<rustls::Connection>>,
    /// Who is there.
    pub peer: PeerInfo,
    /// Its core.
    pub core: u16,
}

/// Connects core `from` of this node to core `to` of the node at `address`.
pub async fn dial(
    settings: &WireSettings,
    address: &str,
    from: u16,
    to: u16,
) -> io::Result<DataLink> {
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let connecting = timeout(settings.connect_timeout, TcpStream::connect(address));
    let mut socket = connecting.await.map_err(|_| late())??;
    let greeting = async move {
        tune(&socket, settings.silence_max)?;
        let remote = socket.peer_addr()?;
        socket.write_all(&Preface::Data { core: to }.encode()).await?;
        match &settings.tls {
            None => {
                let peer = hello::greet(&mut socket, settings, remote).await.map_err(other)?;
                let core = exchange(&mut socket, from).await?;
                Ok(DataLink { socket, tls: None, peer, core })
            }
            Some(tls) => {
                let mut stream = tls.connect(address, socket).await?;
                let peer = hello::greet(&mut stream, settings, remote).await.map_err(other)?;
                let core = exchange(&mut stream, from).await?;
                let (socket, session) = stream.into_inner();
                Ok(DataLink { socket, tls: Some(Box::new(session.into())), peer, core })
            }
        }
    };
    timeout(settings.greeting_timeout, greeting).await.map_err(|_| late())?
}

/// The other side: `socket` is one whose preface said that it is for core `to`.
pub async fn welcome(
    settings: &WireSettings,
    mut socket: TcpStream,
    to: u16,
) -> io::Result<DataLink> {
    let greeting = async move {
        tune(&socket, settings.silence_max)?;
        let remote = socket.peer_addr()?;
        match &settings.tls {
            None => {
                let peer = hello::welcome(&mut socket, settings, remote).await.map_err(other)?;
                let core = exchange(&mut socket, to).await?;
                Ok(DataLink { socket, tls: None, peer, core })
            }
            Some(tls) => {
                let mut stream = tls.accept(socket).await?;
                let peer = hello::welcome(&mut stream, settings, remote).await.map_err(other)?;
                let core = exchange(&mut stream, to).await?;
                let (socket, session) = stream.into_inner();
                Ok(DataLink { socket, tls: Some(Box::new(session.into())), peer, core })
            }
        }
    };
    timeout(settings.greeting_timeout, greeting)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Each side says which of its cores it is.
async fn exchange(
    stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
    own: u16,
) -> io::Result<u16> {
    stream.write_all(&own.to_le_bytes()).await?;
    stream.flush().await?;
    stream.read_u16_le().await
}

fn other(error: hello::GreetingError) -> io::Error {
    match error {
        hello::GreetingError::Io(error) => error,
        error => io::Error::other(error.to_string()),
    }
}
