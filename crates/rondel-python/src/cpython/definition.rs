//! Running a hook before a built-in function of the interpreter.
//!
//! A built-in function, or a method of a built-in class, points to a `PyMethodDef`: name, C
//! function, calling convention, docstring. [`Preceded`] replaces that definition with a copy whose
//! C function calls our hook first. The function object keeps its identity, name, docstring and
//! signature, so that code that imported it earlier gets the hook as well. No attribute of a Python
//! module is replaced, so patches of a program or another library keep working.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use super::Object;

/// One hooked function, with a C function for each calling convention.
pub(crate) struct Preceded {
    pub(crate) name: &'static str,
    /// The C function that was there before.
    pub(crate) original: &'static AtomicPtr<c_void>,
    pub(crate) two: Two,
    pub(crate) three: Three,
    pub(crate) fast: Fast,
    pub(crate) fast_keywords: FastKeywords,
}

type Pointer = *mut ffi::PyObject;
type Pointers = *const *mut ffi::PyObject;

// Up to 3.13 a daemon thread may end in the original, by unwinding: there is nothing in these
// frames to be dropped.
pub(crate) type Two = unsafe extern "C-unwind" fn(Pointer, Pointer) -> Pointer;
pub(crate) type Three = unsafe extern "C-unwind" fn(Pointer, Pointer, Pointer) -> Pointer;
pub(crate) type Fast = unsafe extern "C-unwind" fn(Pointer, Pointers, ffi::Py_ssize_t) -> Pointer;
pub(crate) type FastKeywords =
    unsafe extern "C-unwind" fn(Pointer, Pointers, ffi::Py_ssize_t, Pointer) -> Pointer;

/// `preceded!(first; "name", …)`: functions before which `first()` is called.
macro_rules! preceded {
    ($first:path; $($name:literal),+ $(,)?) => {
        [$({
            use std::ffi::c_void;
            use std::sync::atomic::{AtomicPtr, Ordering};
            use $crate::cpython::definition::{Fast, FastKeywords, Preceded, Three, Two};
            type Pointer = *mut pyo3::ffi::PyObject;
            type Pointers = *const *mut pyo3::ffi::PyObject;
            static ORIGINAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
            unsafe extern "C-unwind" fn two(this: Pointer, argument: Pointer) -> Pointer {
                $first();
                // SAFETY: a function of this convention was there before, and it gets what this one
                // was given.
                unsafe {
                    let original = ORIGINAL.load(Ordering::Relaxed);
                    std::mem::transmute::<*mut c_void, Two>(original)(this, argument)
                }
            }
            unsafe extern "C-unwind" fn three(this: Pointer, args: Pointer, named: Pointer) -> Pointer {
                $first();
                // SAFETY: as above.
                unsafe {
                    let original = ORIGINAL.load(Ordering::Relaxed);
                    std::mem::transmute::<*mut c_void, Three>(original)(this, args, named)
                }
            }
            unsafe extern "C-unwind" fn fast(this: Pointer, args: Pointers, count: isize) -> Pointer {
                $first();
                // SAFETY: as above.
                unsafe {
                    let original = ORIGINAL.load(Ordering::Relaxed);
                    std::mem::transmute::<*mut c_void, Fast>(original)(this, args, count)
                }
            }
            unsafe extern "C-unwind" fn fast_keywords(
                this: Pointer, args: Pointers, count: isize, names: Pointer,
            ) -> Pointer {
                $first();
                // SAFETY: as above.
                unsafe {
                    let original = ORIGINAL.load(Ordering::Relaxed);
                    std::mem::transmute::<*mut c_void, FastKeywords>(original)(this, args, count, names)
                }
            }
            Preceded { name: $name, original: &ORIGINAL, two, three, fast, fast_keywords }
        }),+]
    };
}
pub(crate) use preceded;

impl Preceded {
    /// Hooks a function. A function that is not built in, or has an unknown calling convention, is
    /// left alone.
    pub(crate) fn put_before(&self, function: &Object) {
        if !self.original.load(Ordering::Relaxed).is_null() {
            return;
        }
        let object = function.as_ptr();
        // SAFETY: live objects of these classes have these fields; definitions live forever, and so
        // does the copy.
        unsafe {
            let place = if ptr::eq(function.type_ptr(), &raw const ffi::PyCFunction_Type) {
                &raw mut (*object.cast::<ffi::PyCFunctionObject>()).m_ml
            } else if ptr::eq(function.type_ptr(), &raw const ffi::PyMethodDescr_Type) {
                &raw mut (*object.cast::<ffi::PyMethodDescrObject>()).d_method
            } else {
                return;
            };
            let definition = &**place;
            let Some(ours) = self.of_convention(definition.ml_flags) else {
                return;
            };
            // Whatever its type is, it is a pointer to a function.
            let original =
                std::mem::transmute::<ffi::PyMethodDefPointer, *mut c_void>(definition.ml_meth);
            self.original.store(original, Ordering::Relaxed);
            *place = Box::leak(Box::new(ffi::PyMethodDef {
                ml_name: definition.ml_name,
                ml_meth: std::mem::transmute::<*mut c_void, ffi::PyMethodDefPointer>(ours),
                ml_flags: definition.ml_flags,
                ml_doc: definition.ml_doc,
            }));
        }
    }

    fn of_convention(&self, flags: c_int) -> Option<*mut c_void> {
        const VARARGS: c_int = ffi::METH_VARARGS;
        const KEYWORDS: c_int = ffi::METH_KEYWORDS;
        const NOARGS: c_int = ffi::METH_NOARGS;
        const ONE: c_int = ffi::METH_O;
        const FAST: c_int = ffi::METH_FASTCALL;
        const ALL: c_int = VARARGS | KEYWORDS | NOARGS | ONE | FAST | ffi::METH_METHOD;
        const WITH_KEYWORDS: c_int = VARARGS | KEYWORDS;
        const FAST_KEYWORDS: c_int = FAST | KEYWORDS;
        Some(match flags & ALL {
            NOARGS | ONE | VARARGS => self.two as *mut c_void,
            WITH_KEYWORDS => self.three as *mut c_void,
            FAST => self.fast as *mut c_void,
            FAST_KEYWORDS => self.fast_keywords as *mut c_void,
            _ => return None,
        })
    }
}
