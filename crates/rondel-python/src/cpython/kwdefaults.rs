//! `__kwdefaults__` of functions that are backed by native code.
//!
//! Native code has its keyword defaults built in, and a direct call does not compare them, as that
//! would slow down every call. Instead, changes are detected: the setter of `__kwdefaults__` is
//! wrapped, and from 3.12 on the dicts are watched. A function with changed defaults then runs its
//! bytecode, which uses them.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::ffi;

use super::dispatch::is_as_expected;
#[cfg(Py_3_12)]
use super::private::{PyDict_AddWatcher, PyDict_Watch, PyFunction_SetVectorcall};
use super::{Object, Owned, Res};

/// A function, which is kept forever, and what it was made with.
struct Entry {
    function: *mut ffi::PyFunctionObject,
    /// To be compared only; none once what is in the dict has changed.
    kwdefaults: Option<*const ffi::PyObject>,
    direct: ffi::vectorcallfunc,
    bytecode: ffi::vectorcallfunc,
}

// SAFETY: the pointers are followed by code that holds the GIL.
unsafe impl Send for Entry {}

static ENTRIES: Mutex<Vec<Entry>> = Mutex::new(Vec::new());
/// The interpreter's definition of the attribute.
static STOCK: AtomicPtr<ffi::PyGetSetDef> = AtomicPtr::new(ptr::null_mut());

fn entries() -> MutexGuard<'static, Vec<Entry>> {
    ENTRIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has calls of a function go this way.
///
/// # Safety
/// A live function, and a way that is meant for it.
pub(super) unsafe fn set_way(function: *mut ffi::PyFunctionObject, way: ffi::vectorcallfunc) {
    // SAFETY: guaranteed by the caller.
    #[cfg(Py_3_12)]
    unsafe {
        PyFunction_SetVectorcall(function, way);
    }
    // The interpreter's loop runs the bytecode all the same; calls from C take the way.
    // SAFETY: as above.
    #[cfg(not(Py_3_12))]
    unsafe {
        (*function).vectorcall = Some(way);
    }
}

unsafe extern "C" fn set(
    function: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    closure: *mut c_void,
) -> c_int {
    // SAFETY: a setter's arguments, which the interpreter's own gets as they are; entries hold live
    // functions.
    unsafe {
        let Some(stock) = (*STOCK.load(Ordering::Relaxed)).set else {
            return -1;
        };
        let result = stock(function, value, closure);
        let found = entries()
            .iter()
            .find(|entry| ptr::eq(entry.function.cast(), function))
            .map(|entry| {
                let now: *const ffi::PyObject = (*entry.function).func_kwdefaults;
                match entry.kwdefaults == Some(now) {
                    true => entry.direct,
                    false => entry.bytecode,
                }
            });
        if let Some(way) = found {
            set_way(function.cast(), way);
        }
        result
    }
}

/// Something in a dict of defaults is about to change.
#[cfg(Py_3_12)]
unsafe extern "C" fn changes(
    _event: c_int,
    dict: *mut ffi::PyObject,
    _key: *mut ffi::PyObject,
    _value: *mut ffi::PyObject,
) -> c_int {
    // One function after the other: setting its way may end in code that comes back here.
    for entry in entries().iter_mut() {
        // SAFETY: a live function.
        unsafe {
            if entry.kwdefaults == Some(dict.cast_const()) {
                entry.kwdefaults = None;
                if ptr::eq((*entry.function).func_kwdefaults, dict) {
                    set_way(entry.function, entry.bytecode);
                }
            }
        }
    }
    0
}

/// Notes a function that has defaults for keywords, and has `direct` as its way.
pub(super) fn note(
    function: &Object,
    direct: ffi::vectorcallfunc,
    bytecode: ffi::vectorcallfunc,
) -> Res<()> {
    let function = function.own().into_ptr().cast::<ffi::PyFunctionObject>();
    // SAFETY: a live function.
    let kwdefaults = unsafe { (*function).func_kwdefaults };
    #[cfg(Py_3_12)]
    watch(kwdefaults)?;
    entries().push(Entry {
        function,
        kwdefaults: Some(kwdefaults),
        direct,
        bytecode,
    });
    Ok(())
}

#[cfg(Py_3_12)]
fn watch(dict: *mut ffi::PyObject) -> Res<()> {
    use std::sync::OnceLock;
    static WATCHER: OnceLock<c_int> = OnceLock::new();
    if dict.is_null() {
        return Ok(());
    }
    // SAFETY: the GIL is held, with a live dict.
    unsafe {
        let watcher = *WATCHER.get_or_init(|| PyDict_AddWatcher(changes));
        if watcher < 0 {
            // There are eight at most: others have them.
            ffi::PyErr_Clear();
            return Ok(());
        }
        super::object::check(PyDict_Watch(watcher, dict))
    }
}

/// Whether the setter is in the class of functions.
pub(crate) fn is_told() -> bool {
    !STOCK.load(Ordering::Relaxed).is_null()
}

/// Wraps the setter in the class of functions. Called once, at import; `class` is any class of
/// ours.
pub(super) fn init(class: &Object) -> Res<()> {
    // SAFETY: the class lives as long as the interpreter.
    let functions = unsafe { Object::from_ptr((&raw mut ffi::PyFunction_Type).cast()) };
    let attribute = functions.getattr(&*Owned::from_str("__kwdefaults__")?)?;
    // SAFETY: an object of this type is such a descriptor, laid out as was proved. The new
    // definition lives forever.
    unsafe {
        if !ptr::eq(attribute.type_ptr(), &raw const ffi::PyGetSetDescr_Type)
            || !is_as_expected(class)?
        {
            return Ok(());
        }
        let descriptor = attribute.as_ptr().cast::<ffi::PyGetSetDescrObject>();
        let stock = (*descriptor).d_getset;
        STOCK.store(stock, Ordering::Relaxed);
        (*descriptor).d_getset = Box::leak(Box::new(ffi::PyGetSetDef {
            name: (*stock).name,
            get: (*stock).get,
            set: (*stock).set.map(|_| set as ffi::setter),
            doc: (*stock).doc,
            closure: (*stock).closure,
        }));
    }
    Ok(())
}
