//! The wake-up: an eventfd that other threads write to, or a pair of sockets where eventfds are
//! refused.
//!
//! There is no lock, because one that a thread holds while another one forks is held for ever in
//! the child. Who closes the descriptor is found by a word (`uses.rs`).

use std::io;
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::event::EventfdFlags;

use super::uses::Uses;
use super::{drain, replace, socket_pair};
use crate::event_loop::inbox::WakeUp;
use crate::refused::is_refusal;

/// Ends the reactor's wait from another thread. Clones share one eventfd, which is closed when
/// nobody writes to it any more: its number may come into other hands then.
#[derive(Clone)]
pub struct Wake(Arc<Eventfd>);

struct Eventfd {
    /// What is read.
    fd: RawFd,
    /// What is written to. That of an eventfd is the same.
    write_fd: RawFd,
    uses: Uses,
}

impl Wake {
    pub(super) fn new() -> io::Result<Self> {
        let (fd, write_fd) = match eventfd() {
            Ok(fd) => {
                let fd = fd.into_raw_fd();
                (fd, fd)
            }
            Err(error) if is_refusal(&error) => {
                let [read, write] = socket_pair()?;
                (read.into_raw_fd(), write.into_raw_fd())
            }
            Err(error) => return Err(error),
        };
        Ok(Self(Arc::new(Eventfd {
            fd,
            write_fd,
            uses: Uses::new(),
        })))
    }

    /// The eventfd's number, unless it is closed.
    pub(super) fn fd(&self) -> Option<RawFd> {
        self.0.with(|fd| fd)
    }

    /// Closes the eventfd: waking does nothing from now on.
    pub(super) fn close(&self) {
        self.0.close();
    }

    /// Resets the eventfd, so that it is not reported again.
    pub(super) fn acknowledge(&self) {
        if self.0.is_pair() {
            self.0.with(drain);
            return;
        }
        self.0.with(|fd| {
            let mut count = 0_u64;
            // SAFETY: eight bytes of room for the counter. EAGAIN (nothing to read) is as good.
            unsafe { libc::read(fd, (&raw mut count).cast(), size_of::<u64>()) };
        });
    }

    /// In the child of a fork: an eventfd of its own takes the number of the one that the parent
    /// has as well.
    pub(super) fn renew(&self) -> io::Result<()> {
        if self.0.uses.is_closed() {
            return Ok(());
        }
        if self.0.is_pair() {
            let [read, write] = socket_pair()?;
            replace(self.0.fd, read)?;
            replace(self.0.write_fd, write)?;
        } else {
            replace(self.0.fd, eventfd()?)?;
        }
        // Who was counted is a thread of the parent's.
        self.0.uses.forget_users();
        Ok(())
    }
}

impl WakeUp for Wake {
    fn wake(&self) {
        self.0.with(|_| {
            let one = 1_u64;
            // SAFETY: eight readable bytes. The only failure is EAGAIN, with many unread wake-ups,
            // of which the first wakes.
            unsafe { libc::write(self.0.write_fd, (&raw const one).cast(), size_of::<u64>()) };
        });
    }
}

impl Eventfd {
    /// Uses the descriptor, which stays open meanwhile; `None` if it is closed.
    fn with<R>(&self, act: impl FnOnce(RawFd) -> R) -> Option<R> {
        if !self.uses.enter() {
            return None;
        }
        let result = act(self.fd);
        if self.uses.leave() {
            self.release();
        }
        Some(result)
    }

    fn is_pair(&self) -> bool {
        self.fd != self.write_fd
    }

    fn close(&self) {
        if self.uses.close() {
            self.release();
        }
    }

    fn release(&self) {
        // SAFETY: our own descriptors; only the last user comes here, and only once.
        unsafe {
            libc::close(self.fd);
            if self.is_pair() {
                libc::close(self.write_fd);
            }
        }
    }
}

impl Drop for Eventfd {
    fn drop(&mut self) {
        self.close();
    }
}

fn eventfd() -> io::Result<OwnedFd> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    Ok(rustix::event::eventfd(0, flags)?)
}
