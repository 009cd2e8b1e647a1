//! Bytes to and from the kernel, for many sockets of one thread.
//!
//! Both drivers give the same three verbs. [`Driver::send`] takes a whole
//! buffer at once if the socket's earlier one has left, else leaves it where
//! it is and reports [`Input::Writable`] later; so a connection never has more
//! than two buffers, one flying and one being filled. [`Driver::wait`] sleeps,
//! [`Driver::next`] hands out what happened, without copying received bytes.

mod epoll;

pub use epoll::Epoll;
/// Until the ring has a driver of its own.
pub type Uring = Epoll;

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
