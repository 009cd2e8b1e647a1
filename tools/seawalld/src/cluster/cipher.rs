//! TLS on a link: the session was made when the link was, on the control thread;
//! from then on it belongs to the core.

use net::peering::link::Cipher;
use std::io::{Read, Write};
use tokio_rustls::rustls::Connection;

/// A session.
pub struct Session(Box<Connection>);

impl Session {
    /// From a handshake that is over.
    pub fn new(connection: Box<Connection>) -> Session {
        Session(connection)
    }

    fn read_plain(&mut self, plain: &mut Vec<u8>) -> bool {
        match self.0.process_new_packets() {
            Ok(state) => {
                let start = plain.len();
                plain.resize(start + state.plaintext_bytes_to_read(), 0);
                // As much as it said is there.
                self.0.reader().read_exact(&mut plain[start..]).is_ok()
            }
            Err(_) => false,
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

impl Cipher for Session {
    fn open(&mut self, mut sealed: &[u8], plain: &mut Vec<u8>) -> bool {
        // What came with the end of the handshake is there already.
        if !self.read_plain(plain) {
            return false;
        }
        while !sealed.is_empty() {
            match self.0.read_tls(&mut sealed) {
                Ok(0) | Err(_) => return false,
                Ok(_) if !self.read_plain(plain) => return false,
                Ok(_) => {}
            }
        }
        true
    }

    fn seal(&mut self, mut plain: &[u8], sealed: &mut Vec<u8>) {
        // The session buffers a bounded amount at a time.
        while !plain.is_empty() {
            match self.0.writer().write(plain) {
                Ok(taken) if taken > 0 => plain = &plain[taken..],
                _ => return,
            }
            while self.0.wants_write() {
                if self.0.write_tls(sealed).is_err() {
                    return;
                }
            }
        }
    }
}
