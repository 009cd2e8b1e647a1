//! The io_uring backend: one raw ring, one `io_uring_enter` a turn.
//!
//! Measured choices (docs: the I/O chapter of the architecture):
//! - **Multishot accept and receive** with a ring of provided buffers: an idle
//!   connection holds no buffer, a busy one needs no new submission.
//! - **Silent sends**: one send a connection a turn, `MSG_DONTWAIT |
//!   MSG_WAITALL` with `CQE_SKIP_SUCCESS`. They are executed while the kernel
//!   takes the submissions, so when `io_uring_enter` returns, silence means
//!   that everything is out and the buffer is free again. A completion means a
//!   short or failed send; the rest goes out by an ordinary send that waits
//!   for the socket. `MSG_WAITALL` is what makes the kernel count a short send
//!   as a failure: without it a short send would be silent loss.
//! - `SINGLE_ISSUER | DEFER_TASKRUN` (Linux 6.1), else `COOP_TASKRUN`.
//! - Ordinary descriptors: fixed ones were not faster.
//!
//! ```text
//! user_data   operation (8 bits) | generation of the slot (24) | slot (32)
//! ```
//! The generation tells the completions of a slot's earlier life apart.
//!
//! Traps that this file minds: `ENOBUFS` ends a multishot receive (it is armed
//! again when buffers came back); a multishot receive cannot pause (it is
//! cancelled, and data may still arrive until the cancellation does); an
//! overflown completion queue hides failed sends (it is drained before a send
//! counts as done); `SINGLE_ISSUER` binds the ring to the thread that made it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::types::{BufRingEntry, CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};

use super::buffers::Buffers;
use super::memory::Mapping;
use super::socket::set_nonblocking;
use super::{Backend, BackendKind, BackendOptions, Event, Received, Slot};

/// The one group of provided buffers.
const BUFFER_GROUP: u16 = 0;
/// How often an `enter` that the kernel refuses for want of memory is tried again.
const ENTER_RETRIES: u32 = 1000;

const OP_RECEIVE: u8 = 1;
const OP_SEND_SILENT: u8 = 2;
const OP_SEND_REST: u8 = 3;
const OP_ACCEPT: u8 = 4;
const OP_WAKE: u8 = 5;
const OP_CANCEL: u8 = 6;
const OP_CANCEL_FOR_CLOSE: u8 = 7;
const OP_CLOSE: u8 = 8;

const GENERATION_MASK: u32 = (1 << 24) - 1;

fn user_data(operation: u8, generation: u32, slot: u32) -> u64 {
    u64::from(operation) << 56 | u64::from(generation & GENERATION_MASK) << 32 | u64::from(slot)
}

/// Where a slot's receive stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receive {
    /// Nothing submitted.
    Idle,
    /// A multishot receive is under way.
    Armed,
    /// It is being cancelled; its last completion is still to come.
    Cancelling,
    /// It ended for want of buffers and will be armed again.
    Starved,
}

/// Where a slot's send stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    Nothing,
    /// Submitted this turn, success will be silence.
    Silent,
    /// The silent send came up short; an ordinary one carries the rest.
    Rest,
}

#[derive(Debug)]
struct Socket {
    fd: Option<OwnedFd>,
    generation: u32,
    receive: Receive,
    /// Receive by multishot, not one buffer at a time.
    multishot: bool,
    /// The reactor wants to receive.
    reading: bool,
    /// The peer has ended its side, or the socket broke.
    ended: bool,
    sending: Sending,
    bytes: Vec<u8>,
    sent: usize,
    /// Close once the send is out.
    closing: bool,
    /// Close now: what a send leaves over is not sent on.
    dropping: bool,
    /// Cancelled everything, waiting for the last completions.
    aborting: bool,
}

impl Socket {
    fn new(fd: Option<OwnedFd>, generation: u32) -> Socket {
        Socket {
            reading: fd.is_some(),
            fd,
            generation,
            receive: Receive::Idle,
            multishot: false,
            ended: false,
            sending: Sending::Nothing,
            bytes: Vec::new(),
            sent: 0,
            closing: false,
            dropping: false,
            aborting: false,
        }
    }
}

