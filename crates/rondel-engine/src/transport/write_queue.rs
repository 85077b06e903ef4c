//! The queue of data that a transport still has to send.
//!
//! Chunks are kept as the program passed them, without copying. One chunk is sent with `send`,
//! several with one `sendmsg`. A queue of at most one chunk owns no memory: an idle connection
//! stays small, and the usual single write per step does not allocate.

use std::collections::{TryReserveError, VecDeque};
use std::io;
use std::mem;
use std::os::fd::RawFd;

use super::bare_calls;
use crate::refused::Replaceable;

static SENDMSG: Replaceable = Replaceable::new();
static WRITEV: Replaceable = Replaceable::new();

/// The most chunks per `sendmsg`: the kernel's `UIO_MAXIOV`, Python's `SC_IOV_MAX`.
const IOV_MAX: usize = 1024;
/// Up to this many chunks are described on the stack, more in a `Vec`.
const IOV_INLINE: usize = 16;

/// Chunks in the order in which they will be sent.
#[derive(Debug)]
pub struct WriteQueue<C> {
    first: Option<C>,
    /// How many bytes of `first` have been sent.
    sent: usize,
    /// The chunks after `first`. Allocated for the second chunk, dropped when the queue drains.
    #[allow(
        clippy::box_collection,
        reason = "most queues never have a second chunk"
    )]
    rest: Option<Box<VecDeque<C>>>,
    /// How many bytes are still to be sent.
    len: usize,
}

/// The result of [`WriteQueue::flush`].
#[derive(Debug)]
pub enum Flushed {
    /// The kernel took everything.
    Drained,
    /// The kernel takes no more now. Continue when the descriptor is writable.
    Blocked,
    /// The connection has failed; unsent data is still queued.
    Failed(io::Error),
}

impl<C> Default for WriteQueue<C> {
    fn default() -> Self {
        Self {
            first: None,
            sent: 0,
            rest: None,
            len: 0,
        }
    }
}

impl<C: AsRef<[u8]>> WriteQueue<C> {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of queued bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the queue is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a chunk. An empty one is dropped.
    #[inline]
    pub fn push(&mut self, chunk: C) {
        let len = chunk.as_ref().len();
        if len == 0 {
            return;
        }
        self.len += len;
        if self.first.is_none() {
            self.first = Some(chunk);
        } else {
            self.rest.get_or_insert_default().push_back(chunk);
        }
    }

    /// Reserves memory for one more chunk.
    ///
    /// # Errors
    /// If there is no memory.
    #[inline]
    pub fn reserve(&mut self) -> Result<(), TryReserveError> {
        match &mut self.rest {
            Some(rest) => rest.try_reserve(1),
            // The first chunk is kept in the queue itself.
            None if self.first.is_none() => Ok(()),
            None => self.reserve_many(1),
        }
    }

