//! System calls that a process may not make.
//!
//! A container's filter of system calls, or a kernel that is older than a call, answers with an
//! errno of its own choice: `ENOSYS`, `EPERM`, `EACCES`, `EINVAL`. Some of these the call itself
//! may fail with, too. A call on no descriptor (-1) tells the difference, and does nothing: a
//! kernel that gets to see it says `EBADF`. What was refused once is not tried again, and the older
//! call that does the same takes its place.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// A system call that another one can take the place of.
pub(crate) struct Replaceable {
    refused: AtomicBool,
}

impl Replaceable {
    pub(crate) const fn new() -> Self {
        Self {
            refused: AtomicBool::new(false),
        }
    }

    /// Whether this process may not make it, as far as is known.
    #[inline]
    pub(crate) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether the call failed with `error` because it is refused. `probe` makes it with -1 as its
    /// descriptor. From then on [`is_refused`](Self::is_refused).
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

/// Whether this may be a filter's answer.
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
        // SAFETY: a system call without pointers, on no descriptor.
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
