//! The buffer size for a peer's next bytes.
//!
//! Small messages are received into a buffer that all connections share, and copied out of it: a
//! copy of a few hundred bytes is cheaper than an allocation of the wrong size. From a peer that
//! has been sending large ones, data is received directly into an object of about the size it
//! sends.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use super::bare_calls;

/// The size of the shared receive buffer, in bytes.
pub const SCRATCH_SIZE: usize = 64 * 1024;
/// The most that is received per readiness event, in bytes; asyncio's `max_size`.
pub const MAX_RECV: usize = 256 * 1024;
/// Smaller messages, in bytes, pass through the shared buffer.
const DIRECT_FROM: usize = 4 * 1024;

/// The message size expected from one peer.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecvSize {
    expected: u32,
    /// Whether the last message was smaller than half of `expected`.
    shrinking: bool,
}

/// Where to receive the next bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Into the buffer that all connections share.
    Scratch,
    /// Into a new object with room for this many bytes.
    Direct(usize),
}

/// The result of one receive.
#[derive(Debug)]
pub enum Received {
    /// The number of bytes received, at least one.
    Data(usize),
    /// The peer has ended its side.
    Eof,
    /// Nothing to receive now.
    Blocked,
    /// The connection has failed.
    Failed(io::Error),
}

impl RecvSize {
    /// Where to receive the next bytes.
    #[inline]
    pub fn room(&self) -> Room {
        match self.expected as usize {
            small if small < DIRECT_FROM => Room::Scratch,
            large => Room::Direct(large),
        }
    }

    /// Records that `received` bytes came into a buffer of `room` bytes. Grows at once; shrinks
    /// only after two small messages in a row.
    #[inline]
    pub fn note(&mut self, received: usize, room: usize) {
        let expected = self.expected as usize;
        if received >= room {
            self.expected = (room * 2).min(MAX_RECV) as u32;
            self.shrinking = false;
        } else if received > expected {
            // One byte more than the message: otherwise it would look like part of a larger one.
            let roomy = match received < DIRECT_FROM {
                true => received,
                false => (received + 1).next_multiple_of(DIRECT_FROM),
            };
            self.expected = roomy.min(MAX_RECV) as u32;
            self.shrinking = false;
        } else if received < expected / 2 {
            if self.shrinking {
                self.expected /= 2;
            }
            self.shrinking = !self.shrinking;
        } else {
            self.shrinking = false;
        }
    }
}

/// Calls `recv` once. `EINTR` counts as blocked: the descriptor will be reported again.
#[inline]
pub fn recv(fd: RawFd, room: &mut [MaybeUninit<u8>]) -> Received {
    received(bare_calls::recv(fd, room))
}

/// Calls `read` once, for descriptors that are not sockets.
#[inline]
pub fn read(fd: RawFd, room: &mut [MaybeUninit<u8>]) -> Received {
    // SAFETY: the kernel writes at most `room.len()` bytes to `room`.
    received(unsafe { libc::read(fd, room.as_mut_ptr().cast(), room.len()) })
}

#[inline]
fn received(count: isize) -> Received {
    match usize::try_from(count) {
        Ok(0) => Received::Eof,
        Ok(count) => Received::Data(count),
        Err(_) => {
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Received::Blocked,
                _ => Received::Failed(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(size: &mut RecvSize, mut len: usize) -> usize {
        let mut calls = 0;
        while len > 0 {
            let room = match size.room() {
                Room::Scratch => SCRATCH_SIZE,
                Room::Direct(room) => room,
            };
            let received = len.min(room);
            size.note(received, room);
            len -= received;
            calls += 1;
        }
        calls
    }

    #[test]
    fn small_messages_stay_in_the_shared_buffer() {
        let mut size = RecvSize::default();
        for _ in 0..100 {
            assert_eq!(message(&mut size, 1024), 1);
            assert_eq!(size.room(), Room::Scratch);
        }
    }

    #[test]
    fn large_messages_get_an_object_of_their_own_that_they_fit_in() {
        let mut size = RecvSize::default();
        message(&mut size, 16 * 1024);
        for _ in 0..100 {
            let Room::Direct(room) = size.room() else {
                panic!("16 KiB are large")
            };
            assert!(room >= 16 * 1024, "{room}");
            assert_eq!(message(&mut size, 16 * 1024), 1);
        }
        // Some spare room, so that a message of the usual size doesn't look like part of a larger
        // one.
        assert!(size.room() != Room::Direct(16 * 1024));
    }

    #[test]
    fn a_single_small_message_changes_nothing_but_a_habit_does() {
        let mut size = RecvSize::default();
        assert_eq!(message(&mut size, 100_000), 2);
        assert_eq!(message(&mut size, 100_000), 1);
        let before = size.room();
        message(&mut size, 10);
        assert_eq!(size.room(), before);
        for _ in 0..40 {
            message(&mut size, 10);
        }
        assert_eq!(size.room(), Room::Scratch);
    }

    proptest! {
        #[test]
        fn room_is_bounded(lens in proptest::collection::vec(1_usize..2_000_000, 0..50)) {
            let mut size = RecvSize::default();
            for len in lens {
                message(&mut size, len);
                if let Room::Direct(room) = size.room() {
                    prop_assert!((DIRECT_FROM..=MAX_RECV).contains(&room));
                }
            }
        }
    }
}
