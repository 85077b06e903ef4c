//! The source tracebacks of debug mode.
//!
//! The frame comes from the C API. `sys._getframe` relies on being called by Python code: in
//! CPython 3.12 it gives a wild pointer to a destructor that runs while a coroutine's frame is
//! cleared.

use pyo3::ffi;

use super::{Object, Owned, Res, imports};

/// The frame of the Python code that runs, if there is one.
pub(crate) fn current_frame() -> Option<Owned> {
    // SAFETY: the GIL is held. A borrowed frame, or null where no Python code runs; it lives as
    // long as it runs.
    unsafe { Object::from_nullable(ffi::PyEval_GetFrame().cast()) }.map(Object::own)
}

/// What `_source_traceback` is: the stack of the Python code that runs, by asyncio's
/// `extract_stack`.
pub(crate) fn source_traceback() -> Res<Owned> {
    match current_frame() {
        // Looked up each time, as asyncio does: the command line has its own frames left out.
        Some(frame) => imports()
            .format_helpers
            .getattr(&*Owned::from_str("extract_stack")?)?
            .call(&[&*frame]),
        None => Ok(Owned::none()),
    }
}
