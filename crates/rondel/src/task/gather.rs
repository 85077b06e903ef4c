//! `gather`: many futures at once, their outputs in order.
//!
//! Each future becomes a task. The tasks count down a shared counter as they end, and whoever
//! awaits the gathering is woken once: by the last of them, or by the first that fails.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::create_task;
use super::errors::JoinError;
use super::join::Task;
use super::waiter::Waiter;

/// Runs futures concurrently, each as a task; gives all outputs, in the order of the futures.
///
/// Takes anything that can be iterated over, or a tuple of up to twelve futures of different types.
/// As `asyncio.gather`: the tasks start when this is called; if one of them panics or is cancelled
/// that is the result at once, and the others run on; who is cancelled while awaiting this cancels
/// all of them: their futures are gone when this is.
///
/// # Panics
/// If no loop runs on this thread.
///
/// ```
/// use std::time::Duration;
///
/// async fn say_after(delay: u64, what: &str) -> usize {
///     rondel::sleep(Duration::from_millis(delay)).await;
///     println!("{what}");
///     what.len()
/// }
///
/// rondel::run(async {
///     let (hello, world) = rondel::gather((say_after(2, "hello"), say_after(4, "world"))).await?;
///     assert_eq!(hello + world, 10);
///
///     let squares: Vec<_> = (0..4).map(|n| async move { n * n }).collect();
///     assert_eq!(rondel::gather(squares).await?, [0, 1, 4, 9]);
///     Ok::<(), rondel::JoinError>(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[track_caller]
pub fn gather<K, G: Gather<K>>(futures: G) -> GatherFuture<K, G> {
    let countdown = Rc::new(Countdown {
        left: Cell::new(0),
        failed: Cell::new(None),
        waiter: Cell::new(None),
    });
    let tasks = futures.spawn(&Children(&countdown));
    GatherFuture {
        tasks: Some(tasks),
        countdown,
        awaited: false,
    }
}

/// What [`gather`] takes: collections and tuples of futures. Not to be implemented elsewhere.
///
/// ```
/// async fn both<A, B>(one: A, other: B) -> (A::Output, B::Output)
/// where
///     A: Future<Output: 'static> + 'static,
///     B: Future<Output: 'static> + 'static,
/// {
///     rondel::gather((one, other)).await.unwrap()
/// }
///
/// let results = rondel::run(both(async { 1 }, async { "two" }))?;
/// assert_eq!(results, (1, "two"));
/// # Ok::<(), rondel::RunError>(())
/// ```
///
/// `K` tells collections from tuples, and is found by the compiler.
pub trait Gather<K>: sealed::Gather<K> {}

/// The future of [`gather`].
///
/// ```
/// rondel::run(async {
///     // The tasks run from here on; they are awaited later.
///     let both = rondel::gather([1, 2].map(|n| async move { n }));
///     rondel::yield_now().await;
///     assert_eq!(both.await?, [1, 2]);
///     Ok::<(), rondel::JoinError>(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the tasks run on, but their results are lost, when this is dropped"]
pub struct GatherFuture<K, G: Gather<K>> {
    tasks: Option<G::Tasks>,
    countdown: Rc<Countdown>,
    awaited: bool,
}

impl<K, G: Gather<K>> Future for GatherFuture<K, G> {
    type Output = Result<G::Output, JoinError>;

    /// # Panics
    /// If it is polled again after it was ready.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(tasks) = &mut this.tasks else {
            panic!("a GatherFuture was polled after it had given its result");
        };
        this.awaited = true;
        let result = if let Some(index) = this.countdown.failed.get()
            && let Some(error) = G::error(tasks, index)
        {
            Err(error)
        } else if this.countdown.left.get() == 0 {
            G::outputs(tasks)
        } else {
            let before = this.countdown.waiter.replace(Some(Waiter::new(context)));
            drop(before);
            return Poll::Pending;
        };
        this.tasks = None;
        Poll::Ready(result)
    }
}

impl<K, G: Gather<K>> Unpin for GatherFuture<K, G> {}

impl<K, G: Gather<K>> Drop for GatherFuture<K, G> {
    fn drop(&mut self) {
        if let Some(tasks) = &self.tasks
            && self.awaited
        {
            // Nobody waits any more.
            drop(self.countdown.waiter.take());
            G::cancel(tasks);
        }
    }
}

impl<K, G: Gather<K>> fmt::Debug for GatherFuture<K, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatherFuture")
            .field("left", &self.countdown.left.get())
            .finish_non_exhaustive()
    }
}

impl<K, G: Gather<K>> GatherFuture<K, G> {
    /// Waits for all, and gives each one's result: asyncio's `return_exceptions=True`.
    ///
    /// ```
    /// rondel::run(async {
    ///     let results = rondel::gather([1, 0].map(|n| async move { 10 / n }))
    ///         .return_exceptions()
    ///         .await;
    ///     assert_eq!(*results[0].as_ref().unwrap(), 10);
    ///     assert!(results[1].as_ref().unwrap_err().is_panic());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn return_exceptions(self) -> GatherResults<K, G> {
        GatherResults(self)
    }

    fn poll_results(&mut self, context: &Context<'_>) -> Poll<G::Results> {
        let Some(tasks) = &mut self.tasks else {
            panic!("a GatherResults was polled after it had given its result");
        };
        self.awaited = true;
        if self.countdown.left.get() > 0 {
            let before = self.countdown.waiter.replace(Some(Waiter::new(context)));
            drop(before);
            return Poll::Pending;
        }
        let results = G::results(tasks);
        self.tasks = None;
        Poll::Ready(results)
    }
}

