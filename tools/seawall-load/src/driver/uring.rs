//! The io_uring driver: one ring a thread, one multishot receive a socket into
//! buffers that the kernel picks from a shared pool, and all sends of a turn
//! submitted by the one call that also waits.
//!
//! What the kernel may touch, and until when:
//!
//! - a *flying* buffer, from the push of its send until that send's
//!   completion. It is owned by its [`Slot`] (or, when the socket was removed
//!   meanwhile, by a [`Ghost`]), and not changed in between;
//! - the pool's buffers that stand in the buffer ring. One that was handed out
//!   stands outside it until [`Driver::next`] or [`Driver::wait`] is called
//!   again, which both need `&mut self`, so the borrow is over by then;
//! - both only while operations are under way. `Drop` therefore ends all of
//!   them first, and gives the memory up for lost if the kernel does not let
//!   go within a second.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use io_uring::types::{BufRingEntry, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::{Driver, Input};
use crate::target::Socket;

/// Submissions between two turns; more are submitted in between.
const ENTRIES: u32 = 1024;
/// Completions of one turn; the kernel keeps more aside without losing any.
const COMPLETIONS: u32 = 8192;
/// Buffers of the pool; a power of two. With the size it holds the answers of
/// 50 connections, 32 deep, with 2 KiB each.
const BUFFERS: u16 = 256;
/// Length of each buffer.
const BUFFER_BYTES: usize = 16 * 1024;
/// Our only group of buffers.
const GROUP: u16 = 0;

/// The buffers that receives write into, and the ring that offers them.
struct Pool {
    ring: NonNull<BufRingEntry>,
    data: NonNull<u8>,
    tail: u16,
}

impl Pool {
    const RING: Layout =
        match Layout::from_size_align(BUFFERS as usize * size_of::<BufRingEntry>(), 4096) {
            Ok(layout) => layout,
            Err(_) => panic!("the alignment is a power of two"),
        };
    const DATA: Layout = match Layout::from_size_align(BUFFERS as usize * BUFFER_BYTES, 4096) {
        Ok(layout) => layout,
        Err(_) => panic!("the alignment is a power of two"),
    };

    fn new() -> Pool {
        // SAFETY: both layouts have a size above zero.
        let (ring, data) = unsafe { (alloc_zeroed(Self::RING), alloc_zeroed(Self::DATA)) };
        let Some(ring) = NonNull::new(ring.cast()) else { handle_alloc_error(Self::RING) };
        let Some(data) = NonNull::new(data) else { handle_alloc_error(Self::DATA) };
        let mut pool = Pool { ring, data, tail: 0 };
        for id in 0..BUFFERS {
            pool.put(id);
        }
        pool
    }

    /// Where buffer `id` begins.
    fn address(&self, id: u16) -> NonNull<u8> {
        assert!(id < BUFFERS);
        // SAFETY: the allocation holds `BUFFERS` buffers and `id` is below.
        unsafe { self.data.add(usize::from(id) * BUFFER_BYTES) }
    }

