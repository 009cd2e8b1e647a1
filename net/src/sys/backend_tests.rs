//! The same promises, asked of both backends over real sockets.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::buffers::Buffers;
use super::epoll::EpollBackend;
use super::socket::WakeFd;
use super::uring::UringBackend;
use super::{Backend, BackendOptions, Event, Slot};
use crate::listener::{self, ListenAddress};

/// Small enough that every limit is met.
fn tiny() -> BackendOptions {
    BackendOptions {
        submissions: 8,
        completions: 16,
        receive_buffers: 4,
        receive_buffer_bytes: 1024,
    }
}

/// Runs `test` over both; io_uring only where the kernel allows it.
fn over_both(options: BackendOptions, test: impl Fn(&mut dyn Backend)) {
    test(&mut EpollBackend::new(&options).unwrap());
    if super::probe(&options).is_ok() {
        test(&mut UringBackend::new(&options).unwrap());
    }
}

/// What has come in, by slot.
#[derive(Default)]
struct Seen {
    bytes: Vec<Vec<u8>>,
    ended: Vec<Slot>,
    failed: Vec<Slot>,
    sent: Vec<Slot>,
    closed: Vec<Slot>,
    sockets: Vec<std::os::fd::OwnedFd>,
}

impl Seen {
    fn of(&mut self, slot: Slot) -> &mut Vec<u8> {
        let index = slot as usize;
        if self.bytes.len() <= index {
            self.bytes.resize_with(index + 1, Vec::new);
        }
        &mut self.bytes[index]
    }

    /// Turns until `done`, at most ten seconds.
    fn until(
        &mut self,
        backend: &mut dyn Backend,
        buffers: &mut Buffers,
        what: &str,
        done: impl Fn(&mut Seen) -> bool,
    ) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done(self) {
            assert!(Instant::now() < deadline, "{}: {what}", backend.kind().name());
            backend.poll(Duration::from_millis(20), buffers).unwrap();
            self.take_events(backend);
        }
        // What the last events led to is handed over by the next turn.
        backend.poll(Duration::ZERO, buffers).unwrap();
        self.take_events(backend);
    }

    fn take_events(&mut self, backend: &mut dyn Backend) {
        while let Some(event) = backend.next_event() {
            match event {
                Event::Accepted { socket, .. } => self.sockets.push(socket),
                Event::AcceptFailed { errno, .. } => panic!("accept: {errno}"),
                Event::Received { slot, received } => {
                    let bytes = backend.bytes(&received).to_vec();
                    self.of(slot).extend_from_slice(&bytes);
                    backend.release(received);
                }
                Event::Ended { slot } => self.ended.push(slot),
                Event::Failed { slot, .. } => self.failed.push(slot),
                Event::Sent { slot } => self.sent.push(slot),
                Event::Closed { slot } => self.closed.push(slot),
            }
        }
    }
}

/// A client and its server side, attached as `slot`.
fn connect(
    backend: &mut dyn Backend,
    buffers: &mut Buffers,
    seen: &mut Seen,
    port: u16,
    slot: Slot,
) -> TcpStream {
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    seen.until(backend, buffers, "accept", |seen| !seen.sockets.is_empty());
    backend.attach(slot, seen.sockets.pop().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    client
}

fn listen(backend: &mut dyn Backend) -> u16 {
    let any = ListenAddress::Tcp("127.0.0.1:0".parse().unwrap());
    let (socket, bound) = listener::bind(&any, 64).unwrap();
    backend.listen(0, socket).unwrap();
    match bound {
        ListenAddress::Tcp(address) => address.port(),
        other => panic!("{other}"),
    }
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index * 31 + index / 251) as u8).collect()
}

#[test]
fn bytes_go_both_ways_for_many_connections() {
    over_both(tiny(), |backend| {
        let mut buffers = Buffers::new(1 << 20, 1 << 20);
        let mut seen = Seen::default();
        let port = listen(backend);
        let mut clients: Vec<TcpStream> =
            (0..40).map(|slot| connect(backend, &mut buffers, &mut seen, port, slot)).collect();
        // More than all receive buffers together, so that they run out.
        let sent = pattern(3000);
        for client in &mut clients {
            client.write_all(&sent).unwrap();
        }
        seen.until(backend, &mut buffers, "receive", |seen| {
            (0..40).all(|slot| seen.of(slot).len() == 3000)
        });
        for slot in 0..40 {
            assert_eq!(*seen.of(slot), sent);
            backend.send(slot, format!("answer {slot}").into_bytes(), &mut buffers);
        }
        backend.poll(Duration::ZERO, &mut buffers).unwrap();
        seen.take_events(backend);
        for (slot, client) in clients.iter_mut().enumerate() {
            assert!(!backend.is_sending(slot as Slot));
            let mut answer = vec![0; format!("answer {slot}").len()];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer, format!("answer {slot}").into_bytes());
            backend.close(slot as Slot, &mut buffers);
        }
        seen.until(backend, &mut buffers, "close", |seen| seen.closed.len() == 40);
        for client in &mut clients {
            assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "closed");
        }
    });
}

