//! What few tasks have, so that the others pay a word for it: a name, a context, the place of their
//! creation.
//!
//! It is freed with the task's memory, by whatever thread does that; so there is nothing in it then
//! but plain data: the context, which belongs to the loop's thread, is taken out when the task is
//! complete.

use std::cell::Cell;
use std::fmt::Write as _;
use std::panic::Location;

use crate::context::Context;

/// The part of a task that is made when it is needed.
#[derive(Default)]
pub(super) struct Extra {
    /// Empty until it is set or asked for.
    pub(super) name: String,
    /// The values of its context variables; none once the task is complete.
    pub(super) context: Context,
    /// In debug mode.
    pub(super) created_at: Option<&'static Location<'static>>,
    /// If a subscriber wants it; none once the task is complete.
    #[cfg(feature = "tracing")]
    pub(super) span: Option<tracing::Span>,
}

/// The number of the next task that is asked for its name and has none.
#[derive(Default)]
pub(crate) struct Names(Cell<u64>);

impl Names {
    /// asyncio's name for a task without one.
    pub(super) fn next(&self) -> String {
        let number = self.0.get() + 1;
        self.0.set(number);
        let mut name = String::with_capacity(10);
        let _ = write!(name, "Task-{number}");
        name
    }
}