    /// Offers buffer `id` to the kernel; the caller no longer looks at it.
    fn put(&mut self, id: u16) {
        let address = self.address(id);
        // SAFETY: the masked index lies within the ring's `BUFFERS` entries,
        // which are zeroed, hence initialised; the kernel reads an entry only
        // below the tail, which is moved past this one afterwards.
        unsafe {
            let entry = self.ring.add(usize::from(self.tail & (BUFFERS - 1))).as_mut();
            entry.set_addr(address.as_ptr() as u64);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the ring's first entry is aligned and initialised; its tail
        // field is written by us alone and only read by the kernel, so an
        // atomic store is the right access. It orders the entry before it.
        unsafe {
            let tail = BufRingEntry::tail(self.ring.as_ptr()).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: both came from `alloc_zeroed` with these layouts. Whoever
        // drops the pool knows that the kernel is done with it.
        unsafe {
            dealloc(self.ring.as_ptr().cast(), Self::RING);
            dealloc(self.data.as_ptr(), Self::DATA);
        }
    }
}

/// One socket.
struct Slot {
    socket: Socket,
    /// Tells this socket's completions from those of an earlier one.
    generation: u32,
    flying: Vec<u8>,
    in_flight: bool,
    /// A buffer was refused; its owner wants to know when it may come back.
    refused: bool,
}

/// A buffer whose socket was removed before its send completed.
struct Ghost {
    user_data: u64,
    _flying: Vec<u8>,
}

/// The driver.
pub struct Uring {
    ring: IoUring,
    slots: Vec<Option<Slot>>,
    ghosts: Vec<Ghost>,
    pool: Pool,
    /// The buffer that `next` handed out last.
    lent: Option<u16>,
    generation: u32,
    /// Operations that will complete once more.
    operations: usize,
    /// Sends pushed since the last wait.
    sends: usize,
}

/// What a completion belongs to: `kind (1 bit) | generation (31) | index (32)`.
const SEND: u64 = 1 << 63;

fn user_data(kind: u64, generation: u32, index: usize) -> u64 {
    kind | u64::from(generation) << 32 | index as u64
}

impl Uring {
    fn push(&mut self, entry: &squeue::Entry) {
        self.operations += 1;
        loop {
            // SAFETY: what the entry points to is kept as the module says, and
            // the socket stays open until its slot is dropped.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            // The queue is full: hand it over. An error here (signals, a
            // shortage of memory) passes, and the loop tries again.
            let _ = self.ring.submit();
        }
    }

    fn receive(&mut self, index: usize) {
        let Some(slot) = &self.slots[index] else { return };
        let entry = opcode::RecvMulti::new(Fd(slot.socket.as_fd().as_raw_fd()), GROUP)
            .build()
            .user_data(user_data(0, slot.generation, index));
        self.push(&entry);
    }

    fn fly(&mut self, index: usize) {
        let Some(slot) = &mut self.slots[index] else { return };
        slot.in_flight = true;
        // MSG_WAITALL: the kernel itself sends the rest when there is room.
        let entry = opcode::Send::new(
            Fd(slot.socket.as_fd().as_raw_fd()),
            slot.flying.as_ptr(),
            slot.flying.len() as u32,
        )
        .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
        .build()
        .user_data(user_data(SEND, slot.generation, index));
        self.sends += 1;
        self.push(&entry);
    }

    /// Gives back the buffer that was handed out last.
    fn return_lent(&mut self) {
        if let Some(id) = self.lent.take() {
            self.pool.put(id);
        }
    }

    fn enter(&mut self, want: usize, timeout: Duration) -> io::Result<()> {
        let timespec = Timespec::from(timeout);
        let args = SubmitArgs::new().timespec(&timespec);
        match self.ring.submitter().submit_with_args(want, &args) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// The socket is gone: forgets it and says so.
    fn closed(&mut self, index: usize, error: Option<i32>) -> (usize, Input<'static>) {
        self.remove(index);
        (index, Input::Closed(error.map(io::Error::from_raw_os_error)))
    }
}

impl Driver for Uring {
    fn new(sockets: usize) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_cqsize(COMPLETIONS)
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_clamp()
            .build(ENTRIES)?;
        let pool = Pool::new();
        // SAFETY: the ring of buffers is page-aligned, zeroed, holds `BUFFERS`
        // entries, and outlives the ring (see `Drop`).
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                pool.ring.as_ptr() as u64,
                BUFFERS,
                GROUP,
                0,
            )?
        };
        Ok(Uring {
            ring,
            slots: (0..sockets).map(|_| None).collect(),
            ghosts: Vec::new(),
            pool,
            lent: None,
            generation: 0,
            operations: 0,
            sends: 0,
        })
    }

    fn add(&mut self, index: usize, socket: Socket) -> io::Result<()> {
        self.generation = self.generation.wrapping_add(1) & (u32::MAX >> 1);
        let slot = Slot {
            socket,
            generation: self.generation,
            flying: Vec::new(),
            in_flight: false,
            refused: false,
        };
        self.slots[index] = Some(slot);
        self.receive(index);
        Ok(())
    }

