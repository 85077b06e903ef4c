//! Methods of asyncio's classes, called on our objects: `map(asyncio.Task.result, done)`.
//!
//! asyncio's methods work on asyncio's fields, which are empty in our futures and tasks. A call on
//! an instance never reaches them, as our classes override every method. But a call on asyncio's
//! class does. So the descriptors of that class get another definition, or slot function: it checks
//! whether the object is ours, and calls our method or asyncio's. The descriptors keep their
//! identity, names, flags and docstrings, and asyncio's static definitions are not written to.
//!
//! At import, the layout of descriptors is verified with descriptors of our own, and for slots by
//! their contents. If it is not as the headers say, asyncio's methods are left alone.
//!
//! `accept.rs` does the reverse: methods of our classes, called on objects of other classes.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use super::error::guard_object;
use super::{Object, Owned, Res};

/// The capacity of each table: more than asyncio's classes need.
const MOST: usize = 80;

/// One of asyncio's functions, and what it is for objects of ours.
struct Entry {
    /// asyncio's function; for attributes, their definition.
    stock: AtomicPtr<c_void>,
    /// For methods and attributes, our definition; for slots, our function.
    ours: AtomicPtr<c_void>,
}

impl Entry {
    #[allow(
        clippy::declare_interior_mutable_const,
        reason = "what tables begin with"
    )]
    const EMPTY: Self = Self {
        stock: AtomicPtr::new(ptr::null_mut()),
        ours: AtomicPtr::new(ptr::null_mut()),
    };

    #[inline(always)]
    fn stock(&self) -> *mut c_void {
        self.stock.load(Ordering::Relaxed)
    }

    fn ours<T>(&self) -> *mut T {
        self.ours.load(Ordering::Relaxed).cast()
    }
}

static METHODS: [Entry; MOST] = [Entry::EMPTY; MOST];
static ATTRIBUTES: [Entry; MOST] = [Entry::EMPTY; MOST];
static SLOTS: [Entry; MOST] = [Entry::EMPTY; MOST];

/// asyncio's classes, and ours that derive from them.
static STOCK: [AtomicPtr<ffi::PyTypeObject>; 2] = [const { AtomicPtr::new(ptr::null_mut()) }; 2];
static OURS: [AtomicPtr<ffi::PyTypeObject>; 2] = [const { AtomicPtr::new(ptr::null_mut()) }; 2];

/// Whether an object of asyncio's classes is one of ours.
///
/// # Safety
/// A live object.
#[inline(always)]
unsafe fn is_ours(object: *mut ffi::PyObject) -> bool {
    // SAFETY: guaranteed by the caller.
    let class = unsafe { ffi::Py_TYPE(object) };
    let is = |known: &AtomicPtr<_>| ptr::eq(known.load(Ordering::Relaxed), class);
    if is(&STOCK[0]) || is(&STOCK[1]) {
        return false;
    }
    // SAFETY: live types.
    let derives = |known: &AtomicPtr<_>| unsafe {
        ffi::PyType_IsSubtype(class, known.load(Ordering::Relaxed)) != 0
    };
    OURS.iter().any(derives)
}

// ---- what stands in asyncio's classes ----

/// Calls a method of ours as a function that is bound to the object, which checks the arguments.
///
/// # Safety
/// The arguments of a call; the definition is that of a method that can work on the object.
#[cold]
pub(super) unsafe fn call(
    definition: *mut ffi::PyMethodDef,
    this: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: usize,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: guaranteed by the caller; definitions live forever.
    guard_object(|| unsafe {
        let bound = Owned::steal(ffi::PyCFunction_NewEx(definition, this, ptr::null_mut()))?;
        Owned::steal(ffi::PyObject_Vectorcall(
            bound.as_ptr(),
            args,
            nargs,
            kwnames,
        ))
    })
}

/// `METH_NOARGS`, where `arg` is null, and `METH_O`.
unsafe extern "C" fn plain<const I: usize>(
    this: *mut ffi::PyObject,
    arg: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the calling convention; `replace_method` has put such a function there.
    unsafe {
        if is_ours(this) {
            let count = usize::from(!arg.is_null());
            return call(
                METHODS[I].ours(),
                this,
                &raw const arg,
                count,
                ptr::null_mut(),
            );
        }
        let function: ffi::PyCFunction = std::mem::transmute(METHODS[I].stock());
        function(this, arg)
    }
}

/// `METH_FASTCALL | METH_KEYWORDS`.
unsafe extern "C" fn fast<const I: usize>(
    this: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as `plain`.
    unsafe {
        if is_ours(this) {
            return call(METHODS[I].ours(), this, args, nargs as usize, kwnames);
        }
        let function: ffi::PyCFunctionFastWithKeywords = std::mem::transmute(METHODS[I].stock());
        function(this, args, nargs, kwnames)
    }
}

