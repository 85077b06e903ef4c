//! Which loop runs in this thread: what `asyncio.get_running_loop()` gives.
//!
//! It is asked for at each task, timeout and waiter, so asyncio's own C function is called without
//! the way to it. That of 3.11 makes a system call each time, to see whether the process has
//! forked; there its record is read directly.

use std::ptr;

use pyo3::ffi;

use crate::cpython::names::{Table, import, intern};
use crate::cpython::{Owned, Res, imports};

/// asyncio's `_get_running_loop`, taken apart: the C function and its module.
struct GetRunningLoop {
    function: ffi::PyCFunction,
    module: *mut ffi::PyObject,
}

static GET_RUNNING_LOOP: Table<Option<GetRunningLoop>> = Table::new();

/// Looks at what `_get_running_loop` is. Once, at import.
pub(crate) fn init() -> Res<()> {
    let function = &imports().get_running_loop;
    // SAFETY: a live object, checked for its type before it is read; it and its module live as long
    // as the process.
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
    #[cfg(not(Py_3_12))]
    record::init(parts.is_some())?;
    GET_RUNNING_LOOP.fill(parts);
    Ok(())
}

/// Whether asyncio's function is called without the way to it; on 3.11, whether its record is read.
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
        // SAFETY: a function without parameters, called as the interpreter calls it.
        Some(get) => unsafe { Owned::steal((get.function)(get.module, ptr::null_mut()))? },
        None => imports().get_running_loop.call(&[])?,
    };
    match event_loop.is_none() {
        false => Ok(event_loop),
        true => of_another(event_loop),
    }
}

/// What a library says that has put a function of its own in place of asyncio's, as trio-asyncio
/// does. It is asked only where asyncio knows of no loop.
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

    use crate::cpython::error::runtime_error;
    use crate::cpython::names::{Table, import, intern};
    use crate::cpython::{Object, Owned, Res, imports};

    /// As `_asynciomodule.c` of 3.11 has it.
    #[repr(C)]
    struct Record {
        head: ffi::PyObject,
        event_loop: *mut ffi::PyObject,
        process: libc::pid_t,
    }

    struct Known {
        /// Its key in the thread's dict.
        name: Owned,
        class: *mut ffi::PyTypeObject,
    }

    /// `None` if the record is not what it is known to be.
    static KNOWN: Table<Option<Known>> = Table::new();

    pub(super) fn is_known() -> bool {
        KNOWN.get().is_some()
    }

    /// This process. A child that was forked by the C library's means knows its own.
    static PROCESS: AtomicI32 = AtomicI32::new(0);

    extern "C" fn note_process() {
        // SAFETY: no preconditions.
        PROCESS.store(unsafe { libc::getpid() }, Ordering::Relaxed);
    }

    /// Finds out about the record. Once, at import.
    pub(super) fn init(is_stock: bool) -> Res<()> {
        note_process();
        // SAFETY: the handler makes one system call and stores a number, and lives as long as the
        // process.
        let is_told = unsafe { libc::pthread_atfork(None, None, Some(note_process)) } == 0;
        KNOWN.fill(if is_stock && is_told { probe()? } else { None });
        Ok(())
    }

    /// Has asyncio make a record, and looks at what is in it.
    fn probe() -> Res<Option<Known>> {
        let set = import("asyncio.events")?.getattr(&*intern("_set_running_loop")?)?;
        let before = imports().get_running_loop.call(&[])?;
        let sample = Owned::list()?;
        let name = intern("__asyncio_running_event_loop__")?;
        set.call(&[&sample])?;
        let known = record(&name).and_then(|record| {
            // SAFETY: a live object, whose memory is read only if it has as much.
            unsafe {
                let class = ffi::Py_TYPE(record);
                let is_known = usize::try_from((*class).tp_basicsize) == Ok(size_of::<Record>())
                    && ptr::eq((*record.cast::<Record>()).event_loop, sample.as_ptr())
                    && (*record.cast::<Record>()).process == PROCESS.load(Ordering::Relaxed);
                is_known.then_some(class)
            }
        });
        set.call(&[&before])?;
        if !imports().get_running_loop.call(&[])?.is(&before) {
            return runtime_error("asyncio does not keep the running loop");
        }
        Ok(known.map(|class| Known { name, class }))
    }

    /// What stands in the thread's dict; borrowed from it.
    #[inline]
    fn record(name: &Object) -> Option<*mut ffi::PyObject> {
        // SAFETY: the thread runs Python code; a dict or null, and an interned `str`, whose
        // comparison can't fail.
        let record = unsafe {
            let dict = ffi::PyThreadState_GetDict();
            if dict.is_null() {
                return None;
            }
            ffi::PyDict_GetItemWithError(dict, name.as_ptr())
        };
        (!record.is_null()).then_some(record)
    }

    /// The loop that this thread has set in this process. `None` leaves the question to asyncio's
    /// function.
    #[inline]
    pub(super) fn running_loop() -> Option<Owned> {
        let known = KNOWN.get().as_ref()?;
        let record = record(&known.name)?;
        // SAFETY: a live object, read as what its type says it is; a live loop, or `None`.
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