#[derive(Debug)]
struct Listener {
    fd: OwnedFd,
    number: u32,
    armed: bool,
}

/// See the module's text.
pub struct UringBackend {
    // Field order matters: the ring goes before the memory that it uses.
    ring: IoUring,
    provided: ProvidedBuffers,
    sockets: Vec<Socket>,
    listeners: Vec<Listener>,
    accepting: bool,
    wake: RawFd,
    wake_armed: bool,
    events: VecDeque<Event>,
    /// Slots with a silent send in this turn.
    silent: Vec<Slot>,
    /// Slots whose receive ended for want of buffers.
    starved: Vec<Slot>,
    /// Bytes of the buffers of sends that were short.
    unsent_bytes: usize,
}

impl std::fmt::Debug for UringBackend {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("UringBackend").field("sockets", &self.sockets.len()).finish()
    }
}

/// Makes a ring with the best flags that this kernel has.
pub(super) fn build_ring(options: &BackendOptions) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .dontfork()
        .setup_clamp()
        .setup_submit_all()
        .setup_single_issuer()
        .setup_taskrun_flag()
        .setup_cqsize(options.completions);
    let mut deferred = builder.clone();
    match deferred.setup_defer_taskrun().build(options.submissions) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            builder.setup_coop_taskrun().build(options.submissions)
        }
        result => result,
    }
}

