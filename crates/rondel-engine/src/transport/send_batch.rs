//! Sends on several sockets with one system call.
//!
//! A turn in which many connections are answered ends with a `send` for each. [`SendBatch`] submits
//! them to the kernel together, through an `io_uring` that is used for nothing else. Each request
//! is non-blocking ([`libc::MSG_DONTWAIT`]), so the kernel completes all of them before the call
//! returns: nothing is left in the ring, and a send behaves as it does without one. Readiness is
//! still reported by the reactor.
//!
//! Where a process can't have a ring (`io_uring_setup` fails in many containers, on old kernels, or
//! because of a limit), each stream is flushed separately.

use std::fmt;
use std::io;
use std::ops::DerefMut;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::squeue::Entry;
use io_uring::{IoUring, Probe, opcode, types};

use super::stream::{Sent, Stream};

/// The most streams per call.
pub const MAX: usize = 64;
/// Fewer streams than this are flushed separately: the ring would not pay.
pub const MIN: usize = 4;
/// Up to this size, in bytes, the chunks of one stream are copied into one buffer. A stream with
/// more is flushed separately: for a request of several pieces the kernel would copy their
/// descriptions.
const JOINED: usize = 1024;

/// The ring, and memory for joined chunks.
#[derive(Default)]
pub struct SendBatch {
    ring: Ring,
    joined: Vec<u8>,
}

#[derive(Default)]
enum Ring {
    #[default]
    Untried,
    Open(Box<IoUring>),
    Refused,
}

/// The result of a stream's request.
#[derive(Clone, Copy)]
enum Outcome {
    /// There was no request; flush the stream separately.
    ByItself,
    /// The kernel took this many bytes.
    Sent(usize),
    /// The request failed with this `errno`.
    Failed(i32),
}

impl SendBatch {
    /// A batch that makes its ring at the first use.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A batch that never has a ring.
    #[must_use]
    pub fn without_ring() -> Self {
        Self {
            ring: Ring::Refused,
            ..Self::default()
        }
    }

    /// Whether there is a ring; makes it at the first call.
    pub fn has_ring(&mut self) -> bool {
        if let Ring::Untried = self.ring {
            self.ring = open().map_or(Ring::Refused, |ring| Ring::Open(Box::new(ring)));
        }
        matches!(self.ring, Ring::Open(_))
    }

    /// Drops the ring; the next use makes another one. In the child of a fork this does not affect
    /// the parent's.
    pub fn forget_ring(&mut self) {
        if let Ring::Open(_) = self.ring {
            self.ring = Ring::Untried;
        }
    }

    /// Flushes up to [`MAX`] streams of different sockets, in this order. Appends to `sent` the
    /// result of [`Stream::flush`] for each.
    ///
    /// # Panics
    /// If there are more.
    pub fn flush<S, C, R>(&mut self, streams: &mut [R], sent: &mut Vec<Sent>)
    where
        S: AsRawFd,
        C: AsRef<[u8]>,
        R: DerefMut<Target = Stream<S, C>>,
    {
        let mut outcomes = [Outcome::ByItself; MAX];
        let outcomes = &mut outcomes[..streams.len()];
        let mut begin = 0;
        while begin < streams.len() {
            let rest = &streams[begin..];
            let together = match rest.len() >= MIN && self.has_ring() {
                true => self.send(rest, &mut outcomes[begin..]),
                false => rest.len(),
            };
            // The stream at which the batch stopped is flushed separately, before the next batch.
            let end = streams.len().min(begin + together + 1);
            for (stream, outcome) in streams[begin..end].iter_mut().zip(&outcomes[begin..end]) {
                sent.push(match *outcome {
                    Outcome::ByItself => stream.flush(),
                    Outcome::Sent(count) => stream.flushed(Ok(count)),
                    Outcome::Failed(code) => {
                        stream.flushed(Err(io::Error::from_raw_os_error(code)))
                    }
                });
            }
            begin = end;
        }
    }

