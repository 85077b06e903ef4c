//! Sending on several sockets with one system call.
//!
//! A turn in which many connections are answered ends with a `send` for each. [`SendBatch`] hands
//! them to the kernel together, through an `io_uring` that is used for nothing else. The kernel
//! works them off before the call returns: each says that it does not want to wait
//! ([`libc::MSG_DONTWAIT`]), so nothing is left behind in the ring, and a send means what it means
//! without one. What can be read or written is told by the reactor, as ever.
//!
//! Where a process may not have a ring (`io_uring_setup` fails in many containers, with old
//! kernels, or because of a limit), each stream is flushed by itself.

use std::fmt;
use std::io;
use std::ops::DerefMut;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::squeue::Entry;
use io_uring::{IoUring, Probe, opcode, types};

use super::stream::{Sent, Stream};

/// The most streams that one call flushes.
pub const MAX: usize = 64;
/// Below this many it does not pay.
pub const MIN: usize = 4;
/// Chunks of one stream that are no more than this, in bytes, are copied into one piece. Where they
/// are more, the stream is flushed by itself: for each request of several pieces the kernel makes
/// copies of what describes them.
const JOINED: usize = 1024;

/// The ring, and memory for what is joined.
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

/// What became of a stream's request.
#[derive(Clone, Copy)]
enum Outcome {
    /// There was none.
    ByItself,
    /// The kernel took so many bytes.
    Sent(usize),
    /// It took none, for this reason (an `errno`).
    Failed(i32),
}

impl SendBatch {
    /// A batch that makes its ring when it is first asked for.
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

    /// Whether there is a ring. Makes it.
    pub fn has_ring(&mut self) -> bool {
        if let Ring::Untried = self.ring {
            self.ring = open().map_or(Ring::Refused, |ring| Ring::Open(Box::new(ring)));
        }
        matches!(self.ring, Ring::Open(_))
    }

    /// Lets go of the ring; another one is made when it is asked for. In the child of a fork the
    /// parent keeps its own.
    pub fn forget_ring(&mut self) {
        if let Ring::Open(_) = self.ring {
            self.ring = Ring::Untried;
        }
    }

    /// Flushes up to [`MAX`] streams of different sockets, in this order. Adds to `sent` what
    /// [`Stream::flush`] would have said of each.
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
            // The one behind those that went together goes by itself, before others follow.
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

    /// Sends what can be sent together: the first so many of the streams.
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
        // It may not move while requests point into it: there is room for all that can come.
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
            // SAFETY: the request points to chunks that `streams` borrows, or into memory of
            // `self`, which stays where it is: all of it lives until this function returns, and
            // that is after the kernel has answered every request, or the ring is gone.
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
            // What the kernel did not take must not be sent later.
            self.ring = Ring::Refused;
        }
        together
    }
}

/// A ring for [`MAX`] requests, if the process may have one whose kernel knows them.
fn open() -> io::Result<IoUring> {
    let ring = IoUring::new(MAX as u32)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    match probe.is_supported(opcode::Send::CODE) {
        true => Ok(ring),
        false => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// A signal for a broken pipe is not wanted, nor is waiting.
const FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;

fn send_request(fd: RawFd, bytes: &[u8]) -> Entry {
    // Of more than that a part is sent, as the kernel may do anyway.
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    opcode::Send::new(types::Fd(fd), bytes.as_ptr(), len)
        .flags(FLAGS)
        .build()
}

/// Has the kernel work off the requests, and notes what became of each. False if it refused some,
/// which then are still in the ring.
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

    /// The batches to test: one without a ring, and one with it, if this process may have one.
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
                    // One chunk, several small ones, several large ones, more than go together,
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
            // More than the kernel takes, without a flush in between.
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
            // A stream that is blocked is flushed by itself.
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
