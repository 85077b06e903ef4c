//! What subscribers of the crate `tracing` get: a span for each task, events for what is reported.
//!
//! Without the feature `tracing` the functions here are empty. With it, and without a subscriber
//! that wants the spans, a new task costs one look at a static word, and a step nothing: the bit
//! [`SPAN`](crate::task) of a task's state says whether it has a span.
//!
//! A task's span is a root: if it were the child of its creator's, that one would stay open as long
//! as any descendant lives. It follows from its creator's.

use std::panic::Location;

use crate::debug::SlowStep;
use crate::exceptions::ExceptionContext;
use crate::task::TaskRef;

/// Gives a new task its span.
#[inline]
#[track_caller]
pub(crate) fn begin(task: &TaskRef) {
    #[cfg(feature = "tracing")]
    live::begin(task, Location::caller());
    #[cfg(not(feature = "tracing"))]
    let _ = (task, Location::caller);
}

/// Runs a part of the task within its span.
#[inline(always)]
pub(crate) fn within<R>(task: &TaskRef, f: impl FnOnce() -> R) -> R {
    #[cfg(feature = "tracing")]
    if let Some(span) = task.span() {
        return span.in_scope(f);
    }
    let _ = task;
    f()
}

/// The task is complete: its span ends when nobody else has it.
#[inline]
pub(crate) fn end(task: &TaskRef) {
    #[cfg(feature = "tracing")]
    drop(task.take_span());
    let _ = task;
}

/// The task has another name.
#[inline]
pub(crate) fn rename(task: &TaskRef, name: &str) {
    #[cfg(feature = "tracing")]
    if let Some(span) = task.span() {
        span.record("task.name", name);
    }
    let _ = (task, name);
}

/// A step has lasted for too long.
pub(crate) fn slow_step(step: &SlowStep) {
    #[cfg(feature = "tracing")]
    live::slow_step(step);
    let _ = step;
}

/// What the task is called in spans.
pub(crate) fn id(task: &TaskRef) -> usize {
    #[cfg(feature = "tracing")]
    return task.address();
    #[cfg(not(feature = "tracing"))]
    {
        let _ = task;
        0
    }
}

/// The exception handler is told of something.
pub(crate) fn exception(context: &ExceptionContext<'_>) {
    #[cfg(feature = "tracing")]
    tracing::error!(
        target: "rondel::exception",
        {
            exception = %context.exception(),
            task.name = context.task().map(crate::task::CancelHandle::name),
        },
        "{}",
        context.message(),
    );
    let _ = context;
}

/// Something is said on standard error.
pub(crate) fn warning(text: &str) {
    #[cfg(feature = "tracing")]
    tracing::warn!(target: "rondel", "{text}");
    let _ = text;
}

#[cfg(feature = "tracing")]
mod live {
    use std::panic::Location;

    use tracing::{Level, Span};

    use crate::debug::SlowStep;
    use crate::task::{self, TaskRef};

    #[inline]
    pub(super) fn begin(task: &TaskRef, place: &'static Location<'static>) {
        if tracing::level_enabled!(Level::TRACE) {
            open(task, place);
        }
    }

    #[cold]
    fn open(task: &TaskRef, place: &'static Location<'static>) {
        // Known before the name is asked for, which numbers the tasks.
        if !tracing::enabled!(target: "rondel::task", Level::TRACE) {
            return;
        }
        let span = tracing::trace_span!(
            target: "rondel::task",
            parent: None,
            "task",
            task.name = task::name(task),
            task.id = task.address(),
            loc.file = place.file(),
            loc.line = place.line(),
            loc.col = place.column(),
        );
        if !span.is_disabled() {
            span.follows_from(Span::current());
            task.set_span(span);
        }
    }

    pub(super) fn slow_step(step: &SlowStep) {
        let place = step.created_at();
        tracing::warn!(
            target: "rondel::debug",
            {
                task.name = step.name(),
                task.id = step.id(),
                loc.file = place.map(Location::file),
                loc.line = place.map(Location::line),
                duration = ?step.duration(),
            },
            "{step}",
        );
    }
}