    /// Sends as many of the first streams as can be sent together; returns how many.
    fn send<S, C, R>(&mut self, streams: &[R], outcomes: &mut [Outcome]) -> usize
    where
        S: AsRawFd,
        C: AsRef<[u8]>,
        R: DerefMut<Target = Stream<S, C>>,
    {
        let Self {
            ring: Ring::Open(ring),
            joined,
        } = self
        else {
            return streams.len();
        };
        joined.clear();
        // Requests point into this memory, so it must not move: reserve for the largest case.
        joined.reserve(MAX * JOINED);
        let (mut requests, mut together) = (0, streams.len());
        let mut submission = ring.submission();
        for (index, stream) in streams.iter().enumerate() {
            let Some(fd) = stream.offers() else {
                continue;
            };
            let queue = stream.queue();
            let request = match (queue.count(), queue.iter().next()) {
                (1, Some(chunk)) => send_request(fd, chunk),
                _ if queue.len() <= JOINED => {
                    let begin = joined.len();
                    for chunk in queue.iter() {
                        joined.extend_from_slice(chunk);
                    }
                    send_request(fd, &joined[begin..])
                }
                _ => {
                    together = index;
                    break;
                }
            };
            // SAFETY: the request points to chunks that `streams` borrows, or into `joined`, which
            // is not reallocated. Both live until this function returns, which is after the kernel
            // has completed every request or the ring is dropped.
            match unsafe { submission.push(&request.user_data(index as u64)) } {
                Ok(()) => requests += 1,
                Err(_full) => {
                    together = index;
                    break;
                }
            }
        }
        drop(submission);
        if !complete(ring, requests, outcomes) {
            // Requests that the kernel did not take must not be sent later.
            self.ring = Ring::Refused;
        }
        together
    }
}