impl UringBackend {
    /// A new ring; must be made on the thread that will use it.
    pub fn new(options: &BackendOptions) -> io::Result<UringBackend> {
        let ring = build_ring(options)?;
        let provided = ProvidedBuffers::new(options)?;
        // SAFETY: the mapping holds `entries` ring entries, page-aligned, and
        // lives as long as `ring`, which is dropped before it.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                provided.ring.base().as_ptr() as u64,
                provided.entries,
                BUFFER_GROUP,
                0,
            )?;
        }
        Ok(UringBackend {
            ring,
            provided,
            sockets: Vec::new(),
            listeners: Vec::new(),
            accepting: true,
            wake: -1,
            wake_armed: false,
            events: VecDeque::new(),
            silent: Vec::new(),
            starved: Vec::new(),
            unsent_bytes: 0,
        })
    }

    /// Puts an entry into the submission queue, making room if it is full.
    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: every buffer that an entry of this file names stays in
            // place until its completion: sent vectors in `Socket::bytes`,
            // received bytes in `provided`.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            // Failing here leaves the entries where they are; the loop in
            // `enter` waits for the kernel to find memory.
            if let Err(error) = self.enter(Duration::ZERO, true) {
                panic!("io_uring_enter: {error}");
            }
        }
    }

    /// Hands over all submissions and waits up to `timeout` for a completion.
    fn enter(&mut self, timeout: Duration, submit_only: bool) -> io::Result<()> {
        let mut retries = 0;
        let mut want = u32::from(!submit_only && !timeout.is_zero());
        loop {
            let (pending, taskrun, overflow) = {
                let queue = self.ring.submission();
                (queue.len(), queue.taskrun(), queue.cq_overflow())
            };
            if pending == 0 && want == 0 && (submit_only || !(taskrun || overflow)) {
                return Ok(());
            }
            let mut flags = EnterFlags::EXT_ARG;
            if !submit_only {
                flags |= EnterFlags::GETEVENTS;
            }
            let timespec = Timespec::from(timeout);
            let arguments = SubmitArgs::new().timespec(&timespec);
            // SAFETY: the arguments outlive the call and match EXT_ARG.
            let result = unsafe {
                self.ring.submitter().enter(pending as u32, want, flags.bits(), Some(&arguments))
            };
            match result {
                Ok(submitted) if submitted >= pending => return Ok(()),
                // Some were taken: go on with the others, without waiting.
                Ok(_) => want = 0,
                Err(error) => match error.raw_os_error() {
                    // The wait ended, after everything was submitted.
                    Some(libc::ETIME | libc::EINTR) => want = 0,
                    // The completion queue overflowed: it must be drained first.
                    Some(libc::EBUSY) if !submit_only => return Ok(()),
                    Some(libc::EAGAIN | libc::ENOMEM) if retries < ENTER_RETRIES => {
                        retries += 1;
                        want = 0;
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    _ => return Err(error),
                },
            }
            if want == 0 && self.ring.submission().is_empty() {
                return Ok(());
            }
        }
    }

    /// Turns every completion that is there into events.
    fn drain_completions(&mut self) {
        let mut batch = [const { std::mem::MaybeUninit::uninit() }; 64];
        loop {
            let taken = self.ring.completion().fill(&mut batch).len();
            for entry in &batch[..taken] {
                // SAFETY: `fill` has written the first `taken` entries.
                self.on_completion(unsafe { entry.assume_init_ref() });
            }
            if taken < batch.len() {
                return;
            }
        }
    }

    fn on_completion(&mut self, entry: &cqueue::Entry) {
        let data = entry.user_data();
        let operation = (data >> 56) as u8;
        let generation = (data >> 32) as u32 & GENERATION_MASK;
        let slot = data as u32;
        let (result, flags) = (entry.result(), entry.flags());
        match operation {
            OP_ACCEPT => self.on_accepted(slot as usize, result, flags),
            OP_WAKE => self.wake_armed = cqueue::more(flags),
            OP_RECEIVE => self.on_received(slot, generation, result, flags),
            OP_SEND_SILENT => self.on_short_send(slot, generation, result),
            OP_SEND_REST => self.on_rest_sent(slot, generation, result),
            OP_CANCEL_FOR_CLOSE => self.on_cancel_failed(slot, generation),
            _ => {}
        }
    }

    fn socket(&mut self, slot: Slot, generation: u32) -> Option<&mut Socket> {
        let socket = self.sockets.get_mut(slot as usize)?;
        (socket.generation == generation && socket.fd.is_some()).then_some(socket)
    }

    fn on_accepted(&mut self, index: usize, result: i32, flags: u32) {
        let Some(listener) = self.listeners.get_mut(index) else {
            // The listener was closed meanwhile.
            if result >= 0 {
                drop(owned(result));
            }
            return;
        };
        if !cqueue::more(flags) {
            listener.armed = false;
        }
        let number = listener.number;
        if result >= 0 {
            self.events.push_back(Event::Accepted { listener: number, socket: owned(result) });
        } else if !matches!(-result, libc::ECANCELED | libc::ECONNABORTED | libc::EAGAIN) {
            self.events.push_back(Event::AcceptFailed { listener: number, errno: -result });
        }
    }

    fn on_received(&mut self, slot: Slot, generation: u32, result: i32, flags: u32) {
        let buffer = cqueue::buffer_select(flags);
        let more = cqueue::more(flags);
        let Some(socket) = self.socket(slot, generation) else {
            if let Some(buffer) = buffer {
                self.provided.give(buffer);
            }
            return;
        };
        if !more {
            socket.receive = Receive::Idle;
        }
        if socket.aborting || socket.closing {
            if let Some(buffer) = buffer {
                self.provided.give(buffer);
            }
            if !more {
                self.finish_close(slot);
            }
            return;
        }
        match result {
            1.. => {
                if !more && socket.reading {
                    // It was for one buffer, or the kernel ended the multishot.
                    self.arm_receive(slot);
                }
                let buffer = buffer.expect("a receive names its buffer");
                let received = Received { buffer, bytes: result as u32 };
                self.events.push_back(Event::Received { slot, received });
                return;
            }
            0 => {
                socket.ended = true;
                self.events.push_back(Event::Ended { slot });
            }
            _ => match -result {
                libc::ENOBUFS => {
                    socket.receive = Receive::Starved;
                    self.starved.push(slot);
                }
                libc::ECANCELED | libc::EAGAIN | libc::EINTR => {
                    if socket.reading {
                        self.arm_receive(slot);
                    }
                }
                errno => {
                    socket.ended = true;
                    self.events.push_back(Event::Failed { slot, errno });
                }
            },
        }
        if let Some(buffer) = buffer {
            self.provided.give(buffer);
        }
    }

    /// A silent send spoke: it was short, or failed.
    fn on_short_send(&mut self, slot: Slot, generation: u32, result: i32) {
        let Some(socket) = self.socket(slot, generation) else { return };
        if result < 0 && !matches!(-result, libc::EAGAIN | libc::EINTR) {
            return self.fail_send(slot, -result);
        }
        socket.sent = result.max(0) as usize;
        if socket.dropping {
            socket.sending = Sending::Nothing;
            self.start_close(slot);
        } else if socket.sent < socket.bytes.len() {
            socket.sending = Sending::Rest;
            super::keep_rest(&mut socket.bytes, &mut socket.sent);
            self.unsent_bytes += socket.bytes.capacity();
            self.submit_rest(slot);
        }
    }

    fn submit_rest(&mut self, slot: Slot) {
        let socket = &self.sockets[slot as usize];
        let Some(fd) = socket.fd.as_ref() else { return };
        let rest = &socket.bytes[socket.sent..];
        let entry = opcode::Send::new(Fd(fd.as_raw_fd()), rest.as_ptr(), rest.len() as u32)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .user_data(user_data(OP_SEND_REST, socket.generation, slot));
        self.push(&entry);
    }

    fn on_rest_sent(&mut self, slot: Slot, generation: u32, result: i32) {
        let Some(socket) = self.socket(slot, generation) else { return };
        if socket.aborting {
            self.end_send(slot);
            return self.finish_close(slot);
        }
        if result < 0 && !matches!(-result, libc::EAGAIN | libc::EINTR) {
            return self.fail_send(slot, -result);
        }
        socket.sent += result.max(0) as usize;
        if socket.sent < socket.bytes.len() {
            return self.submit_rest(slot);
        }
        let closing = socket.closing;
        self.end_send(slot);
        if closing {
            self.start_close(slot);
        } else {
            self.events.push_back(Event::Sent { slot });
        }
    }

    /// Nothing of the last send is left, or nothing of it will be sent any more.
    fn end_send(&mut self, slot: Slot) {
        let socket = &mut self.sockets[slot as usize];
        if socket.sending == Sending::Rest {
            self.unsent_bytes -= socket.bytes.capacity();
        }
        socket.sending = Sending::Nothing;
        socket.bytes = Vec::new();
        socket.sent = 0;
    }

    fn fail_send(&mut self, slot: Slot, errno: i32) {
        self.end_send(slot);
        let socket = &mut self.sockets[slot as usize];
        socket.ended = true;
        if socket.closing || socket.aborting {
            self.start_close(slot);
        } else {
            self.events.push_back(Event::Failed { slot, errno });
        }
    }

    fn arm_receive(&mut self, slot: Slot) {
        let socket = &mut self.sockets[slot as usize];
        let Some(fd) = socket.fd.as_ref() else { return };
        if socket.receive != Receive::Idle || socket.ended || socket.closing || socket.aborting {
            return;
        }
        let fd = Fd(fd.as_raw_fd());
        let entry = if socket.multishot {
            opcode::RecvMulti::new(fd, BUFFER_GROUP).build()
        } else {
            // As long as the buffer that the kernel picks.
            opcode::Recv::new(fd, std::ptr::null_mut(), 0)
                .buf_group(BUFFER_GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT)
        };
        let entry = entry.user_data(user_data(OP_RECEIVE, socket.generation, slot));
        socket.receive = Receive::Armed;
        self.push(&entry);
    }

    fn arm_listeners(&mut self) {
        for index in 0..self.listeners.len() {
            let listener = &mut self.listeners[index];
            if listener.armed || !self.accepting {
                continue;
            }
            listener.armed = true;
            let entry = opcode::AcceptMulti::new(Fd(listener.fd.as_raw_fd()))
                .flags(libc::SOCK_CLOEXEC)
                .build()
                .user_data(user_data(OP_ACCEPT, 0, index as u32));
            self.push(&entry);
        }
    }

    fn arm_wake(&mut self) {
        if self.wake_armed || self.wake < 0 {
            return;
        }
        self.wake_armed = true;
        // Multishot: every write of the eventfd completes once, nothing needs
        // to be read. Its counter would overflow after 2^64 wakes.
        let entry = opcode::PollAdd::new(Fd(self.wake), libc::POLLIN as u32)
            .multi(true)
            .build()
            .user_data(user_data(OP_WAKE, 0, 0));
        self.push(&entry);
    }

    /// Everything is out: end the receive, then close.
    fn start_close(&mut self, slot: Slot) {
        let socket = &mut self.sockets[slot as usize];
        let Some(fd) = socket.fd.as_ref() else { return };
        let pending = matches!(socket.receive, Receive::Armed | Receive::Cancelling)
            || socket.sending == Sending::Rest;
        if !pending {
            return self.finish_close(slot);
        }
        if socket.aborting {
            return;
        }
        socket.aborting = true;
        let entry = opcode::AsyncCancel2::new(CancelBuilder::fd(Fd(fd.as_raw_fd())).all())
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(user_data(OP_CANCEL_FOR_CLOSE, socket.generation, slot));
        self.push(&entry);
    }

    /// The cancellation found nothing to cancel though a completion is still
    /// out: it is on its way, or the operation is running this moment. Shutting
    /// the socket ends it in every case.
    fn on_cancel_failed(&mut self, slot: Slot, generation: u32) {
        let Some(socket) = self.socket(slot, generation) else { return };
        let Some(fd) = socket.fd.as_ref() else { return };
        // SAFETY: a call on an open descriptor.
        unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_RDWR) };
    }

    /// Closes the descriptor if no operation uses it any more.
    fn finish_close(&mut self, slot: Slot) {
        let socket = &mut self.sockets[slot as usize];
        if matches!(socket.receive, Receive::Armed | Receive::Cancelling)
            || socket.sending != Sending::Nothing
        {
            return;
        }
        let Some(fd) = socket.fd.take() else { return };
        socket.generation = (socket.generation + 1) & GENERATION_MASK;
        socket.receive = Receive::Idle;
        socket.bytes = Vec::new();
        let entry = opcode::Close::new(Fd(fd.into_raw_fd()))
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(user_data(OP_CLOSE, 0, slot));
        self.push(&entry);
        self.events.push_back(Event::Closed { slot });
    }

    /// After the completions are drained: silent sends that stayed silent are out.
    fn settle_silent_sends(&mut self, buffers: &mut Buffers) {
        while let Some(slot) = self.silent.pop() {
            let socket = &mut self.sockets[slot as usize];
            if socket.sending == Sending::Silent {
                socket.sending = Sending::Nothing;
                buffers.put(std::mem::take(&mut socket.bytes));
                if socket.closing || socket.aborting {
                    self.start_close(slot);
                }
            }
        }
    }

    fn rearm_starved(&mut self) {
        for _ in 0..self.starved.len() {
            let slot = self.starved.pop().expect("counted");
            let socket = &mut self.sockets[slot as usize];
            if socket.receive == Receive::Starved {
                socket.receive = Receive::Idle;
                if socket.reading {
                    self.arm_receive(slot);
                }
            }
        }
    }
}

