//! What an awaitable shows as a coroutine's code and frame: `cr_code` and `cr_frame`.
//!
//! The code is that of the function that made the awaitable, and no frame runs. When user code asks
//! for a frame, it gets a new one of that code, at the function's first line or at its `await`,
//! without local variables: `inspect` and debuggers assume that a coroutine without a frame is
//! done.

use std::ptr;

use pyo3::ffi;

use crate::cpython::names::import;
use crate::cpython::object::tuple_item;
use crate::cpython::{Owned, Res};

/// The function's code and globals, as a tuple; `None` if there is no such function. `awaits`: the
/// code starts at the line of the function's `await`.
fn look_up(name: &str, awaits: bool) -> Res<Owned> {
    import("rondel._functions")?
        .getattr(&*Owned::from_str("coroutine_code")?)?
        .call(&[&*Owned::from_str(name)?, &*Owned::from_bool(awaits)])
}

/// `cr_code` of an awaitable of this name.
pub(super) fn code(name: &str) -> Res<Owned> {
    let found = look_up(name, false)?;
    match found.is_none() {
        true => Ok(found),
        false => Ok(tuple_item(&found, 0).own()),
    }
}

/// `cr_frame` of an awaitable of this name that is not done.
pub(super) fn frame(name: &str, awaits: bool) -> Res<Owned> {
    let found = look_up(name, awaits)?;
    if found.is_none() {
        return Ok(found);
    }
    let (code, globals) = (tuple_item(&found, 0), tuple_item(&found, 1));
    // SAFETY: the GIL is held; `coroutine_code` returns a code object and a dict.
    unsafe {
        Owned::steal(
            ffi::PyFrame_New(
                ffi::PyThreadState_Get(),
                code.as_ptr().cast(),
                globals.as_ptr(),
                ptr::null_mut(),
            )
            .cast(),
        )
    }
}
