//! Buffers that go round: the chunks that the Rust face receives into and sends from.
//!
//! A connection holds a chunk only while it has unread or unsent bytes; then it goes back to its
//! thread's pool. So a server that answers message by message allocates nothing per message, and an
//! idle connection holds no buffer at all.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};

use rondel_engine::transport::recv_size::{Received, Room};

/// What small messages are received into, in bytes.
const SMALL: usize = 4 * 1024;
/// Larger buffers than this, in bytes, go back to the allocator,
const MAX_POOLED: usize = 64 * 1024;
/// and so do more than this many.
const MAX_POOL: usize = 64;

thread_local! {
    /// The buffer that was freed last: most of the time the only one that goes round.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes in a buffer of the pool.
#[derive(Debug)]
pub(crate) struct Chunk(ManuallyDrop<Vec<u8>>);

impl Chunk {
    #[inline]
    fn with_capacity(capacity: usize) -> Self {
        let spare = SPARE.take();
        if spare.capacity() >= capacity.max(1) {
            return Self(ManuallyDrop::new(spare));
        }
        Self::pooled(spare, capacity)
    }

    /// There was no spare buffer, or it is too small.
    #[inline(never)]
    fn pooled(spare: Vec<u8>, capacity: usize) -> Self {
        if spare.capacity() > 0 {
            put_back(spare);
        }
        let pooled = POOL.with_borrow_mut(Vec::pop).unwrap_or_default();
        if pooled.capacity() >= capacity.max(1) {
            return Self(ManuallyDrop::new(pooled));
        }
        Self(ManuallyDrop::new(Vec::with_capacity(capacity.max(SMALL))))
    }

    /// A program's own buffer. It goes to the pool, if it is not too large for it.
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        Self(ManuallyDrop::new(bytes))
    }

    /// A copy of `bytes`.
    #[inline]
    pub(crate) fn copy_of(bytes: &[u8]) -> Self {
        let mut chunk = Self::with_capacity(bytes.len());
        chunk.0.extend_from_slice(bytes);
        chunk
    }

    /// A copy of `bytes` with room for more behind it: as much in all as waits already, but no more
    /// than what is small.
    pub(crate) fn growing_copy_of(bytes: &[u8], waiting: usize) -> Self {
        let mut chunk = Self::with_capacity(bytes.len().max(waiting.min(MAX_POOLED)));
        chunk.0.extend_from_slice(bytes);
        chunk
    }

    /// Adds what there is room for; gives how much that was.
    pub(crate) fn extend(&mut self, bytes: &[u8]) -> usize {
        let room = self.0.capacity() - self.0.len();
        let added = &bytes[..bytes.len().min(room)];
        self.0.extend_from_slice(added);
        added.len()
    }

    /// The same, as `ReadBuffer` asks for it.
    pub(crate) fn try_copy_of(bytes: &[u8]) -> io::Result<Self> {
        Ok(Self::copy_of(bytes))
    }

    /// Receives into a new chunk. Gives it with what `recv` found, and how much room there was.
    #[inline]
    pub(crate) fn receive(
        room: Room,
        recv: impl FnOnce(&mut [MaybeUninit<u8>]) -> Received,
    ) -> (Self, Received, usize) {
        let size = match room {
            Room::Scratch => SMALL,
            Room::Direct(size) => size,
        };
        let mut chunk = Self::with_capacity(size);
        let received = recv(&mut chunk.0.spare_capacity_mut()[..size]);
        if let Received::Data(count) = received {
            // SAFETY: the kernel has written so many bytes at the front of the spare capacity.
            unsafe { chunk.0.set_len(count) };
        }
        (chunk, received, size)
    }
}

impl AsRef<[u8]> for Chunk {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Chunk {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the field is not looked at again: this is its end.
        let mut buffer = unsafe { ManuallyDrop::take(&mut self.0) };
        if buffer.capacity() > MAX_POOLED {
            return;
        }
        buffer.clear();
        // A thread that ends drops what it has left without its pool.
        let Ok(before) = SPARE.try_with(|spare| spare.replace(buffer)) else {
            return;
        };
        if before.capacity() > 0 {
            put_back(before);
        }
    }
}

#[inline(never)]
fn put_back(buffer: Vec<u8>) {
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < MAX_POOL {
            pool.push(buffer);
        }
    });
}