#[test]
fn a_slow_reader_gets_every_byte_in_order() {
    over_both(tiny(), |backend| {
        let mut buffers = Buffers::new(1 << 20, 1 << 20);
        let mut seen = Seen::default();
        let port = listen(backend);
        let mut client = connect(backend, &mut buffers, &mut seen, port, 0);
        let sent = pattern(20 << 20);
        backend.send(0, sent.clone(), &mut buffers);
        backend.poll(Duration::ZERO, &mut buffers).unwrap();
        seen.take_events(backend);
        assert!(backend.is_sending(0), "20 MiB do not fit into a socket");
        // A graceful close waits for the rest.
        let reader = std::thread::spawn(move || {
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).unwrap();
            heard
        });
        seen.until(backend, &mut buffers, "sent", |seen| seen.sent == [0]);
        backend.send(0, b"tail".to_vec(), &mut buffers);
        backend.close(0, &mut buffers);
        seen.until(backend, &mut buffers, "close", |seen| seen.closed == [0]);
        let heard = reader.join().unwrap();
        assert!(heard[..sent.len()] == sent[..] && &heard[sent.len()..] == b"tail");
    });
}

#[test]
fn closing_with_output_pending_sends_it_and_aborting_does_not_wait() {
    over_both(tiny(), |backend| {
        let mut buffers = Buffers::new(1 << 20, 1 << 20);
        let mut seen = Seen::default();
        let port = listen(backend);
        let mut reads = connect(backend, &mut buffers, &mut seen, port, 0);
        let stalls = connect(backend, &mut buffers, &mut seen, port, 1);
        for slot in 0..2 {
            backend.send(slot, pattern(8 << 20), &mut buffers);
            backend.close(slot, &mut buffers);
        }
        let reader = std::thread::spawn(move || {
            let mut heard = Vec::new();
            reads.read_to_end(&mut heard).unwrap();
            heard
        });
        seen.until(backend, &mut buffers, "close", |seen| seen.closed == [0]);
        assert!(reader.join().unwrap() == pattern(8 << 20));
        backend.abort(1, &mut buffers);
        seen.until(backend, &mut buffers, "abort", |seen| seen.closed == [0, 1]);
        drop(stalls);
    });
}

#[test]
fn a_close_behind_a_send_does_not_wait_for_the_next_event() {
    over_both(tiny(), |backend| {
        let mut buffers = Buffers::new(1 << 20, 1 << 20);
        let mut seen = Seen::default();
        let port = listen(backend);
        let mut client = connect(backend, &mut buffers, &mut seen, port, 0);
        let begin = Instant::now();
        backend.send(0, b"BYE\r\n".to_vec(), &mut buffers);
        backend.close(0, &mut buffers);
        while seen.closed.is_empty() {
            backend.poll(Duration::from_secs(5), &mut buffers).unwrap();
            seen.take_events(backend);
        }
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(4), "{}: {took:?}", backend.kind().name());
        backend.poll(Duration::ZERO, &mut buffers).unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"BYE\r\n");
    });
}

#[test]
fn a_paused_connection_delivers_nothing_until_resumed() {
    over_both(BackendOptions::default(), |backend| {
        let mut buffers = Buffers::new(1 << 20, 1 << 20);
        let mut seen = Seen::default();
        let port = listen(backend);
        let mut client = connect(backend, &mut buffers, &mut seen, port, 0);
        client.write_all(b"one").unwrap();
        seen.until(backend, &mut buffers, "receive", |seen| seen.of(0).len() == 3);
        backend.pause(0);
        for _ in 0..5 {
            backend.poll(Duration::from_millis(1), &mut buffers).unwrap();
            seen.take_events(backend);
        }
        client.write_all(b"two").unwrap();
        for _ in 0..5 {
            backend.poll(Duration::from_millis(5), &mut buffers).unwrap();
            seen.take_events(backend);
        }
        assert_eq!(*seen.of(0), b"one");
        // Quick changes of mind end where the last one says.
        backend.resume(0);
        backend.pause(0);
        backend.resume(0);
        seen.until(backend, &mut buffers, "resume", |seen| seen.of(0).len() == 6);
        assert_eq!(*seen.of(0), b"onetwo");
    });
}