/// The future of [`GatherFuture::return_exceptions`].
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// rondel::run(async {
///     let results = rondel::gather([1, 2].map(async |n| n)).return_exceptions().await;
///     let sum: i32 = results.into_iter().filter_map(Result::ok).sum();
///     assert_eq!(sum, 3);
///     Ok(())
/// })?
/// # }
/// ```
#[must_use = "the tasks run on, but their results are lost, when this is dropped"]
pub struct GatherResults<K, G: Gather<K>>(GatherFuture<K, G>);

impl<K, G: Gather<K>> Future for GatherResults<K, G> {
    type Output = G::Results;

    /// # Panics
    /// If it is polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_results(context)
    }
}

impl<K, G: Gather<K>> fmt::Debug for GatherResults<K, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GatherResults").field(&self.0).finish()
    }
}

/// Runs futures concurrently, each as a task; gives the values of all, or the first error as soon
/// as it is there. The others run on then, as in asyncio.
///
/// # Errors
/// The first of the futures' own errors; that a task has panicked or was cancelled.
///
/// # Panics
/// If no loop runs on this thread.
///
/// # Cancel safety
/// If it is dropped after it was awaited, the tasks are cancelled: their futures are gone when this
/// is.
///
/// ```
/// rondel::run(async {
///     let check = async |number: i32| match number {
///         0..10 => Ok(number * 2),
///         _ => Err(format!("{number} is too much")),
///     };
///     assert_eq!(rondel::try_gather([1, 2].map(check)).await?, [2, 4]);
///     let error = rondel::try_gather([1, 20].map(check)).await.unwrap_err();
///     assert_eq!(error.to_string(), "20 is too much");
///     Ok::<(), rondel::TryGatherError<String>>(())
/// })?.unwrap();
/// # Ok::<(), rondel::RunError>(())
/// ```
#[track_caller]
pub fn try_gather<T, E, I>(
    futures: I,
) -> impl Future<Output = Result<Vec<T>, TryGatherError<E>>> + use<T, E, I>
where
    I: IntoIterator,
    I::Item: Future<Output = Result<T, E>> + 'static,
    T: 'static,
    E: 'static,
{
    let countdown = Rc::new(Countdown {
        left: Cell::new(0),
        failed: Cell::new(None),
        waiter: Cell::new(None),
    });
    let children = Children(&countdown);
    let mut tasks = Vec::new();
    for (index, future) in futures.into_iter().enumerate() {
        tasks.push(children.spawn(index, future, Result::is_ok));
    }
    // The same rules hold for who gives up, or looks at the first failure.
    let mut all: GatherFuture<Many, Vec<I::Item>> = GatherFuture {
        tasks: Some(tasks),
        countdown,
        awaited: false,
    };
    std::future::poll_fn(move |context| {
        if let Some(index) = all.countdown.failed.get() {
            let task = all.tasks.as_mut().and_then(|tasks| tasks.get_mut(index));
            let error = match task.and_then(Task::result) {
                Some(Ok(Err(error))) => Some(TryGatherError::Error(error)),
                Some(Err(error)) => Some(TryGatherError::Join(error)),
                Some(Ok(Ok(_))) | None => None,
            };
            if let Some(error) = error {
                all.tasks = None;
                return Poll::Ready(Err(error));
            }
        }
        let polled = Pin::new(&mut all).poll(context);
        polled.map(|outputs| {
            let outputs = outputs.map_err(TryGatherError::Join)?;
            outputs
                .into_iter()
                .collect::<Result<_, _>>()
                .map_err(TryGatherError::Error)
        })
    })
}

/// Why [`try_gather`] has no values.
///
/// ```
/// let error = rondel::TryGatherError::Error("no luck");
/// assert_eq!(error.to_string(), "no luck");
/// ```
#[derive(Debug)]
pub enum TryGatherError<E> {
    /// The error of a future.
    Error(E),
    /// A task has panicked, or was cancelled.
    Join(JoinError),
}

impl<E: fmt::Display> fmt::Display for TryGatherError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(error) => error.fmt(f),
            Self::Join(error) => error.fmt(f),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for TryGatherError<E> {}

struct Countdown {
    left: Cell<usize>,
    /// The first that failed.
    failed: Cell<Option<usize>>,
    waiter: Cell<Option<Waiter>>,
}

/// Makes the tasks of one gathering.
pub struct Children<'a>(&'a Rc<Countdown>);

