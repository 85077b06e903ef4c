//! Task groups: tasks that end together.
//!
//! The group counts its tasks. Each holds a membership in its future, which goes when the future
//! does, however that comes about. The first failure cancels the other tasks and drops the body;
//! the group is over when the count is zero.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use slab::Slab;

use super::catch::{DropsQuietly, catch};
use super::errors::Panic;
use super::join::{CancelHandle, Task, current_task};
use super::waiter::Waiter;
use super::{create_task, end};

/// Runs `body` and all tasks that are created in the group; ends when all of them have ended.
///
/// As asyncio's `async with TaskGroup()`: when the body or a task fails (its output is an `Err`, or
/// a task panics, be it in a destructor) the body is dropped, the other tasks are cancelled, and
/// when they are gone all failures come out in one [`ExceptionGroup`]. A task that is cancelled by
/// someone else is no failure.
///
/// If the future of this function is dropped, the group's tasks are cancelled, and their futures
/// gone when it is.
///
/// ```
/// rondel::run(async {
///     let sum = rondel::task_group(async |group| {
///         let one = group.create_task(async { Ok(1) });
///         let two = group.create_task(async { Ok(2) });
///         Ok::<i32, String>(one.await.unwrap() + two.await.unwrap())
///     })
///     .await
///     .unwrap();
///     assert_eq!(sum, 3);
///
///     let failed = rondel::task_group(async |group| {
///         group.create_task(async { Err::<(), _>("no luck") }).detach();
///         std::future::pending::<()>().await; // is cancelled
///         Ok(())
///     })
///     .await
///     .unwrap_err();
///     assert_eq!(failed.to_string(), "unhandled errors in a TaskGroup (1 sub-exception)");
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
pub async fn task_group<T, E, B>(body: B) -> Result<T, ExceptionGroup<E>>
where
    B: AsyncFnOnce(&TaskGroup<E>) -> Result<T, E>,
    E: 'static,
{
    let group = TaskGroup {
        inner: Rc::new(Inner {
            members: RefCell::new(Slab::new()),
            failures: RefCell::new(Vec::new()),
            aborting: Cell::new(false),
            waiter: Cell::new(None),
        }),
    };
    let _abort = AbortOnDrop(&group.inner);
    let ended = {
        let fails = |panic| group.inner.fail(TaskFailure::Panic(panic));
        let mut body = pin!(DropsQuietly::new(body(&group), fails));
        poll_fn(|context| {
            if group.inner.aborting.get() {
                return Poll::Ready(None);
            }
            let polled = body.as_mut().poll(context).map(Some);
            group.inner.wait(context);
            if polled.is_pending() && group.inner.aborting.get() {
                return Poll::Ready(None);
            }
            polled
        })
        .await
    };
    let value = match ended {
        Some(Ok(value)) => Some(value),
        Some(Err(error)) => {
            group.inner.fail(TaskFailure::Error(error));
            None
        }
        None => None,
    };
    poll_fn(|context| {
        if group.inner.members.borrow().is_empty() {
            return Poll::Ready(());
        }
        group.inner.wait(context);
        Poll::Pending
    })
    .await;
    let exceptions = group.inner.failures.take();
    match value {
        Some(value) if exceptions.is_empty() => Ok(value),
        _ => Err(ExceptionGroup { exceptions }),
    }
}

/// Where tasks of a [`task_group`] are created. Clones are the same group: a task can take one
/// along to create others.
///
/// ```
/// let sum = std::rc::Rc::new(std::cell::Cell::new(0));
/// let count = sum.clone();
/// rondel::run(rondel::task_group(async move |group| {
///     let inner = group.clone();
///     group.create_task(async move {
///         for number in 1..=3 {
///             let count = count.clone();
///             inner.create_task(async move { Ok(count.set(count.get() + number)) }).detach();
///         }
///         Ok::<(), String>(())
///     })
///     .detach();
///     Ok(())
/// }))?
/// .unwrap();
/// assert_eq!(sum.get(), 6);
/// # Ok::<(), rondel::RunError>(())
/// ```
pub struct TaskGroup<E> {
    inner: Rc<Inner<E>>,
}

impl<E: 'static> TaskGroup<E> {
    /// Creates a task in the group. Its handle gives the value of a future that ends well; a
    /// failure goes to the group, and the handle says that the task was cancelled.
    ///
    /// In a group that is over or has failed the task is cancelled before it starts.
    ///
    /// ```
    /// rondel::run(async {
    ///     let done = rondel::task_group(async |group| {
    ///         let inner = group.clone();
    ///         let outer = group.create_task(async move {
    ///             inner.create_task(async { Ok(()) }).detach();
    ///             Ok("created another")
    ///         });
    ///         Ok::<_, std::io::Error>(outer.await?)
    ///     });
    ///     assert_eq!(done.await.unwrap(), "created another");
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    #[track_caller]
    pub fn create_task<T, F>(&self, future: F) -> Task<T>
    where
        T: 'static,
        F: Future<Output = Result<T, E>> + 'static,
    {
        let key = self.inner.members.borrow_mut().insert(None);
        let member = Member {
            inner: Rc::clone(&self.inner),
            key,
        };
        let inner = Rc::clone(&self.inner);
        // Also if it is dropped because the group has failed: what goes wrong then is the group's.
        let future = DropsQuietly::new(future, move |panic| {
            inner.fail(TaskFailure::Panic(panic));
        });
        let task = create_task(async move {
            let member = member;
            let failure = match catch(future).await {
                Ok(Ok(value)) => return value,
                Ok(Err(error)) => TaskFailure::Error(error),
                Err(panic) => TaskFailure::Panic(panic.into()),
            };
            member.inner.fail(failure);
            if let Some(task) = current_task() {
                task.cancel();
            }
            pending().await
        });
        if let Some(place) = self.inner.members.borrow_mut().get_mut(key) {
            *place = Some(task.cancel_handle());
        }
        if self.inner.aborting.get() {
            task.cancel();
        }
        task
    }
}

