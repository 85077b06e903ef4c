//! Transports.

use std::ops::ControlFlow;

use crate::cpython::Object;
use crate::event_loop::host::Exit;

/// The descriptor can be read.
pub(crate) fn readable(_: &Object) -> ControlFlow<Exit> {
    ControlFlow::Continue(())
}

/// The descriptor can be written.
pub(crate) fn writable(_: &Object) -> ControlFlow<Exit> {
    ControlFlow::Continue(())
}

/// What was put off has its turn.
pub(crate) fn deferred(_: &Object) -> ControlFlow<Exit> {
    ControlFlow::Continue(())
}

/// The step that wrote has ended.
pub(crate) fn flush(_: &Object) {}
