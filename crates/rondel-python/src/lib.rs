//! The extension module `rondel._rondel`: the list of its contents.
//!
//! Python imports the package `rondel`, which re-exports these objects. See `ARCHITECTURE.md` for
//! an overview.

mod awaitable;
mod cpython;
mod event_loop;
mod future;
mod handle;
mod kernel_calls;
mod loop_core;
mod monitor;
#[cfg(feature = "panic-probe")]
mod panic_probe;
mod probes;
mod resolver;
mod sleep;
mod streams;
mod sync;
mod task;
mod task_group;
mod threads;
mod timeouts;
mod tls;
mod transport;
mod untracked;
mod waits;

use cpython::method::{function, method};
use cpython::{Owned, Raised, Res};
use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;

fn fill(module: &cpython::Object) -> Res<()> {
    let add = |name: &str, value: Owned| module.setattr(&*Owned::from_str(name)?, &value);
    cpython::method::init(module);
    cpython::names::init()?;
    cpython::stop_iteration::init()?;
    cpython::context::find()?;
    cpython::special::init()?;
    for (name, value) in cpython::function::init()? {
        add(name, value)?;
    }
    loop_core::current_task::init()?;
    untracked::init()?;
    task::all_tasks::init()?;
    loop_core::running_loop::init()?;
    let (handle, timer_handle) = handle::init_types()?;
    add("Handle", handle)?;
    add("TimerHandle", timer_handle)?;
    let (future, task) = (future::init_types()?, task::init_type()?);
    future::watch::init()?;
    waits::init_gathering()?;
    cpython::types::register_subclasses(&future, &[&task])?;
    let (stock_future, stock_task) = (
        &cpython::imports().stock_future,
        &cpython::imports().stock_task,
    );
    cpython::dispatch::teach([(stock_future, &future), (stock_task, &task)])?;
    cpython::accept::accept(&future, &[&task], stock_future)?;
    cpython::accept::accept(&task, &[], stock_task)?;
    future.make_immutable();
    task.make_immutable();
    add("Future", future)?;
    add("Task", task.clone())?;
    for (name, value) in transport::init()?.into_iter().chain(streams::init_types()?) {
        add(name, value)?;
    }
    for (name, value) in tls::init()? {
        add(name, value)?;
    }
    for (name, value) in task::functions::init(&task)? {
        add(name, value)?;
    }
    for (name, value) in resolver::init()? {
        add(name, value)?;
    }
    add("sleep", sleep::init()?)?;
    for (name, value) in sync::init_types()? {
        add(name, value)?;
    }
    for (name, value) in timeouts::init()?.into_iter().chain(threads::init()?) {
        add(name, value)?;
    }
    add("probes", probes::init()?)?;
    add("TaskGroup", task_group::init_type()?)?;
    add("LoopAttribute", event_loop::attributes::init_type()?)?;
    add("LoopCore", event_loop::class::init_type()?)?;
    for (name, value) in waits::init()? {
        add(name, value)?;
    }
    add(
        "bind_methods",
        function(
            method!(onearg c"bind_methods" event_loop::class::bind_methods,
            c"Puts the hot methods of LoopCore into a subclass."),
        )?,
    )?;
    add(
        "note_methods",
        function(
            method!(onearg c"note_methods" event_loop::overrides::note_methods,
            c"Notes what the methods of loops are that no program has replaced."),
        )?,
    )?;
    add(
        "set_handle_run",
        function(
            method!(onearg c"set_handle_run" event_loop::patches::set_handle_run,
            c"Has handles run by a program's function, or as always."),
        )?,
    )?;
    add(
        "run_handle",
        function(method!(onearg c"run_handle" handle::run_given,
            c"Runs a handle of Rondel's."))?,
    )?;
    add(
        "forget_task",
        function(
            method!(onearg c"forget_task" task::all_tasks::forget, c"Takes a task out of its loop's list."),
        )?,
    )?;
    add(
        "register_with_asyncio",
        function(
            method!(noargs c"register_with_asyncio" task::all_tasks::register_with_asyncio,
            c"Has new tasks registered with asyncio, whose set does not show the lists of loops."),
        )?,
    )?;
    for (name, value) in monitor::functions()? {
        add(name, value)?;
    }
    #[cfg(feature = "panic-probe")]
    for (name, value) in panic_probe::functions()? {
        add(name, value)?;
    }
    add("__version__", Owned::from_str(env!("CARGO_PKG_VERSION"))?)
}

/// The native part of the package `rondel`.
// Objects that threads share (e.g. a future) have no locks of their own. So a free-threaded build
// must enable the GIL for this module, which it does with a warning.
#[pymodule(gil_used = true)]
fn _rondel(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // The classes and names found at import are stored once per process. SAFETY: the GIL is held.
    if unsafe { ffi::PyInterpreterState_Get() != ffi::PyInterpreterState_Main() } {
        return Err(PyImportError::new_err(
            "rondel can't be imported in a subinterpreter, only in the main interpreter",
        ));
    }
    // SAFETY: PyO3 passes a live module, with the GIL held.
    let object = unsafe { cpython::Object::from_ptr(module.as_ptr()) };
    fill(object).map_err(|Raised| PyErr::fetch(module.py()))
}
