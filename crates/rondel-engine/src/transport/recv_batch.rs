//! Receives several datagrams at a time.
//!
//! A socket that is readable may have many datagrams waiting. One `recvmmsg` receives up to
//! [`BATCH`] of them; fewer mean that no more are waiting, so a single datagram costs a single
//! call. The memory is shared by all sockets of a thread; the host copies what it keeps.

use std::io;
use std::mem;
use std::os::fd::RawFd;

use socket2::{SockAddr, SockAddrStorage};

use super::address::Address;
use crate::refused::Replaceable;

static RECVMMSG: Replaceable = Replaceable::new();

/// The most datagrams that are received per readiness event.
pub const BATCH: usize = 16;
/// The size of the largest IP datagram, and so the room for each of a batch, in bytes.
const SLOT: usize = 64 * 1024;
/// The room for a datagram of any other family, in bytes; asyncio's `max_size`.
const MAX_RECV: usize = 256 * 1024;

/// Memory for a batch.
pub struct RecvBatch {
    /// `BATCH` times `SLOT` bytes. The kernel zeroes the pages lazily, so memory is used only as
    /// far as datagrams reach.
    memory: Box<[u8]>,
    names: Box<[SockAddrStorage; BATCH]>,
    vectors: Box<[libc::iovec; BATCH]>,
    headers: Box<[libc::mmsghdr; BATCH]>,
}

/// The result of one receive.
pub enum Received {
    /// The number of datagrams received, at least one; see [`RecvBatch::datagram`].
    Datagrams(usize),
    /// Nothing to receive now.
    Blocked,
    /// The socket has reported an error; it may still be used.
    Failed(io::Error),
}

impl Default for RecvBatch {
    fn default() -> Self {
        // SAFETY: all-zero names, vectors and headers are valid: no address, memory or control
        // data.
        unsafe {
            Self {
                memory: vec![0; BATCH * SLOT].into_boxed_slice(),
                names: Box::new(mem::zeroed()),
                vectors: Box::new(mem::zeroed()),
                headers: Box::new(mem::zeroed()),
            }
        }
    }
}

