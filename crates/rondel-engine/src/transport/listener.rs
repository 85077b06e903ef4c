//! Accepting connections.
//!
//! A readable listening socket may have many connections waiting. They are accepted in a batch of
//! at most the backlog, so that other descriptors are not starved. Accepted sockets are
//! non-blocking and close-on-exec.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::address::Address;
use crate::refused::Replaceable;

static ACCEPT4: Replaceable = Replaceable::new();

/// asyncio's `ACCEPT_RETRY_DELAY`: how long a host without resources waits before it retries, in
/// nanoseconds.
pub const ACCEPT_RETRY_DELAY: u64 = 1_000_000_000;

/// The error that ended a batch.
#[derive(Debug)]
pub enum AcceptError {
    /// Out of descriptors or memory. Stop watching the listener for [`ACCEPT_RETRY_DELAY`], because
    /// it stays readable.
    Exhausted(io::Error),
    /// Anything else: the listener is broken or closed.
    Failed(io::Error),
}

/// Iterator over the connections that wait at a listening socket; see [`accept_batch`].
#[derive(Debug)]
pub struct Batch {
    fd: RawFd,
    left: usize,
}

/// Lazily accepts at most `backlog` connections that wait at `fd`. The batch also ends when a peer
/// has aborted its connection or a signal interrupts: the listener will be reported again.
pub fn accept_batch(fd: RawFd, backlog: usize) -> Batch {
    Batch { fd, left: backlog }
}

impl Iterator for Batch {
    type Item = Result<(OwnedFd, Address), AcceptError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let error = match accept(self.fd) {
            Ok(accepted) => return Some(Ok(accepted)),
            Err(error) => error,
        };
        self.left = 0;
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR | libc::ECONNABORTED) => None,
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                Some(Err(AcceptError::Exhausted(error)))
            }
            _ => Some(Err(AcceptError::Failed(error))),
        }
    }
}

/// Accepts one connection.
fn accept(fd: RawFd) -> io::Result<(OwnedFd, Address)> {
    if ACCEPT4.is_refused() {
        return accept_plainly(fd);
    }
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let accepted = Address::fill(|address, len| {
        // SAFETY: `fill` passes a buffer of `len` bytes.
        unsafe { libc::accept4(fd, address, len, flags) }
    });
    match accepted {
        // SAFETY: `fd` was just made and has no other owner.
        Ok((fd, address)) => Ok((unsafe { OwnedFd::from_raw_fd(fd) }, address)),
        Err(error) => {
            // SAFETY: no address is asked for.
            let probe = || unsafe {
                libc::accept4(-1, std::ptr::null_mut(), std::ptr::null_mut(), flags).into()
            };
            match ACCEPT4.was_refused(&error, probe) {
                true => accept_plainly(fd),
                false => Err(error),
            }
        }
    }
}

/// As [`accept`], with three system calls.
#[cold]
fn accept_plainly(fd: RawFd) -> io::Result<(OwnedFd, Address)> {
    // SAFETY: `fill` passes a buffer of `len` bytes.
    let (fd, address) = Address::fill(|address, len| unsafe { libc::accept(fd, address, len) })?;
    // SAFETY: `fd` was just made and has no other owner.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // A socket that was just made has no other flags.
    for (command, flag) in [
        (libc::F_SETFD, libc::FD_CLOEXEC),
        (libc::F_SETFL, libc::O_RDWR | libc::O_NONBLOCK),
    ] {
        // SAFETY: sets a flag of our own descriptor.
        if unsafe { libc::fcntl(fd.as_raw_fd(), command, flag) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok((fd, address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn listener() -> TcpListener {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    }

    #[test]
    fn a_batch_takes_all_that_wait_but_no_more_than_the_backlog() {
        let listener = listener();
        let address = listener.local_addr().unwrap();
        let clients: Vec<_> = (0..5)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        let first: Vec<_> = accept_batch(listener.as_raw_fd(), 3)
            .map(Result::unwrap)
            .collect();
        let second: Vec<_> = accept_batch(listener.as_raw_fd(), 100)
            .map(Result::unwrap)
            .collect();
        assert_eq!((first.len(), second.len()), (3, 2));
        let mut dialled: Vec<_> = clients
            .iter()
            .map(|client| client.local_addr().unwrap().port())
            .collect();
        for (fd, peer) in first.iter().chain(&second) {
            let Address::V4(peer) = peer else {
                panic!("{peer:?}")
            };
            assert!(peer.ip().is_loopback());
            dialled.retain(|&port| port != peer.port());
            // SAFETY: plain queries of a descriptor that is open.
            let (status, flags) = unsafe {
                (
                    libc::fcntl(fd.as_raw_fd(), libc::F_GETFL),
                    libc::fcntl(fd.as_raw_fd(), libc::F_GETFD),
                )
            };
            assert!(status & libc::O_NONBLOCK != 0 && flags & libc::FD_CLOEXEC != 0);
        }
        assert!(dialled.is_empty());
    }

    #[test]
    fn nothing_waiting_is_not_an_error_and_a_broken_listener_is() {
        let listener = listener();
        assert!(accept_batch(listener.as_raw_fd(), 10).next().is_none());
        let not_listening = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut batch = accept_batch(not_listening.as_raw_fd(), 10);
        assert!(matches!(batch.next(), Some(Err(AcceptError::Failed(_)))));
        assert!(batch.next().is_none());
    }
}
