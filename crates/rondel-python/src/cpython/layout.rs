//! Looking for something in the memory of an object whose layout is no API.
//!
//! A probe fills an object by its own methods, and looks for what must have appeared in its words.
//! What an unknown word points to is read by the kernel, to which a wrong address is only an error
//! ([`peek`]).

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use pyo3::ffi;

use super::Object;

/// The size of a word, in bytes.
pub(crate) const WORD: usize = size_of::<usize>();

/// The word at an offset, in bytes, of an object's own memory. 0 behind its end.
pub(crate) fn word(object: &Object, offset: usize) -> usize {
    if offset + WORD > object.class().basicsize() {
        return 0;
    }
    // SAFETY: within the object, as its class says; any bytes are a word.
    unsafe { object.as_ptr().byte_add(offset).cast::<usize>().read() }
}

/// The words of an object behind its header, with their offsets in bytes.
pub(crate) fn words(object: &Object) -> impl Iterator<Item = (usize, usize)> {
    let header = size_of::<ffi::PyObject>();
    let end = object.class().basicsize();
    (header..end.saturating_sub(WORD - 1))
        .step_by(WORD)
        .map(move |offset| (offset, word(object, offset)))
}

/// Where an object holds a pointer to another one, in bytes from its beginning.
pub(crate) fn holder_of(object: &Object, held: &Object) -> Option<usize> {
    let address = held.as_ptr().addr();
    words(object)
        .find(|&(_, word)| word == address)
        .map(|(offset, _)| offset)
}

/// A copy of an object's own memory.
pub(crate) fn bytes(object: &Object) -> Vec<u8> {
    let size = object.class().basicsize();
    // SAFETY: so much memory is the object's, as its class says; the allocator has zeroed it.
    unsafe { std::slice::from_raw_parts(object.as_ptr().cast::<u8>(), size).to_vec() }
}

/// Whether a word may be the address of a C struct.
pub(crate) fn is_pointer(word: usize) -> bool {
    word > 0xffff && word.is_multiple_of(align_of::<usize>())
}

/// The first `N` words at an address, as far as there is memory that can be read.
pub(crate) fn peek<const N: usize>(address: usize) -> Option<[usize; N]> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } < 0 {
        return None;
    }
    // SAFETY: both are new and ours.
    let (output, input) = unsafe { ends.map(|fd| OwnedFd::from_raw_fd(fd)) }.into();
    let mut words = [0_usize; N];
    let len = size_of_val(&words) as isize;
    // SAFETY: the kernel copies from an address that it checks, and to memory of that size.
    let read = unsafe {
        let written = libc::write(
            input.as_raw_fd(),
            ptr::without_provenance(address),
            len as usize,
        );
        if written != len {
            return None;
        }
        libc::read(output.as_raw_fd(), words.as_mut_ptr().cast(), len as usize)
    };
    (read == len).then_some(words)
}
