//! A datagram socket: asyncio's `_SelectorDatagramTransport` without its callbacks.
//!
//! [`Datagrams`] holds the socket, the queue of datagrams, the flow control and the state flags;
//! `recv_batch.rs` receives. As with [`Stream`](super::stream::Stream), each method returns what
//! the host must do, and the host does it before it calls the next one.
//!
//! # How a datagram is sent
//! The first one of a step is sent at once, so that a program which sends one sees its error
//! immediately, as with asyncio. Those that follow before the host flushes are queued and sent
//! together by `sendmmsg`, which costs an eighth less than separate system calls. The host flushes
//! before anything that would make the delay observable.
//!
//! # Foreign destinations
//! The host defines where a datagram goes ([`Destination`]). A datagram whose address this crate
//! can't represent is sent by the host itself: a flush stops there and returns
//! [`Flushed::Foreign`].

use std::collections::{TryReserveError, VecDeque};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, RawFd};

use super::address::Address;
use super::flow_control::FlowControl;
use super::intake::Intake;
use super::stream::{Close, LOST_WRITES_THRESHOLD};
use crate::refused::Replaceable;

static SENDMMSG: Replaceable = Replaceable::new();

/// The most datagrams per `sendmmsg`.
const BATCH: usize = 32;
/// This many queued datagrams are flushed at once.
const FLUSH_AT_ONCE: usize = 64;
/// More queued bytes than this are flushed at once.
const FLUSH_BYTES: usize = 64 * 1024;

/// Where a datagram goes.
#[derive(Clone, Copy, Debug)]
pub enum Route<'a> {
    /// To the peer that the socket is connected to.
    Connected,
    /// To this address.
    To(&'a Address),
    /// The host sends it itself.
    Foreign,
}

/// A host's representation of a queued datagram's destination.
pub trait Destination {
    /// How to send the datagram.
    fn route(&self) -> Route<'_>;
}

/// A datagram socket `S` with datagrams of type `C` to send, to destinations of type `D`.
#[derive(Debug)]
pub struct Datagrams<S, C, D> {
    socket: Option<S>,
    queue: VecDeque<(C, D)>,
    /// Queued bytes, plus `header` for each datagram.
    size: usize,
    header: usize,
    /// When the writer is paused; the host calls the protocol.
    pub flow: FlowControl,
    conn_lost: u32,
    /// Whether the transport reads; the host watches the descriptor accordingly.
    pub intake: Intake,
    /// The socket's send buffer is full: the descriptor is watched for writing.
    blocked: bool,
    /// A step is running at whose end the host flushes; see [`enter_step`](Self::enter_step).
    in_step: bool,
    /// Errors of early flushes, reported by the next flush.
    failed_early: VecDeque<io::Error>,
}

/// What the host must do with a datagram; see [`Datagrams::admit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// Send it now, with [`Datagrams::send`] or the host's own means.
    Now,
    /// Queue it with [`Datagrams::push`].
    Queue,
    /// Drop it, because the connection is lost.
    Lost {
        /// Whether to log asyncio's warning, because the program keeps sending.
        warn: bool,
    },
}

/// The result of a flush; see [`Datagrams::flush`].
#[derive(Debug)]
pub enum Flushed {
    /// Nothing is left.
    Drained,
    /// The socket's send buffer is full.
    Blocked,
    /// The first queued datagram is [`Route::Foreign`]: take it and send it.
    Foreign,
    /// The first queued datagram could not be sent and was dropped. Others may be left.
    Failed(io::Error),
}

impl<S: AsRawFd, C: AsRef<[u8]>, D: Destination> Datagrams<S, C, D> {
    /// Takes ownership of a non-blocking socket. Each queued datagram counts `header` bytes more
    /// than its length.
    pub fn new(socket: S, header: usize) -> Self {
        Self {
            socket: Some(socket),
            queue: VecDeque::new(),
            size: 0,
            header,
            flow: FlowControl::default(),
            conn_lost: 0,
            intake: Intake::default(),
            blocked: false,
            in_step: false,
            failed_early: VecDeque::new(),
        }
    }

