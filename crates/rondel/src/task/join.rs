//! The handle of a task: to await it, to cancel it, to let it go.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll};

use super::errors::JoinError;
use super::header::{CANCEL, HANDLE, Header, TaskRef};
use super::waiter::Waiter;
use super::{NotSend, cell, end};
use crate::runtime;

/// A running task, as [`create_task`](crate::create_task) gives it.
///
/// Awaiting it gives the future's output, or a [`JoinError`] if the task was cancelled or panicked. A panic
/// that nobody awaits is reported on standard error when the task and the handle are gone.
///
/// **Cancelling.** [`cancel`](Self::cancel) drops the future at the task's next step, which is what Rust has
/// for asyncio's `CancelledError` at an `await`: destructors run, the code after the `await` does not.
/// Who cancels a task that awaits another one cancels that one too, as in asyncio: a handle that is being
/// awaited and is dropped before its task is done (by a cancelled task, by a [`timeout`](crate::timeout))
/// cancels it, and the task's future is gone when the drop is over. A handle that was never awaited lets its task run on when it is dropped; so does one that was
/// [detached](Self::detach).
///
/// ```
/// use std::time::Duration;
///
/// rondel::run(async {
///     let task = rondel::create_task(async {
///         rondel::sleep(Duration::from_secs(3600)).await;
///     });
///     assert!(!task.done());
///     assert!(task.cancel());
///     assert!(task.await.is_err_and(|error| error.is_cancelled()));
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[must_use = "a task whose handle is dropped runs on, but its result is lost; `detach` says that this is meant"]
pub struct Task<T> {
    task: TaskRef,
    /// How to take the output from the cell, whose future's type is not known here.
    take: unsafe fn(NonNull<Header>) -> Option<Result<T, JoinError>>,
    /// Whether the handle was polled: then dropping it is cancelling.
    awaited: bool,
    _not_send: NotSend,
    _output: PhantomData<T>,
}

impl<T> Task<T> {
    /// # Safety
    /// The task's future is an `F`, and it has the state `HANDLE`, which is now this handle's.
    pub(super) unsafe fn new<F: Future<Output = T>>(task: TaskRef) -> Self {
        Self {
            task,
            take: cell::take_output::<F>,
            awaited: false,
            _not_send: PhantomData,
            _output: PhantomData,
        }
    }

    /// Asks for the task to be cancelled: its future is dropped at its next step. `false` if it is done.
    ///
    /// A task may cancel itself; it then ends at its next `await` that has to wait, or when it returns.
    pub fn cancel(&self) -> bool {
        cancel(&self.task)
    }

    /// Whether the task has a result, was cancelled, or panicked.
    pub fn done(&self) -> bool {
        self.task.header().is_complete()
    }

    /// Lets the task run on without a handle.
    ///
    /// ```
    /// rondel::run(async {
    ///     rondel::create_task(async { println!("on my own") }).detach();
    ///     rondel::yield_now().await;
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn detach(mut self) {
        self.awaited = false;
    }

    /// A second handle, which can't be awaited but can cancel.
    ///
    /// ```
    /// rondel::run(async {
    ///     let task = rondel::create_task(std::future::pending::<()>());
    ///     let handle = task.cancel_handle();
    ///     rondel::create_task(async move { handle.cancel() }).detach();
    ///     assert!(task.await.unwrap_err().is_cancelled());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn cancel_handle(&self) -> CancelHandle {
        CancelHandle(self.task.clone())
    }

    /// The output of a task that is done; `None` before that, and after it was taken.
    pub fn result(&mut self) -> Option<Result<T, JoinError>> {
        if !self.done() {
            return None;
        }
        // SAFETY: complete, the handle's own thread, and `take` was made for the future's type.
        unsafe { (self.take)(self.task.as_ptr()) }
    }
}

impl<T> Task<T> {
    /// Ends the task, whose waiter is being dropped; see `end.rs`.
    pub(super) fn cancel_at_once(&self) {
        end::cancel_at_once(&self.task);
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    /// If it is polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.done() {
            let Some(output) = self.result() else {
                panic!("a Task was polled after it had given its result");
            };
            return Poll::Ready(output);
        }
        self.awaited = true;
        let header = self.task.header();
        if !header.joined_by(context) {
            let before = header.set_joiner(Some(Waiter::new(context)));
            drop(before);
        }
        Poll::Pending
    }
}

impl<T> Unpin for Task<T> {}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        let header = self.task.header();
        drop(header.set_joiner(None));
        header.clear(HANDLE);
        if header.is_complete() {
            // SAFETY: complete, on its thread; whatever is left is nobody's any more.
            unsafe { (header.vtable.drop_output)(self.task.as_ptr()) };
        } else if self.awaited {
            end::cancel_at_once(&self.task);
        }
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("done", &self.done())
            .finish_non_exhaustive()
    }
}

/// Cancels a task, from elsewhere than where it is awaited; see [`Task::cancel_handle`].
///
/// ```
/// rondel::run(async {
///     let task = rondel::create_task(std::future::pending::<()>());
///     let handle = task.cancel_handle();
///     assert!(!handle.done());
///     assert!(handle.cancel());
///     assert!(task.await.unwrap_err().is_cancelled());
///     assert!(handle.done() && !handle.cancel());
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[derive(Clone)]
pub struct CancelHandle(TaskRef);

impl CancelHandle {
    pub(super) fn task(&self) -> &TaskRef {
        &self.0
    }

    /// As [`Task::cancel`].
    pub fn cancel(&self) -> bool {
        cancel(&self.0)
    }

    /// As [`Task::done`].
    pub fn done(&self) -> bool {
        self.0.header().is_complete()
    }

    /// Whether both are handles of the same task.
    pub fn is(&self, other: &Self) -> bool {
        self.0.as_ptr() == other.0.as_ptr()
    }
}

impl fmt::Debug for CancelHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelHandle")
            .field("done", &self.done())
            .finish_non_exhaustive()
    }
}

/// The task that runs now; `None` outside of tasks.
///
/// ```
/// rondel::run(async {
///     let task = rondel::create_task(async {
///         let me = rondel::current_task().unwrap();
///         me.cancel();
///         rondel::yield_now().await;
///         unreachable!();
///     });
///     assert!(task.await.unwrap_err().is_cancelled());
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
pub fn current_task() -> Option<CancelHandle> {
    let task = runtime::try_current(|runtime| runtime.current_task.get())??;
    // SAFETY: whoever runs the step holds a reference, and this is its thread.
    Some(CancelHandle(unsafe { TaskRef::borrow_raw(task) }))
}

fn cancel(task: &TaskRef) -> bool {
    let header = task.header();
    if header.is_complete() {
        return false;
    }
    header.set(CANCEL);
    header.schedule();
    true
}
