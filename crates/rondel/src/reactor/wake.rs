//! The wake-up: an eventfd that other threads write to.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use crate::event_loop::inbox::WakeUp;

/// Ends the reactor's wait from another thread. Clones share one eventfd, which lives as long as any of them.
#[derive(Clone)]
pub struct Wake(Arc<OwnedFd>);

impl Wake {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: a system call without pointers; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just made and has no other owner.
        Ok(Self(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    pub(super) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Resets the eventfd, so that it is not reported again.
    pub(super) fn acknowledge(&self) {
        let mut count = 0_u64;
        // SAFETY: eight bytes of room for the counter. EAGAIN (nothing to read) is as good.
        unsafe { libc::read(self.fd(), (&raw mut count).cast(), size_of::<u64>()) };
    }
}

impl WakeUp for Wake {
    fn wake(&self) {
        let one = 1_u64;
        // SAFETY: eight readable bytes. The only failure is EAGAIN at 2^64 - 2 unread wake-ups, which wakes too.
        unsafe { libc::write(self.fd(), (&raw const one).cast(), size_of::<u64>()) };
    }
}