    /// The socket, until it is taken.
    #[inline]
    pub fn socket(&self) -> Option<&S> {
        self.socket.as_ref()
    }

    /// Removes the socket for good; the host closes it.
    pub fn take_socket(&mut self) -> Option<S> {
        self.socket.take()
    }

    #[inline]
    fn fd(&self) -> RawFd {
        self.socket.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Whether the program has closed the transport, or the connection is lost.
    #[inline]
    pub fn is_closing(&self) -> bool {
        self.intake.is_closing()
    }

    /// Zero while the transport lives; then one, plus one for each dropped datagram.
    #[inline]
    pub fn conn_lost(&self) -> u32 {
        self.conn_lost
    }

    /// The size of the queue in bytes, including headers.
    #[inline]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether the queue is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The queued datagrams, in the order in which they will be sent.
    pub fn iter(&self) -> impl Iterator<Item = &(C, D)> {
        self.queue.iter()
    }

    /// Whether a flush is due: datagrams are queued that the kernel was not offered yet, or an
    /// early flush has failed.
    #[inline]
    pub fn is_dirty(&self) -> bool {
        !self.blocked && !self.queue.is_empty() || !self.failed_early.is_empty()
    }

    // Sending

    /// What to do with a datagram. `connected`: the transport has one peer, so sending ends when
    /// the connection is lost.
    #[inline]
    pub fn admit(&mut self, connected: bool) -> Admitted {
        if self.conn_lost > 0 && (connected || self.socket.is_none()) {
            let warn = self.conn_lost >= LOST_WRITES_THRESHOLD;
            self.conn_lost = self.conn_lost.saturating_add(1);
            return Admitted::Lost { warn };
        }
        match self.queue.is_empty() && !self.in_step {
            true => Admitted::Now,
            false => Admitted::Queue,
        }
    }

    /// Says that a step is running at whose end the host flushes: further datagrams of it are
    /// queued.
    #[inline]
    pub fn enter_step(&mut self) {
        self.in_step = true;
    }

    /// Sends one datagram directly. The queue must be empty.
    ///
    /// # Errors
    /// Errors of `sendto`, including `EAGAIN` and `EINTR`.
    #[inline]
    pub fn send(&self, bytes: &[u8], route: Route<'_>) -> io::Result<()> {
        let (name, len) = match route {
            Route::To(address) => {
                return address.with_raw(|name, len| self.send_to(bytes, name, len));
            }
            Route::Connected | Route::Foreign => (std::ptr::null(), 0),
        };
        self.send_to(bytes, name, len)
    }

    fn send_to(
        &self,
        bytes: &[u8],
        name: *const libc::sockaddr,
        len: libc::socklen_t,
    ) -> io::Result<()> {
        // SAFETY: the bytes and the name are readable for their lengths.
        let sent = unsafe {
            libc::sendto(
                self.fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_NOSIGNAL,
                name,
                len,
            )
        };
        match sent {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// Reserves memory for one more [`push`](Self::push).
    ///
    /// # Errors
    /// If there is no memory.
    #[inline]
    pub fn reserve(&mut self) -> Result<(), TryReserveError> {
        self.queue.try_reserve(1)
    }

    /// Queues a datagram. True: flush now, because too much waits or no step is running.
    #[inline]
    pub fn push(&mut self, data: C, to: D) -> bool {
        self.size += data.as_ref().len() + self.header;
        self.queue.push_back((data, to));
        !self.blocked
            && (!self.in_step
                || self.queue.len() >= FLUSH_AT_ONCE
                || self.size > self.flow.high().min(FLUSH_BYTES))
    }

    /// Puts back the datagram that [`take_first`](Self::take_first) returned.
    pub fn put_back(&mut self, data: C, to: D) {
        self.size += data.as_ref().len() + self.header;
        self.queue.push_front((data, to));
    }

    /// Removes the first queued datagram.
    pub fn take_first(&mut self) -> Option<(C, D)> {
        let first = self.queue.pop_front()?;
        self.size -= first.0.as_ref().len() + self.header;
        Some(first)
    }

    /// Says that the step is over: the next datagram is sent at once again.
    #[inline]
    pub fn leave_step(&mut self) {
        self.in_step = false;
    }

    /// Records that the send buffer is full and the descriptor is watched for writing. False if it
    /// was recorded already.
    pub fn note_blocked(&mut self) -> bool {
        !mem::replace(&mut self.blocked, true)
    }

    /// Records that the queue is empty and the descriptor is no longer watched for writing.
    pub fn note_drained(&mut self) {
        self.blocked = false;
    }

    /// Whether the send buffer was full at the last attempt.
    #[inline]
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Sends as many queued datagrams as possible, in order.
    pub fn flush(&mut self) -> Flushed {
        match self.failed_early.pop_front() {
            Some(error) => Flushed::Failed(error),
            None => self.send_waiting(),
        }
    }

    /// Sends queued datagrams before the flush that is due, where the host can't act on the result:
    /// that flush reports it.
    pub fn flush_early(&mut self) {
        self.in_step = false;
        while !self.blocked
            && self.socket.is_some()
            && let Flushed::Failed(error) = self.send_waiting()
        {
            self.failed_early.push_back(error);
        }
    }

    fn send_waiting(&mut self) -> Flushed {
        loop {
            let foreign = match self.queue.front() {
                None => return Flushed::Drained,
                Some((_, to)) => matches!(to.route(), Route::Foreign),
            };
            if foreign {
                return Flushed::Foreign;
            }
            match self.send_batch() {
                Ok(sent) => {
                    for _ in 0..sent {
                        self.take_first();
                    }
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {
                        return Flushed::Blocked;
                    }
                    _ => {
                        self.take_first();
                        return Flushed::Failed(error);
                    }
                },
            }
        }
    }

    /// Sends the datagrams before the first foreign destination. Returns how many were sent, at
    /// least one.
    fn send_batch(&self) -> io::Result<usize> {
        let mut known = self.queue.iter().map_while(|(data, to)| match to.route() {
            Route::Foreign => None,
            route => Some((data.as_ref(), route)),
        });
        if (self.queue.len() == 1 || SENDMMSG.is_refused())
            && let Some((data, route)) = known.next()
        {
            return self.send(data, route).map(|()| 1);
        }
        // SAFETY: an all-zero `mmsghdr` has no address, data or control data; an all-zero `iovec`
        // is empty.
        let (mut headers, mut vectors): ([libc::mmsghdr; BATCH], [libc::iovec; BATCH]) =
            unsafe { mem::zeroed() };
        // SAFETY: all-zero is a valid address storage.
        let mut names: [libc::sockaddr_in; BATCH] = unsafe { mem::zeroed() };
        let mut count = 0;
        for (((header, vector), name), (data, route)) in headers
            .iter_mut()
            .zip(&mut vectors)
            .zip(&mut names)
            .zip(known)
        {
            vector.iov_base = data.as_ptr().cast_mut().cast();
            vector.iov_len = data.len();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            match route {
                Route::Connected | Route::Foreign => {}
                Route::To(Address::V4(address)) => {
                    *name = super::address::raw_v4(address);
                    header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
                    header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
                }
                // Other addresses are rarer and longer: these datagrams are sent separately.
                Route::To(address) if count == 0 => {
                    return address
                        .with_raw(|name, len| self.send_to(data, name, len))
                        .map(|()| 1);
                }
                Route::To(_) => break,
            }
            count += 1;
        }
        // SAFETY: the first `count` headers point to names and vectors that outlive the call, and
        // the vectors to data that the queue holds.
        let sent = unsafe {
            libc::sendmmsg(
                self.fd(),
                headers.as_mut_ptr(),
                count,
                libc::MSG_NOSIGNAL as _,
            )
        };
        let Err(_negative) = usize::try_from(sent) else {
            return Ok(sent as usize);
        };
        let error = io::Error::last_os_error();
        // SAFETY: the count is 0, so no header is read.
        let probe = || unsafe { libc::sendmmsg(-1, headers.as_mut_ptr(), 0, 0).into() };
        match SENDMMSG.was_refused(&error, probe) {
            true => self.send_batch(),
            false => Err(error),
        }
    }

    // The end

    /// Closes once everything is sent. The host must have flushed before.
    pub fn close(&mut self) -> Close {
        if !self.intake.close() {
            return Close::Already;
        }
        if !self.queue.is_empty() {
            return Close::WhenDrained;
        }
        self.conn_lost += 1;
        self.blocked = false;
        Close::Now
    }

    /// Ends the transport without sending the queue, which is returned to be dropped. `Some`: stop
    /// watching the descriptor and schedule `connection_lost`. `None`: that was done before.
    #[must_use]
    pub fn force_close(&mut self) -> Option<VecDeque<(C, D)>> {
        if self.conn_lost > 0 {
            return None;
        }
        self.intake.close();
        self.blocked = false;
        self.conn_lost += 1;
        self.size = 0;
        Some(mem::take(&mut self.queue))
    }

    /// Removes the queue, for the destruction of the owner.
    #[must_use]
    pub fn take_queue(&mut self) -> VecDeque<(C, D)> {
        self.size = 0;
        mem::take(&mut self.queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, UdpSocket};

    #[derive(Debug)]
    enum To {
        Peer,
        Address(Address),
        Elsewhere,
    }

    impl Destination for To {
        fn route(&self) -> Route<'_> {
            match self {
                Self::Peer => Route::Connected,
                Self::Address(address) => Route::To(address),
                Self::Elsewhere => Route::Foreign,
            }
        }
    }

    type Tested = Datagrams<UdpSocket, Vec<u8>, To>;

    fn address(socket: &UdpSocket) -> Address {
        match socket.local_addr().unwrap() {
            SocketAddr::V4(address) => Address::V4(address),
            SocketAddr::V6(address) => Address::V6(Box::new(address)),
        }
    }

    fn bound(host: &str) -> Option<UdpSocket> {
        let socket = UdpSocket::bind(host).ok()?; // no IPv6 here
        socket.set_nonblocking(true).unwrap();
        Some(socket)
    }

    fn received(socket: &UdpSocket) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        let mut room = [0; 100];
        while let Ok(len) = socket.recv(&mut room) {
            all.push(room[..len].to_vec());
        }
        all
    }

    #[test]
    fn what_is_queued_leaves_in_order_to_everyone() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let (Some(ours), Some(one), Some(other)) = (bound(host), bound(host), bound(host))
            else {
                continue;
            };
            let mut tested = Tested::new(ours, 8);
            assert_eq!(tested.admit(false), Admitted::Now);
            tested.enter_step();
            for number in 0..50_u8 {
                assert_eq!(tested.admit(false), Admitted::Queue);
                let to = if number % 2 == 0 { &one } else { &other };
                assert!(!tested.push(
                    vec![number; usize::from(number % 3)],
                    To::Address(address(to))
                ));
            }
            assert!(tested.is_dirty());
            assert_eq!(tested.size(), 49 + 50 * 8);
            assert!(matches!(tested.flush(), Flushed::Drained));
            assert_eq!(tested.size(), 0);
            let expected = |odd| {
                (0..50_u8)
                    .filter(|number| number % 2 == odd)
                    .map(|number| vec![number; usize::from(number % 3)])
                    .collect::<Vec<_>>()
            };
            assert_eq!(received(&one), expected(0));
            assert_eq!(received(&other), expected(1));
        }
    }