/// `METH_METHOD | METH_FASTCALL | METH_KEYWORDS`.
unsafe extern "C" fn with_class<const I: usize>(
    this: *mut ffi::PyObject,
    class: *mut ffi::PyTypeObject,
    args: *const *mut ffi::PyObject,
    nargs: ffi::Py_ssize_t,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as `plain`.
    unsafe {
        if is_ours(this) {
            return call(METHODS[I].ours(), this, args, nargs as usize, kwnames);
        }
        let function: ffi::PyCMethod = std::mem::transmute(METHODS[I].stock());
        function(this, class, args, nargs, kwnames)
    }
}

unsafe extern "C" fn get<const I: usize>(
    this: *mut ffi::PyObject,
    closure: *mut c_void,
) -> *mut ffi::PyObject {
    // SAFETY: as `plain`; an attribute is only replaced by one that can do the same.
    unsafe {
        let stock = ATTRIBUTES[I].stock().cast::<ffi::PyGetSetDef>();
        let definition = if is_ours(this) {
            ATTRIBUTES[I].ours()
        } else {
            stock
        };
        match (*definition).get {
            Some(get) => get(this, closure),
            None => ptr::null_mut(),
        }
    }
}

unsafe extern "C" fn set<const I: usize>(
    this: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    closure: *mut c_void,
) -> c_int {
    // SAFETY: as `get`.
    unsafe {
        let stock = ATTRIBUTES[I].stock().cast::<ffi::PyGetSetDef>();
        let definition = if is_ours(this) {
            ATTRIBUTES[I].ours()
        } else {
            stock
        };
        match (*definition).set {
            Some(set) => set(this, value, closure),
            None => -1,
        }
    }
}

#[inline(always)]
unsafe fn slot_function<const I: usize>(this: *mut ffi::PyObject) -> *mut c_void {
    // SAFETY: slots are called with live objects.
    match unsafe { is_ours(this) } {
        true => SLOTS[I].ours(),
        false => SLOTS[I].stock(),
    }
}

unsafe extern "C" fn unary<const I: usize>(this: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: `replace_slot` has put functions of this signature there.
    unsafe {
        let function: ffi::unaryfunc = std::mem::transmute(slot_function::<I>(this));
        function(this)
    }
}

unsafe extern "C" fn finalize<const I: usize>(this: *mut ffi::PyObject) {
    // SAFETY: as `unary`.
    unsafe {
        let function: ffi::destructor = std::mem::transmute(slot_function::<I>(this));
        function(this);
    }
}

