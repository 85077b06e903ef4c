//! What transports and streams need of loops and futures, native or not.
//!
//! Streams work on any loop. What has no native path is done by the loop's Python methods.

use crate::cpython::error::{Builtin, restore, write_unraisable};
pub(crate) use crate::cpython::error::{take_unless_exit, with_exception_kept};
use crate::cpython::{Object, Owned, OwnedNative, Res, names};

use super::names::imports;
pub(crate) use crate::future::any::{
    create_future, set_exception_unless_cancelled, set_result_unless_cancelled,
};
use crate::loop_core::LoopCore;
use crate::loop_core::check_closed;
use crate::task;

/// `loop.create_task(coroutine)`.
pub(crate) fn create_task(event_loop: &Object, coroutine: &Object) -> Res<Owned> {
    match LoopCore::of(event_loop) {
        Some(core) if core.task_factory.is_empty() && core.calls_directly() => {
            check_closed(core)?;
            task::new_task(event_loop, coroutine, None, None, false).map(OwnedNative::into_owned)
        }
        _ => event_loop.call_method(&names().create_task, &[coroutine]),
    }
}

/// `loop.is_closed()`.
pub(crate) fn is_closed(event_loop: &Object) -> Res<bool> {
    match LoopCore::of(event_loop) {
        Some(core) => Ok(core.is_closed()),
        None => event_loop.call_method(&names().is_closed, &[])?.is_true(),
    }
}

/// `loop.call_exception_handler({...})`.
pub(crate) fn call_exception_handler(
    event_loop: &Object,
    message: &str,
    rest: &[(&std::ffi::CStr, &Object)],
) -> Res<()> {
    call_exception_handler_with(event_loop, &*Owned::from_str(message)?, rest)
}

/// As [`call_exception_handler`], with a message that the program gave, which may be any object.
pub(crate) fn call_exception_handler_with(
    event_loop: &Object,
    message: &Object,
    rest: &[(&std::ffi::CStr, &Object)],
) -> Res<()> {
    let context = Owned::dict()?;
    context.set_item(c"message", message)?;
    for (key, value) in rest {
        context.set_item(key, value)?;
    }
    event_loop
        .call_method(&names().call_exception_handler, &[&context])
        .map(drop)
}

/// `asyncio.log.logger.warning(text)`.
pub(crate) fn warn_in_log(text: &str) -> Res<()> {
    let text = Owned::from_str(text)?;
    imports()
        .logger
        .call_method(&names().warning, &[&text])
        .map(drop)
}

/// `asyncio.log.logger.info(format, *args)`.
pub(crate) fn info_in_log(format: &str, args: &[&Object]) -> Res<()> {
    let format = Owned::from_str(format)?;
    let mut all = vec![&*format];
    all.extend_from_slice(args);
    imports().logger.call_method(&names().info, &all).map(drop)
}

/// `event_loop.call_soon(callback, argument, context=context)`, as the loop's method.
pub(super) fn call_soon(
    event_loop: &Object,
    callback: &Object,
    argument: &Object,
    context: Option<&Object>,
) -> Res<()> {
    let call_soon = &names().call_soon;
    match context {
        None => event_loop.call_method(call_soon, &[callback, argument]),
        Some(context) => event_loop.call_method_with(
            call_soon,
            &[callback, argument, context],
            Some(&crate::cpython::imports().kw_context),
        ),
    }
    .map(drop)
}

/// `event_loop.call_soon(callback)`.
pub(super) fn call_soon_bare(event_loop: &Object, callback: &Object) -> Res<()> {
    event_loop
        .call_method(&names().call_soon, &[callback])
        .map(drop)
}

/// Reports an exception of a callback, as a `Handle` would.
pub(super) fn report_callback(
    transport: &Object,
    event_loop: Option<Owned>,
    callback: &str,
) -> Res<()> {
    let exception = take_unless_exit()?;
    let Some(event_loop) = event_loop else {
        restore(exception);
        write_unraisable(Some(transport));
        return Ok(());
    };
    if is_closed(&event_loop)? {
        return debug_in_log("%r failed on a closed loop", &[transport]);
    }
    let class = transport.class_name()?;
    let message = format!("Exception in callback {class}.{callback}()");
    let rest = [(c"exception", &*exception), (c"transport", transport)];
    call_exception_handler(&event_loop, &message, &rest)
}

/// `asyncio.log.logger.debug(format, *args)`.
pub(crate) fn debug_in_log(format: &str, args: &[&Object]) -> Res<()> {
    let format = Owned::from_str(format)?;
    let mut all = vec![&*format];
    all.extend_from_slice(args);
    imports().logger.call_method(&names().debug, &all).map(drop)
}

/// `warnings.warn(text, ResourceWarning)`, with `source` if given.
pub(crate) fn warn_of_resource(text: &str, source: Option<&Object>) -> Res<()> {
    let text = Owned::from_str(text)?;
    let class = Builtin::ResourceWarning.class();
    match source {
        None => imports().warn.call(&[&text, class]),
        Some(source) => imports()
            .warn
            .call_with(&[&text, class, source], Some(&imports().kw_source)),
    }
    .map(drop)
}
