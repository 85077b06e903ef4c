//! `wait`, `as_completed`, `shield`: several tasks at once, or one that is not to be cancelled.
//!
//! None of them cancels anything when it is dropped, as in asyncio.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::completions::Completions;
use super::errors::JoinError;
use super::join::Task;
use crate::time::{Sleep, sleep};

/// What [`wait`], [`as_completed`] and [`shield`] take: a [`Task`], or `&mut` one, which is still
/// yours if the waiting is given up. Not to be implemented elsewhere.
///
/// ```
/// async fn both<W: rondel::Awaitable>(one: W, other: W) -> usize {
///     rondel::wait([one, other]).await.0.len()
/// }
///
/// rondel::run(async {
///     let mut tasks = [1, 2].map(|number| rondel::create_task(async move { number }));
///     let [one, other] = &mut tasks;
///     assert_eq!(both(one, other).await, 2);
///     let [one, other] = tasks;
///     assert_eq!(one.await? + other.await?, 3);
///     Ok::<(), rondel::JoinError>(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Awaitable: sealed::Awaitable {}

mod sealed {
    use super::Task;

    pub trait Awaitable: Unpin {
        type Output;
        fn task(&self) -> &Task<Self::Output>;
        fn task_mut(&mut self) -> &mut Task<Self::Output>;
    }
}

impl<T> Awaitable for Task<T> {}
impl<T> sealed::Awaitable for Task<T> {
    type Output = T;

    fn task(&self) -> &Task<T> {
        self
    }

    fn task_mut(&mut self) -> &mut Task<T> {
        self
    }
}

impl<T> Awaitable for &mut Task<T> {}
impl<T> sealed::Awaitable for &mut Task<T> {
    type Output = T;

    fn task(&self) -> &Task<T> {
        self
    }

    fn task_mut(&mut self) -> &mut Task<T> {
        self
    }
}

/// When [`wait`] has waited enough.
///
/// ```
/// use rondel::ReturnWhen;
///
/// assert_eq!(ReturnWhen::default(), ReturnWhen::AllCompleted);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReturnWhen {
    /// When one is done, however it has ended.
    FirstCompleted,
    /// When one has panicked; when all are done if none has. See also [`Wait::or_first_error`].
    FirstException,
    /// When all are done.
    #[default]
    AllCompleted,
}

/// Waits for several tasks; gives those that are done and those that are not, each in the order of
/// `tasks`.
///
/// As `asyncio.wait`: nothing is cancelled, neither by the timeout nor by dropping this. Results
/// are in the tasks. Without tasks there is nothing to wait for, where asyncio raises a
/// `ValueError`.
///
/// # Cancel safety
/// A future that is dropped has taken no results. Tasks that were given to it run on without a
/// handle; those of which it has `&mut` are still yours.
///
/// ```
/// use std::time::Duration;
/// use rondel::ReturnWhen;
///
/// rondel::run(async {
///     let nap = |millis| rondel::create_task(rondel::sleep(Duration::from_millis(millis)));
///     let tasks = [nap(1), nap(60_000)];
///     let (done, pending) = rondel::wait(tasks)
///         .return_when(ReturnWhen::FirstCompleted)
///         .timeout(Duration::from_secs(10))
///         .await;
///     assert_eq!((done.len(), pending.len()), (1, 1));
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
pub fn wait<I>(tasks: I) -> Wait<I::Item>
where
    I: IntoIterator,
    I::Item: Awaitable,
{
    Wait {
        tasks: tasks.into_iter().collect(),
        return_when: ReturnWhen::AllCompleted,
        fails: |result| result.as_ref().is_err_and(JoinError::is_panic),
        timeout: None,
        running: None,
    }
}

/// The future of [`wait`].
///
/// ```
/// rondel::run(async {
///     let wait: rondel::Wait<rondel::Task<i32>> = rondel::wait([rondel::create_task(async { 1 })]);
///     let (mut done, pending) = wait.await;
///     assert!(pending.is_empty());
///     assert_eq!(done.remove(0).await?, 1);
///     Ok::<(), rondel::JoinError>(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "futures do nothing unless awaited"]
pub struct Wait<W: Awaitable> {
    tasks: Vec<W>,
    return_when: ReturnWhen,
    /// What counts as an exception.
    fails: fn(&Result<W::Output, JoinError>) -> bool,
    timeout: Option<Sleep>,
    running: Option<Running>,
}

/// A wait that has begun.
struct Running {
    completions: Rc<Completions>,
    unfinished: usize,
    /// One has ended as it takes.
    found: bool,
}