    /// Reserves memory for `more` chunks.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn reserve_many(&mut self, more: usize) -> Result<(), TryReserveError> {
        let rest = match &mut self.rest {
            Some(rest) => rest,
            None => self.rest.insert(try_boxed()?),
        };
        rest.try_reserve(more)
    }

    /// Calls `extend` to add bytes to the last chunk, if there is one. Returns how many bytes
    /// `extend` says it has added.
    #[inline]
    pub fn extend_last(&mut self, extend: impl FnOnce(&mut C) -> usize) -> usize {
        let last = match &mut self.rest {
            Some(rest) if !rest.is_empty() => rest.back_mut(),
            _ => self.first.as_mut(),
        };
        let more = last.map_or(0, extend);
        self.len += more;
        more
    }

    /// Removes everything unsent. The chunks are returned so that they can be dropped where foreign
    /// destructors may run.
    #[must_use]
    pub fn take(&mut self) -> Self {
        mem::take(self)
    }

    /// The bytes of the chunks in the order in which they will be sent; the first chunk without its
    /// sent part.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let first = self.first.iter().map(|chunk| &chunk.as_ref()[self.sent..]);
        let (rest, more) = match &self.rest {
            Some(rest) => rest.as_slices(),
            None => (&[][..], &[][..]),
        };
        first.chain(rest.iter().chain(more).map(AsRef::as_ref))
    }

    /// The number of chunks.
    pub(super) fn count(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.as_ref().map_or(0, |rest| rest.len())
    }

    /// The chunks themselves, for garbage collector traversal.
    pub fn chunks(&self) -> impl Iterator<Item = &C> {
        self.first
            .iter()
            .chain(self.rest.iter().flat_map(|rest| rest.iter()))
    }

    /// Sends as much as the socket takes now. `EINTR` counts as blocked: the descriptor will be
    /// reported writable again.
    pub fn flush(&mut self, fd: RawFd) -> Flushed {
        self.flush_by(fd, &SOCKET)
    }

    /// As [`flush`](Self::flush), for descriptors that are not sockets. Whether a broken pipe
    /// raises `SIGPIPE` is the program's choice.
    pub fn flush_file(&mut self, fd: RawFd) -> Flushed {
        self.flush_by(fd, &FILE)
    }

    /// Records the result of a send that offered the whole queue to the kernel.
    pub(super) fn flushed(&mut self, result: io::Result<usize>) -> Flushed {
        match result {
            Ok(sent) => {
                self.advance(sent);
                match self.is_empty() {
                    true => Flushed::Drained,
                    false => Flushed::Blocked,
                }
            }
            Err(error) => blocked_or_failed(error),
        }
    }

    fn flush_by(&mut self, fd: RawFd, calls: &Calls) -> Flushed {
        while !self.is_empty() {
            match self.send(fd, calls) {
                Ok((sent, offered)) => {
                    self.advance(sent);
                    if sent < offered {
                        return Flushed::Blocked;
                    }
                }
                Err(error) => return blocked_or_failed(error),
            }
        }
        Flushed::Drained
    }

    /// Makes one system call. Returns how many bytes were sent, and how many were offered.
    fn send(&self, fd: RawFd, calls: &Calls) -> io::Result<(usize, usize)> {
        match (&self.first, &self.rest) {
            (Some(first), rest) if rest.is_none() || calls.several_refused.is_refused() => {
                let bytes = &first.as_ref()[self.sent..];
                Ok(((calls.one)(fd, bytes)?, bytes.len()))
            }
            _ => {
                const NONE: libc::iovec = libc::iovec {
                    iov_base: std::ptr::null_mut(),
                    iov_len: 0,
                };
                let mut inline = [NONE; IOV_INLINE];
                let chunks = self.count();
                let mut spilled;
                let vectors = if chunks <= IOV_INLINE {
                    &mut inline[..chunks]
                } else {
                    spilled = vec![NONE; chunks.min(IOV_MAX)];
                    &mut spilled[..]
                };
                let mut offered = 0;
                let mut free = vectors.iter_mut();
                // Not `for`: internal iteration is faster for chained iterators.
                let _all_or_full = self.iter().try_for_each(|bytes| {
                    let vector = free.next()?;
                    vector.iov_base = bytes.as_ptr().cast_mut().cast();
                    vector.iov_len = bytes.len();
                    offered += bytes.len();
                    Some(())
                });
                match (calls.several)(fd, vectors) {
                    Ok(sent) => Ok((sent, offered)),
                    Err(error) if calls.were_refused(&error) => self.send(fd, calls),
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// Removes the first `sent` bytes.
    fn advance(&mut self, mut sent: usize) {
        self.len -= sent;
        while let Some(first) = &self.first {
            let left = first.as_ref().len() - self.sent;
            if sent < left {
                self.sent += sent;
                return;
            }
            sent -= left;
            self.sent = 0;
            let rest = self.rest.as_mut();
            self.first = rest.and_then(|rest| rest.pop_front());
        }
        self.rest = None;
    }
}

/// `Box::default()`, where an allocation that fails is an error and does not end the process.
#[allow(clippy::box_collection, reason = "as the field is")]
fn try_boxed<C>() -> Result<Box<VecDeque<C>>, TryReserveError> {
    let mut one = Vec::new();
    one.try_reserve_exact(1)?;
    one.push(VecDeque::new());
    let one: *mut [VecDeque<C>] = Box::into_raw(one.into_boxed_slice());
    // SAFETY: a boxed slice of one element was allocated as a box of that element is: with its size
    // and its alignment.
    Ok(unsafe { Box::from_raw(one.cast()) })
}

fn blocked_or_failed(error: io::Error) -> Flushed {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Flushed::Blocked,
        _ => Flushed::Failed(error),
    }
}

/// The system calls that write to a kind of descriptor.
struct Calls {
    /// Writes one chunk.
    one: fn(RawFd, &[u8]) -> io::Result<usize>,
    /// Writes several chunks, described by vectors that point to memory which outlives the call.
    several: fn(RawFd, &mut [libc::iovec]) -> io::Result<usize>,
    several_refused: &'static Replaceable,
}

static SOCKET: Calls = Calls {
    one: send,
    several: send_vectors,
    several_refused: &SENDMSG,
};

static FILE: Calls = Calls {
    one: write,
    several: write_vectors,
    several_refused: &WRITEV,
};

impl Calls {
    /// Whether `several` has failed because the call is refused.
    #[cold]
    fn were_refused(&self, error: &io::Error) -> bool {
        let probe = || match (self.several)(-1, &mut []) {
            Ok(_) => 0,
            Err(_) => -1,
        };
        self.several_refused.was_refused(error, probe)
    }
}

fn send_vectors(fd: RawFd, vectors: &mut [libc::iovec]) -> io::Result<usize> {
    // SAFETY: all-zero is a valid `msghdr` without address and control data.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = vectors.as_mut_ptr();
    message.msg_iovlen = vectors.len() as _;
    // SAFETY: each vector describes a chunk that the queue holds; the kernel only reads them.
    count(unsafe { bare_calls::sendmsg(fd, &message, libc::MSG_NOSIGNAL) })
}

fn write_vectors(fd: RawFd, vectors: &mut [libc::iovec]) -> io::Result<usize> {
    // SAFETY: each vector describes a chunk that the queue holds; the kernel only reads them.
    count(unsafe { libc::writev(fd, vectors.as_ptr(), vectors.len() as libc::c_int) })
}

/// Calls `write` once, for descriptors that are not sockets. Returns how many bytes were written.
///
/// # Errors
/// Errors of `write`, including `EAGAIN` and `EINTR`.
#[inline]
pub fn write(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: `bytes` is readable for its length.
    count(unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) })
}

