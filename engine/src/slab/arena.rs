//! The memory of a shard: one region of 64 KiB pages, taken at start.
//!
//! This file owns the region and every raw access to it. What it hands out are
//! short slices and plain numbers at a checked offset; who owns which bytes is
//! the slab's business.
//!
//! Two kinds of bytes inside the region are also reached by pointers that this
//! file does not see: index pages (through their allocator) and the value
//! bytes of a [`Reservation`](crate::Reservation) or [`Pin`](crate::Pin), which
//! another core may fill or read. The slab never asks for a slice of the
//! former, and asks for one of the latter only to read a pinned value, or after
//! the reservation came back.

use alloc::alloc::{alloc_zeroed, dealloc, handle_alloc_error};
use alloc::sync::Arc;
use core::alloc::Layout;
use core::any::Any;
use core::fmt;
use core::ptr::NonNull;

/// Bytes of a slab page.
pub const PAGE_BYTES: usize = 64 << 10;

/// The memory of a shard: a fixed region handed in by the caller.
pub struct Arena {
    base: NonNull<u8>,
    bytes: usize,
    /// Keeps the region mapped; dropped with the arena.
    owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the region belongs to this value alone (the contract of `from_raw`),
// so it moves between threads with it; its owner is Send and Sync itself.
unsafe impl Send for Arena {}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// A zeroed allocation that frees itself.
struct HeapRegion {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it only remembers what to free.
unsafe impl Send for HeapRegion {}
// SAFETY: as above; a shared reference can do nothing.
unsafe impl Sync for HeapRegion {}

impl Drop for HeapRegion {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `Arena::heap`.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

impl Arena {
    /// A zeroed region on the heap; for tests and tools.
    pub fn heap(bytes: usize) -> Arena {
        // Room to round the start up to a page. The allocation itself asks for
        // little alignment, so that the allocator can hand out lazily zeroed
        // memory.
        let bytes = bytes.next_multiple_of(PAGE_BYTES).max(PAGE_BYTES);
        let layout = Layout::from_size_align(bytes + PAGE_BYTES, 16)
            .expect("an arena fits the address space");
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        let owner = Arc::new(HeapRegion { start, layout });
        // SAFETY: the region was just allocated, is initialised (zero) and lives as long as `owner`.
        unsafe { Arena::from_raw(start, bytes + PAGE_BYTES, owner) }
    }

    /// An arena over memory that the caller mapped. Its start is rounded up and
    /// its end down to whole pages of 64 KiB.
    ///
    /// # Safety
    /// `bytes` bytes from `base` are readable, writable and initialised (a
    /// fresh anonymous mapping is), nobody else touches them, and they stay so
    /// until `owner` is dropped.
    pub unsafe fn from_raw(
        base: NonNull<u8>,
        bytes: usize,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Arena {
        let skipped = base.as_ptr().align_offset(PAGE_BYTES).min(bytes);
        // SAFETY: `skipped` is at most `bytes`.
        let base = unsafe { base.add(skipped) };
        Arena { base, bytes: (bytes - skipped) / PAGE_BYTES * PAGE_BYTES, owner }
    }

    /// Usable bytes, a multiple of [`PAGE_BYTES`].
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whoever keeps the region alive; a pin or reservation holds on to it too.
    pub(crate) fn owner(&self) -> Arc<dyn Any + Send + Sync> {
        self.owner.clone()
    }

    #[inline(always)]
    fn check(&self, offset: usize, len: usize) {
        assert!(
            offset <= self.bytes && len <= self.bytes - offset,
            "an access outside of the arena"
        );
    }

    /// The address of `len` bytes at `offset`.
    #[inline(always)]
    pub(crate) fn pointer(&self, offset: usize, len: usize) -> NonNull<u8> {
        self.check(offset, len);
        // SAFETY: in bounds by the check.
        unsafe { self.base.add(offset) }
    }

    /// `len` bytes at `offset`.
    #[inline(always)]
    pub(crate) fn slice(&self, offset: usize, len: usize) -> &[u8] {
        let start = self.pointer(offset, len);
        // SAFETY: in bounds, initialised; exclusive access lies with the slab
        // (the module's header), which is borrowed shared here.
        unsafe { core::slice::from_raw_parts(start.as_ptr(), len) }
    }

    /// `len` writable bytes at `offset`.
    #[inline(always)]
    pub(crate) fn slice_mut(&mut self, offset: usize, len: usize) -> &mut [u8] {
        let start = self.pointer(offset, len);
        // SAFETY: in bounds, initialised; the slab is borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(start.as_ptr(), len) }
    }

    /// Copies `len` bytes inside the arena; the ranges may overlap.
    pub(crate) fn copy(&mut self, from: usize, to: usize, len: usize) {
        let source = self.pointer(from, len);
        let target = self.pointer(to, len);
        // SAFETY: both ranges are in bounds; `copy` allows overlap.
        unsafe { core::ptr::copy(source.as_ptr(), target.as_ptr(), len) }
    }

    /// A reference to a `T` at `offset`, which must be aligned for it.
    #[inline(always)]
    pub(crate) fn cast<T: Plain>(&self, offset: usize) -> &T {
        debug_assert!(offset.is_multiple_of(align_of::<T>()));
        let at = self.pointer(offset, size_of::<T>());
        // SAFETY: in bounds; pages are aligned to 64 KiB, so an aligned offset
        // is an aligned address; every bit pattern is a valid `T`.
        unsafe { at.cast::<T>().as_ref() }
    }

    /// A writable reference to a `T` at `offset`, which must be aligned for it.
    #[inline(always)]
    pub(crate) fn cast_mut<T: Plain>(&mut self, offset: usize) -> &mut T {
        debug_assert!(offset.is_multiple_of(align_of::<T>()));
        let at = self.pointer(offset, size_of::<T>());
        // SAFETY: as in `cast`, and the slab is borrowed exclusively.
        unsafe { at.cast::<T>().as_mut() }
    }

    /// `count` values of `T` from `offset`, which must be aligned for it.
    #[inline(always)]
    pub(crate) fn cast_slice<T: Plain>(&self, offset: usize, count: usize) -> &[T] {
        debug_assert!(offset.is_multiple_of(align_of::<T>()));
        let at = self.pointer(offset, size_of::<T>() * count);
        // SAFETY: as in `cast`.
        unsafe { core::slice::from_raw_parts(at.cast::<T>().as_ptr(), count) }
    }

    /// Asks the processor to load the cache line at `offset`.
    #[inline(always)]
    pub(crate) fn prefetch(&self, offset: usize) {
        prefetch_line(self.base.as_ptr().wrapping_add(offset));
    }
}

/// Asks the processor to load the cache line at an address.
#[inline(always)]
pub(crate) fn prefetch_line(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch never faults, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Types without padding for which every bit pattern is a value.
///
/// # Safety
/// Just that.
pub(crate) unsafe trait Plain {}
// SAFETY: integers have neither padding nor invalid patterns.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