impl<W: Awaitable> Wait<W> {
    /// When to stop waiting; if nothing is said, when all are done.
    ///
    /// ```
    /// rondel::run(async {
    ///     let quick = rondel::create_task(async { 1 });
    ///     let never = rondel::create_task(std::future::pending());
    ///     let first = rondel::ReturnWhen::FirstCompleted;
    ///     let (done, pending) = rondel::wait([quick, never]).return_when(first).await;
    ///     assert_eq!((done.len(), pending.len()), (1, 1));
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn return_when(mut self, return_when: ReturnWhen) -> Self {
        self.return_when = return_when;
        self
    }

    /// How long to wait at most, from the first poll on.
    ///
    /// ```
    /// rondel::run(async {
    ///     use std::time::Duration;
    ///
    ///     let never = rondel::create_task(std::future::pending::<()>());
    ///     let (done, pending) = rondel::wait([never]).timeout(Duration::from_millis(1)).await;
    ///     assert!(done.is_empty() && pending.len() == 1);
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(sleep(timeout));
        self
    }

    fn counts(&self, index: usize) -> bool {
        match self.return_when {
            ReturnWhen::FirstCompleted => true,
            ReturnWhen::FirstException => self.tasks[index].task().result_is(self.fails),
            ReturnWhen::AllCompleted => false,
        }
    }

    fn begin(&self) -> Running {
        let mut running = Running {
            completions: Completions::new(1),
            unfinished: 0,
            found: false,
        };
        for (index, task) in self.tasks.iter().enumerate() {
            let task = task.task();
            if task.done() {
                running.found |= self.counts(index);
            } else {
                task.set_joiner(Some(running.completions.member(index)));
                running.unfinished += 1;
            }
        }
        if self.return_when == ReturnWhen::AllCompleted {
            running.completions.wait_for(running.unfinished);
        }
        running
    }

    fn end(&mut self) {
        if self.running.take().is_some() {
            for task in &self.tasks {
                if !task.task().done() {
                    task.task().set_joiner(None);
                }
            }
        }
    }
}

impl<T, E, W> Wait<W>
where
    W: Awaitable + sealed::Awaitable<Output = Result<T, E>>,
{
    /// [`ReturnWhen::FirstException`], where an output that is an `Err` counts as one, too.
    ///
    /// ```
    /// use std::future::pending;
    ///
    /// rondel::run(async {
    ///     let tasks = [
    ///         rondel::create_task(pending::<Result<(), &str>>()),
    ///         rondel::build_task().create(async { pending::<()>().await; Ok(()) }),
    ///         rondel::create_task(async { Err("no luck") }),
    ///     ];
    ///     let (done, pending) = rondel::wait(tasks).or_first_error().await;
    ///     assert_eq!((done.len(), pending.len()), (1, 2));
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn or_first_error(mut self) -> Self {
        self.return_when = ReturnWhen::FirstException;
        self.fails = |result| match result {
            Ok(output) => output.is_err(),
            Err(error) => error.is_panic(),
        };
        self
    }
}

impl<W: Awaitable> Future for Wait<W> {
    /// Those that are done, and those that are not.
    type Output = (Vec<W>, Vec<W>);

    /// # Panics
    /// Not if it is polled again after it was ready: it has no tasks then.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut running = match this.running.take() {
            Some(running) => running,
            None => this.begin(),
        };
        while let Some(index) = running.completions.take() {
            running.unfinished -= 1;
            running.found |= this.counts(index);
        }
        if this.return_when == ReturnWhen::AllCompleted {
            running.completions.wait_for(running.unfinished);
        }
        let mut is_over = running.found || running.unfinished == 0;
        if !is_over {
            running.completions.wait(context);
        }
        this.running = Some(running);
        if !is_over && let Some(timeout) = &mut this.timeout {
            is_over = Pin::new(timeout).poll(context).is_ready();
        }
        if !is_over {
            return Poll::Pending;
        }
        this.end();
        let tasks = std::mem::take(&mut this.tasks);
        Poll::Ready(tasks.into_iter().partition(|task| task.task().done()))
    }
}

impl<W: Awaitable> Unpin for Wait<W> {}

impl<W: Awaitable> Drop for Wait<W> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<W: Awaitable> fmt::Debug for Wait<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wait")
            .field("tasks", &self.tasks.len())
            .field("return_when", &self.return_when)
            .finish_non_exhaustive()
    }
}