/// Calls `send` once. Returns how many bytes were sent.
///
/// # Errors
/// Errors of `send`, including `EAGAIN` and `EINTR`.
#[inline]
pub fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // No `SIGPIPE`.
    count(bare_calls::send(fd, bytes, libc::MSG_NOSIGNAL))
}

#[inline]
fn count(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (ours, theirs)
    }

    fn read_available(peer: &mut UnixStream, into: &mut Vec<u8>) {
        let error = peer.read_to_end(into).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn one_chunk_owns_no_memory_of_the_queue() {
        let mut queue = WriteQueue::new();
        queue.push(&b"abc"[..]);
        assert!(queue.rest.is_none());
        queue.push(b"");
        assert!(queue.rest.is_none());
        queue.push(b"d");
        assert_eq!(queue.len(), 4);
        let (ours, mut theirs) = pair();
        assert!(matches!(queue.flush(ours.as_raw_fd()), Flushed::Drained));
        assert!(queue.rest.is_none());
        let mut got = Vec::new();
        read_available(&mut theirs, &mut got);
        assert_eq!(got, b"abcd");
    }

    #[test]
    fn more_chunks_than_one_call_takes_all_leave() {
        let mut queue = WriteQueue::new();
        for i in 0..3000_u32 {
            queue.push(vec![i as u8; (i % 3) as usize]);
        }
        let expected: Vec<u8> = queue.iter().flatten().copied().collect();
        let (ours, mut theirs) = pair();
        assert!(matches!(queue.flush(ours.as_raw_fd()), Flushed::Drained));
        let mut got = Vec::new();
        read_available(&mut theirs, &mut got);
        assert_eq!(got, expected);
    }

    #[test]
    fn what_is_reserved_is_there() {
        let mut queue = WriteQueue::new();
        queue.reserve().unwrap();
        assert!(queue.rest.is_none(), "the first chunk needs no memory");
        queue.push(b"one".to_vec());
        for count in 1..100 {
            queue.reserve().unwrap();
            let room = queue.rest.as_ref().map_or(0, |rest| rest.capacity());
            assert!(room >= count);
            // It is found although there is reserved room behind it.
            assert_eq!(queue.extend_last(|last| usize::from(!last.is_empty())), 1);
            queue.push(b"more".to_vec());
            assert_eq!(queue.rest.as_ref().unwrap().capacity(), room);
        }
    }

    #[test]
    fn a_closed_peer_fails_the_flush_without_a_signal_and_keeps_the_bytes() {
        let (ours, theirs) = pair();
        drop(theirs);
        let mut queue = WriteQueue::new();
        queue.push(b"abc");
        let Flushed::Failed(error) = queue.flush(ours.as_raw_fd()) else {
            panic!("the peer is gone")
        };
        assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
        assert_eq!(queue.take().len(), 3);
        assert!(queue.is_empty());
    }

    proptest! {
        #[test]
        fn bytes_arrive_in_order_whatever_the_kernel_takes(
            sizes in proptest::collection::vec(0_usize..60_000, 1..40),
        ) {
            let (ours, mut theirs) = pair();
            let mut queue = WriteQueue::new();
            let (mut expected, mut got) = (Vec::new(), Vec::new());
            for (i, size) in sizes.into_iter().enumerate() {
                let chunk = vec![i as u8; size];
                expected.extend_from_slice(&chunk);
                queue.push(chunk);
                if i % 3 == 0 && matches!(queue.flush(ours.as_raw_fd()), Flushed::Blocked) {
                    read_available(&mut theirs, &mut got);
                }
                prop_assert_eq!(queue.len(), queue.iter().map(<[u8]>::len).sum::<usize>());
            }
            while !matches!(queue.flush(ours.as_raw_fd()), Flushed::Drained) {
                read_available(&mut theirs, &mut got);
            }
            drop(ours);
            theirs.read_to_end(&mut got).unwrap();
            prop_assert_eq!(got, expected);
        }

        #[test]
        fn advancing_equals_cutting_off_the_front(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 1..20),
            steps in proptest::collection::vec(0_usize..40, 1..40),
        ) {
            let mut model: Vec<u8> = chunks.concat();
            let mut queue = WriteQueue::new();
            for chunk in chunks {
                queue.push(chunk);
            }
            for step in steps {
                let step = step.min(queue.len());
                queue.advance(step);
                model.drain(..step);
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.iter().flatten().copied().collect::<Vec<_>>(), model.clone());
            }
        }
    }
}