unsafe extern "C" fn init<const I: usize>(
    this: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> c_int {
    // SAFETY: as `unary`.
    unsafe {
        let function: ffi::initproc = std::mem::transmute(slot_function::<I>(this));
        function(this, args, kwargs)
    }
}

/// A function for each index.
macro_rules! by_index {
    ($function:ident) => {
        by_index!(@ $function
            0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39
            40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76
            77 78 79)
    };
    (@ $function:ident $($index:literal)+) => {
        [$($function::<$index>),+]
    };
}

static PLAIN: [ffi::PyCFunction; MOST] = by_index!(plain);
static FAST: [ffi::PyCFunctionFastWithKeywords; MOST] = by_index!(fast);
static WITH_CLASS: [ffi::PyCMethod; MOST] = by_index!(with_class);
static GET: [ffi::getter; MOST] = by_index!(get);
static SET: [ffi::setter; MOST] = by_index!(set);
static UNARY: [ffi::unaryfunc; MOST] = by_index!(unary);
static FINALIZE: [ffi::destructor; MOST] = by_index!(finalize);
static INIT: [ffi::initproc; MOST] = by_index!(init);

/// The places in the tables that are taken.
#[derive(Default)]
struct Taken {
    methods: usize,
    attributes: usize,
    slots: usize,
}

/// Takes the next place of a table, if there is one.
fn next(table: &'static [Entry], taken: &mut usize) -> Option<(usize, &'static Entry)> {
    let index = *taken;
    let entry = table.get(index)?;
    *taken += 1;
    Some((index, entry))
}

/// # Safety
/// Both are method descriptors, each of its class.
unsafe fn replace_method(stock: &Object, ours: &Object, taken: &mut Taken) {
    const KEYWORDS: c_int = ffi::METH_FASTCALL | ffi::METH_KEYWORDS;
    const CLASS: c_int = ffi::METH_METHOD | KEYWORDS;
    // SAFETY: guaranteed by the caller, and `is_as_expected`. The new definition is a copy that
    // lives forever.
    unsafe {
        let descriptor = stock.as_ptr().cast::<ffi::PyMethodDescrObject>();
        let mut definition = *(*descriptor).d_method;
        let Some((index, entry)) = next(&METHODS, &mut taken.methods) else {
            return;
        };
        let function: *mut c_void = std::mem::transmute_copy(&definition.ml_meth);
        definition.ml_meth = match definition.ml_flags {
            ffi::METH_NOARGS | ffi::METH_O => ffi::PyMethodDefPointer {
                PyCFunction: PLAIN[index],
            },
            KEYWORDS => ffi::PyMethodDefPointer {
                PyCFunctionFastWithKeywords: FAST[index],
            },
            CLASS => ffi::PyMethodDefPointer {
                PyCMethod: WITH_CLASS[index],
            },
            _ => return,
        };
        let theirs = ours.as_ptr().cast::<ffi::PyMethodDescrObject>();
        entry
            .ours
            .store((*theirs).d_method.cast(), Ordering::Relaxed);
        entry.stock.store(function, Ordering::Relaxed);
        (*descriptor).d_method = Box::leak(Box::new(definition));
    }
}

/// # Safety
/// Both are attribute descriptors, each of its class.
unsafe fn replace_attribute(stock: &Object, ours: &Object, taken: &mut Taken) {
    // SAFETY: guaranteed by the caller, and `is_as_expected`. The new definition is a copy that
    // lives forever.
    unsafe {
        let descriptor = stock.as_ptr().cast::<ffi::PyGetSetDescrObject>();
        let before = (*descriptor).d_getset;
        let theirs = (*ours.as_ptr().cast::<ffi::PyGetSetDescrObject>()).d_getset;
        let lacks = |stock: bool, ours: bool| stock && !ours;
        if lacks((*before).get.is_some(), (*theirs).get.is_some())
            || lacks((*before).set.is_some(), (*theirs).set.is_some())
        {
            return;
        }
        let Some((index, entry)) = next(&ATTRIBUTES, &mut taken.attributes) else {
            return;
        };
        entry.ours.store(theirs.cast(), Ordering::Relaxed);
        entry.stock.store(before.cast(), Ordering::Relaxed);
        (*descriptor).d_getset = Box::leak(Box::new(ffi::PyGetSetDef {
            name: (*before).name,
            get: (*before).get.map(|_| GET[index]),
            set: (*before).set.map(|_| SET[index]),
            doc: (*before).doc,
            closure: (*before).closure,
        }));
    }
}

/// The function of the slot that is called `name`, or null.
///
/// # Safety
/// A live type.
unsafe fn function_of(class: *mut ffi::PyTypeObject, name: &str) -> *mut c_void {
    // SAFETY: guaranteed by the caller.
    unsafe {
        match name {
            "__repr__" => (*class)
                .tp_repr
                .map_or(ptr::null_mut(), |slot| slot as *mut c_void),
            "__iter__" => (*class)
                .tp_iter
                .map_or(ptr::null_mut(), |slot| slot as *mut c_void),
            "__del__" => (*class)
                .tp_finalize
                .map_or(ptr::null_mut(), |slot| slot as *mut c_void),
            "__init__" => (*class)
                .tp_init
                .map_or(ptr::null_mut(), |slot| slot as *mut c_void),
            "__await__" if !(*class).tp_as_async.is_null() => (*(*class).tp_as_async)
                .am_await
                .map_or(ptr::null_mut(), |slot| slot as *mut c_void),
            _ => ptr::null_mut(),
        }
    }
}

/// # Safety
/// `stock` is a slot's descriptor of a class that `ours` derives from.
unsafe fn replace_slot(
    stock: &Object,
    class: &Object,
    ours: &Object,
    name: &str,
    taken: &mut Taken,
) {
    // SAFETY: guaranteed by the caller, and because the descriptor holds the slot's function.
    unsafe {
        let descriptor = stock.as_ptr().cast::<ffi::PyWrapperDescrObject>();
        let before = function_of(class.as_type_ptr(), name);
        // Our futures are iterators of themselves, for the interpreter alone: a call gives an
        // iterator, as `__iter__` does.
        let theirs = match name {
            "__await__" => function_of(ours.as_type_ptr(), "__iter__"),
            _ => function_of(ours.as_type_ptr(), name),
        };
        if before.is_null() || theirs.is_null() || (*descriptor).d_wrapped != before {
            return;
        }
        let Some((index, entry)) = next(&SLOTS, &mut taken.slots) else {
            return;
        };
        entry.ours.store(theirs, Ordering::Relaxed);
        entry.stock.store(before, Ordering::Relaxed);
        (*descriptor).d_wrapped = match name {
            "__del__" => FINALIZE[index] as *mut c_void,
            "__init__" => INIT[index] as *mut c_void,
            _ => UNARY[index] as *mut c_void,
        };
    }
}

/// Whether descriptors are laid out as the headers say, by two of our own.
pub(super) fn is_as_expected(class: &Object) -> Res<bool> {
    // SAFETY: all-zero definitions are valid; they live forever, as nothing tells when descriptors
    // die.
    let (method, attribute) = unsafe {
        (
            Box::leak(Box::new(ffi::PyMethodDef {
                ml_name: c"probe".as_ptr(),
                ..std::mem::zeroed()
            })),
            Box::leak(Box::new(ffi::PyGetSetDef {
                name: c"probe".as_ptr(),
                ..std::mem::zeroed()
            })),
        )
    };
    method.ml_flags = ffi::METH_NOARGS;
    method.ml_meth = ffi::PyMethodDefPointer {
        PyCFunction: PLAIN[MOST - 1],
    };
    // SAFETY: a live type and definitions; fields are read only if the objects are as large as they
    // must be for that.
    unsafe {
        let class = class.as_type_ptr();
        let by_method = Owned::steal(ffi::PyDescr_NewMethod(class, method))?;
        let by_attribute = Owned::steal(ffi::PyDescr_NewGetSet(class, attribute))?;
        if by_method.class().basicsize() < size_of::<ffi::PyMethodDescrObject>()
            || by_attribute.class().basicsize() < size_of::<ffi::PyGetSetDescrObject>()
        {
            return Ok(false);
        }
        let of_method = &*by_method.as_ptr().cast::<ffi::PyMethodDescrObject>();
        let of_attribute = &*by_attribute.as_ptr().cast::<ffi::PyGetSetDescrObject>();
        Ok(ptr::eq(of_method.d_common.d_type, class)
            && ptr::eq(of_method.d_method, method)
            && ptr::eq(of_attribute.d_common.d_type, class)
            && ptr::eq(of_attribute.d_getset, attribute))
    }
}

/// Calls `see` with the name and the value of each attribute that stands in the class itself.
pub(super) fn for_each_own(
    class: &Object,
    mut see: impl FnMut(&Object, &Object) -> Res<()>,
) -> Res<()> {
    let items = class
        .getattr(&*Owned::from_str("__dict__")?)?
        .call_method(&*Owned::from_str("items")?, &[])?;
    // SAFETY: a live object; a list of pairs, each alive as long as the list.
    unsafe {
        let items = Owned::steal(ffi::PySequence_List(items.as_ptr()))?;
        for index in 0..ffi::PyList_Size(items.as_ptr()) {
            let pair = Object::from_ptr(ffi::PyList_GetItem(items.as_ptr(), index));
            see(
                super::object::tuple_item(pair, 0),
                super::object::tuple_item(pair, 1),
            )?;
        }
    }
    Ok(())
}

/// The type of descriptors of methods, attributes or slots that this object is of.
pub(super) fn kind(object: &Object) -> *const ffi::PyTypeObject {
    object.type_ptr()
}

/// Whether [`teach`] found the layout of descriptors as expected.
pub(crate) fn is_taught() -> bool {
    !STOCK[0].load(Ordering::Relaxed).is_null()
}

/// Makes the methods of asyncio's two classes call ours for our objects. Called once, at import.
pub(crate) fn teach(pairs: [(&Object, &Object); 2]) -> Res<()> {
    if !is_as_expected(pairs[0].0)? {
        return Ok(());
    }
    let mut taken = Taken::default();
    for (index, (stock, ours)) in pairs.iter().enumerate() {
        STOCK[index].store(stock.as_type_ptr(), Ordering::Relaxed);
        OURS[index].store(ours.as_type_ptr(), Ordering::Relaxed);
    }
    for (stock, ours) in pairs {
        for_each_own(stock, |name, descriptor| {
            let Some(other) = ours.getattr_optional(name)? else {
                return Ok(());
            };
            // SAFETY: both descriptors are of the type that each function wants. The base of these
            // types stays put.
            unsafe {
                let common = descriptor.as_ptr().cast::<ffi::PyDescrObject>();
                let (methods, attributes, slots) = (
                    &raw const ffi::PyMethodDescr_Type,
                    &raw const ffi::PyGetSetDescr_Type,
                    &raw const ffi::PyWrapperDescr_Type,
                );
                let kind_of = kind(descriptor);
                if ![methods, attributes, slots].contains(&kind_of)
                    || !ptr::eq((*common).d_type, stock.as_type_ptr())
                    || other.is(descriptor)
                {
                } else if kind_of == slots {
                    replace_slot(descriptor, stock, ours, &name.to_text()?, &mut taken);
                } else if kind_of == methods && kind(&other) == methods {
                    replace_method(descriptor, &other, &mut taken);
                } else if kind_of == attributes && kind(&other) == attributes {
                    replace_attribute(descriptor, &other, &mut taken);
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}