    #[test]
    fn a_flush_stops_where_the_host_has_to_send() {
        let (ours, peer) = (bound("127.0.0.1:0").unwrap(), bound("127.0.0.1:0").unwrap());
        let to = || To::Address(address(&peer));
        let mut tested = Tested::new(ours, 0);
        tested.enter_step();
        tested.push(b"a".to_vec(), to());
        tested.push(b"b".to_vec(), to());
        tested.push(b"c".to_vec(), To::Elsewhere);
        tested.push(b"d".to_vec(), to());
        assert!(matches!(tested.flush(), Flushed::Foreign));
        assert_eq!(received(&peer), [b"a", b"b"]);
        let (data, to) = tested.take_first().unwrap();
        assert_eq!(data, b"c");
        tested.put_back(data, to);
        assert_eq!(tested.size(), 2);
        tested.take_first();
        assert!(matches!(tested.flush(), Flushed::Drained));
        assert_eq!(received(&peer), [b"d"]);
    }

    #[test]
    fn what_cannot_be_sent_is_thrown_away_alone() {
        let (ours, peer) = (bound("127.0.0.1:0").unwrap(), bound("127.0.0.1:0").unwrap());
        let to = || To::Address(address(&peer));
        let mut tested = Tested::new(ours, 0);
        tested.enter_step();
        tested.push(b"a".to_vec(), to());
        tested.push(vec![0; 70_000], to());
        tested.push(b"b".to_vec(), to());
        let Flushed::Failed(error) = tested.flush() else {
            panic!("too long for UDP")
        };
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        assert!(matches!(tested.flush(), Flushed::Drained));
        assert_eq!(received(&peer), [b"a", b"b"]);
    }

