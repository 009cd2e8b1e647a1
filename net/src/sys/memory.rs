//! Memory straight from the kernel: a core's arena, and the rings' buffers.
//!
//! An arena is reserved, not taken: `MAP_NORESERVE` and no prefault, so a node
//! started with `-m 65536` uses what its items use. Transparent huge pages are
//! asked for (`MADV_HUGEPAGE`): without them a pipelined get costs 1.3 to 1.5
//! times the CPU, for the TLB. With `-L` explicit huge pages are taken from the
//! system's pool instead; with too few there, the caller takes others.

use std::io;
use std::ptr::NonNull;

/// Size of a huge page on x86-64 and arm64 with 4 KiB pages.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A private anonymous mapping, given back on drop.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    /// What was mapped, around the aligned part.
    whole: NonNull<u8>,
    whole_bytes: usize,
}

// SAFETY: a mapping is plain memory that belongs to whoever holds this value;
// `&Mapping` gives out only its address.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// How an arena got its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Ordinary pages: the kernel refused to merge them.
    Ordinary,
    /// Transparent huge pages were asked for.
    Transparent,
    /// Explicit huge pages (`-L`).
    Explicit,
}

impl Mapping {
    /// Zeroed ordinary pages.
    pub fn new(bytes: usize) -> io::Result<Mapping> {
        let (whole, whole_bytes) = map(bytes.max(1), 0)?;
        Ok(Mapping { base: whole, bytes, whole, whole_bytes })
    }

    /// An arena of `bytes`, aligned for huge pages.
    pub fn arena(bytes: usize, explicit_huge_pages: bool) -> io::Result<(Mapping, Pages)> {
        if explicit_huge_pages {
            let whole_bytes = bytes.next_multiple_of(HUGE_PAGE_BYTES);
            let (whole, whole_bytes) = map(whole_bytes, libc::MAP_HUGETLB)?;
            return Ok((Mapping { base: whole, bytes, whole, whole_bytes }, Pages::Explicit));
        }
        let (whole, whole_bytes) = map(bytes + HUGE_PAGE_BYTES, libc::MAP_NORESERVE)?;
        let skip = whole.as_ptr().align_offset(HUGE_PAGE_BYTES);
        // SAFETY: `skip` is below HUGE_PAGE_BYTES, by which the mapping is larger.
        let base = unsafe { whole.add(skip) };
        let mapping = Mapping { base, bytes, whole, whole_bytes };
        // An arena must not end up in a core dump, and a fork (nobody forks)
        // must not double it.
        mapping.advise(0, bytes, libc::MADV_DONTDUMP);
        let huge = mapping.advise(0, bytes, libc::MADV_HUGEPAGE);
        Ok((mapping, if huge { Pages::Transparent } else { Pages::Ordinary }))
    }

    /// First byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Usable bytes from the base on.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives the pages of a range back to the kernel; they read as zero again.
    ///
    /// # Safety
    /// Nobody may hold a reference into the range, or care for what is in it.
    pub unsafe fn release(&self, offset: usize, bytes: usize) {
        self.advise(offset, bytes, libc::MADV_DONTNEED);
    }

    fn advise(&self, offset: usize, bytes: usize, advice: i32) -> bool {
        assert!(offset <= self.bytes && bytes <= self.bytes - offset);
        // SAFETY: the range lies within the mapping. The only advice that
        // changes contents is DONTNEED, whose caller answers for the range.
        unsafe { libc::madvise(self.base.add(offset).as_ptr().cast(), bytes, advice) == 0 }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` returned; nobody can use it after us.
        unsafe { libc::munmap(self.whole.as_ptr().cast(), self.whole_bytes) };
    }
}

fn map(bytes: usize, flags: i32) -> io::Result<(NonNull<u8>, usize)> {
    // SAFETY: an anonymous mapping at an address of the kernel's choice.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast())
        .map(|base| (base, bytes))
        .ok_or_else(|| io::Error::other("mmap returned address zero"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arena_is_aligned_zeroed_and_gives_pages_back() {
        let (arena, _) = Mapping::arena(5 << 20, false).unwrap();
        assert_eq!(arena.base().as_ptr().align_offset(HUGE_PAGE_BYTES), 0);
        let last = arena.bytes() - 1;
        // SAFETY: within the mapping; nobody else uses it.
        unsafe {
            assert_eq!(*arena.base().as_ptr(), 0);
            *arena.base().as_ptr() = 7;
            *arena.base().as_ptr().add(last) = 8;
            arena.release(0, 4 << 20);
            assert_eq!(*arena.base().as_ptr(), 0);
            assert_eq!(*arena.base().as_ptr().add(last), 8);
        }
    }

    #[test]
    fn too_many_explicit_huge_pages_are_an_error_not_a_crash() {
        // No machine that runs tests has a terabyte of them set aside.
        assert!(Mapping::arena(1 << 40, true).is_err());
    }
}
