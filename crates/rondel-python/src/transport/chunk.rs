//! Bytes objects as the engine's chunks: what was received, and what is to be sent.

use std::mem::MaybeUninit;
use std::ptr;

use pyo3::ffi;

use super::names::imports;
use crate::cpython::object::check;
use crate::cpython::private::_PyBytes_Resize;
use crate::cpython::{Object, Owned, Raised, Res};

/// An exact `bytes` object.
#[derive(Clone)]
pub(crate) struct Chunk(Owned);

impl AsRef<[u8]> for Chunk {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        content(&self.0)
    }
}

/// What a `bytes` object holds.
#[inline]
fn content(bytes: &Object) -> &[u8] {
    // SAFETY: callers pass `bytes` objects; they are immutable, and the object outlives the borrow.
    unsafe {
        let data = ffi::PyBytes_AS_STRING(bytes.as_ptr());
        std::slice::from_raw_parts(data.cast(), ffi::Py_SIZE(bytes.as_ptr()) as usize)
    }
}

#[inline]
fn is_exact(object: &Object) -> bool {
    // SAFETY: a live object.
    unsafe { ffi::PyBytes_CheckExact(object.as_ptr()) != 0 }
}

impl Chunk {
    /// A copy of these bytes.
    #[inline]
    pub(crate) fn copy(bytes: &[u8]) -> Res<Self> {
        Owned::from_bytes(bytes).map(Self)
    }

    /// A chunk without bytes.
    pub(crate) fn empty() -> Self {
        Self(imports().empty_bytes.clone())
    }

    /// The object itself if it is exactly a `bytes`.
    #[inline]
    pub(crate) fn exact(object: &Object) -> Option<Self> {
        is_exact(object).then(|| Self(object.own()))
    }

    /// The object itself, or a copy of what its buffer holds.
    pub(crate) fn of_buffer(object: &Object) -> Res<Self> {
        match Self::exact(object) {
            Some(chunk) => Ok(chunk),
            None => with_buffer(object, Self::copy)?,
        }
    }

    /// A new object of up to `room` bytes: `fill` writes them and returns how many it wrote.
    pub(crate) fn fill<E>(
        room: usize,
        fill: impl FnOnce(&mut [MaybeUninit<u8>]) -> Result<usize, E>,
    ) -> Res<Result<Self, E>> {
        // SAFETY: a fresh bytes object of that size, seen by nobody else, may be written to; it is
        // cut to what was written, and `_PyBytes_Resize` gives a new reference in place of the old.
        unsafe {
            let object = Owned::steal(ffi::PyBytes_FromStringAndSize(ptr::null(), room as isize))?;
            let data = ffi::PyBytes_AS_STRING(object.as_ptr()).cast_mut().cast();
            match fill(std::slice::from_raw_parts_mut(data, room)) {
                Err(error) => Ok(Err(error)),
                Ok(written) if written == room => Ok(Ok(Self(object))),
                Ok(written) => {
                    let mut object = object.into_ptr();
                    check(_PyBytes_Resize(&mut object, written as isize))?;
                    Ok(Ok(Self(Owned::steal(object)?)))
                }
            }
        }
    }

    /// The object.
    #[inline]
    pub(crate) fn object(&self) -> &Object {
        &self.0
    }

    #[inline]
    pub(crate) fn into_object(self) -> Owned {
        self.0
    }
}

/// Lets `body` see the memory of an object that has the buffer protocol.
pub(crate) fn with_buffer<R>(object: &Object, body: impl FnOnce(&[u8]) -> R) -> Res<R> {
    with_raw_buffer(object, ffi::PyBUF_SIMPLE, |data, len| {
        if len == 0 {
            return body(&[]);
        }
        // SAFETY: the exporter keeps `len` bytes there while the view is held. Python code can't
        // change them meanwhile, as `body` runs none.
        body(unsafe { std::slice::from_raw_parts(data, len) })
    })
}

/// Lets `body` write to the memory of an object that has a writable buffer.
pub(crate) fn with_writable_buffer<R>(
    object: &Object,
    body: impl FnOnce(&mut [MaybeUninit<u8>]) -> R,
) -> Res<R> {
    with_raw_buffer(object, ffi::PyBUF_WRITABLE, |data, len| {
        if len == 0 {
            return body(&mut []);
        }
        // SAFETY: as in `with_buffer`; the view is writable, and nobody else has it while `body`
        // runs.
        body(unsafe { std::slice::from_raw_parts_mut(data.cast(), len) })
    })
}

fn with_raw_buffer<R>(
    object: &Object,
    flags: std::ffi::c_int,
    body: impl FnOnce(*mut u8, usize) -> R,
) -> Res<R> {
    let mut view = MaybeUninit::<ffi::Py_buffer>::uninit();
    // SAFETY: a live object; the view is filled on success and released once.
    unsafe {
        if ffi::PyObject_GetBuffer(object.as_ptr(), view.as_mut_ptr(), flags) < 0 {
            return Err(Raised);
        }
        let view = view.assume_init_mut();
        let result = body(view.buf.cast(), view.len as usize);
        ffi::PyBuffer_Release(view);
        Ok(result)
    }
}
