//! The handle of a task: to await it, to cancel it, to let it go.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::panic::Location;
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll};

use super::errors::JoinError;
use super::header::{CANCEL, HANDLE, Header, TaskRef};
use super::waiter::Waiter;
use super::{NotSend, about, cell, end};
use crate::runtime;
use crate::spans;

/// A running task, as [`create_task`](crate::create_task) gives it.
///
/// Awaiting it gives the future's output, or a [`JoinError`] if the task was cancelled or panicked.
/// A panic that nobody awaits is reported on standard error when the task and the handle are gone.
///
/// **Cancelling.** [`cancel`](Self::cancel) drops the future at the task's next step, which is what
/// Rust has for asyncio's `CancelledError` at an `await`: destructors run, the code after the
/// `await` does not. Who cancels a task that awaits another one cancels that one too, as in
/// asyncio: a handle that is being awaited and is dropped before its task is done (by a cancelled
/// task, by a [`timeout`](crate::timeout)) cancels it, and the task's future is gone when the drop
/// is over. A handle that was never awaited lets its task run on when it is dropped; so does one
/// that was [detached](Self::detach).
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

    /// Asks for the task to be cancelled: its future is dropped at its next step. `false` if it is
    /// done.
    ///
    /// A task may cancel itself; it then ends at its next `await` that has to wait, or when it
    /// returns.
    ///
    /// ```
    /// rondel::run(async {
    ///     let task = rondel::create_task(std::future::pending::<()>());
    ///     assert!(task.cancel());
    ///     assert!(task.await.unwrap_err().is_cancelled());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn cancel(&self) -> bool {
        cancel(&self.task)
    }

    /// Whether the task has a result, was cancelled, or panicked.
    ///
    /// ```
    /// rondel::run(async {
    ///     let task = rondel::create_task(async {});
    ///     assert!(!task.done());
    ///     rondel::yield_now().await;
    ///     assert!(task.done());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn done(&self) -> bool {
        self.task.header().is_complete()
    }

    /// As [`CancelHandle::uncancel`].
    ///
    /// ```
    /// rondel::run(async {
    ///     let task = rondel::create_task(async { "goes on" });
    ///     task.cancel();
    ///     assert_eq!(task.uncancel(), 0);
    ///     assert_eq!(task.await.unwrap(), "goes on");
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn uncancel(&self) -> usize {
        uncancel(&self.task)
    }

    /// As [`CancelHandle::cancelling`].
    ///
    /// ```
    /// rondel::run(async {
    ///     let task = rondel::create_task(std::future::pending::<()>());
    ///     assert_eq!(task.cancelling(), 0);
    ///     task.cancel();
    ///     assert_eq!(task.cancelling(), 1);
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn cancelling(&self) -> usize {
        self.task.header().cancelling.get().into()
    }

    /// As [`CancelHandle::name`].
    ///
    /// ```
    /// rondel::run(async {
    ///     let task = rondel::create_task(async {});
    ///     assert_eq!(task.name(), "Task-1");
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn name(&self) -> String {
        name(&self.task)
    }

    /// As [`CancelHandle::set_name`].
    ///
    /// ```
    /// rondel::run(async {
    ///     let task = rondel::create_task(async {});
    ///     task.set_name("reader");
    ///     assert_eq!(task.name(), "reader");
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn set_name(&self, name: impl Into<String>) {
        set_name(&self.task, name.into());
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
    ///
    /// ```
    /// rondel::run(async {
    ///     let mut task = rondel::create_task(async { 42 });
    ///     assert!(task.result().is_none());
    ///     rondel::yield_now().await;
    ///     assert_eq!(task.result().unwrap().unwrap(), 42);
    ///     assert!(task.result().is_none(), "it was taken");
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn result(&mut self) -> Option<Result<T, JoinError>> {
        if !self.done() {
            return None;
        }
        // SAFETY: complete, the handle's own thread, and `take` was made for the future's type.
        unsafe { (self.take)(self.task.as_ptr()) }
    }
}

