//! The wake-up: an eventfd that other threads write to.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::event_loop::inbox::WakeUp;

/// Ends the reactor's wait from another thread. Clones share one eventfd. Closing it takes the lock that waking
/// takes, so that nobody writes to a descriptor whose number has come into other hands.
#[derive(Clone)]
pub struct Wake(Arc<Mutex<Option<OwnedFd>>>);

impl Wake {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: a system call without pointers; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just made and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self(Arc::new(Mutex::new(Some(fd)))))
    }

    /// The eventfd's number, unless it is closed.
    pub(super) fn fd(&self) -> Option<RawFd> {
        self.lock().as_ref().map(OwnedFd::as_raw_fd)
    }

    /// Closes the eventfd: waking does nothing from now on.
    pub(super) fn close(&self) {
        drop(self.lock().take());
    }

    /// Resets the eventfd, so that it is not reported again.
    pub(super) fn acknowledge(&self) {
        if let Some(fd) = self.lock().as_ref() {
            let mut count = 0_u64;
            // SAFETY: eight bytes of room for the counter. EAGAIN (nothing to read) is as good.
            unsafe { libc::read(fd.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl WakeUp for Wake {
    fn wake(&self) {
        if let Some(fd) = self.lock().as_ref() {
            let one = 1_u64;
            // SAFETY: eight readable bytes. The only failure is EAGAIN at 2^64 - 2 unread wake-ups, which wakes too.
            unsafe { libc::write(fd.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
        }
    }
}
