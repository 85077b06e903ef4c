//! `__aenter__` and `__aexit__`, as `async with` looks them up.
//!
//! Up to CPython 3.13 `async with` binds both methods, and each bound built-in method is a new
//! object: with an uncontended lock that takes a quarter of the statement's time. The descriptor
//! here binds to an object from a freelist. Programs see a function and a bound method
//! (`function.rs`).
//!
//! From 3.14 on the interpreter binds nothing, and the classes have plain method descriptors.

use std::cell::Cell;
use std::ffi::c_int;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use super::collected::{Collected, slots};
use super::error::{guard, guard_object};
use super::freelist::free_list;
use super::method::Method;
use super::native::Fields;
use super::object::check;
use super::types::{TypeBuilder, allocate, bind_method, slot_fn};
use super::{Object, Owned, Res, Slot};

static DESCRIPTOR: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
static BOUND: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

free_list!(FREE, 64);

/// The descriptor in the class.
#[repr(C)]
struct Descriptor {
    vectorcall: Cell<Option<ffi::vectorcallfunc>>,
    /// What it represents: the method descriptor, or the function that programs see instead.
    method: Slot,
    definition: Cell<*const ffi::PyMethodDef>,
}

/// The method of one object.
#[repr(C)]
struct Bound {
    vectorcall: Cell<Option<ffi::vectorcallfunc>>,
    this: Slot,
    descriptor: Slot,
}

// SAFETY: the fields stand behind the header; zeroed ones are valid.
unsafe impl Fields for Descriptor {}

// SAFETY: it shows all that it holds.
unsafe impl Collected for Descriptor {
    slots!(method);
}

// SAFETY: the fields stand behind the header; zeroed ones are valid.
unsafe impl Fields for Bound {}

// SAFETY: it shows all that it holds.
unsafe impl Collected for Bound {
    slots!(this, descriptor);

    unsafe fn keep(object: *mut ffi::PyObject) -> bool {
        // SAFETY: the class can't be subclassed, and the slots are empty.
        FREE.with(|list| unsafe { list.keep(object) })
    }
}

impl Descriptor {
    /// What it stands for, bound to `this` by the interpreter's own means.
    fn bind(&self, this: &Object) -> Res<Owned> {
        let method = self.method.or_none();
        // SAFETY: a method descriptor and an object of its class.
        unsafe {
            match (*method.type_ptr()).tp_descr_get {
                Some(get) => {
                    Owned::steal(get(method.as_ptr(), this.as_ptr(), this.type_ptr().cast()))
                }
                None => Ok(method),
            }
        }
    }
}

/// Puts a method into a class that Python made, as one that is looked up for each `async with`.
pub(crate) fn bind_special(class: &Object, method: &Method) -> Res<()> {
    bind_method(class, method)?;
    if cfg!(Py_3_14) {
        return Ok(());
    }
    let name = method.0.ml_name;
    // SAFETY: the type of descriptors; all-zero fields are valid.
    let descriptor = unsafe { allocate(DESCRIPTOR.load(Ordering::Relaxed))? };
    let this = Descriptor::of(&descriptor);
    // SAFETY: a live class and a C string.
    this.method
        .set(unsafe { Owned::steal(ffi::PyObject_GetAttrString(class.as_ptr(), name))? });
    this.vectorcall.set(Some(call_descriptor));
    this.definition.set(method.leak());
    // SAFETY: live objects and a C string.
    check(unsafe { ffi::PyObject_SetAttrString(class.as_ptr(), name, descriptor.as_ptr()) })
}

/// What one that stands in a class stands for.
pub(super) fn stood_for(object: &Object) -> Option<Owned> {
    ptr::eq(object.type_ptr(), DESCRIPTOR.load(Ordering::Relaxed))
        .then(|| Descriptor::of(object).method.or_none())
}

/// Makes a descriptor represent a function from now on. False if `object` is no such descriptor.
pub(super) fn show_as(object: &Object, function: &Object) -> bool {
    let stands = ptr::eq(object.type_ptr(), DESCRIPTOR.load(Ordering::Relaxed));
    if stands {
        Descriptor::of(object).method.set(function.own());
    }
    stands
}

unsafe extern "C" fn get(
    descriptor: *mut ffi::PyObject,
    this: *mut ffi::PyObject,
    _class: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the slot's contract: a live instance, and an object or null.
        let (descriptor, this) =
            unsafe { (Object::from_ptr(descriptor), Object::from_nullable(this)) };
        let Some(this) = this else {
            return Ok(Descriptor::of(descriptor).method.or_none());
        };
        let class = BOUND.load(Ordering::Relaxed);
        let bound = match FREE.with(|list| list.revive(class, true)) {
            Some(bound) => bound,
            // SAFETY: all-zero fields are valid.
            None => unsafe { allocate(class)? },
        };
        let fields = Bound::of(&bound);
        fields.vectorcall.set(Some(call_bound));
        fields.this.set(this.own());
        fields.descriptor.set(descriptor.own());
        Ok(bound)
    })
}