/// Makes a ring for [`MAX`] requests, if the process may and the kernel supports `send` on it.
fn open() -> io::Result<IoUring> {
    let ring = IoUring::new(MAX as u32)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    match probe.is_supported(opcode::Send::CODE) {
        true => Ok(ring),
        false => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// No `SIGPIPE`, no waiting.
const FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;

fn send_request(fd: RawFd, bytes: &[u8]) -> Entry {
    // Of a longer chunk only a part is sent, which the kernel may do anyway.
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    opcode::Send::new(types::Fd(fd), bytes.as_ptr(), len)
        .flags(FLAGS)
        .build()
}

/// Has the kernel process the requests, and records the outcome of each. False if it refused some,
/// which are then still in the ring.
fn complete(ring: &mut IoUring, requests: usize, outcomes: &mut [Outcome]) -> bool {
    let mut left = requests;
    while left > 0 {
        let entered = ring.submit_and_wait(left);
        for completion in ring.completion() {
            left -= 1;
            outcomes[completion.user_data() as usize] = match usize::try_from(completion.result()) {
                Ok(count) => Outcome::Sent(count),
                Err(_negative) => Outcome::Failed(-completion.result()),
            };
        }
        match entered {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return left == 0,
            _ => {}
        }
    }
    true
}

impl fmt::Debug for SendBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ring = match self.ring {
            Ring::Untried => "untried",
            Ring::Open(_) => "open",
            Ring::Refused => "refused",
        };
        f.debug_struct("SendBatch")
            .field("ring", &ring)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    type Tested = Stream<UnixStream, Vec<u8>>;

    fn pair() -> (Tested, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        (Stream::new(ours), theirs)
    }

    fn received(peer: &mut UnixStream) -> Vec<u8> {
        let mut got = Vec::new();
        let _blocked_or_ended = peer.read_to_end(&mut got);
        got
    }

    fn flush(batch: &mut SendBatch, streams: &mut [Tested]) -> Vec<String> {
        let mut borrowed: Vec<&mut Tested> = streams.iter_mut().collect();
        let mut sent = Vec::new();
        batch.flush(&mut borrowed, &mut sent);
        sent.iter().map(|sent| format!("{sent:?}")).collect()
    }

    /// The batches to test: one without a ring, and one with a ring if the process may have one.
    fn batches() -> Vec<SendBatch> {
        let mut batches = vec![SendBatch::without_ring(), SendBatch::new()];
        assert!(!batches[0].has_ring());
        if !batches[1].has_ring() {
            eprintln!("not tested: this process may not have an io_uring");
            batches.pop();
        }
        batches
    }

    #[test]
    fn each_gets_its_own_bytes() {
        for mut batch in batches() {
            let (mut streams, mut peers): (Vec<_>, Vec<_>) = (0..MAX).map(|_| pair()).unzip();
            for _ in 0..3 {
                for (index, stream) in streams.iter_mut().enumerate() {
                    // One chunk, several small ones, several large ones, more than can be joined,
                    // none.
                    for _ in 0..[1, 3, 3, 40, 0][index % 5] {
                        stream.write(vec![index as u8; [700, 7, 900, 30, 0][index % 5]]);
                    }
                }
                let sent = flush(&mut batch, &mut streams);
                for (index, peer) in peers.iter_mut().enumerate() {
                    let expected = [700, 21, 2700, 1200, 0][index % 5];
                    assert_eq!(received(peer), vec![index as u8; expected]);
                    assert_eq!(sent[index], if expected > 0 { "All" } else { "Nothing" });
                }
            }
        }
    }

    #[test]
    fn what_blocks_and_what_has_failed_says_so_and_keeps_its_bytes() {
        for mut batch in batches() {
            let (mut streams, mut peers): (Vec<_>, Vec<_>) = (0..8).map(|_| pair()).unzip();
            // More than the send buffer takes, without a flush in between.
            for _ in 0..12 {
                streams[2].write(vec![2; 60_000]);
            }
            drop(peers.remove(5));
            for (index, stream) in streams.iter_mut().enumerate() {
                stream.write(vec![index as u8; 10]);
            }
            let sent = flush(&mut batch, &mut streams);
            for (index, sent) in sent.iter().enumerate() {
                match index {
                    2 => assert_eq!(sent, "Watch"),
                    5 => assert!(sent.contains("BrokenPipe"), "{sent}"),
                    _ => assert_eq!(sent, "All"),
                }
            }
            assert!(streams[2].is_blocked() && !streams[2].is_dirty());
            assert_eq!(
                received(&mut peers[2]).len() + streams[2].queue().len(),
                720_010
            );
            assert_eq!(streams[5].queue().len(), 10);
            // A blocked stream is flushed separately.
            assert_ne!(flush(&mut batch, &mut streams)[2], "Nothing");
        }
    }

    #[test]
    fn a_ring_that_is_forgotten_is_made_again() {
        for mut batch in batches() {
            let had_ring = batch.has_ring();
            batch.forget_ring();
            assert_eq!(batch.has_ring(), had_ring);
        }
    }

    proptest! {
        #[test]
        fn with_and_without_a_ring_come_to_the_same(
            turns in proptest::collection::vec(
                proptest::collection::vec((0_usize..20, 1_usize..20_000), 0..60), 1..12,
            ),
        ) {
            let mut seen = Vec::new();
            for mut batch in batches() {
                let (mut streams, mut peers): (Vec<_>, Vec<_>) = (0..20).map(|_| pair()).unzip();
                let mut log = Vec::new();
                for writes in &turns {
                    for &(index, size) in writes {
                        streams[index].write(vec![index as u8; size]);
                    }
                    log.push(format!("{:?}", flush(&mut batch, &mut streams)));
                    for peer in peers.iter_mut().step_by(2) {
                        log.push(format!("{}", received(peer).len()));
                    }
                }
                for (index, stream) in streams.iter_mut().enumerate() {
                    while !stream.queue().is_empty() {
                        log.push(format!("{}", received(&mut peers[index]).len()));
                        stream.flush();
                    }
                }
                seen.push(log);
            }
            prop_assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
        }
    }
}
