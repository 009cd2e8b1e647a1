//! A core's shard, lent to others while its core sleeps.
//!
//! A request for another core's key is a message, and answering it wakes that
//! core if it sleeps: some microseconds of two CPUs for a lookup of a fraction
//! of one. But a core that sleeps in the kernel does not touch its shard. So it
//! puts the shard down before it sleeps and takes it up when it wakes; in
//! between, any other core may *visit* it for one request. Cores that are busy
//! never lend, and are sent messages, whose cost many requests share then.
//!
//! ```text
//!            put_down              visit
//!   HELD  <----------->   FREE  <---------->  VISITED
//!            take_up              go_home
//! ```
//!
//! One word says who may touch the shard; whoever changes it from `FREE` has
//! the shard for himself. A visit is one lookup long, so a core that wakes
//! during one spins. Nobody waits while visiting: there is no deadlock.

use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

/// Its own core works with it.
const HELD: u8 = 0;
/// Nobody works with it.
const FREE: u8 = 1;
/// Another core works with it.
const VISITED: u8 = 2;
/// Its core has ended.
const GONE: u8 = 3;
/// Looks at a visited shard before the visitor is let run: on a machine with
/// fewer CPUs than threads it may have been interrupted.
const SPINS_MAX: u32 = 200;

/// Something with one user at a time.
#[derive(Debug)]
struct Lendable<T> {
    state: AtomicU8,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only by the one who has moved `state` from FREE
// to HELD or VISITED (see `Seat::at`), so it changes threads but is never used
// by two at once: that takes `T: Send`, not `Sync`.
unsafe impl<T: Send> Sync for Lendable<T> {}

impl<T> Lendable<T> {
    /// Takes it if nobody has it.
    fn take(&self, state: u8) -> bool {
        self.state.compare_exchange(FREE, state, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }
}

/// What every core puts into the other cores' reach.
#[derive(Debug)]
pub struct Lenders<T>(Box<[OnceLock<Arc<Lendable<T>>>]>);

impl<T> Lenders<T> {
    /// For so many cores, none of which has come yet.
    pub fn new(cores: u32) -> Lenders<T> {
        Lenders((0..cores).map(|_| OnceLock::new()).collect())
    }
}

/// A core's place at its own value, or at another core's that it visits.
#[derive(Debug)]
pub struct Seat<T> {
    own: Arc<Lendable<T>>,
    /// The others' values, as far as they were met.
    peers: Vec<Option<Arc<Lendable<T>>>>,
    visited: Option<u32>,
    /// The value that this seat has for itself: its own, which is HELD, or that
    /// of `visited`, which is VISITED. None while its own is put down.
    at: Option<NonNull<T>>,
}

// SAFETY: `at` points into `own` or into one of `peers`, which are Send; the
// value moves with the seat.
unsafe impl<T: Send> Send for Seat<T> {}

impl<T> Seat<T> {
    /// A seat that holds `value`.
    pub fn new(value: T) -> Seat<T> {
        let own = Arc::new(Lendable { state: AtomicU8::new(HELD), value: UnsafeCell::new(value) });
        let at = NonNull::new(own.value.get());
        Seat { own, peers: Vec::new(), visited: None, at }
    }

    /// Lets others visit it, as the value of core `id`.
    pub fn enter(&mut self, lenders: &Lenders<T>, id: u32) {
        // A second one for the same core would be a bug of the caller; then
        // the first is visited, and the second never.
        let _ = lenders.0[id as usize].set(Arc::clone(&self.own));
        self.peers.resize_with(lenders.0.len(), || None);
    }

    /// Before its core sleeps: others may visit it.
    pub fn put_down(&mut self) {
        debug_assert!(self.visited.is_none());
        if self.at.take().is_some() {
            self.own.state.store(FREE, Ordering::Release);
        }
    }

