//! The floor: a loop that answers fixed bytes over the very ring of the server.
//!
//! It counts line ends and spaces, looks nothing up, and answers every `get`
//! with one value. What it costs a request is what kernel and ring cost, so the
//! server's distance to it is what parsing, engine and answers cost.
//!
//! ```sh
//! cargo run --release -p seawall-benches --bin floor -- 11311 [key bytes] [value bytes]
//! ```

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::Duration;

use net::listener::{self, ListenAddress};
use net::sys::buffers::Buffers;
use net::sys::uring::UringBackend;
use net::sys::{Backend, BackendOptions, Event, Slot};

/// The pool of output buffers, as large as a server's core has it.
const SPARE_BYTES: usize = 4 << 20;
const BUFFER_BYTES_MAX: usize = 512 << 10;
/// Receives before a connection gets a multishot receive, as in the server.
const SINGLE_RECEIVES: u32 = 16;

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1);
    let mut number = |default: usize| numbers.next().map_or(Ok(default), |text| text.parse());
    let (port, key_bytes, value_bytes) = (number(11_311)?, number(30)?, number(100)?);
    let head = format!("VALUE {} 0 {value_bytes}\r\n", "k".repeat(key_bytes));
    let value = [head.as_bytes(), &vec![b'v'; value_bytes], b"\r\n"].concat();

    let address = ListenAddress::Tcp(([127, 0, 0, 1], u16::try_from(port)?).into());
    let (socket, _) = listener::bind(&address, 1024)?;
    let mut backend = UringBackend::new(&BackendOptions::default())?;
    backend.listen(0, socket)?;
    let mut buffers = Buffers::new(SPARE_BYTES, BUFFER_BYTES_MAX);
    let mut floor = Floor { value, ..Floor::default() };
    loop {
        backend.poll(Duration::from_secs(1), &mut buffers)?;
        while let Some(event) = backend.next_event() {
            floor.on_event(event, &mut backend, &mut buffers)?;
        }
        for slot in floor.dirty.drain(..) {
            let out = floor.outputs.remove(&slot).unwrap_or_default();
            backend.send(slot, out, &mut buffers);
        }
    }
}

#[derive(Default)]
struct Floor {
    /// The answer to one key.
    value: Vec<u8>,
    receives: Vec<u32>,
    free: Vec<Slot>,
    outputs: HashMap<Slot, Vec<u8>>,
    dirty: Vec<Slot>,
}

impl Floor {
    fn on_event(
        &mut self,
        event: Event,
        backend: &mut UringBackend,
        buffers: &mut Buffers,
    ) -> std::io::Result<()> {
        match event {
            Event::Accepted { socket, .. } => self.admit(socket, backend)?,
            Event::Received { slot, received } => {
                let out = self.outputs.entry(slot).or_insert_with(|| {
                    self.dirty.push(slot);
                    buffers.take()
                });
                answer(backend.bytes(&received), &self.value, out);
                backend.release(received);
                let count = &mut self.receives[slot as usize];
                *count += 1;
                if *count == SINGLE_RECEIVES {
                    backend.set_multishot(slot, true);
                }
            }
            Event::Ended { slot } | Event::Failed { slot, .. } => backend.close(slot, buffers),
            Event::Closed { slot } => self.free.push(slot),
            Event::Sent { .. } | Event::AcceptFailed { .. } => {}
        }
        Ok(())
    }

    fn admit(&mut self, socket: OwnedFd, backend: &mut UringBackend) -> std::io::Result<()> {
        let slot = self.free.pop().unwrap_or(self.receives.len() as Slot);
        if slot as usize == self.receives.len() {
            self.receives.push(0);
        }
        self.receives[slot as usize] = 0;
        backend.attach(slot, socket)
    }
}

/// One value for each space, and an `END` for each line. Requests cut in two
/// by a receive come out right too: every byte is counted once.
fn answer(bytes: &[u8], value: &[u8], out: &mut Vec<u8>) {
    for at in memchr::memchr2_iter(b' ', b'\n', bytes) {
        match bytes[at] {
            b' ' => out.extend_from_slice(value),
            _ => out.extend_from_slice(b"END\r\n"),
        }
    }
}
