//! The loop that runs in this thread: the result of `asyncio.get_running_loop()`.
//!
//! It is needed for each task, timeout and waiter, so asyncio's C function is called directly,
//! without a Python call. In CPython 3.11 that function makes a system call each time, to detect a
//! fork; there its record is read directly.

use std::ptr;

use pyo3::ffi;

use crate::cpython::names::{Table, import, import_from, intern};
use crate::cpython::{Owned, Res, imports};

/// The C function of asyncio's `_get_running_loop`, and its module.
struct GetRunningLoop {
    function: ffi::PyCFunction,
    module: *mut ffi::PyObject,
}

static GET_RUNNING_LOOP: Table<Option<GetRunningLoop>> = Table::new();

/// Checks what `_get_running_loop` is. Called once, at import.
pub(crate) fn init() -> Res<()> {
    let function = &imports().get_running_loop;
    // SAFETY: a live object whose type is checked before it is read; it and its module are
    // immortal.
    let parts = unsafe {
        let is_plain = ffi::PyCFunction_CheckExact(function.as_ptr()) != 0
            && ffi::PyCFunction_GetFlags(function.as_ptr()) == ffi::METH_NOARGS;
        is_plain
            .then(|| ffi::PyCFunction_GetFunction(function.as_ptr()))
            .flatten()
            .map(|call| GetRunningLoop {
                function: call,
                module: ffi::PyCFunction_GetSelf(function.as_ptr()),
            })
    };
    // A loop cannot run without it.
    let _set = import_from("asyncio.events", "_set_running_loop")?;
    #[cfg(not(Py_3_12))]
    record::init(parts.is_some(), &_set)?;
    GET_RUNNING_LOOP.fill(parts);
    Ok(())
}

/// Whether asyncio's C function is called directly; on 3.11, whether its record is read.
pub(crate) fn is_known() -> bool {
    #[cfg(not(Py_3_12))]
    return record::is_known();
    #[cfg(Py_3_12)]
    GET_RUNNING_LOOP.get().is_some()
}

/// The loop that runs in this thread, or `None`.
#[inline]
pub(crate) fn running_loop() -> Res<Owned> {
    #[cfg(not(Py_3_12))]
    if let Some(event_loop) = record::running_loop()
        && !event_loop.is_none()
    {
        return Ok(event_loop);
    }
    let event_loop = match GET_RUNNING_LOOP.get() {
        // SAFETY: a `METH_NOARGS` function, called as the interpreter calls it.
        Some(get) => unsafe { Owned::steal((get.function)(get.module, ptr::null_mut()))? },
        None => imports().get_running_loop.call(&[])?,
    };
    match event_loop.is_none() {
        false => Ok(event_loop),
        true => of_another(event_loop),
    }
}

/// Asks a library that has replaced asyncio's function, as trio-asyncio does. Only called where
/// asyncio knows no running loop.
#[cold]
fn of_another(none: Owned) -> Res<Owned> {
    let get = import("asyncio.events")?.getattr(&*intern("_get_running_loop")?)?;
    match get.is(&imports().get_running_loop) {
        true => Ok(none),
        false => get.call(&[]),
    }
}

/// The record of 3.11: an object in the thread's dict, with the loop and the process that set it.
#[cfg(not(Py_3_12))]
mod record {
    use std::ptr;
    use std::sync::atomic::{AtomicI32, Ordering};

    use pyo3::ffi;

    use crate::cpython::names::{Table, intern};
    use crate::cpython::{Object, Owned, Res, imports};

    /// The layout in `_asynciomodule.c` of 3.11.
    #[repr(C)]
    struct Record {
        head: ffi::PyObject,
        event_loop: *mut ffi::PyObject,
        process: libc::pid_t,
    }

    struct Known {
        /// The record's key in the thread's dict.
        name: Owned,
        class: *mut ffi::PyTypeObject,
    }

    /// `None` if the record does not have the known layout.
    static KNOWN: Table<Option<Known>> = Table::new();

    pub(super) fn is_known() -> bool {
        KNOWN.get().is_some()
    }

    /// The process id. A child of a fork through the C library updates it.
    static PROCESS: AtomicI32 = AtomicI32::new(0);

    extern "C" fn note_process() {
        // SAFETY: no preconditions.
        PROCESS.store(unsafe { libc::getpid() }, Ordering::Relaxed);
    }

    /// Checks the record's layout. Called once, at import.
    pub(super) fn init(is_stock: bool, set: &Object) -> Res<()> {
        note_process();
        // SAFETY: the handler is a static function that makes one system call and stores a number.
        let is_told = unsafe { libc::pthread_atfork(None, None, Some(note_process)) } == 0;
        KNOWN.fill(if is_stock && is_told {
            probe(set)?
        } else {
            None
        });
        Ok(())
    }

    /// Has asyncio make a record, and checks its contents.
    fn probe(set: &Object) -> Res<Option<Known>> {
        let before = imports().get_running_loop.call(&[])?;
        let sample = Owned::list()?;
        let name = intern("__asyncio_running_event_loop__")?;
        set.call(&[&sample])?;
        let known = record(&name).and_then(|record| {
            // SAFETY: a live object; its fields are read only if it has the expected size.
            unsafe {
                let class = ffi::Py_TYPE(record);
                let is_known = usize::try_from((*class).tp_basicsize) == Ok(size_of::<Record>())
                    && ptr::eq((*record.cast::<Record>()).event_loop, sample.as_ptr())
                    && (*record.cast::<Record>()).process == PROCESS.load(Ordering::Relaxed);
                is_known.then_some(class)
            }
        });
        set.call(&[&before])?;
        let is_kept = imports().get_running_loop.call(&[])?.is(&before);
        let known = known.filter(|_| is_kept);
        Ok(known.map(|class| Known { name, class }))
    }

    /// The record in the thread's dict, as a borrowed reference.
    #[inline]
    fn record(name: &Object) -> Option<*mut ffi::PyObject> {
        // SAFETY: the GIL is held; a dict or null, and an interned `str`, whose comparison can't
        // fail.
        let record = unsafe {
            let dict = ffi::PyThreadState_GetDict();
            if dict.is_null() {
                return None;
            }
            ffi::PyDict_GetItemWithError(dict, name.as_ptr())
        };
        (!record.is_null()).then_some(record)
    }

    /// The loop that this thread has set in this process. `None`: call asyncio's function instead.
    #[inline]
    pub(super) fn running_loop() -> Option<Owned> {
        let known = KNOWN.get().as_ref()?;
        let record = record(&known.name)?;
        // SAFETY: a live object whose type is checked before it is read; it holds a live loop or
        // `None`.
        unsafe {
            if !ptr::eq(ffi::Py_TYPE(record), known.class) {
                return None;
            }
            let record = &*record.cast::<Record>();
            (record.process == PROCESS.load(Ordering::Relaxed))
                .then(|| Object::from_ptr(record.event_loop).own())
        }
    }
}
