//! Running a handle: its callback runs in its context; an exception goes to the loop's exception
//! handler or out of the loop.

use std::ops::ControlFlow;

use pyo3::ffi;

#[cfg(Py_3_14)]
use super::thread_safe;
use super::{
    CANCELLED, Handle, IN_A_TUPLE, NEEDS_NO_CONTEXT, OF_SUBCLASS, SHARES_CONTEXT, THREAD_SAFE,
    foreign_of,
};
use crate::cpython::error::{is_exit, restore, take_exception};
use crate::cpython::object::{tuple_item, tuple_len};
use crate::cpython::{Native, Object, Owned, Raised, Res, Slot, context, imports, names};
use crate::loop_core::item::Exit;
use crate::loop_core::{LoopCore, is_debug};

impl Handle {
    /// Calls the callback.
    #[inline]
    fn call(&self) -> Res<Owned> {
        let Some(callback) = self.callback.cloned() else {
            return Ok(Owned::none());
        };
        if self.nargs.get() == IN_A_TUPLE {
            let args = self.args[0].or_none();
            // SAFETY: a live callable and a tuple.
            return unsafe {
                Owned::steal(ffi::PyObject_CallObject(callback.as_ptr(), args.as_ptr()))
            };
        }
        // Owned references: the callback may cancel its handle, which empties it.
        let [first, second, third] =
            [&self.args[0], &self.args[1], &self.args[2]].map(Slot::cloned);
        match (&first, &second, &third) {
            (Some(a), Some(b), Some(c)) => callback.call(&[a, b, c]),
            (Some(a), Some(b), _) => callback.call(&[a, b]),
            (Some(a), ..) => callback.call(&[a]),
            _ => callback.call(&[]),
        }
    }
}

/// Runs a handle in its context, as `Handle._run` does. An exception goes to the loop's exception
/// handler, except `KeyboardInterrupt` and `SystemExit`, which end the loop.
#[inline]
pub(crate) fn run(core: &LoopCore, this: &Native<Handle>) -> ControlFlow<Exit> {
    const SPECIAL: u16 = CANCELLED | NEEDS_NO_CONTEXT | THREAD_SAFE | OF_SUBCLASS;
    if this.flags.bits() & (SHARES_CONTEXT | SPECIAL) != SHARES_CONTEXT {
        return match this.flags.has(OF_SUBCLASS) {
            true => run_by_method(this),
            false => run_anywhere(this),
        };
    }
    match run_in_copy(core, this) {
        Ok(_) => ControlFlow::Continue(()),
        Err(_) => failed(this),
    }
}

/// Runs a handle through the `_run` method that a subclass may override.
#[cold]
fn run_by_method(this: &Native<Handle>) -> ControlFlow<Exit> {
    if this.is_cancelled() {
        return ControlFlow::Continue(());
    }
    let result = Owned::from_str("_run").and_then(|name| this.object().call_method(&name, &[]));
    match result {
        Ok(_) => ControlFlow::Continue(()),
        Err(raised) => ControlFlow::Break(Exit::Raised(raised)),
    }
}

/// Like [`run`], for any loop, without calling an overridden `_run`.
pub(super) fn run_anywhere(this: &Native<Handle>) -> ControlFlow<Exit> {
    if this.is_cancelled() {
        return ControlFlow::Continue(());
    }
    #[cfg(Py_3_14)]
    if this.flags.has(THREAD_SAFE) {
        return thread_safe::run(this, || run_now(this));
    }
    run_now(this)
}

fn run_now(this: &Native<Handle>) -> ControlFlow<Exit> {
    let result = if this.flags.has(NEEDS_NO_CONTEXT) {
        match foreign_of(this) {
            None => this.call(),
            // The foreign handle reports exceptions itself; an exception that it raises leaves the
            // loop.
            Some(foreign) => {
                return match run_foreign(&foreign) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(raised) => ControlFlow::Break(Exit::Raised(raised)),
                };
            }
        }
    } else {
        run_in_context(this)
    };
    match result {
        Ok(_) => ControlFlow::Continue(()),
        Err(_) => failed(this),
    }
}

