//! A task's memory: the header, and the future or its output.
//!
//! The functions here are the only ones that know the future's type; the header's table points to
//! them. All but `free` run on the loop's thread. The stage is touched by one of them at a time: a
//! step can't start within a step of the same task, since steps are started by the loop alone, and
//! the output is taken or dropped only after `COMPLETE`, when no step will come.

use std::any::Any;
use std::cell::UnsafeCell;
use std::future::Future;
use std::mem::{self, ManuallyDrop};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll, Waker};

use super::errors::{CancelledError, JoinError};
use super::header::{CANCEL, COMPLETE, HANDLE, Header, TaskRef, TaskVTable};
use super::{memory, waker};
use crate::exceptions::{call_exception_handler, report_panic};
use crate::runtime::LoopInbox;

/// The allocation of one task. `header` is first, so that a pointer to it is a pointer to the cell.
#[repr(C)]
struct TaskCell<F: Future> {
    header: Header,
    stage: UnsafeCell<Stage<F>>,
}

enum Stage<F: Future> {
    Running(F),
    Finished(Result<F::Output, JoinError>),
    Consumed,
}

/// Allocates a task; returns its first reference.
pub(super) fn allocate<F: Future>(future: F, inbox: *const LoopInbox, state: u8) -> TaskRef {
    let header = place(TaskCell {
        header: Header::new(const { &table::<F>() }, inbox, state),
        stage: UnsafeCell::new(Stage::Running(future)),
    });
    // SAFETY: the header's count starts with this reference.
    unsafe { TaskRef::from_raw(header) }
}

#[inline]
fn place<F: Future>(cell: TaskCell<F>) -> NonNull<Header> {
    let memory = memory::take::<TaskCell<F>>();
    // SAFETY: allocated for a cell of this type.
    unsafe { memory.write(cell) };
    memory.cast()
}

/// Allocates a task that is complete, as one that was cancelled. Its future is neither run nor
/// dropped.
pub(super) fn allocate_leaking<F: Future>(future: F, inbox: *const LoopInbox) -> TaskRef {
    mem::forget(future);
    let header = place(TaskCell::<F> {
        header: Header::new(const { &table::<F>() }, inbox, COMPLETE | HANDLE),
        stage: UnsafeCell::new(Stage::Finished(Err(JoinError::Cancelled(CancelledError)))),
    });
    // SAFETY: the header's count starts with this reference.
    unsafe { TaskRef::from_raw(header) }
}

/// Takes the output of a complete task; `None` if it was taken before.
///
/// # Safety
/// `T` is the output of the task's future, the task is complete, and this is its loop's thread.
pub(super) unsafe fn take_output<F: Future>(
    header: NonNull<Header>,
) -> Option<Result<F::Output, JoinError>> {
    // SAFETY: the caller's promise; no foreign code runs while the reference lives.
    match mem::replace(unsafe { stage::<F>(header) }, Stage::Consumed) {
        Stage::Finished(output) => Some(output),
        _ => None,
    }
}

/// Where the output of a complete task is, a `Result<F::Output, JoinError>`; null if it was taken.
///
/// # Safety
/// The task is complete, and this is its loop's thread.
unsafe fn output<F: Future>(header: NonNull<Header>) -> *const () {
    // SAFETY: the caller's promise.
    match unsafe { stage::<F>(header) } {
        Stage::Finished(output) => std::ptr::from_ref(output).cast(),
        _ => std::ptr::null(),
    }
}

const fn table<F: Future>() -> TaskVTable {
    TaskVTable {
        poll: poll::<F>,
        cancel: cancel::<F>,
        drop_output: drop_output::<F>,
        output: output::<F>,
        free: free::<F>,
    }
}

/// # Safety
/// The cell was made for `F`, this is its thread, and no other reference to the stage is alive.
unsafe fn stage<'a, F: Future>(header: NonNull<Header>) -> &'a mut Stage<F> {
    // SAFETY: the caller's promise; `stage` is behind an `UnsafeCell`.
    unsafe { &mut *header.cast::<TaskCell<F>>().as_ref().stage.get() }
}