impl<T> Task<T> {
    /// As `poll`; but whoever drops the handle then cancels nothing.
    pub(super) fn poll_shielded(&mut self, context: &Context<'_>) -> Poll<Result<T, JoinError>> {
        if self.done() {
            let Some(output) = self.result() else {
                panic!("a Task was polled after it had given its result");
            };
            return Poll::Ready(output);
        }
        let header = self.task.header();
        if !header.joined_by(context) {
            let before = header.set_joiner(Some(Waiter::new(context)));
            drop(before);
        }
        Poll::Pending
    }

    /// Replaces who is told when the task is done.
    pub(super) fn set_joiner(&self, waiter: Option<Waiter>) {
        drop(self.task.header().set_joiner(waiter));
    }

    /// Whether `is_it` says yes of the result; no if the task is not done, or the result was taken.
    pub(super) fn result_is(&self, is_it: impl Fn(&Result<T, JoinError>) -> bool) -> bool {
        if !self.done() {
            return false;
        }
        let header = self.task.header();
        // SAFETY: complete, and the handle's own thread.
        let output = unsafe { (header.vtable.output)(self.task.as_ptr()) };
        // SAFETY: the output is of the type that the handle says. It stays where it is: `is_it` is
        // one of this crate's functions, which does nothing with the task.
        unsafe { output.cast::<Result<T, JoinError>>().as_ref() }.is_some_and(is_it)
    }

    /// Ends the task, whose waiter is being dropped; see `end.rs`.
    pub(crate) fn cancel_at_once(&self) {
        end::cancel_at_once(&self.task);
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    /// If it is polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.awaited = true;
        self.poll_shielded(context)
    }
}

impl<T> Unpin for Task<T> {}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        let header = self.task.header();
        drop(header.set_joiner(None));
        header.clear(HANDLE);
        if header.is_complete() {
            drop_output(&self.task);
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
    ///
    /// ```
    /// rondel::run(async {
    ///     let task = rondel::create_task(std::future::pending::<()>());
    ///     let handle = task.cancel_handle();
    ///     assert!(handle.cancel());
    ///     assert!(task.await.unwrap_err().is_cancelled());
    ///     assert!(!handle.cancel(), "it is done");
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn cancel(&self) -> bool {
        cancel(&self.0)
    }

    /// As [`Task::done`].
    ///
    /// ```
    /// rondel::run(async {
    ///     let task = rondel::create_task(async {});
    ///     let handle = task.cancel_handle();
    ///     assert!(!handle.done());
    ///     task.await.unwrap();
    ///     assert!(handle.done());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn done(&self) -> bool {
        self.0.header().is_complete()
    }

    /// How often the task was asked to be [cancelled](Self::cancel), less what was [taken
    /// back](Self::uncancel).
    ///
    /// ```
    /// rondel::run(async {
    ///     let handle = rondel::create_task(std::future::pending::<()>()).cancel_handle();
    ///     handle.cancel();
    ///     assert_eq!(handle.cancelling(), 1);
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn cancelling(&self) -> usize {
        self.0.header().cancelling.get().into()
    }

    /// Takes one request to [`cancel`](Self::cancel) back; says how many are left. With the last of
    /// them gone the task goes on, as long as its future was not dropped yet, which happens at its
    /// next step.
    ///
    /// ```
    /// rondel::run(async {
    ///     let task = rondel::create_task(async { "goes on" });
    ///     task.cancel();
    ///     assert_eq!(task.cancelling(), 1);
    ///     assert_eq!(task.uncancel(), 0);
    ///     assert_eq!(task.await?, "goes on");
    ///     Ok::<(), rondel::JoinError>(())
    /// })??;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn uncancel(&self) -> usize {
        uncancel(&self.0)
    }

    /// The task's name: as it was set, or `Task-1`, `Task-2`, …, numbered as they are asked for.
    ///
    /// ```
    /// rondel::run(async {
    ///     let task = rondel::build_task().name("reader").create(async {
    ///         rondel::current_task().unwrap().name()
    ///     });
    ///     assert_eq!(task.await?, "reader");
    ///     Ok::<(), rondel::JoinError>(())
    /// })??;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn name(&self) -> String {
        name(&self.0)
    }

    /// Gives the task a name.
    ///
    /// ```
    /// rondel::run(async {
    ///     let task = rondel::create_task(async {});
    ///     task.cancel_handle().set_name("reader");
    ///     assert_eq!(task.name(), "reader");
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn set_name(&self, name: impl Into<String>) {
        set_name(&self.0, name.into());
    }

    /// Where the task was created, if that is known: in
    /// [debug mode](crate::Builder::debug).
    ///
    /// ```
    /// rondel::Builder::new().debug(true).run(async {
    ///     let task = rondel::create_task(async {}).cancel_handle();
    ///     assert_eq!(task.created_at().unwrap().file(), file!());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn created_at(&self) -> Option<&'static Location<'static>> {
        self.0.created_at()
    }

    pub(crate) fn of(task: TaskRef) -> Self {
        Self(task)
    }

    /// Whether both are handles of the same task.
    ///
    /// ```
    /// rondel::run(async {
    ///     let task = rondel::create_task(async {});
    ///     let (one, other) = (task.cancel_handle(), task.cancel_handle());
    ///     assert!(one.is(&other) && !one.is(&rondel::current_task().unwrap()));
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
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

