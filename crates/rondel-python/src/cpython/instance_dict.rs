//! Whether an object has an instance dict, or attributes that would be in one.
//!
//! Instances of `asyncio.Future` may have a dict, so our futures and tasks may, too; few ever do.
//! From CPython 3.14 on the attributes are inline values behind the object, until the dict is
//! requested. `_PyObject_GetDictPtr` materializes the dict, which would slow down the deallocation
//! of every future and task. So the dict pointer, before the object, and the header of the inline
//! values are read directly. Both offsets are verified at import, with an object that gets an
//! attribute and then a dict; if the probe fails, the function is used after all.

#[cfg(Py_3_14)]
use std::sync::atomic::{AtomicIsize, Ordering};

use pyo3::ffi;

use super::Object;
use super::private::_PyObject_GetDictPtr;
#[cfg(Py_3_14)]
use super::{Owned, Res, none};

/// Where the interpreter keeps an object's dict, in bytes from the object; 0 if that is not known.
#[cfg(Py_3_14)]
static DICT: AtomicIsize = AtomicIsize::new(0);

/// `Py_TPFLAGS_INLINE_VALUES`: the attributes stand behind the object.
#[cfg(Py_3_14)]
const INLINE_VALUES: std::ffi::c_ulong = 1 << 2;
/// Bytes of the array's head: how many attributes were set, and whether the array is in use.
#[cfg(Py_3_14)]
const SIZE: usize = 1;
#[cfg(Py_3_14)]
const VALID: usize = 3;

/// Whether the place was found.
#[cfg(Py_3_14)]
pub(crate) fn is_found() -> bool {
    DICT.load(Ordering::Relaxed) != 0
}

/// Whether there is an instance dict, or an attribute that would be in one. `object` is of a class
/// that can have them.
#[inline]
pub(crate) fn has_dict(object: &Object) -> bool {
    let (object, class) = (object.as_ptr(), object.type_ptr());
    // SAFETY: a live object and its class; the offset is that of a `PyObject *` in the object.
    unsafe {
        if (*class).tp_dictoffset > 0 {
            let dict = object.byte_offset((*class).tp_dictoffset);
            return !(*dict.cast::<*mut ffi::PyObject>()).is_null();
        }
        #[cfg(Py_3_14)]
        if DICT.load(Ordering::Relaxed) != 0 {
            return !managed_dict(object).is_null()
                || (ffi::PyType_HasFeature(class, INLINE_VALUES) != 0 && has_values(object));
        }
        // Exported by every supported version.
        let dict = _PyObject_GetDictPtr(object);
        !dict.is_null() && !(*dict).is_null()
    }
}

/// # Safety
/// A live object of a class whose dicts the interpreter manages (`tp_dictoffset` is negative); the
/// place is known.
#[cfg(Py_3_14)]
#[inline]
unsafe fn managed_dict(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: guaranteed by the caller.
    unsafe {
        *object
            .byte_offset(DICT.load(Ordering::Relaxed))
            .cast::<*mut ffi::PyObject>()
    }
}

/// # Safety
/// A live object of a class with `INLINE_VALUES`.
#[cfg(Py_3_14)]
#[inline]
unsafe fn has_values(object: *mut ffi::PyObject) -> bool {
    // SAFETY: guaranteed by the caller, the array's head stands behind the object's own memory.
    unsafe {
        let head = object
            .byte_offset((*ffi::Py_TYPE(object)).tp_basicsize)
            .cast::<u8>();
        *head.add(VALID) != 0 && *head.add(SIZE) != 0
    }
}

/// Finds the place, with an object that nobody has seen. Once, at import.
#[cfg(Py_3_14)]
pub(crate) fn find(probe: &Object) -> Res<()> {
    let class = probe.type_ptr();
    // SAFETY: a live object's class.
    let has_values_inline =
        unsafe { (*class).tp_dictoffset < 0 && ffi::PyType_HasFeature(class, INLINE_VALUES) != 0 };
    if !has_values_inline {
        return Ok(());
    }
    // Before the collector's two words, where the build has these.
    let words = if cfg!(Py_GIL_DISABLED) { -1 } else { -3 };
    DICT.store(words * size_of::<usize>() as isize, Ordering::Relaxed);
    let object = probe.as_ptr();
    // SAFETY: a live object with a dict that the interpreter manages, and inline values.
    let seen = || unsafe { (managed_dict(object), has_values(object)) };
    let fresh = seen();
    probe.setattr(&*Owned::from_str("rondel")?, none())?;
    let with_attribute = seen();
    // SAFETY: a live object that can have a dict.
    let dict = unsafe { Owned::steal(ffi::PyObject_GenericGetDict(object, std::ptr::null_mut()))? };
    let null = std::ptr::null_mut();
    let is_there =
        fresh == (null, false) && with_attribute == (null, true) && seen().0 == dict.as_ptr();
    if !is_there {
        DICT.store(0, Ordering::Relaxed);
    }
    Ok(())
}
