//! What built-in types can do, for an [`Object`] of any kind: the C API's functions of sequences,
//! numbers and bytes.

use std::ptr;

use pyo3::ffi;

use super::object::truth;
use super::{Object, Owned, Raised, Res};

impl Object {
    /// Whether it is a `tuple`, or of a subclass.
    #[inline]
    pub(crate) fn is_tuple(&self) -> bool {
        // SAFETY: a live object.
        unsafe { ffi::PyTuple_Check(self.as_ptr()) != 0 }
    }

    /// Whether it is exactly a `tuple`.
    #[inline]
    pub(crate) fn is_exact_tuple(&self) -> bool {
        // SAFETY: a live object.
        unsafe { ffi::PyTuple_CheckExact(self.as_ptr()) != 0 }
    }

    /// Whether it is an `int`, or of a subclass.
    #[inline]
    pub(crate) fn is_int(&self) -> bool {
        // SAFETY: a live object.
        unsafe { ffi::PyLong_Check(self.as_ptr()) != 0 }
    }

    /// Whether it is exactly an `int`.
    #[inline]
    pub(crate) fn is_exact_int(&self) -> bool {
        // SAFETY: a live object.
        unsafe { ffi::PyLong_CheckExact(self.as_ptr()) != 0 }
    }

    /// Whether it is a `bytes`, `bytearray` or `memoryview`, or of a subclass: what asyncio's
    /// transports take.
    pub(crate) fn is_bytes_like(&self) -> bool {
        // SAFETY: a live object.
        unsafe {
            ffi::PyBytes_Check(self.as_ptr()) != 0
                || ffi::PyByteArray_Check(self.as_ptr()) != 0
                || ffi::PyMemoryView_Check(self.as_ptr()) != 0
        }
    }

    /// `len(object)`.
    pub(crate) fn len(&self) -> Res<usize> {
        // SAFETY: a live object.
        let len = unsafe { ffi::PyObject_Size(self.as_ptr()) };
        usize::try_from(len).map_err(|_| Raised)
    }

    /// `self < other`.
    pub(crate) fn is_less(&self, other: &Object) -> Res<bool> {
        // SAFETY: live objects.
        truth(unsafe { ffi::PyObject_RichCompareBool(self.as_ptr(), other.as_ptr(), ffi::Py_LT) })
    }

    /// `tuple(object)`.
    pub(crate) fn to_tuple(&self) -> Res<Owned> {
        // SAFETY: a live object; what is not iterable raises.
        unsafe { Owned::steal(ffi::PySequence_Tuple(self.as_ptr())) }
    }

    /// `bytes(object)`, of what has a buffer.
    pub(crate) fn to_bytes(&self) -> Res<Owned> {
        // SAFETY: a live object.
        unsafe { Owned::steal(ffi::PyBytes_FromObject(self.as_ptr())) }
    }

    /// `bytearray(object)`.
    pub(crate) fn to_bytearray(&self) -> Res<Owned> {
        // SAFETY: a live object.
        unsafe { Owned::steal(ffi::PyByteArray_FromObject(self.as_ptr())) }
    }

    /// `memoryview(object)`.
    pub(crate) fn to_memoryview(&self) -> Res<Owned> {
        // SAFETY: a live object.
        unsafe { Owned::steal(ffi::PyMemoryView_FromObject(self.as_ptr())) }
    }
}

impl Owned {
    /// A `bytearray` of these bytes.
    pub(crate) fn bytearray(bytes: &[u8]) -> Res<Self> {
        // SAFETY: a readable buffer of that length.
        unsafe {
            Self::steal(ffi::PyByteArray_FromStringAndSize(
                bytes.as_ptr().cast(),
                bytes.len() as isize,
            ))
        }
    }

    /// A weak reference without a callback.
    pub(crate) fn weakref(object: &Object) -> Res<Self> {
        // SAFETY: a live object.
        unsafe { Self::steal(ffi::PyWeakref_NewRef(object.as_ptr(), ptr::null_mut())) }
    }
}