/// All tasks of the running loop that are not done, oldest first; the one that runs now among them.
///
/// # Panics
/// If no loop runs on this thread.
///
/// ```
/// rondel::run(async {
///     rondel::create_task(std::future::pending::<()>()).detach();
///     rondel::yield_now().await;
///     let me = rondel::current_task().unwrap();
///     for task in rondel::all_tasks() {
///         if !task.is(&me) {
///             task.cancel();
///         }
///     }
///     rondel::yield_now().await;
///     assert_eq!(rondel::all_tasks().len(), 1);
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[track_caller]
pub fn all_tasks() -> Vec<CancelHandle> {
    let all = runtime::with_current(|runtime| runtime.tasks.all());
    all.into_iter().map(CancelHandle).collect()
}

fn cancel(task: &TaskRef) -> bool {
    let header = task.header();
    if header.is_complete() {
        return false;
    }
    header
        .cancelling
        .set(header.cancelling.get().saturating_add(1));
    header.set(CANCEL);
    // A task that runs and cancels itself goes to the end of the ring when its step ends, and not
    // now.
    if !end::is_running(task) {
        header.wake();
    }
    true
}

fn uncancel(task: &TaskRef) -> usize {
    let header = task.header();
    let left = header.cancelling.get().saturating_sub(1);
    header.cancelling.set(left);
    if left == 0 && !header.is_complete() {
        header.clear(CANCEL);
    }
    left.into()
}

/// Drops what nobody has taken of a complete task. Only on its loop's thread.
fn drop_output(task: &TaskRef) {
    let vtable = task.header().vtable;
    // SAFETY: the table is the cell's, the task is complete, and this is its thread.
    if unsafe { (vtable.output)(task.as_ptr()) }.is_null() {
        return;
    }
    // SAFETY: the same; whatever is left is nobody's any more.
    let drop_output = || unsafe { (vtable.drop_output)(task.as_ptr()) };
    runtime::try_current(|runtime| about(runtime, task, drop_output)).unwrap_or_else(drop_output);
}

fn set_name(task: &TaskRef, name: String) {
    spans::rename(task, &name);
    task.header().with_extra(|extra| extra.name = name);
}

pub(crate) fn name(task: &TaskRef) -> String {
    let number = || {
        runtime::try_current(|runtime| runtime.task_names.next())
            .unwrap_or_else(|| "Task".to_owned())
    };
    task.header().with_extra(|extra| {
        if extra.name.is_empty() {
            extra.name = number();
        }
        extra.name.clone()
    })
}