    fn remove(&mut self, index: usize) {
        let Some(slot) = self.slots[index].take() else { return };
        // Entries that still wait in the queue name the descriptor by number,
        // which the next socket may get.
        if !self.ring.submission().is_empty() {
            let _ = self.ring.submit();
        }
        // The kernel holds on to the socket while operations are under way;
        // this ends them. It fails where the connection is already gone.
        let _ = rustix::net::shutdown(&slot.socket, rustix::net::Shutdown::Both);
        if slot.in_flight {
            let user_data = user_data(SEND, slot.generation, index);
            self.ghosts.push(Ghost { user_data, _flying: slot.flying });
        }
    }

    #[inline]
    fn send(&mut self, index: usize, out: &mut Vec<u8>) {
        let Some(slot) = &mut self.slots[index] else { return };
        if out.is_empty() {
            return;
        }
        if slot.in_flight {
            slot.refused = true;
            return;
        }
        slot.flying.clear();
        std::mem::swap(&mut slot.flying, out);
        self.fly(index);
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        self.return_lent();
        // Sends complete while they are submitted; without counting them the
        // wait would end at once, with nothing but their completions.
        let want = std::mem::take(&mut self.sends).min(COMPLETIONS as usize / 2) + 1;
        self.enter(want, timeout)
    }

    #[inline]
    fn next(&mut self) -> Option<(usize, Input<'_>)> {
        self.return_lent();
        loop {
            let entry = self.ring.completion().next()?;
            let (result, flags, user) = (entry.result(), entry.flags(), entry.user_data());
            if !cqueue::more(flags) {
                self.operations -= 1;
            }
            let index = user as u32 as usize;
            let generation = ((user & !SEND) >> 32) as u32;
            let current = matches!(&self.slots[index], Some(slot) if slot.generation == generation);
            if user & SEND != 0 {
                if !current {
                    self.ghosts.retain(|ghost| ghost.user_data != user);
                    continue;
                }
                let Some(slot) = &mut self.slots[index] else { continue };
                slot.in_flight = false;
                if result < 0 {
                    return Some(self.closed(index, Some(-result)));
                }
                if (result as usize) < slot.flying.len() {
                    // A signal can end even a send that waits for all.
                    slot.flying.drain(..result as usize);
                    self.fly(index);
                    continue;
                }
                if std::mem::take(&mut slot.refused) {
                    return Some((index, Input::Writable));
                }
                continue;
            }
            let buffer = cqueue::buffer_select(flags);
            if !current {
                if let Some(id) = buffer {
                    self.pool.put(id);
                }
                continue;
            }
            if !cqueue::more(flags) && (result > 0 || result == -libc::ENOBUFS) {
                self.receive(index);
            }
            match (result, buffer) {
                (count, Some(id)) if count > 0 => {
                    self.lent = Some(id);
                    let address = self.pool.address(id);
                    let count = (count as usize).min(BUFFER_BYTES);
                    // SAFETY: the kernel took buffer `id` out of its ring and
                    // wrote `count` bytes into it; it gets the buffer back in
                    // `return_lent`, which needs this borrow to be over.
                    let bytes = unsafe { std::slice::from_raw_parts(address.as_ptr(), count) };
                    return Some((index, Input::Bytes(bytes)));
                }
                (result, Some(id)) => {
                    self.pool.put(id);
                    return Some(self.closed(index, (result < 0).then_some(-result)));
                }
                (0, None) => return Some(self.closed(index, None)),
                (result, None) if result == -libc::ENOBUFS => {}
                (result, None) => return Some(self.closed(index, Some(result.abs()))),
            }
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        for index in 0..self.slots.len() {
            self.remove(index);
        }
        let until = Instant::now() + Duration::from_secs(1);
        while self.operations > 0 && Instant::now() < until {
            if self.enter(1, Duration::from_millis(10)).is_err() {
                break;
            }
            while self.next().is_some() {}
        }
        if self.operations > 0 {
            // The kernel may still write: the memory is given up for lost.
            std::mem::forget(std::mem::take(&mut self.ghosts));
            std::mem::forget(std::mem::replace(&mut self.pool, Pool::new()));
        }
    }
}