    /// When its core is awake. Waits for the end of a visit.
    pub fn take_up(&mut self) {
        if self.at.is_some() {
            return;
        }
        let mut spins = 0;
        while !self.own.take(HELD) {
            spins += 1;
            if spins % SPINS_MAX == 0 {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        self.at = NonNull::new(self.own.value.get());
    }

    /// Sits down at the value of core `id`, if that sleeps; then everything
    /// goes there until [`go_home`](Seat::go_home).
    #[inline]
    pub fn visit(&mut self, lenders: &Lenders<T>, id: u32) -> bool {
        debug_assert!(self.visited.is_none() && self.at.is_some());
        let Some(place) = self.peers.get_mut(id as usize) else { return false };
        if place.is_none() {
            *place = lenders.0[id as usize].get().cloned();
        }
        let Some(peer) = place else { return false };
        // Most often it is busy: look before the line is asked for in writing.
        if peer.state.load(Ordering::Relaxed) != FREE || !peer.take(VISITED) {
            return false;
        }
        self.at = NonNull::new(peer.value.get());
        self.visited = Some(id);
        true
    }

    /// Ends a visit.
    #[inline]
    pub fn go_home(&mut self) {
        let Some(id) = self.visited.take() else { return };
        self.at = NonNull::new(self.own.value.get());
        if let Some(peer) = &self.peers[id as usize] {
            peer.state.store(FREE, Ordering::Release);
        }
    }

    fn get(&self) -> NonNull<T> {
        self.at.expect("a core that sleeps does not use its shard")
    }
}

impl<T> std::ops::Deref for Seat<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: nobody else touches the value (see `at`), and `own` and
        // `peers` keep it alive.
        unsafe { self.get().as_ref() }
    }
}

impl<T> std::ops::DerefMut for Seat<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: nobody else touches the value (see `at`), the borrow of the
        // seat covers the value's, and `own` and `peers` keep it alive.
        unsafe { self.get().as_mut() }
    }
}

impl<T> Drop for Seat<T> {
    fn drop(&mut self) {
        self.go_home();
        self.take_up();
        self.own.state.store(GONE, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds to two numbers that must stay equal.
    fn touch(value: &mut (u64, u64)) {
        assert_eq!(value.0, value.1);
        value.0 += 1;
        std::hint::black_box(&value.0);
        value.1 += 1;
    }

    #[test]
    fn only_what_is_put_down_can_be_visited() {
        let lenders = Lenders::new(3);
        let (mut a, mut b) = (Seat::new((0, 0)), Seat::new((0, 0)));
        a.enter(&lenders, 0);
        b.enter(&lenders, 1);
        assert!(!a.visit(&lenders, 1), "it is held");
        assert!(!a.visit(&lenders, 2), "there is nobody");
        b.put_down();
        assert!(a.visit(&lenders, 1));
        touch(&mut a);
        a.go_home();
        assert_eq!(*a, (0, 0));
        b.take_up();
        assert_eq!(*b, (1, 1));
        drop(b);
        assert!(!a.visit(&lenders, 1), "it is gone");
    }

    #[test]
    fn nobody_meets_anybody() {
        let rounds = if cfg!(miri) { 300 } else { 200_000 };
        let lenders = Lenders::new(3);
        let total = AtomicU8::new(0);
        let sums: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3)
                .map(|id| {
                    let (lenders, total) = (&lenders, &total);
                    scope.spawn(move || {
                        let mut seat = Seat::new((0, 0));
                        seat.enter(lenders, id);
                        let mut touched = 0;
                        for round in 0..rounds {
                            touch(&mut seat);
                            touched += 1;
                            if seat.visit(lenders, (id + 1 + round % 2) % 3) {
                                touch(&mut seat);
                                touched += 1;
                                seat.go_home();
                            }
                            seat.put_down();
                            std::hint::spin_loop();
                            seat.take_up();
                        }
                        seat.put_down();
                        // Late visitors still come.
                        total.fetch_add(1, Ordering::Relaxed);
                        while total.load(Ordering::Relaxed) < 3 {
                            std::thread::yield_now();
                        }
                        seat.take_up();
                        (touched, seat.0)
                    })
                })
                .collect();
            let done: Vec<(u64, u64)> =
                threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            vec![
                done.iter().map(|(touched, _)| touched).sum(),
                done.iter().map(|(_, sum)| sum).sum(),
            ]
        });
        assert_eq!(sums[0], sums[1], "every touch is there");
    }
}
