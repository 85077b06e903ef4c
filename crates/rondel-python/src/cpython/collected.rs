//! What the garbage collector needs of native types, written once.
//!
//! A type says what its instances hold ([`Collected`]). [`TypeBuilder::collected`] then provides
//! `tp_traverse`, `tp_clear`, `tp_finalize` and `tp_dealloc`.

use std::ffi::{c_int, c_void};
use std::ptr;

use pyo3::ffi;

use super::finalize::{finalize_from_dealloc, finalizing};
use super::instance_dict::has_dict;
use super::native::{Fields, Native};
use super::nesting::nested;
use super::types::{TypeBuilder, clear_weakrefs, free, slot_fn};
use super::{Object, Res, Slot};

/// The fields of a native type whose instances take part in garbage collection.
///
/// # Safety
/// `for_each_slot`, `for_each_other` and `for_each_inherited` show exactly the references that an
/// instance owns.
pub(crate) unsafe trait Collected: Fields {
    /// Whether the type has a `tp_finalize`, which calls [`finalize`](Self::finalize).
    const FINALIZED: bool = false;

    /// The base class, if its part of an instance holds objects too, such as an instance dict.
    fn base() -> Option<&'static Object> {
        None
    }

    /// Calls `see` for each field that holds an object.
    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot));

    /// Calls `see` for each object that is held in another way. Must not allocate or run Python
    /// code.
    fn for_each_other(&self, _see: &mut dyn FnMut(&Object)) {}

    /// Releases what [`for_each_other`](Self::for_each_other) shows.
    fn release_others(&self) {}

    /// As [`for_each_other`](Self::for_each_other), for the fields of a native base class.
    fn for_each_inherited(_this: &Native<Self>, _see: &mut dyn FnMut(&Object)) {}

    /// Releases what [`for_each_inherited`](Self::for_each_inherited) shows.
    fn release_inherited(_this: &Native<Self>) {}

    /// Whether deallocating an instance may deallocate others in turn. The depth of such a chain is
    /// bounded (`nesting.rs`).
    #[inline]
    fn may_end_others(_this: &Native<Self>) -> bool {
        true
    }

    /// Whether an instance that is deallocated needs [`finalize`](Self::finalize).
    #[inline]
    fn needs_finalizer(_this: &Native<Self>) -> bool {
        Self::FINALIZED
    }

    /// Called when an instance is deallocated: it is untracked, and still holds its references.
    #[inline]
    fn dies(_this: &Native<Self>) {}

    /// Puts a deallocated instance, untracked and empty, on a freelist. False if it is to be freed
    /// instead.
    ///
    /// # Safety
    /// Only for `tp_dealloc`.
    unsafe fn keep(_object: *mut ffi::PyObject) -> bool {
        false
    }

    /// `__del__`, if the type is [`FINALIZED`](Self::FINALIZED).
    fn finalize(_this: &Native<Self>) -> Res<()> {
        Ok(())
    }
}

unsafe extern "C" fn traverse<T: Collected>(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector passes a live instance, a visitor and its argument; the type is visited
    // as heap types require.
    unsafe {
        // The base's function visits the type, too.
        let base = T::base().and_then(|base| (*base.as_type_ptr()).tp_traverse);
        let mut result = match base {
            Some(traverse) => traverse(object, visit, arg),
            None => visit(ffi::Py_TYPE(object).cast(), arg),
        };
        let mut see = |held: &Object| {
            if result == 0 {
                result = visit(held.as_ptr(), arg);
            }
        };
        let this = Native::<T>::from_ptr(object);
        this.for_each_slot(&mut |slot| {
            if let Some(held) = slot.get() {
                see(held);
            }
        });
        this.for_each_other(&mut see);
        T::for_each_inherited(this, &mut see);
        result
    }
}

unsafe extern "C" fn clear<T: Collected>(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    unsafe { release::<T>(object) };
    0
}

/// Releases all that an instance holds.
///
/// # Safety
/// `object` is an instance, in its `tp_clear` or `tp_dealloc`.
#[inline(always)]
unsafe fn release<T: Collected>(object: *mut ffi::PyObject) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        if let Some(base) = T::base()
            && has_dict(Object::from_ptr(object))
            && let Some(clear) = (*base.as_type_ptr()).tp_clear
        {
            clear(object);
        }
        let this = Native::<T>::from_ptr(object);
        this.for_each_slot(&mut Slot::clear);
        this.release_others();
        T::release_inherited(this);
    }
}

unsafe extern "C" fn finalize<T: Collected>(object: *mut ffi::PyObject) {
    // SAFETY: the interpreter passes a live instance.
    let this = unsafe { Native::<T>::from_ptr(object) };
    finalizing(this.object(), || T::finalize(this));
}

unsafe extern "C" fn dealloc<T: Collected>(object: *mut ffi::PyObject) {
    // SAFETY: the interpreter passes a dead instance; it ends once.
    unsafe {
        match T::may_end_others(Native::from_ptr(object)) {
            true => end_nested::<T>(object),
            false => end::<T>(object),
        }
    }
}

/// # Safety
/// Only for `tp_dealloc`.
#[inline(never)]
unsafe fn end_nested<T: Collected>(object: *mut ffi::PyObject) {
    // SAFETY: guaranteed by the caller.
    unsafe { nested(object, dealloc::<T>, || end::<T>(object)) };
}

/// # Safety
/// Only for `tp_dealloc`.
#[inline(always)]
unsafe fn end<T: Collected>(object: *mut ffi::PyObject) {
    // SAFETY: guaranteed by the caller; the fields are dropped once.
    unsafe {
        let this = Native::<T>::from_ptr(object);
        if T::needs_finalizer(this) && finalize_from_dealloc(object) {
            return; // resurrected
        }
        ffi::PyObject_GC_UnTrack(object.cast());
        T::dies(this);
        clear_weakrefs(object);
        release::<T>(object);
        if T::keep(object) {
            return;
        }
        ptr::drop_in_place(object.byte_add(T::offset()).cast::<T>());
        free(object);
    }
}

impl TypeBuilder {
    /// Adds the slots for garbage collection and deallocation.
    pub(crate) fn collected<T: Collected>(self) -> Self {
        let this = self
            .slot(
                ffi::Py_tp_traverse,
                slot_fn!(traverse::<T>, ffi::traverseproc),
            )
            .slot(ffi::Py_tp_clear, slot_fn!(clear::<T>, ffi::inquiry))
            .slot(ffi::Py_tp_dealloc, slot_fn!(dealloc::<T>, ffi::destructor));
        if T::FINALIZED {
            this.slot(
                ffi::Py_tp_finalize,
                slot_fn!(finalize::<T>, ffi::destructor),
            )
        } else {
            this
        }
    }
}

/// Writes [`Collected::for_each_slot`] for the fields that are listed.
macro_rules! slots {
    ($($field:ident),+ $(,)?) => {
        fn for_each_slot(&self, see: &mut dyn FnMut(&$crate::cpython::Slot)) {
            $(see(&self.$field);)+
        }
    };
}
pub(crate) use slots;