/// Gives tasks one by one, as they are done: asyncio's `as_completed`.
///
/// ```
/// use std::time::Duration;
///
/// rondel::run(async {
///     let nap = |millis| rondel::create_task(async move {
///         rondel::sleep(Duration::from_millis(millis)).await;
///         millis
///     });
///     let mut tasks = rondel::as_completed([nap(6), nap(2), nap(4)]);
///     let mut order = Vec::new();
///     while let Some(task) = tasks.next().await {
///         order.push(task.await?);
///     }
///     assert_eq!(order, [2, 4, 6]);
///     Ok::<(), rondel::JoinError>(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn as_completed<I>(tasks: I) -> AsCompleted<I::Item>
where
    I: IntoIterator,
    I::Item: Awaitable,
{
    let completions = Completions::new(1);
    let tasks: Vec<_> = tasks.into_iter().map(Some).collect();
    for (index, task) in tasks.iter().enumerate() {
        match task.as_ref().map(sealed::Awaitable::task) {
            Some(task) if !task.done() => task.set_joiner(Some(completions.member(index))),
            _ => completions.add(index),
        }
    }
    AsCompleted {
        left: tasks.len(),
        tasks,
        completions,
    }
}

/// Tasks in the order in which they are done; see [`as_completed`]. Dropping it cancels nothing.
///
/// ```
/// rondel::run(async {
///     let mut tasks: rondel::AsCompleted<_> = rondel::as_completed([rondel::create_task(async { 1 })]);
///     assert_eq!(tasks.next().await.unwrap().await?, 1);
///     assert!(tasks.next().await.is_none());
///     Ok::<(), rondel::JoinError>(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct AsCompleted<W: Awaitable> {
    tasks: Vec<Option<W>>,
    left: usize,
    completions: Rc<Completions>,
}

impl<W: Awaitable> AsCompleted<W> {
    /// The next task that is done; `None` when there are no more.
    ///
    /// # Cancel safety
    /// A future that is dropped has taken nothing.
    ///
    /// ```
    /// rondel::run(async {
    ///     let tasks = [1, 2].map(|n| rondel::create_task(async move { n }));
    ///     let mut tasks = rondel::as_completed(tasks);
    ///     let mut sum = 0;
    ///     while let Some(task) = tasks.next().await {
    ///         sum += task.await.unwrap();
    ///     }
    ///     assert_eq!(sum, 3);
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub async fn next(&mut self) -> Option<W> {
        if self.left == 0 {
            return None;
        }
        let index = poll_fn(|context| match self.completions.take() {
            Some(index) => Poll::Ready(index),
            None => {
                self.completions.wait(context);
                Poll::Pending
            }
        })
        .await;
        self.left -= 1;
        self.tasks[index].take()
    }
}

impl<W: Awaitable> Drop for AsCompleted<W> {
    fn drop(&mut self) {
        for task in self.tasks.iter().flatten() {
            if !task.task().done() {
                task.task().set_joiner(None);
            }
        }
    }
}

impl<W: Awaitable> fmt::Debug for AsCompleted<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsCompleted")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

/// Awaits a task that is not to be cancelled by that: asyncio's `shield`.
///
/// Whoever awaits a [`Task`] and is dropped cancels it; whoever awaits its shield does not. With
/// `&mut` the task can be awaited again.
///
/// # Cancel safety
/// A future that is dropped has taken nothing; the task runs on.
///
/// ```
/// use std::time::Duration;
///
/// rondel::run(async {
///     let mut save = rondel::create_task(async {
///         rondel::sleep(Duration::from_millis(2)).await;
///         "saved"
///     });
///     let in_time = rondel::timeout(Duration::from_micros(1), rondel::shield(&mut save)).await;
///     assert!(in_time.is_err());
///     assert_eq!(save.await?, "saved");
///     Ok::<(), rondel::JoinError>(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn shield<W: Awaitable>(task: W) -> Shield<W> {
    Shield(task)
}

/// The future of [`shield`].
///
/// ```
/// rondel::run(async {
///     let shield: rondel::Shield<rondel::Task<i32>> = rondel::shield(rondel::create_task(async { 1 }));
///     assert_eq!(shield.await?, 1);
///     Ok::<(), rondel::JoinError>(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "futures do nothing unless awaited"]
pub struct Shield<W: Awaitable>(W);

impl<W: Awaitable> Future for Shield<W> {
    type Output = Result<W::Output, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.task_mut().poll_shielded(context)
    }
}

impl<W: Awaitable> Drop for Shield<W> {
    fn drop(&mut self) {
        if !self.0.task().done() {
            self.0.task().set_joiner(None);
        }
    }
}

impl<W: Awaitable> fmt::Debug for Shield<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shield").field(self.0.task()).finish()
    }
}
