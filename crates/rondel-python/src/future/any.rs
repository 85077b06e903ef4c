//! Operations on futures of any class: native ones, asyncio's, and objects that user code treats as
//! futures.
//!
//! Exact instances of the native classes are read and completed directly, all others through their
//! methods.

use super::{Future, State, fail, finish, new_future};
use crate::cpython::{Object, Owned, OwnedNative, Res, names};
use crate::loop_core::LoopCore;

/// `event_loop.create_future()`.
pub(crate) fn create_future(event_loop: &Object) -> Res<Owned> {
    match LoopCore::of(event_loop) {
        Some(_) => new_future(event_loop).map(OwnedNative::into_owned),
        None => event_loop.call_method(&names().create_future, &[]),
    }
}

/// `future.done()`.
#[inline]
pub(crate) fn is_done(future: &Object) -> Res<bool> {
    if let Some(future) = future.exact::<Future>() {
        return Ok(future.is_done());
    }
    future.call_method(&names().done, &[])?.is_true()
}

/// `future.cancelled()`.
#[inline]
pub(crate) fn is_cancelled(future: &Object) -> Res<bool> {
    if let Some(future) = future.exact::<Future>() {
        return Ok(future.state() == State::Cancelled);
    }
    future.call_method(&names().cancelled, &[])?.is_true()
}

/// Whether a future that is done has an exception. On a foreign future this marks the exception as
/// retrieved.
pub(crate) fn has_failed(future: &Object) -> Res<bool> {
    if let Some(future) = future.exact::<Future>() {
        return Ok(future.state() == State::Finished && future.has_failed());
    }
    if is_cancelled(future)? {
        return Ok(false);
    }
    Ok(!future.call_method(&names().exception, &[])?.is_none())
}

/// `future.set_result(value)`.
#[inline]
pub(crate) fn set_result(future: &Object, value: &Object) -> Res<()> {
    if let Some(future) = future.exact::<Future>() {
        return finish(future, value.own());
    }
    future.call_method(&names().set_result, &[value]).map(drop)
}

/// `if not future.cancelled(): future.set_result(value)`.
#[inline]
pub(crate) fn set_result_unless_cancelled(future: &Object, value: &Object) -> Res<()> {
    match is_cancelled(future)? {
        true => Ok(()),
        false => set_result(future, value),
    }
}

/// `if not future.cancelled(): future.set_exception(exception)`.
pub(crate) fn set_exception_unless_cancelled(future: &Object, exception: &Object) -> Res<()> {
    if is_cancelled(future)? {
        return Ok(());
    }
    if let Some(future) = future.exact::<Future>() {
        return fail(future, exception);
    }
    let set_exception = &names().set_exception;
    future.call_method(set_exception, &[exception]).map(drop)
}