impl Drop for UringBackend {
    fn drop(&mut self) {
        // Descriptors whose closing still waits in the queue must not leak.
        let _ = self.enter(Duration::ZERO, false);
        // Nothing may be written into our buffers once they are unmapped.
        // Closing the ring cancels too, but only some time later.
        let everything = CancelBuilder::any().all();
        let patience = Timespec::new().sec(1);
        let _ = self.ring.submitter().register_sync_cancel(Some(patience), everything);
    }
}

fn owned(fd: i32) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: the kernel has just given us this descriptor in a completion.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

impl Backend for UringBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Uring
    }

    fn watch_wake(&mut self, wake: RawFd) -> io::Result<()> {
        self.wake = wake;
        self.arm_wake();
        Ok(())
    }

    fn listen(&mut self, listener: u32, socket: OwnedFd) -> io::Result<()> {
        set_nonblocking(socket.as_raw_fd(), false)?;
        self.listeners.push(Listener { fd: socket, number: listener, armed: false });
        self.arm_listeners();
        Ok(())
    }

    fn set_accepting(&mut self, accepting: bool) {
        if self.accepting == accepting {
            return;
        }
        self.accepting = accepting;
        if accepting {
            return self.arm_listeners();
        }
        for index in 0..self.listeners.len() {
            if self.listeners[index].armed {
                let target = user_data(OP_ACCEPT, 0, index as u32);
                let entry = opcode::AsyncCancel::new(target)
                    .build()
                    .flags(squeue::Flags::SKIP_SUCCESS)
                    .user_data(user_data(OP_CANCEL, 0, 0));
                self.push(&entry);
            }
        }
    }

    fn close_listeners(&mut self) {
        self.set_accepting(false);
        // The kernel's multishot accepts hold their own reference; cancelling
        // lets go of it, and the socket is closed with the last one.
        self.listeners.clear();
    }

    fn attach(&mut self, slot: Slot, socket: OwnedFd) -> io::Result<()> {
        // A blocking file: io_uring decides itself when to wait.
        let index = slot as usize;
        if index >= self.sockets.len() {
            self.sockets.resize_with(index + 1, || Socket::new(None, 0));
        }
        debug_assert!(self.sockets[index].fd.is_none());
        let generation = self.sockets[index].generation;
        self.sockets[index] = Socket::new(Some(socket), generation);
        self.arm_receive(slot);
        Ok(())
    }

    fn pause(&mut self, slot: Slot) {
        let socket = &mut self.sockets[slot as usize];
        socket.reading = false;
        if socket.receive == Receive::Armed && !socket.closing && !socket.aborting {
            socket.receive = Receive::Cancelling;
            let target = user_data(OP_RECEIVE, socket.generation, slot);
            let entry = opcode::AsyncCancel::new(target)
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(user_data(OP_CANCEL, 0, slot));
            self.push(&entry);
        }
    }

    fn resume(&mut self, slot: Slot) {
        self.sockets[slot as usize].reading = true;
        // While it is being cancelled, its last completion arms it again.
        self.arm_receive(slot);
    }

    fn set_multishot(&mut self, slot: Slot, multishot: bool) {
        // A receive under way ends in its own manner.
        self.sockets[slot as usize].multishot = multishot;
    }

    fn send(&mut self, slot: Slot, bytes: Vec<u8>, buffers: &mut Buffers) {
        let socket = &mut self.sockets[slot as usize];
        debug_assert!(socket.sending == Sending::Nothing, "one send at a time");
        let Some(fd) = socket.fd.as_ref() else { return buffers.put(bytes) };
        if bytes.is_empty() {
            return buffers.put(bytes);
        }
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT | libc::MSG_WAITALL;
        let entry = opcode::Send::new(Fd(fd.as_raw_fd()), bytes.as_ptr(), bytes.len() as u32)
            .flags(flags)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(user_data(OP_SEND_SILENT, socket.generation, slot));
        socket.bytes = bytes;
        socket.sent = 0;
        socket.sending = Sending::Silent;
        self.silent.push(slot);
        self.push(&entry);
    }

    fn descriptor(&self, slot: Slot) -> Option<RawFd> {
        self.sockets.get(slot as usize)?.fd.as_ref().map(AsRawFd::as_raw_fd)
    }

    fn is_sending(&self, slot: Slot) -> bool {
        self.sockets[slot as usize].sending != Sending::Nothing
    }

    fn unsent_bytes(&self, slot: Slot) -> usize {
        let Some(socket) = self.sockets.get(slot as usize) else { return 0 };
        // A silent send is settled in the next poll.
        if socket.sending == Sending::Rest { socket.bytes.capacity() } else { 0 }
    }

    fn all_unsent_bytes(&self) -> usize {
        self.unsent_bytes
    }

    fn close(&mut self, slot: Slot, _buffers: &mut Buffers) {
        let socket = &mut self.sockets[slot as usize];
        socket.reading = false;
        socket.closing = true;
        if socket.sending == Sending::Nothing {
            self.start_close(slot);
        }
    }

    fn abort(&mut self, slot: Slot, _buffers: &mut Buffers) {
        let socket = &mut self.sockets[slot as usize];
        socket.reading = false;
        socket.closing = true;
        socket.dropping = true;
        // A silent send is settled at the next poll, which then goes on.
        if socket.sending != Sending::Silent {
            self.start_close(slot);
        }
    }

    fn poll(&mut self, timeout: Duration, buffers: &mut Buffers) -> io::Result<()> {
        self.provided.publish();
        self.rearm_starved();
        self.arm_wake();
        self.arm_listeners();
        // A connection that closes behind its last send is closed below, when
        // the silence is heard: that must not wait for something else to come.
        let closes = self.silent.iter().any(|slot| self.sockets[*slot as usize].closing);
        let timeout = if closes || !self.events.is_empty() { Duration::ZERO } else { timeout };
        self.enter(timeout, false)?;
        self.drain_completions();
        // A hidden completion might be a failed send.
        while self.ring.submission().cq_overflow() {
            self.enter(Duration::ZERO, false)?;
            self.drain_completions();
        }
        self.settle_silent_sends(buffers);
        Ok(())
    }

    fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn has_event(&self) -> bool {
        !self.events.is_empty()
    }

    fn bytes(&self, received: &Received) -> &[u8] {
        self.provided.bytes(received)
    }

    fn release(&mut self, received: Received) {
        self.provided.give(received.buffer);
    }

    fn memory_bytes(&self) -> usize {
        self.provided.ring.bytes() + self.provided.area.bytes()
    }
}

