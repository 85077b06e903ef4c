//! System calls that a process may not make.
//!
//! A container's seccomp filter, or a kernel older than a call, fails it with `ENOSYS`, `EPERM`,
//! `EACCES` or `EINVAL`. The call itself may fail with some of these, too. A call on descriptor -1
//! tells the difference and has no effect: a kernel that sees it returns `EBADF`. A refused call is
//! not tried again; the older call that does the same replaces it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// A system call that another one can replace.
pub(crate) struct Replaceable {
    refused: AtomicBool,
}

impl Replaceable {
    pub(crate) const fn new() -> Self {
        Self {
            refused: AtomicBool::new(false),
        }
    }

    /// Whether the call is known to be refused in this process.
    #[inline]
    pub(crate) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether the call failed with `error` because it is refused. `probe` makes the call on
    /// descriptor -1. If so, [`is_refused`](Self::is_refused) is true from then on.
    #[cold]
    pub(crate) fn was_refused(
        &self,
        error: &io::Error,
        probe: impl FnOnce() -> libc::c_long,
    ) -> bool {
        if !is_refusal(error) || probe() >= 0 {
            return false;
        }
        if io::Error::last_os_error().raw_os_error() == Some(libc::EBADF) {
            return false;
        }
        self.refused.store(true, Ordering::Relaxed);
        true
    }
}

/// Whether a filter may return this error.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOSYS | libc::EPERM | libc::EACCES | libc::EINVAL | libc::EOPNOTSUPP)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: i32) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    #[test]
    fn a_call_that_the_kernel_sees_is_not_refused() {
        let call = Replaceable::new();
        // SAFETY: a system call without pointers, on descriptor -1.
        let seen = || unsafe { libc::syscall(libc::SYS_accept4, -1, 0, 0, 0) };
        assert!(!call.was_refused(&error(libc::EPERM), seen));
        assert!(!call.was_refused(&error(libc::EMFILE), || panic!("not in question")));
        assert!(!call.is_refused());
    }

    #[test]
    fn a_call_that_it_does_not_see_is_refused_from_then_on() {
        let call = Replaceable::new();
        // SAFETY: there is no such system call.
        let unknown = || unsafe { libc::syscall(100_000, -1) };
        assert!(call.was_refused(&error(libc::ENOSYS), unknown));
        assert!(call.is_refused());
    }
}