unsafe extern "C" fn call_descriptor(
    descriptor: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: usize,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a live instance, and a call's arguments, passed on as they are.
    unsafe {
        let method = Descriptor::of(Object::from_ptr(descriptor))
            .method
            .or_none();
        ffi::PyObject_Vectorcall(method.as_ptr(), args, nargs, kwnames)
    }
}

unsafe extern "C" fn call_bound(
    bound: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: usize,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a live instance, and a call's arguments; the definition lives forever, and its flags
    // say what the function takes. The caller holds the bound method, which holds what it is bound
    // to.
    unsafe {
        let bound = Bound::of(Object::from_ptr(bound));
        let (Some(this), Some(descriptor)) = (bound.this.get(), bound.descriptor.get()) else {
            return ffi::PyErr_NoMemory();
        };
        let descriptor = Descriptor::of(descriptor);
        let definition = &*descriptor.definition.get();
        let count = ffi::PyVectorcall_NARGS(nargs);
        if definition.ml_flags == ffi::METH_NOARGS && count == 0 && kwnames.is_null() {
            return (definition.ml_meth.PyCFunction)(this.as_ptr(), ptr::null_mut());
        }
        if definition.ml_flags == ffi::METH_FASTCALL | ffi::METH_KEYWORDS {
            let function = definition.ml_meth.PyCFunctionFastWithKeywords;
            return function(this.as_ptr(), args, count, kwnames);
        }
        match descriptor.bind(this) {
            Ok(method) => ffi::PyObject_Vectorcall(method.as_ptr(), args, nargs, kwnames),
            Err(_) => ptr::null_mut(),
        }
    }
}

// ---- what programs see ----

fn plain(object: &Object) -> Res<Owned> {
    if !ptr::eq(object.type_ptr(), BOUND.load(Ordering::Relaxed)) {
        return Ok(Descriptor::of(object).method.or_none());
    }
    let bound = Bound::of(object);
    let descriptor = bound.descriptor.or_none();
    Descriptor::of(&descriptor).bind(&bound.this.or_none())
}

unsafe extern "C" fn getattro(
    object: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the slot's contract.
    guard_object(|| unsafe { plain(Object::from_ptr(object))?.getattr(Object::from_ptr(name)) })
}

unsafe extern "C" fn repr(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the slot's contract.
    guard_object(|| unsafe { plain(Object::from_ptr(object))?.repr() })
}

unsafe extern "C" fn hash(object: *mut ffi::PyObject) -> ffi::Py_hash_t {
    guard(-1, || {
        // SAFETY: the slot's contract.
        let plain = plain(unsafe { Object::from_ptr(object) })?;
        // SAFETY: a live object.
        Ok(unsafe { ffi::PyObject_Hash(plain.as_ptr()) })
    })
}

unsafe extern "C" fn compare(
    left: *mut ffi::PyObject,
    right: *mut ffi::PyObject,
    op: c_int,
) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the slot's contract.
        let (left, right) = unsafe { (Object::from_ptr(left), Object::from_ptr(right)) };
        let right = if ptr::eq(left.type_ptr(), right.type_ptr()) {
            plain(right)?
        } else {
            right.own()
        };
        let left = plain(left)?;
        // SAFETY: live objects.
        unsafe {
            match (*left.type_ptr()).tp_richcompare {
                Some(compare) => Owned::steal(compare(left.as_ptr(), right.as_ptr(), op)),
                None => Ok(Object::from_ptr(ffi::Py_NotImplemented()).own()),
            }
        }
    })
}

/// Makes both types. Once, at import.
pub(crate) fn init() -> Res<()> {
    let common = |builder: TypeBuilder| {
        builder
            .not_instantiable()
            .slot(ffi::Py_tp_getattro, slot_fn!(getattro, ffi::getattrofunc))
            .slot(ffi::Py_tp_repr, slot_fn!(repr, ffi::reprfunc))
            .slot(ffi::Py_tp_hash, slot_fn!(hash, ffi::hashfunc))
            .slot(ffi::Py_tp_richcompare, slot_fn!(compare, ffi::richcmpfunc))
            .vectorcall(size_of::<ffi::PyObject>())
    };
    let offset = size_of::<ffi::PyObject>();
    let builder = TypeBuilder::new::<Descriptor>(c"rondel._rondel.SpecialMethod", None, offset)
        .collected::<Descriptor>()
        .slot(ffi::Py_tp_descr_get, slot_fn!(get, ffi::descrgetfunc));
    DESCRIPTOR.store(
        common(builder).build()?.into_ptr().cast(),
        Ordering::Relaxed,
    );
    let builder = TypeBuilder::new::<Bound>(c"rondel._rondel.BoundSpecialMethod", None, offset)
        .collected::<Bound>();
    BOUND.store(
        common(builder).build()?.into_ptr().cast(),
        Ordering::Relaxed,
    );
    Ok(())
}