/// The ring of receive buffers that the kernel picks from.
struct ProvidedBuffers {
    /// `entries` ring entries; the kernel reads them up to the tail, which
    /// lies in a spare field of the first.
    ring: Mapping,
    /// The buffers, one after the other.
    area: Mapping,
    entries: u16,
    buffer_bytes: u32,
    tail: u16,
}

impl ProvidedBuffers {
    fn new(options: &BackendOptions) -> io::Result<ProvidedBuffers> {
        let entries = options.receive_buffers.next_power_of_two();
        let buffer_bytes = options.receive_buffer_bytes;
        let mut provided = ProvidedBuffers {
            ring: Mapping::new(usize::from(entries) * size_of::<BufRingEntry>())?,
            area: Mapping::new(usize::from(entries) * buffer_bytes as usize)?,
            entries,
            buffer_bytes,
            tail: 0,
        };
        for buffer in 0..entries {
            provided.give(buffer);
        }
        provided.publish();
        Ok(provided)
    }

    fn bytes(&self, received: &Received) -> &[u8] {
        let start = usize::from(received.buffer) * self.buffer_bytes as usize;
        debug_assert!(received.buffer < self.entries && received.bytes <= self.buffer_bytes);
        // SAFETY: the kernel gave us this buffer in a completion, has written
        // its first `bytes` bytes, and will not touch it before it is given
        // back, for which `release` needs the `Received` that we borrow.
        unsafe {
            std::slice::from_raw_parts(
                self.area.base().as_ptr().add(start),
                received.bytes as usize,
            )
        }
    }

    /// Puts a buffer behind the tail; the kernel sees it after `publish`.
    fn give(&mut self, buffer: u16) {
        let index = usize::from(self.tail & (self.entries - 1));
        let address =
            self.area.base().as_ptr() as u64 + u64::from(buffer) * u64::from(self.buffer_bytes);
        let entries: NonNull<BufRingEntry> = self.ring.base().cast();
        // SAFETY: `index` is within the ring. At most `entries` buffers exist,
        // so the kernel does not read this entry until the tail passes it.
        // Only address, length and id are written: never the tail's field.
        let entry = unsafe { entries.add(index).as_mut() };
        entry.set_addr(address);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&mut self) {
        // SAFETY: the ring's first entry is initialised (mappings are zeroed);
        // the tail's field is aligned, and shared with the kernel, hence atomic.
        let tail = unsafe {
            let tail = BufRingEntry::tail(self.ring.base().as_ptr().cast());
            AtomicU16::from_ptr(tail.cast_mut())
        };
        tail.store(self.tail, Ordering::Release);
    }
}
