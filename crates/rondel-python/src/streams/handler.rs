//! The program's handler of a server's connections: `client_connected_cb`.
//!
//! If it returns a coroutine, that runs in a task. An exception is reported, and the connection
//! closed.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use crate::cpython::error::{Builtin, raised_matches, take_exception};
use crate::cpython::method::method;
use crate::cpython::{self, Object, Owned, Raised, Res, names};
use crate::task::{self, Task};
use crate::transport::loop_calls::{call_exception_handler, create_task};
use crate::transport::names::imports;

/// Calls the handler for a connection, and returns its task if it has one.
pub(super) fn start(
    event_loop: &Object,
    transport: &Object,
    callback: &Object,
    reader: &Object,
    writer: &Object,
) -> Res<Option<Owned>> {
    let result = match callback.call(&[reader, writer]) {
        Ok(result) => result,
        Err(Raised) if imports().reports_handlers => {
            let exception = take_ordinary()?;
            return report(event_loop, transport, &exception).map(|()| None);
        }
        Err(Raised) => return Err(Raised),
    };
    if !is_coroutine(&result)? {
        return Ok(None);
    }
    let task = create_task(event_loop, &result)?;
    let done = task_done_callback(transport)?;
    match task.exact::<Task>() {
        // In the task's own context, to save a copy of the current one.
        Some(native) => task.call_method_with(
            &names().add_done_callback,
            &[&done, &task::context_of(native)],
            Some(&cpython::imports().kw_context),
        )?,
        None => task.call_method(&names().add_done_callback, &[&done])?,
    };
    Ok(Some(task))
}

#[inline]
fn is_coroutine(object: &Object) -> Res<bool> {
    // SAFETY: a live object.
    if unsafe { ffi::PyCoro_CheckExact(object.as_ptr()) } != 0 {
        return Ok(true);
    }
    imports().iscoroutine.call(&[object])?.is_true()
}

/// The done-callback of the handler's task, bound to the transport: it closes that if the handler
/// failed.
fn task_done_callback(transport: &Object) -> Res<Owned> {
    static DEFINITION: AtomicPtr<ffi::PyMethodDef> = AtomicPtr::new(ptr::null_mut());
    let mut definition = DEFINITION.load(Ordering::Relaxed);
    if definition.is_null() {
        let made = method!(onearg c"client_connected_cb_done" handler_done,
            c"Closes the connection of a handler that failed.");
        definition = Box::into_raw(Box::new(made.0));
        DEFINITION.store(definition, Ordering::Relaxed);
    }
    // SAFETY: a definition that lives for ever, and a live object to bind to.
    unsafe {
        Owned::steal(ffi::PyCFunction_NewEx(
            definition,
            transport.as_ptr(),
            ptr::null_mut(),
        ))
    }
}

fn handler_done(transport: &Object, task: &Object) -> Res<Owned> {
    if task.call_method(&names().cancelled, &[])?.is_true()? {
        transport.call_method(&names().close, &[])?;
        return Ok(Owned::none());
    }
    let exception = task.call_method(&names().exception, &[])?;
    if !exception.is_none() {
        let event_loop = task.call_method(&names().get_loop, &[])?;
        report(&event_loop, transport, &exception)?;
    }
    Ok(Owned::none())
}

/// The handler has failed.
fn report(event_loop: &Object, transport: &Object, exception: &Object) -> Res<()> {
    let rest = [(c"exception", exception), (c"transport", transport)];
    let message = "Unhandled exception in client_connected_cb";
    call_exception_handler(event_loop, message, &rest)?;
    transport.call_method(&names().close, &[]).map(drop)
}

/// The exception that is set, if it is an `Exception`.
fn take_ordinary() -> Res<Owned> {
    match raised_matches(Builtin::Exception.class()) {
        true => Ok(take_exception()),
        false => Err(Raised),
    }
}