#[test]
fn ends_and_failures_are_told_apart() {
    over_both(tiny(), |backend| {
        let mut buffers = Buffers::new(1 << 20, 1 << 20);
        let mut seen = Seen::default();
        let port = listen(backend);
        let mut half = connect(backend, &mut buffers, &mut seen, port, 0);
        half.write_all(b"last words").unwrap();
        half.shutdown(std::net::Shutdown::Write).unwrap();
        seen.until(backend, &mut buffers, "end", |seen| seen.ended == [0]);
        assert_eq!(*seen.of(0), b"last words");
        // It can still be answered.
        backend.send(0, b"heard".to_vec(), &mut buffers);
        backend.poll(Duration::ZERO, &mut buffers).unwrap();
        let mut answer = [0; 5];
        half.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"heard");

        let reset = connect(backend, &mut buffers, &mut seen, port, 1);
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        // SAFETY: the option's structure is described truly.
        unsafe {
            use std::os::fd::AsRawFd;
            libc::setsockopt(
                reset.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const linger).cast(),
                size_of::<libc::linger>() as libc::socklen_t,
            );
        }
        drop(reset);
        seen.until(backend, &mut buffers, "reset", |seen| seen.failed == [1]);
        backend.abort(1, &mut buffers);
        backend.close(0, &mut buffers);
        seen.until(backend, &mut buffers, "close", |seen| seen.closed.len() == 2);
    });
}

#[test]
fn a_slot_number_can_be_used_again_at_once() {
    over_both(tiny(), |backend| {
        let mut buffers = Buffers::new(1 << 20, 1 << 20);
        let mut seen = Seen::default();
        let port = listen(backend);
        for round in 0..50u32 {
            let mut client = connect(backend, &mut buffers, &mut seen, port, 0);
            client.write_all(&round.to_le_bytes()).unwrap();
            seen.until(backend, &mut buffers, "receive", |seen| !seen.of(0).is_empty());
            backend.close(0, &mut buffers);
            let count = round as usize + 1;
            seen.until(backend, &mut buffers, "close", |seen| seen.closed.len() == count);
            assert_eq!(std::mem::take(seen.of(0)), round.to_le_bytes());
        }
    });
}

#[test]
fn accepting_stops_and_resumes() {
    over_both(tiny(), |backend| {
        let mut buffers = Buffers::new(1 << 20, 1 << 20);
        let mut seen = Seen::default();
        let port = listen(backend);
        backend.poll(Duration::ZERO, &mut buffers).unwrap();
        backend.set_accepting(false);
        for _ in 0..3 {
            backend.poll(Duration::from_millis(2), &mut buffers).unwrap();
            seen.take_events(backend);
        }
        let _waits = TcpStream::connect(("127.0.0.1", port)).unwrap();
        for _ in 0..5 {
            backend.poll(Duration::from_millis(5), &mut buffers).unwrap();
            seen.take_events(backend);
        }
        assert!(seen.sockets.is_empty());
        backend.set_accepting(true);
        seen.until(backend, &mut buffers, "accept", |seen| seen.sockets.len() == 1);
        backend.close_listeners();
        for _ in 0..3 {
            backend.poll(Duration::from_millis(5), &mut buffers).unwrap();
        }
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "the listener is closed");
    });
}

#[test]
fn a_wake_ends_the_wait_every_time() {
    over_both(tiny(), |backend| {
        let mut buffers = Buffers::new(1 << 20, 1 << 20);
        let wake = WakeFd::new().unwrap();
        backend.watch_wake(wake.raw()).unwrap();
        for _ in 0..20 {
            // Forget what a first registration may report at once.
            backend.poll(Duration::ZERO, &mut buffers).unwrap();
            let begin = Instant::now();
            wake.wake();
            backend.poll(Duration::from_secs(10), &mut buffers).unwrap();
            assert!(begin.elapsed() < Duration::from_secs(5), "{}", backend.kind().name());
            assert!(backend.next_event().is_none());
        }
        let begin = Instant::now();
        backend.poll(Duration::from_millis(30), &mut buffers).unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(25), "an old wake came again");
    });
}
