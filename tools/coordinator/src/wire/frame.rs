//! Frames: the unit in which calls and answers travel.
//!
//! ```text
//! bytes u32 LE | id u64 LE | kind u8 | body
//!              |<------- bytes ------------>|
//! ```
//!
//! A length is only believed up to a bound, and memory for a body is taken as
//! it arrives: a peer cannot make us reserve what it does not send.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Kinds from here on are the transport's own.
pub const KINDS_OWN: u8 = 0xf0;
/// Are you there?
pub const PING: u8 = 0xf0;
/// I am.
pub const PONG: u8 = 0xf1;
/// The answer to a call.
pub const ANSWER: u8 = 0xf2;
/// Nobody here handles calls of that kind.
pub const UNHANDLED: u8 = 0xf3;

/// Bytes of id and kind.
const HEAD_BYTES: u32 = 9;
/// A body is read in pieces of at most so much.
const PIECE_BYTES: usize = 64 << 10;

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// Ties an answer to its call.
    pub id: u64,
    /// What it is.
    pub kind: u8,
    /// What it says.
    pub body: Vec<u8>,
}

/// Whether a body of this length can be sent.
pub fn fits(body_bytes: usize, frame_bytes_max: u32) -> bool {
    body_bytes as u64 + u64::from(HEAD_BYTES) <= u64::from(frame_bytes_max)
}

/// The next frame; `None` if the peer closed in between two.
pub async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    frame_bytes_max: u32,
) -> io::Result<Option<Frame>> {
    let mut bytes = [0; 4];
    if stream.read(&mut bytes[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut bytes[1..]).await?;
    let bytes = u32::from_le_bytes(bytes);
    if bytes < HEAD_BYTES || bytes > frame_bytes_max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {bytes} bytes, where {HEAD_BYTES} to {frame_bytes_max} are usual"),
        ));
    }
    let id = stream.read_u64_le().await?;
    let kind = stream.read_u8().await?;
    let mut rest = (bytes - HEAD_BYTES) as usize;
    let mut body = Vec::new();
    while rest > 0 {
        let at = body.len();
        let piece = rest.min(PIECE_BYTES.max(at));
        body.resize(at + piece, 0);
        stream.read_exact(&mut body[at..]).await?;
        rest -= piece;
    }
    Ok(Some(Frame { id, kind, body }))
}

/// Writes a frame and flushes it.
pub async fn write(stream: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> io::Result<()> {
    let mut head = [0; 13];
    head[..4].copy_from_slice(&(frame.body.len() as u32 + HEAD_BYTES).to_le_bytes());
    head[4..12].copy_from_slice(&frame.id.to_le_bytes());
    head[12] = frame.kind;
    // Small ones leave in one segment.
    if frame.body.len() <= 4096 {
        let whole = [&head[..], &frame.body].concat();
        stream.write_all(&whole).await?;
    } else {
        stream.write_all(&head).await?;
        stream.write_all(&frame.body).await?;
    }
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn comes_out_as_it_went_in() {
        block_on(async {
            for body_bytes in [0, 1, 4096, 4097, 300_000] {
                let sent = Frame { id: u64::MAX, kind: 7, body: vec![9; body_bytes] };
                let mut bytes = Vec::new();
                write(&mut bytes, &sent).await.unwrap();
                let mut stream = &bytes[..];
                assert_eq!(read(&mut stream, 1 << 20).await.unwrap(), Some(sent));
                assert_eq!(read(&mut stream, 1 << 20).await.unwrap(), None);
            }
        });
    }

    #[test]
    fn wrong_lengths_are_errors() {
        block_on(async {
            for bytes in [0u32, 8, 1025, u32::MAX] {
                let head = bytes.to_le_bytes();
                let error = read(&mut &head[..], 1024).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            }
            let cut = [&20u32.to_le_bytes()[..], &[0; 9]].concat();
            let error = read(&mut &cut[..], 1024).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        });
    }
}
