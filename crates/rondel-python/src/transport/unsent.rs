//! What waits to be sent: bytes objects, and views of memory that belongs to the program.
//!
//! From 3.12 on asyncio keeps the object that it was given, not a copy. Here this is done with
//! large objects: the part of a `bytearray` or `memoryview` that the kernel did not take is not
//! copied, but held by an export of its buffer.
//!
//! Releasing a view may run Python code, the destructor of its object. But chunks are dropped while
//! data is sent. So a dropped view is only put on a list, and [`release_views`] releases it where
//! Python code may run.

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;
use rondel_engine::transport::stream::FLUSH_AT_ONCE;

use super::chunk::{Chunk, with_buffer};
use crate::cpython::{Object, Owned, Raised, Res};

/// Bytes that wait.
#[derive(Clone)]
pub(crate) enum Unsent {
    /// An exact `bytes` object.
    Bytes(Chunk),
    /// A view of another object's memory, from an offset on.
    View(Arc<View>, usize),
}

impl AsRef<[u8]> for Unsent {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Bytes(chunk) => chunk.as_ref(),
            Self::View(view, start) => &view.bytes()[*start..],
        }
    }
}

impl From<Chunk> for Unsent {
    #[inline]
    fn from(chunk: Chunk) -> Self {
        Self::Bytes(chunk)
    }
}

impl Unsent {
    /// The object itself if it is a `bytes`; otherwise a copy of its buffer or, if that is large, a
    /// view of it.
    pub(crate) fn of_buffer(object: &Object) -> Res<Self> {
        if let Some(chunk) = Chunk::exact(object) {
            return Ok(Self::Bytes(chunk));
        }
        match with_buffer(object, small)?? {
            Some(chunk) => Ok(Self::Bytes(chunk)),
            None => Ok(Self::View(View::of(object)?, 0)),
        }
    }

    /// A view from an offset on; a copy in versions where asyncio copies.
    pub(crate) fn of_view(view: Arc<View>, start: usize) -> Res<Self> {
        match cfg!(Py_3_12) {
            true => Ok(Self::View(view, start)),
            false => Chunk::copy(&view.bytes()[start..]).map(Self::Bytes),
        }
    }

    /// The object that holds the bytes, including those before a view's offset.
    #[inline]
    pub(crate) fn object(&self) -> &Object {
        match self {
            Self::Bytes(chunk) => chunk.object(),
            Self::View(view, _) => view.object(),
        }
    }

    /// What the collector has to see: a `bytes` object refers to nothing.
    pub(crate) fn collected(&self) -> Option<&Object> {
        match self {
            Self::Bytes(_) => None,
            Self::View(view, _) => Some(view.object()),
        }
    }
}

/// A copy of bytes that may change later; `None` if they are too many to copy.
pub(super) fn small(bytes: &[u8]) -> Res<Option<Chunk>> {
    match bytes.len() > FLUSH_AT_ONCE {
        true => Ok(None),
        false => Chunk::copy(bytes).map(Some),
    }
}

/// An exported buffer: the object cannot move or resize its memory while this exists.
pub(crate) struct View(ptr::NonNull<Held>);

struct Held {
    buffer: ffi::Py_buffer,
    /// The next on the list of dropped views.
    next: *mut Held,
}

/// The list of dropped views: a lock-free stack, since a lock could be held by another thread at a
/// fork.
static ASIDE: AtomicPtr<Held> = AtomicPtr::new(ptr::null_mut());

impl View {
    /// Fails as `socket.send()` does if the memory is not contiguous.
    pub(crate) fn of(object: &Object) -> Res<Arc<Self>> {
        let mut held = Box::new(MaybeUninit::<Held>::zeroed());
        // SAFETY: live objects; the place for the buffer can be written, and stays where it is.
        // All-zero is a valid `Held`. The `memoryview` is our own, so that the program may release
        // those that it has; the buffer holds on to it.
        unsafe {
            let view = Owned::steal(ffi::PyMemoryView_FromObject(object.as_ptr()))?;
            let buffer = &raw mut (*held.as_mut_ptr()).buffer;
            if ffi::PyObject_GetBuffer(view.as_ptr(), buffer, ffi::PyBUF_SIMPLE) < 0 {
                return Err(Raised);
            }
            let held = Box::into_raw(held).cast::<Held>();
            Ok(Arc::new(Self(ptr::NonNull::new_unchecked(held))))
        }
    }

    fn buffer(&self) -> &ffi::Py_buffer {
        // SAFETY: owned by this, and filled.
        unsafe { &self.0.as_ref().buffer }
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        let buffer = self.buffer();
        match usize::try_from(buffer.len) {
            // SAFETY: the exporter keeps so many bytes there until the buffer is released. They are
            // changed only by Python code, and none runs while they are looked at.
            Ok(len) if len > 0 => unsafe {
                std::slice::from_raw_parts(buffer.buf.cast_const().cast(), len)
            },
            _ => &[],
        }
    }

    /// The `memoryview`.
    fn object(&self) -> &Object {
        // SAFETY: what was exported is held until the buffer is released.
        unsafe { Object::from_ptr(self.buffer().obj) }
    }
}

// SAFETY: a buffer is used and released with the GIL held, by any thread.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl Drop for View {
    fn drop(&mut self) {
        let held = self.0.as_ptr();
        let mut next = ASIDE.load(Ordering::Relaxed);
        loop {
            // SAFETY: no other thread can reach it before it is on the stack.
            unsafe { (*held).next = next };
            match ASIDE.compare_exchange_weak(next, held, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => next = now,
            }
        }
    }
}

/// Releases dropped views. Nothing may be borrowed, as Python code may run.
#[inline]
pub(crate) fn release_views() {
    if !ASIDE.load(Ordering::Relaxed).is_null() {
        release_all();
    }
}

#[cold]
fn release_all() {
    let mut held = ASIDE.swap(ptr::null_mut(), Ordering::Acquire);
    while !held.is_null() {
        // SAFETY: it was made by `View::of`, and who takes it from the stack is the only one that
        // has it.
        unsafe {
            let mut last = Box::from_raw(held);
            held = last.next;
            ffi::PyBuffer_Release(&raw mut last.buffer);
        }
    }
}