impl RecvBatch {
    /// Receives waiting datagrams. `several`: up to [`BATCH`] of at most 64 KiB each; otherwise one
    /// of at most 256 KiB.
    pub fn receive(&mut self, fd: RawFd, several: bool) -> Received {
        let (count, room) = match several {
            true => (BATCH, SLOT),
            false => (1, MAX_RECV),
        };
        for ((memory, vector), (name, header)) in self
            .memory
            .chunks_exact_mut(room)
            .zip(self.vectors.iter_mut())
            .zip(self.names.iter_mut().zip(self.headers.iter_mut()))
            .take(count)
        {
            vector.iov_base = memory.as_mut_ptr().cast();
            vector.iov_len = room;
            let header = &mut header.msg_hdr;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            header.msg_name = std::ptr::from_mut(name).cast();
            header.msg_namelen = size_of::<SockAddrStorage>() as libc::socklen_t;
        }
        if RECVMMSG.is_refused() {
            return self.receive_one(fd);
        }
        match self.receive_first(fd, count) {
            Ok(0) => Received::Blocked,
            Ok(received) => Received::Datagrams(received),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Received::Blocked,
                _ if RECVMMSG.was_refused(&error, || match self.receive_first(-1, 0) {
                    Ok(_) => 0,
                    Err(_) => -1,
                }) =>
                {
                    self.receive_one(fd)
                }
                _ => Received::Failed(error),
            },
        }
    }

    /// Receives into the first `count` headers.
    fn receive_first(&mut self, fd: RawFd, count: usize) -> io::Result<usize> {
        // SAFETY: the first `count` headers point to our names and vectors, and the vectors to
        // memory that is writable for their lengths. There is no timeout.
        let received = unsafe {
            libc::recvmmsg(
                fd,
                self.headers.as_mut_ptr(),
                count as _,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        usize::try_from(received).map_err(|_negative| io::Error::last_os_error())
    }

    /// Receives one datagram into the first header's memory.
    #[cold]
    fn receive_one(&mut self, fd: RawFd) -> Received {
        let header = &mut self.headers[0];
        // SAFETY: the vector's memory and the name are our own and writable for their lengths.
        let received = unsafe {
            libc::recvfrom(
                fd,
                self.vectors[0].iov_base,
                self.vectors[0].iov_len,
                libc::MSG_DONTWAIT,
                header.msg_hdr.msg_name.cast(),
                &raw mut header.msg_hdr.msg_namelen,
            )
        };
        match usize::try_from(received) {
            Ok(len) => {
                header.msg_len = len as u32;
                Received::Datagrams(1)
            }
            Err(_negative) => {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Received::Blocked,
                    _ => Received::Failed(error),
                }
            }
        }
    }

    /// A datagram of the last call, and its sender's address if the kernel gave one.
    pub fn datagram(&self, index: usize) -> (&[u8], Option<Address>) {
        let (header, vector) = (&self.headers[index], &self.vectors[index]);
        let offset = index * vector.iov_len;
        let len = (header.msg_len as usize).min(vector.iov_len);
        let bytes = &self.memory[offset..offset + len];
        let name_len = header
            .msg_hdr
            .msg_namelen
            .min(size_of::<SockAddrStorage>() as libc::socklen_t);
        if name_len == 0 {
            return (bytes, None);
        }
        let from = Address::of_v4(&self.names[index], name_len).unwrap_or_else(|| {
            // SAFETY: the kernel has written `name_len` bytes of a valid storage.
            let name = unsafe {
                let copy = std::ptr::from_ref(&self.names[index]).read();
                SockAddr::new(copy, name_len)
            };
            name.into()
        });
        (bytes, Some(from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn a_batch_has_what_waits_in_order_with_its_senders() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(receiver) = UdpSocket::bind(host) else {
                continue; // no IPv6 here
            };
            receiver.set_nonblocking(true).unwrap();
            let senders: Vec<_> = (0..2).map(|_| UdpSocket::bind(host).unwrap()).collect();
            for number in 0..BATCH + 3 {
                let data = vec![number as u8; number];
                senders[number % 2]
                    .send_to(&data, receiver.local_addr().unwrap())
                    .unwrap();
            }
            let mut batch = RecvBatch::default();
            let mut number = 0;
            for expected in [BATCH, 3] {
                let Received::Datagrams(count) = batch.receive(receiver.as_raw_fd(), true) else {
                    panic!("datagrams wait")
                };
                assert_eq!(count, expected);
                for index in 0..count {
                    let (bytes, from) = batch.datagram(index);
                    assert_eq!(bytes, vec![number as u8; number]);
                    let sender = senders[number % 2].local_addr().unwrap();
                    assert_eq!(from.unwrap().as_socket(), Some(sender));
                    number += 1;
                }
            }
            assert!(matches!(
                batch.receive(receiver.as_raw_fd(), true),
                Received::Blocked
            ));
        }
    }

    #[test]
    fn one_large_datagram_and_a_sender_without_a_name() {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        let data: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
        sender.send(&data).unwrap();
        sender.send(b"next").unwrap();
        let mut batch = RecvBatch::default();
        assert!(matches!(
            batch.receive(receiver.as_raw_fd(), false),
            Received::Datagrams(1)
        ));
        let (bytes, from) = batch.datagram(0);
        assert_eq!(bytes, data);
        assert!(from.is_none());
        assert!(matches!(
            batch.receive(receiver.as_raw_fd(), false),
            Received::Datagrams(1)
        ));
        assert_eq!(batch.datagram(0).0, b"next");
    }

    #[test]
    fn an_error_is_told_once() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(nobody.local_addr().unwrap()).unwrap();
        drop(nobody);
        socket.send(b"a").unwrap();
        let mut batch = RecvBatch::default();
        let Received::Failed(error) = batch.receive(socket.as_raw_fd(), true) else {
            panic!("refused")
        };
        assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
        assert!(matches!(
            batch.receive(socket.as_raw_fd(), true),
            Received::Blocked
        ));
    }
}