impl<E> Clone for TaskGroup<E> {
    fn clone(&self) -> Self {
        Self {
            inner: Rc::clone(&self.inner),
        }
    }
}

impl<E> fmt::Debug for TaskGroup<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskGroup")
            .field("tasks", &self.inner.members.borrow().len())
            .finish_non_exhaustive()
    }
}

struct Inner<E> {
    members: RefCell<Slab<Option<CancelHandle>>>,
    failures: RefCell<Vec<TaskFailure<E>>>,
    /// Something failed, or the group is over: no task may run any more.
    aborting: Cell<bool>,
    waiter: Cell<Option<Waiter>>,
}

impl<E> Inner<E> {
    fn wait(&self, context: &Context<'_>) {
        drop(self.waiter.replace(Some(Waiter::new(context))));
    }

    fn wake(&self) {
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }

    fn fail(&self, failure: TaskFailure<E>) {
        self.failures.borrow_mut().push(failure);
        self.abort();
        self.wake();
    }

    fn abort(&self) {
        if self.aborting.replace(true) {
            return;
        }
        let me = current_task();
        for member in self
            .members
            .borrow()
            .iter()
            .filter_map(|(_, task)| task.as_ref())
        {
            if !me.as_ref().is_some_and(|me| me.is(member)) {
                member.cancel();
            }
        }
    }
}

struct AbortOnDrop<'a, E>(&'a Inner<E>);

impl<E> Drop for AbortOnDrop<'_, E> {
    fn drop(&mut self) {
        self.0.aborting.set(true);
        // Nobody waits any more.
        drop(self.0.waiter.take());
        let members: Vec<_> = self
            .0
            .members
            .borrow()
            .iter()
            .filter_map(|(_, task)| task.clone())
            .collect();
        for member in members {
            end::cancel_at_once(member.task());
        }
    }
}

/// A group that has no member left keeps room for so many at most.
const KEPT_ROOM: usize = 64;

/// A task's place in its group, held by its future.
struct Member<E> {
    inner: Rc<Inner<E>>,
    key: usize,
}

impl<E> Drop for Member<E> {
    fn drop(&mut self) {
        let mut members = self.inner.members.borrow_mut();
        drop(members.try_remove(self.key));
        if members.is_empty() && members.capacity() > KEPT_ROOM {
            *members = Slab::new();
        }
        let last = members.is_empty();
        drop(members);
        if last {
            self.inner.wake();
        }
    }
}

/// All failures of a [`task_group`], in the order in which they happened.
///
/// ```
/// let failed = rondel::run(rondel::task_group(async |group| {
///     for name in ["one", "two"] {
///         group.create_task(async move { Err::<(), _>(format!("{name} is down")) }).detach();
///     }
///     std::future::pending::<Result<(), String>>().await
/// }))?
/// .unwrap_err();
/// // The first failure cancels the rest of the group; what has failed by then is here.
/// let rondel::TaskFailure::Error(first) = &failed.exceptions[0] else { panic!() };
/// assert_eq!(first, "one is down");
/// # Ok::<(), rondel::RunError>(())
/// ```
pub struct ExceptionGroup<E> {
    /// At least one.
    pub exceptions: Vec<TaskFailure<E>>,
}

/// How the body or one task of a group failed.
///
/// ```
/// use rondel::TaskFailure;
///
/// fn explain(failure: &TaskFailure<std::io::Error>) -> String {
///     match failure {
///         TaskFailure::Error(error) => format!("failed: {error}"),
///         TaskFailure::Panic(_) => "panicked".to_owned(),
///     }
/// }
///
/// assert_eq!(explain(&TaskFailure::Panic(rondel::Panic::new("oh"))), "panicked");
/// ```
pub enum TaskFailure<E> {
    /// Its output was this error.
    Error(E),
    /// It panicked, with this payload.
    Panic(Panic),
}

impl<E> fmt::Display for ExceptionGroup<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.exceptions.len();
        let plural = if count == 1 { "" } else { "s" };
        write!(
            f,
            "unhandled errors in a TaskGroup ({count} sub-exception{plural})"
        )
    }
}

impl<E: fmt::Debug> fmt::Debug for ExceptionGroup<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ExceptionGroup")
            .field(&self.exceptions)
            .finish()
    }
}

impl<E: fmt::Debug> Error for ExceptionGroup<E> {}

impl<E: fmt::Debug> fmt::Debug for TaskFailure<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(error) => f.debug_tuple("Error").field(error).finish(),
            Self::Panic(panic) => panic.fmt(f),
        }
    }
}
