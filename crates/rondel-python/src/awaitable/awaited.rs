//! The object that an awaitable awaits, which may be of any type: sending and throwing into it, and
//! getting its iterator.

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

/// Sends a value into the awaited object.
#[inline]
pub(super) fn poll(inner: &Object, value: &Object) -> Res<Progress> {
    if let Some(future) = future::plain(inner) {
        // The most common case, without a call through the type's slot.
        return Ok(match future::advance(future)? {
            future::Step::Yield(value) => Progress::Yielded(value),
            future::Step::Return(value) => Progress::Returned(value),
        });
    }
    check_stack()?;
    let mut result = ptr::null_mut();
    // SAFETY: live objects; the result is an owned reference.
    unsafe {
        match iter_send(inner, value, &mut result) {
            ffi::PySendResult::PYGEN_NEXT => Owned::steal(result).map(Progress::Yielded),
            ffi::PySendResult::PYGEN_RETURN => Owned::steal(result).map(Progress::Returned),
            ffi::PySendResult::PYGEN_ERROR => Err(Raised),
        }
    }
}

/// Throws the exception that is set into the awaited object. If that has no `throw`, raises it
/// here.
pub(super) fn throw_into(inner: &Object) -> Res<Progress> {
    let exception = take_exception();
    if future::is_native(inner) {
        // A future has no `throw`, and looking it up costs more than all the rest.
        return raise_instance(exception);
    }
    if let Err(Raised) = check_stack() {
        // The await chain ends here. The exception to be thrown becomes the `__context__` of the
        // `RecursionError`.
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

/// The value of the `StopIteration` that is set; any other exception stays set.
fn returned() -> Res<Progress> {
    // SAFETY: a built-in class lives as long as the interpreter.
    if !raised_matches(unsafe { Object::from_ptr(ffi::PyExc_StopIteration) }) {
        return Err(Raised);
    }
    let stop = take_exception();
    let value = stop.getattr(&*Owned::from_str("value")?)?;
    Ok(Progress::Returned(value))
}

/// The iterator that `await object` uses. Raises `TypeError` if there is none.
pub(crate) fn iterator_of(object: &Object) -> Res<Owned> {
    // SAFETY: a live object; its type's slots are read while it is alive.
    unsafe {
        let slots = (*object.type_ptr()).tp_as_async;
        if let Some(am_await) = slots.as_ref().and_then(|slots| slots.am_await) {
            return Owned::steal(am_await(object.as_ptr()));
        }
        // A generator from a function decorated with `types.coroutine`.
        if ffi::PyIter_Check(object.as_ptr()) != 0 {
            return Ok(object.own());
        }
    }
    let class = object.class_name()?;
    type_error(&format!(
        "object {class} can't be used in 'await' expression"
    ))
}

/// An awaitable equivalent to `object`. It is `object` itself if that can be awaited without a
/// frame, and otherwise a coroutine that awaits it, with the interpreter's own checks.
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
