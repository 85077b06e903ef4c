//! `recv`, `send` and `sendmsg` as bare system calls.
//!
//! The C library's functions of these names are cancellation points. In a process with several
//! threads (the Python face has a monitor thread) each call marks its thread as cancellable and
//! back, with two atomic operations. Rondel never cancels a thread.

use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::ptr;

/// As `recv(2)` without flags.
#[inline]
pub(super) fn recv(fd: RawFd, room: &mut [MaybeUninit<u8>]) -> isize {
    // SAFETY: the kernel writes at most `room.len()` bytes to `room`, and no address.
    unsafe {
        libc::syscall(
            libc::SYS_recvfrom,
            fd,
            room.as_mut_ptr(),
            room.len(),
            0,
            ptr::null_mut::<libc::sockaddr>(),
            ptr::null_mut::<libc::socklen_t>(),
        ) as isize
    }
}

/// As `send(2)`.
#[inline]
pub(super) fn send(fd: RawFd, bytes: &[u8], flags: libc::c_int) -> isize {
    // SAFETY: `bytes` is readable for its length. No address is given.
    unsafe {
        libc::syscall(
            libc::SYS_sendto,
            fd,
            bytes.as_ptr(),
            bytes.len(),
            flags,
            ptr::null::<libc::sockaddr>(),
            0,
        ) as isize
    }
}

/// As `sendmsg(2)`.
///
/// # Safety
/// All memory that the message points to must be readable.
#[inline]
pub(super) unsafe fn sendmsg(fd: RawFd, message: &libc::msghdr, flags: libc::c_int) -> isize {
    // SAFETY: guaranteed by the caller.
    unsafe { libc::syscall(libc::SYS_sendmsg, fd, ptr::from_ref(message), flags) as isize }
}
