//! Bytes to and from the kernel, for many sockets of one thread.
//!
//! Both drivers give the same three verbs. [`Driver::send`] takes a whole
//! buffer at once if the socket's earlier one has left, else leaves it where
//! it is and reports [`Input::Writable`] later; so a connection never has more
//! than two buffers, one flying and one being filled. [`Driver::wait`] sleeps,
//! [`Driver::next`] hands out what happened, without copying received bytes.

mod epoll;
mod uring;

pub use epoll::Epoll;
pub use uring::Uring;

use std::io;
use std::time::Duration;

use crate::target::Socket;

/// What happened on a socket.
#[derive(Debug)]
pub enum Input<'a> {
    /// Bytes came.
    Bytes(&'a [u8]),
    /// The buffer that was refused may be offered again.
    Writable,
    /// The socket is gone; what the system said, or none where the server
    /// closed it. The driver has forgotten it already.
    Closed(Option<io::Error>),
}

/// A way to move bytes; see the module.
pub trait Driver: Sized {
    /// Room for `sockets` sockets.
    fn new(sockets: usize) -> io::Result<Self>;
    /// Takes over a socket under the number `index`, which must be free.
    fn add(&mut self, index: usize, socket: Socket) -> io::Result<()>;
    /// Lets go of a socket and of bytes not sent.
    fn remove(&mut self, index: usize);
    /// Empties `out` if it could be taken.
    fn send(&mut self, index: usize, out: &mut Vec<u8>);
    /// Sends what was collected and sleeps until something happens, at most
    /// for `timeout`.
    fn wait(&mut self, timeout: Duration) -> io::Result<()>;
    /// The next thing that happened, until there is none.
    fn next(&mut self) -> Option<(usize, Input<'_>)>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Sends a buffer that no socket takes at once while a second waits, gets
    /// everything back, and sees the end.
    fn echoes<D: Driver>(make: impl Fn() -> io::Result<D>) {
        let Ok(mut driver) = make() else { return };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let target = crate::target::Target::Tcp(listener.local_addr().expect("bound").to_string());
        let total = 16 << 20;
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut all = vec![0; total];
            stream.read_exact(&mut all).expect("everything");
            stream.write_all(&all).expect("everything");
        });
        driver.add(1, target.connect().expect("it listens")).expect("watched");
        let bytes: Vec<u8> = (0..total).map(|at| ((at * 31) >> 3) as u8).collect();
        let (mut first, mut second) = (bytes[..total / 2].to_vec(), bytes[total / 2..].to_vec());
        driver.send(1, &mut first);
        assert!(first.is_empty());
        driver.send(1, &mut second);
        let mut echoed = Vec::new();
        let mut closed = false;
        let start = std::time::Instant::now();
        while !closed {
            assert!(start.elapsed() < Duration::from_secs(20), "stuck at {}", echoed.len());
            driver.wait(Duration::from_millis(50)).expect("no failure");
            while let Some((index, input)) = driver.next() {
                assert_eq!(index, 1);
                match input {
                    Input::Bytes(bytes) => echoed.extend_from_slice(bytes),
                    Input::Writable => driver.send(1, &mut second),
                    Input::Closed(error) => {
                        assert!(error.is_none(), "{error:?}");
                        closed = true;
                    }
                }
            }
        }
        assert!(echoed == bytes);
        server.join().expect("no panic");
    }

    #[test]
    fn epoll_echoes() {
        echoes(|| Epoll::new(2));
    }

    #[test]
    fn uring_echoes_where_the_kernel_allows_it() {
        echoes(|| Uring::new(2));
    }
}
