//! Output buffers of a core, used again and again.
//!
//! A connection holds a buffer only while it has something to say. The pool is
//! last in, first out, so that the buffer handed out next is the one whose
//! cache lines are warm, and it is bounded in bytes: what does not fit goes
//! back to the allocator.

/// Capacity of a fresh buffer: the answers of a few dozen small gets.
const FRESH_BYTES: usize = 4 << 10;

/// A bounded stack of empty byte vectors.
#[derive(Debug)]
pub struct Buffers {
    spare: Vec<Vec<u8>>,
    spare_bytes: usize,
    spare_bytes_max: usize,
    buffer_bytes_max: usize,
}

impl Buffers {
    /// A pool that keeps at most `spare_bytes_max` bytes, in buffers of at most
    /// `buffer_bytes_max` each.
    pub fn new(spare_bytes_max: usize, buffer_bytes_max: usize) -> Buffers {
        Buffers { spare: Vec::new(), spare_bytes: 0, spare_bytes_max, buffer_bytes_max }
    }

    /// An empty buffer with some capacity.
    #[inline]
    pub fn take(&mut self) -> Vec<u8> {
        match self.spare.pop() {
            Some(buffer) => {
                self.spare_bytes -= buffer.capacity();
                buffer
            }
            None => Vec::with_capacity(FRESH_BYTES),
        }
    }

    /// An empty buffer for `bytes`, to be kept beyond this turn: not a large one.
    pub fn take_small(&mut self, bytes: usize) -> Vec<u8> {
        match self.spare.last() {
            Some(last) if last.capacity() <= FRESH_BYTES.max(2 * bytes) => self.take(),
            _ => Vec::with_capacity(FRESH_BYTES.max(bytes)),
        }
    }

    /// Takes a buffer back.
    #[inline]
    pub fn put(&mut self, mut buffer: Vec<u8>) {
        let bytes = buffer.capacity();
        if bytes == 0
            || bytes > self.buffer_bytes_max
            || self.spare_bytes + bytes > self.spare_bytes_max
        {
            return;
        }
        buffer.clear();
        self.spare_bytes += bytes;
        self.spare.push(buffer);
    }

    /// Bytes held in the pool.
    pub fn spare_bytes(&self) -> usize {
        self.spare_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warmest_buffer_comes_first_and_the_pool_is_bounded() {
        let mut pool = Buffers::new(10_000, 8_000);
        let mut first = pool.take();
        first.extend_from_slice(&[1; 10]);
        let address = first.as_ptr();
        pool.put(Vec::with_capacity(5_000));
        pool.put(first);
        let again = pool.take();
        assert_eq!(again.as_ptr(), address);
        assert!(pool.take().is_empty());

        pool.put(Vec::with_capacity(9_000));
        assert_eq!(pool.spare_bytes(), 0, "too large to keep");
        pool.put(Vec::with_capacity(6_000));
        pool.put(Vec::with_capacity(6_000));
        assert_eq!(pool.spare_bytes(), 6_000, "the pool is full");
    }
}