impl Children<'_> {
    #[track_caller]
    fn spawn<F: Future + 'static>(
        &self,
        index: usize,
        future: F,
        is_well: impl Fn(&F::Output) -> bool + 'static,
    ) -> Task<F::Output> {
        self.0.left.set(self.0.left.get() + 1);
        let mut end = End {
            countdown: Rc::clone(self.0),
            index,
            well: false,
        };
        create_task(async move {
            let output = future.await;
            end.well = is_well(&output);
            drop(end);
            output
        })
    }
}

/// Goes when its task's future does.
struct End {
    countdown: Rc<Countdown>,
    index: usize,
    well: bool,
}

impl Drop for End {
    fn drop(&mut self) {
        let countdown = &*self.countdown;
        let left = countdown.left.get() - 1;
        countdown.left.set(left);
        let first_failure = !self.well && countdown.failed.get().is_none();
        if first_failure {
            countdown.failed.set(Some(self.index));
        }
        if (left == 0 || first_failure)
            && let Some(waiter) = countdown.waiter.take()
        {
            waiter.wake();
        }
    }
}

mod sealed {
    use super::{Children, JoinError};

    pub trait Gather<K> {
        type Output;
        type Results;
        type Tasks;
        #[track_caller]
        fn spawn(self, children: &Children<'_>) -> Self::Tasks;
        fn outputs(tasks: &mut Self::Tasks) -> Result<Self::Output, JoinError>;
        fn results(tasks: &mut Self::Tasks) -> Self::Results;
        fn error(tasks: &mut Self::Tasks, index: usize) -> Option<JoinError>;
        fn cancel(tasks: &Self::Tasks);
    }
}

fn output<T>(task: &mut Task<T>) -> Result<T, JoinError> {
    // All are done when this is called, and none was taken before.
    task.result()
        .unwrap_or(Err(JoinError::Cancelled(super::CancelledError)))
}

fn error<T>(task: &mut Task<T>) -> Option<JoinError> {
    task.result()?.err()
}

/// How [`gather`] takes collections: anything that can be iterated over.
pub struct Many;

/// How [`gather`] takes tuples.
pub struct Tuple;

impl<I> Gather<Many> for I
where
    I: IntoIterator,
    I::Item: Future + 'static,
{
}

impl<I> sealed::Gather<Many> for I
where
    I: IntoIterator,
    I::Item: Future + 'static,
{
    type Output = Vec<<I::Item as Future>::Output>;
    type Results = Vec<Result<<I::Item as Future>::Output, JoinError>>;
    type Tasks = Vec<Task<<I::Item as Future>::Output>>;

    #[track_caller]
    fn spawn(self, children: &Children<'_>) -> Self::Tasks {
        let futures = self.into_iter();
        let mut tasks = Vec::with_capacity(futures.size_hint().0);
        for (index, future) in futures.enumerate() {
            tasks.push(children.spawn(index, future, |_| true));
        }
        tasks
    }

    fn outputs(tasks: &mut Self::Tasks) -> Result<Self::Output, JoinError> {
        tasks.iter_mut().map(output).collect()
    }

    fn results(tasks: &mut Self::Tasks) -> Self::Results {
        tasks.iter_mut().map(output).collect()
    }

    fn error(tasks: &mut Self::Tasks, index: usize) -> Option<JoinError> {
        tasks.get_mut(index).and_then(error)
    }

    fn cancel(tasks: &Self::Tasks) {
        for task in tasks {
            task.cancel_at_once();
        }
    }
}

macro_rules! gather_tuple {
    ($($name:ident $index:tt),+) => {
        impl<$($name: Future + 'static),+> Gather<Tuple> for ($($name,)+) {}
        impl<$($name: Future + 'static),+> sealed::Gather<Tuple> for ($($name,)+) {
            type Output = ($($name::Output,)+);
            type Results = ($(Result<$name::Output, JoinError>,)+);
            type Tasks = ($(Task<$name::Output>,)+);

            #[track_caller]
            fn spawn(self, children: &Children<'_>) -> Self::Tasks {
                ($(children.spawn($index, self.$index, |_| true),)+)
            }

            fn outputs(tasks: &mut Self::Tasks) -> Result<Self::Output, JoinError> {
                Ok(($(output(&mut tasks.$index)?,)+))
            }

            fn results(tasks: &mut Self::Tasks) -> Self::Results {
                ($(output(&mut tasks.$index),)+)
            }

            fn error(tasks: &mut Self::Tasks, index: usize) -> Option<JoinError> {
                match index {
                    $($index => error(&mut tasks.$index),)+
                    _ => None,
                }
            }

            fn cancel(tasks: &Self::Tasks) {
                $(tasks.$index.cancel_at_once();)+
            }
        }
    };
}

gather_tuple!(A 0);
gather_tuple!(A 0, B 1);
gather_tuple!(A 0, B 1, C 2);
gather_tuple!(A 0, B 1, C 2, D 3);
gather_tuple!(A 0, B 1, C 2, D 3, E 4);
gather_tuple!(A 0, B 1, C 2, D 3, E 4, F 5);
gather_tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
gather_tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
gather_tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8);
gather_tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9);
gather_tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10);
gather_tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11);
