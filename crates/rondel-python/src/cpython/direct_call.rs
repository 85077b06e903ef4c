//! A vectorcall for each native method that programs see as a Python function.
//!
//! Each `method!` has a static [`Known`]. The vectorcall compares the function and its first
//! argument with it; if they match, it calls the native code directly, at an address known at
//! compile time. All other calls go through `function.rs`.

use std::collections::HashMap;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};

use pyo3::ffi;

use super::function::call_otherwise;
use super::method::{FastFn, NoArgsFn};

/// What one function was made with. It is only compared; an empty one matches no function.
pub(crate) struct Known {
    code: AtomicPtr<ffi::PyObject>,
    defaults: AtomicPtr<ffi::PyObject>,
    /// The class of most objects that the method is called on; null for a function of the module.
    class: AtomicPtr<ffi::PyTypeObject>,
    /// What a function of the module is bound to.
    module: AtomicPtr<ffi::PyObject>,
}

/// The vectorcall that a `method!` has for one function.
#[derive(Clone, Copy)]
pub(crate) struct DirectCall {
    pub(crate) vectorcall: ffi::vectorcallfunc,
    pub(crate) known: &'static Known,
}

/// By the address of a method's definition.
static CALLS: Mutex<Option<HashMap<usize, DirectCall>>> = Mutex::new(None);

/// Notes the call of a method whose definition stands at its lasting place by now.
pub(super) fn note(definition: *const ffi::PyMethodDef, call: Option<DirectCall>) {
    if let Some(call) = call {
        let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
        calls
            .get_or_insert_default()
            .insert(definition.addr(), call);
    }
}

/// The vectorcall for a function with this code and these defaults, which calls the method of that
/// definition. None if there is none, or another function has it: one `method!` may be in several
/// classes.
pub(super) fn take(
    definition: *const ffi::PyMethodDef,
    function: &ffi::PyFunctionObject,
    class: *mut ffi::PyTypeObject,
    module: *mut ffi::PyObject,
) -> Option<ffi::vectorcallfunc> {
    let calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
    let call = calls.as_ref()?.get(&definition.addr())?;
    let known = call.known;
    if !known.code.load(Ordering::Relaxed).is_null() && !known.is_of_base(class) {
        return None;
    }
    known
        .defaults
        .store(function.func_defaults, Ordering::Relaxed);
    known.class.store(class, Ordering::Relaxed);
    known.module.store(module, Ordering::Relaxed);
    known.code.store(function.func_code, Ordering::Relaxed);
    Some(call.vectorcall)
}

impl Known {
    pub(crate) const fn new() -> Self {
        Self {
            code: AtomicPtr::new(ptr::null_mut()),
            defaults: AtomicPtr::new(ptr::null_mut()),
            class: AtomicPtr::new(ptr::null_mut()),
            module: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Whether it is for a base of this class: a function of the base is hardly ever called with an
    /// object of the base itself.
    fn is_of_base(&self, class: *mut ffi::PyTypeObject) -> bool {
        let base = self.class.load(Ordering::Relaxed);
        // SAFETY: live types, as both are looked up.
        !base.is_null() && !class.is_null() && unsafe { ffi::PyType_IsSubtype(class, base) != 0 }
    }

    /// Whether a function is as it was made.
    ///
    /// # Safety
    /// A live function.
    #[inline(always)]
    unsafe fn is_unchanged(&self, function: *mut ffi::PyObject) -> bool {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let function = function.cast::<ffi::PyFunctionObject>();
            ptr::eq((*function).func_code, self.code.load(Ordering::Relaxed))
                && ptr::eq(
                    (*function).func_defaults,
                    self.defaults.load(Ordering::Relaxed),
                )
        }
    }

    /// Whether a function is as it was made, and its first argument is exactly of the usual class.
    ///
    /// # Safety
    /// A live function, and `count` live arguments.
    #[inline(always)]
    unsafe fn is_usual(
        &self,
        function: *mut ffi::PyObject,
        args: *const *mut ffi::PyObject,
        count: isize,
    ) -> bool {
        // SAFETY: guaranteed by the caller.
        unsafe {
            count > 0
                && self.is_unchanged(function)
                && ptr::eq(ffi::Py_TYPE(*args), self.class.load(Ordering::Relaxed))
        }
    }

    /// Calls a method, or a function of the module, that takes a vector of arguments.
    ///
    /// # Safety
    /// As the vectorcall protocol has it; `callable` has this call's vectorcall.
    #[inline(always)]
    pub(crate) unsafe fn call_fast(
        &self,
        call: FastFn,
        callable: *mut ffi::PyObject,
        args: *const *mut ffi::PyObject,
        nargs: usize,
        kwnames: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject {
        // SAFETY: guaranteed by the caller; `take` has noted what the function is bound to.
        unsafe {
            let count = ffi::PyVectorcall_NARGS(nargs);
            if self.is_unchanged(callable) {
                let class = self.class.load(Ordering::Relaxed);
                if class.is_null() {
                    return call(self.module.load(Ordering::Relaxed), args, count, kwnames);
                }
                if count > 0 && ptr::eq(ffi::Py_TYPE(*args), class) {
                    return call(*args, args.add(1), count - 1, kwnames);
                }
            }
            call_otherwise(callable, args, nargs, kwnames)
        }
    }

    /// Calls a method that takes the object and nothing else.
    ///
    /// # Safety
    /// As [`call_fast`](Self::call_fast).
    #[inline(always)]
    pub(crate) unsafe fn call_noargs(
        &self,
        call: NoArgsFn,
        callable: *mut ffi::PyObject,
        args: *const *mut ffi::PyObject,
        nargs: usize,
        kwnames: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let count = ffi::PyVectorcall_NARGS(nargs);
            if count == 1 && kwnames.is_null() && self.is_usual(callable, args, count) {
                return call(*args, ptr::null_mut());
            }
            call_otherwise(callable, args, nargs, kwnames)
        }
    }

    /// Calls a method that takes the object and one argument.
    ///
    /// # Safety
    /// As [`call_fast`](Self::call_fast).
    #[inline(always)]
    pub(crate) unsafe fn call_onearg(
        &self,
        call: NoArgsFn,
        callable: *mut ffi::PyObject,
        args: *const *mut ffi::PyObject,
        nargs: usize,
        kwnames: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let count = ffi::PyVectorcall_NARGS(nargs);
            if count == 2 && kwnames.is_null() && self.is_usual(callable, args, count) {
                return call(*args, *args.add(1));
            }
            call_otherwise(callable, args, nargs, kwnames)
        }
    }
}

/// `direct_call!(call_fast wrapper)`: the vectorcall of a `method!`, in the shape of its C
/// function.
macro_rules! direct_call {
    ($shape:ident $wrapper:path) => {{
        static KNOWN: $crate::cpython::direct_call::Known =
            $crate::cpython::direct_call::Known::new();
        unsafe extern "C" fn vectorcall(
            callable: *mut pyo3::ffi::PyObject,
            args: *const *mut pyo3::ffi::PyObject,
            nargs: usize,
            kwnames: *mut pyo3::ffi::PyObject,
        ) -> *mut pyo3::ffi::PyObject {
            // SAFETY: the interpreter calls a function's own vectorcall as the protocol has it.
            unsafe { KNOWN.$shape($wrapper, callable, args, nargs, kwnames) }
        }
        $crate::cpython::direct_call::DirectCall {
            vectorcall,
            known: &KNOWN,
        }
    }};
}
pub(crate) use direct_call;