/// # Safety
/// As `stage`; the caller holds a reference to the task for the length of the call.
unsafe fn poll<F: Future>(header: NonNull<Header>) -> bool {
    // SAFETY: the waker borrows the caller's reference and is not dropped.
    let waker = ManuallyDrop::new(unsafe { Waker::from_raw(waker::raw(header)) });
    let polled = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: see the module's text. The future is never moved: its place is overwritten after
        // its drop.
        let stage = unsafe { stage::<F>(header) };
        let Stage::Running(future) = stage else {
            return Poll::Pending;
        };
        // SAFETY: the cell is on the heap and stays where it is.
        let polled = unsafe { Pin::new_unchecked(future) }.poll(&mut Context::from_waker(&waker));
        if polled.is_ready() {
            // SAFETY: the reference above is not used again.
            unsafe { clear::<F>(header) };
        }
        polled
    }));
    let output = match polled {
        Ok(Poll::Pending) => return false,
        // Cancelled by itself in its last step: as in asyncio, that is how it ended.
        // SAFETY: the caller's reference keeps the header alive.
        Ok(Poll::Ready(output)) if unsafe { header.as_ref() }.state.get() & CANCEL != 0 => {
            match catch_unwind(AssertUnwindSafe(|| drop(output))) {
                Ok(()) => Err(JoinError::Cancelled(CancelledError)),
                Err(panic) => Err(JoinError::Panicked(panic.into())),
            }
        }
        Ok(Poll::Ready(output)) => Ok(output),
        Err(panic) => {
            // SAFETY: as the caller promises.
            unsafe { drop_stage::<F>(header) };
            Err(JoinError::Panicked(panic.into()))
        }
    };
    // SAFETY: as above. The place is `Consumed`: nothing is dropped by the assignment.
    unsafe { *stage::<F>(header) = Stage::Finished(output) };
    true
}

/// # Safety
/// As `stage`.
unsafe fn cancel<F: Future>(header: NonNull<Header>) {
    // SAFETY: the caller's promise.
    let output = match unsafe { drop_stage::<F>(header) } {
        None => JoinError::Cancelled(CancelledError),
        Some(panic) => JoinError::Panicked(panic.into()),
    };
    // SAFETY: the same.
    unsafe { *stage::<F>(header) = Stage::Finished(Err(output)) };
}

/// # Safety
/// As `stage`.
unsafe fn drop_output<F: Future>(header: NonNull<Header>) {
    // SAFETY: the caller's promise.
    let output = unsafe { take_output::<F>(header) };
    if let Some(Err(JoinError::Panicked(panic))) = &output {
        call_exception_handler("Task exception was never retrieved", panic);
    }
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(output))) {
        report_panic(
            "Exception ignored while a task's result was dropped",
            &*panic,
        );
    }
}

/// Drops what is in the cell, in place. A destructor's panic is returned.
///
/// # Safety
/// As `stage`.
unsafe fn drop_stage<F: Future>(header: NonNull<Header>) -> Option<Box<dyn Any + Send>> {
    // SAFETY: the caller's promise.
    catch_unwind(AssertUnwindSafe(|| unsafe { clear::<F>(header) })).err()
}

/// Drops what is in the cell where it lies, as a pinned future must be, and leaves `Consumed` even
/// if a destructor panics.
///
/// # Safety
/// As `stage`.
unsafe fn clear<F: Future>(header: NonNull<Header>) {
    struct Overwrite<F: Future>(*mut Stage<F>);
    impl<F: Future> Drop for Overwrite<F> {
        fn drop(&mut self) {
            // SAFETY: the place's old content was dropped, or was left half-dropped by a panic:
            // either way it must not be dropped again.
            unsafe { self.0.write(Stage::Consumed) };
        }
    }
    // SAFETY: the caller's promise.
    let place = Overwrite::<F>(unsafe { stage::<F>(header) });
    // SAFETY: the place is valid, and overwritten before anyone looks at it again.
    unsafe { place.0.drop_in_place() };
}

/// # Safety
/// There is no reference to the task any more. Any thread.
unsafe fn free<F: Future>(header: NonNull<Header>) {
    let cell = header.cast::<TaskCell<F>>();
    // SAFETY: made by `place`, and nobody's any more. The stage is `Consumed` by now (see
    // `header.rs`).
    unsafe {
        cell.drop_in_place();
        memory::give_back(cell);
    }
}