    #[test]
    fn a_refused_peer_is_an_error_of_the_next_datagram() {
        let ours = bound("127.0.0.1:0").unwrap();
        let nobody = bound("127.0.0.1:0").unwrap();
        ours.connect(nobody.local_addr().unwrap()).unwrap();
        drop(nobody);
        let mut tested = Tested::new(ours, 0);
        tested.send(b"a", Route::Connected).unwrap();
        tested.push(b"b".to_vec(), To::Peer);
        let Flushed::Failed(error) = tested.flush() else {
            panic!("nobody is there")
        };
        assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
    }

    #[test]
    fn many_or_large_datagrams_are_not_held_back() {
        let ours = bound("127.0.0.1:0").unwrap();
        let mut tested = Tested::new(ours, 0);
        assert!(tested.push(b"no step is running".to_vec(), To::Peer));
        tested.enter_step();
        for _ in 0..FLUSH_AT_ONCE - 2 {
            assert!(!tested.push(Vec::new(), To::Peer));
        }
        assert!(tested.push(Vec::new(), To::Peer));
        assert_eq!(tested.take_queue().len(), FLUSH_AT_ONCE);
        assert!(tested.push(vec![0; FLUSH_BYTES + 1], To::Peer));
        assert!(tested.note_blocked());
        assert!(!tested.note_blocked());
        assert!(!tested.push(Vec::new(), To::Peer));
        assert!(!tested.is_dirty());
    }

    #[test]
    fn closing_waits_for_the_queue_and_aborting_does_not() {
        let mut tested = Tested::new(bound("127.0.0.1:0").unwrap(), 0);
        tested.enter_step();
        tested.push(b"a".to_vec(), To::Peer);
        assert_eq!(tested.close(), Close::WhenDrained);
        assert_eq!(tested.close(), Close::Already);
        assert!(!tested.intake.is_reading() && !tested.intake.resume());
        assert_eq!(tested.force_close().unwrap().len(), 1);
        assert!(tested.force_close().is_none());
        for _ in 1..LOST_WRITES_THRESHOLD {
            assert_eq!(tested.admit(true), Admitted::Lost { warn: false });
        }
        assert_eq!(tested.admit(true), Admitted::Lost { warn: true });
        // An unconnected transport sends as long as it has a socket.
        assert!(!matches!(tested.admit(false), Admitted::Lost { .. }));
        drop(tested.take_socket());
        assert!(matches!(tested.admit(false), Admitted::Lost { .. }));
    }
}
