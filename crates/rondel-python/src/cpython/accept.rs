//! Methods of our classes, called on objects of others: `rondel.Future.done(task)`.
//!
//! A method descriptor accepts only instances of its own class. But `rondel.Task` does not derive
//! from `rondel.Future` (their layouts differ), a timer handle does not derive from our `Handle`,
//! and asyncio's own futures derive from neither. So the descriptors of these classes get another
//! vectorcall function. It forwards such a call to our method if that can work on the object, and
//! otherwise to the method of asyncio's class. Calls on instances do not come here.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use super::dispatch::{call, for_each_own, is_as_expected, kind};
use super::error::guard_object;
use super::{Object, Owned, Res};

/// A class of ours whose methods accept objects of other classes.
struct Accepting {
    class: AtomicPtr<ffi::PyTypeObject>,
    /// The other classes whose objects the methods can work on.
    others: [AtomicPtr<ffi::PyTypeObject>; 2],
    /// asyncio's class: its objects are passed to its own methods.
    stock: AtomicPtr<ffi::PyTypeObject>,
}

impl Accepting {
    #[allow(
        clippy::declare_interior_mutable_const,
        reason = "what tables begin with"
    )]
    const EMPTY: Self = Self {
        class: AtomicPtr::new(ptr::null_mut()),
        others: [const { AtomicPtr::new(ptr::null_mut()) }; 2],
        stock: AtomicPtr::new(ptr::null_mut()),
    };
}

static ACCEPTING: [Accepting; 4] = [Accepting::EMPTY; 4];
/// The interpreter's own functions, by the calling convention of the method.
static ORIGINAL: [AtomicPtr<c_void>; 3] = [const { AtomicPtr::new(ptr::null_mut()) }; 3];

unsafe extern "C" fn call_descriptor<const CONVENTION: usize>(
    callable: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: usize,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a call's arguments; `accept` has noted the function before it put this one in its
    // place.
    unsafe {
        let descriptor = callable.cast::<ffi::PyMethodDescrObject>();
        let class = (*descriptor).d_common.d_type;
        if ffi::PyVectorcall_NARGS(nargs) > 0
            && !ptr::eq(ffi::Py_TYPE(*args), class)
            && let Some(result) = call_other(&*descriptor, args, nargs, kwnames)
        {
            return result;
        }
        let original = ORIGINAL[CONVENTION].load(Ordering::Relaxed);
        let original: ffi::vectorcallfunc = std::mem::transmute(original);
        original(callable, args, nargs, kwnames)
    }
}

/// Forwards a call on an object of another class, if that class is accepted.
///
/// # Safety
/// These are the arguments of a call, at least one.
unsafe fn call_other(
    descriptor: &ffi::PyMethodDescrObject,
    args: *const *mut ffi::PyObject,
    nargs: usize,
    kwnames: *mut ffi::PyObject,
) -> Option<*mut ffi::PyObject> {
    let class = descriptor.d_common.d_type;
    // SAFETY: guaranteed by the caller; live types.
    unsafe {
        let this = *args;
        let derives = |known: *mut ffi::PyTypeObject| {
            !known.is_null() && ffi::PyType_IsSubtype(ffi::Py_TYPE(this), known) != 0
        };
        if derives(class) {
            return None;
        }
        let accepting = ACCEPTING
            .iter()
            .find(|accepting| ptr::eq(accepting.class.load(Ordering::Relaxed), class))?;
        let mut others = accepting.others.iter();
        if others.any(|other| derives(other.load(Ordering::Relaxed))) {
            let count = ffi::PyVectorcall_NARGS(nargs) as usize - 1;
            return Some(call(descriptor.d_method, this, args.add(1), count, kwnames));
        }
        let stock = accepting.stock.load(Ordering::Relaxed);
        if !derives(stock) {
            return None;
        }
        Some(guard_object(|| {
            let stock = Object::from_ptr(stock.cast());
            let method = stock.getattr(Object::from_ptr(descriptor.d_common.d_name))?;
            Owned::steal(ffi::PyObject_Vectorcall(
                method.as_ptr(),
                args,
                nargs,
                kwnames,
            ))
        }))
    }
}

/// Lets the methods of `class`, called on the class, accept objects of `others`; objects of
/// asyncio's own class are passed to asyncio's methods. Called once for each class, at import.
pub(crate) fn accept(class: &Object, others: &[&Object], stock: &Object) -> Res<()> {
    if !is_as_expected(class)? {
        return Ok(());
    }
    let free = |accepting: &&Accepting| accepting.class.load(Ordering::Relaxed).is_null();
    let Some(accepting) = ACCEPTING.iter().find(free) else {
        return Ok(());
    };
    for (place, other) in accepting.others.iter().zip(others) {
        place.store(other.as_type_ptr(), Ordering::Relaxed);
    }
    accepting
        .stock
        .store(stock.as_type_ptr(), Ordering::Relaxed);
    accepting
        .class
        .store(class.as_type_ptr(), Ordering::Relaxed);
    for_each_own(class, |_, descriptor| {
        // SAFETY: the type of these descriptors; their layout was proved.
        unsafe {
            if !ptr::eq(kind(descriptor), &raw const ffi::PyMethodDescr_Type) {
                return Ok(());
            }
            let descriptor = descriptor.as_ptr().cast::<ffi::PyMethodDescrObject>();
            const KEYWORDS: c_int = ffi::METH_FASTCALL | ffi::METH_KEYWORDS;
            let (convention, replacement): (usize, ffi::vectorcallfunc) =
                match (*(*descriptor).d_method).ml_flags & !ffi::METH_COEXIST {
                    ffi::METH_NOARGS => (0, call_descriptor::<0>),
                    ffi::METH_O => (1, call_descriptor::<1>),
                    KEYWORDS => (2, call_descriptor::<2>),
                    _ => return Ok(()),
                };
            let Some(original) = (*descriptor).vectorcall else {
                return Ok(());
            };
            if original as usize != replacement as usize {
                ORIGINAL[convention].store(original as *mut c_void, Ordering::Relaxed);
                (*descriptor).vectorcall = Some(replacement);
            }
            Ok(())
        }
    })
}