fn run_foreign(handle: &Object) -> Res<()> {
    if handle.getattr(&names().cancelled_attr)?.is_true()? {
        return Ok(());
    }
    handle.call_method(&names().run_handle, &[]).map(drop)
}

/// Runs the callback in a copy of the handle's snapshot. The copy becomes the handle's context.
#[inline]
fn run_in_copy(core: &LoopCore, this: &Native<Handle>) -> Res<Owned> {
    let context = core.contexts.copy(&this.context.or_none())?;
    this.flags.set(SHARES_CONTEXT, false);
    this.context.set(context.clone());
    context::enter(&context)?;
    let result = this.call();
    context::exit(&context)?;
    let result = result?;
    // If another reference to the handle exists, its context may still be read.
    if this.object().refcount() == 1 && this.context.holds(&context) {
        this.context.clear();
        core.contexts.give_back(context);
    }
    Ok(result)
}

fn run_in_context(this: &Handle) -> Res<Owned> {
    let Some(context) = this.own_context()? else {
        return this.call();
    };
    if let Err(Raised) = context::enter(&context) {
        return run_by_context(this, &context);
    }
    let result = this.call();
    context::exit(&context).and(result)
}

/// Handles a context that could not be entered. If it is not a `Context`, its `run` method is
/// called when the callback is due, as asyncio does.
#[cold]
fn run_by_context(this: &Handle, context: &Object) -> Res<Owned> {
    if context::is_context(context) {
        return Err(Raised);
    }
    drop(take_exception());
    let run = context.getattr(&*Owned::from_str("run")?)?;
    let (callback, args) = (this.callback.or_none(), this.args_tuple()?);
    let mut all = vec![&*callback];
    all.extend((0..tuple_len(&args)).map(|index| tuple_item(&args, index)));
    run.call(&all)
}

/// Handles the exception, which is set, of a handle's callback: it goes to the exception handler or
/// out of the loop.
#[cold]
pub(crate) fn failed(handle: &Native<Handle>) -> ControlFlow<Exit> {
    let exception = take_exception();
    if is_exit(&exception) {
        return ControlFlow::Break(Exit::Raised(restore(exception)));
    }
    match report(handle, &exception) {
        Ok(()) => ControlFlow::Continue(()),
        Err(raised) => ControlFlow::Break(Exit::Raised(raised)),
    }
}

/// The text for the callback in an error message. Newer versions show the arguments in debug mode
/// only.
fn source_of(this: &Handle, args: &Object) -> Res<Owned> {
    let format = &imports().format_callback_source;
    let callback = this.callback.or_none();
    let only_in_debug = format.getattr_optional(&*Owned::from_str("__kwdefaults__")?)?;
    if only_in_debug.is_none_or(|defaults| defaults.is_none()) {
        return format.call(&[&callback, args]);
    }
    let debug = Owned::from_bool(is_debug(&this.event_loop.or_none())?);
    let names = Owned::tuple(&[&*Owned::from_str("debug")?])?;
    format.call_with(&[&callback, args, &debug], Some(&names))
}

fn report(this: &Native<Handle>, exception: &Object) -> Res<()> {
    let args = this.args_tuple()?;
    let source = source_of(this, &args)?;
    // SAFETY: a live `str`, as the format requires. (The interpreter raises `MemoryError` where
    // Rust would abort.)
    let message = unsafe {
        Owned::steal(ffi::PyUnicode_FromFormat(
            c"Exception in callback %S".as_ptr(),
            source.as_ptr(),
        ))?
    };
    let context = Owned::dict()?;
    context.set_item(c"message", &message)?;
    context.set_item(c"exception", exception)?;
    context.set_item(c"handle", this.object())?;
    if let Some(traceback) = this.source_traceback.cloned() {
        context.set_item(c"source_traceback", &traceback)?;
    }
    this.event_loop
        .or_none()
        .call_method(&names().call_exception_handler, &[&*context])?;
    Ok(())
}
