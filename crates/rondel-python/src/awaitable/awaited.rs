//! What an awaitable awaits, which may be anything: sending and throwing into it, and the iterator
//! that it is awaited by.

use std::ptr;

use pyo3::ffi;

use super::is_awaitable;
use super::progress::Progress;
use crate::cpython::call::iter_send;
use crate::cpython::error::{
    chain, raise_instance, raised_matches, restore, take_exception, type_error,
};
use crate::cpython::names::import;
use crate::cpython::stack::check_stack;
use crate::cpython::{Object, Owned, Raised, Res, imports, names};
use crate::future;

/// Sends into what is awaited.
#[inline]
pub(super) fn poll(inner: &Object, value: &Object) -> Res<Progress> {
    if future::is_exact(inner) {
        // What is awaited most, without the way through its type.
        return Ok(match future::advance(inner)? {
            future::Step::Yield(value) => Progress::Yielded(value),
            future::Step::Return(value) => Progress::Returned(value),
        });
    }
    check_stack()?;
    let mut result = ptr::null_mut();
    // SAFETY: live objects; what comes back is a reference of ours.
    unsafe {
        match iter_send(inner, value, &mut result) {
            ffi::PySendResult::PYGEN_NEXT => Owned::steal(result).map(Progress::Yielded),
            ffi::PySendResult::PYGEN_RETURN => Owned::steal(result).map(Progress::Returned),
            ffi::PySendResult::PYGEN_ERROR => Err(Raised),
        }
    }
}

/// Throws the exception that is set into what is awaited. What has no `throw` raises it itself.
pub(super) fn throw_into(inner: &Object) -> Res<Progress> {
    let exception = take_exception();
    if future::is_native(inner) {
        // A future has no `throw`, and looking for it takes longer than the rest.
        return raise_instance(exception);
    }
    if let Err(Raised) = check_stack() {
        // Here the await chain ends: what was to be thrown is the context of what is raised.
        let too_deep = take_exception();
        chain(&too_deep, &exception);
        return Err(restore(too_deep));
    }
    let Some(throw) = inner.getattr_optional(&names().throw)? else {
        return raise_instance(exception);
    };
    match throw.call(&[&exception]) {
        Ok(value) => Ok(Progress::Yielded(value)),
        Err(Raised) => returned(),
    }
}

/// What a `StopIteration` that is set carries; any other exception stays.
fn returned() -> Res<Progress> {
    // SAFETY: a built-in class lives as long as the interpreter.
    if !raised_matches(unsafe { Object::from_ptr(ffi::PyExc_StopIteration) }) {
        return Err(Raised);
    }
    let stop = take_exception();
    let value = stop.getattr(&*Owned::from_str("value")?)?;
    Ok(Progress::Returned(value))
}

/// The iterator that awaiting `object` goes through.
pub(crate) fn iterator_of(object: &Object) -> Res<Owned> {
    // SAFETY: a live object; its type's slots are read while it is alive.
    unsafe {
        let slots = (*object.type_ptr()).tp_as_async;
        if let Some(am_await) = slots.as_ref().and_then(|slots| slots.am_await) {
            return Owned::steal(am_await(object.as_ptr()));
        }
        // A coroutine made by `async def` under `types.coroutine`: a generator.
        if ffi::PyIter_Check(object.as_ptr()) != 0 {
            return Ok(object.own());
        }
    }
    let class = object.class_name()?;
    type_error(&format!(
        "object {class} can't be used in 'await' expression"
    ))
}

/// What `await object` goes through, of any object: where it can be had without a frame, that;
/// otherwise a coroutine that awaits it, and has the interpreter's own checks.
#[inline]
pub(crate) fn await_any(object: &Object) -> Res<Owned> {
    if future::is_native(object) || is_awaitable(object) {
        return Ok(object.own());
    }
    if ptr::eq(object.type_ptr(), imports().coroutine_type.as_type_ptr())
        && object.getattr(&names().cr_await)?.is_none()
    {
        return Ok(object.own());
    }
    await_by_coroutine(object)
}

#[cold]
fn await_by_coroutine(object: &Object) -> Res<Owned> {
    import("rondel._awaiting")?
        .getattr(&*Owned::from_str("_await")?)?
        .call(&[object])
}
