//! `gather`: many futures at once, their outputs in order.
//!
//! Each future becomes a task. The tasks count down a shared counter as they end, and whoever awaits the
//! gathering is woken once: by the last of them, or by the first that fails.

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
/// Takes a `Vec`, an array, or a tuple of up to twelve futures of different types. As `asyncio.gather`: the tasks
/// start when this is called; if one of them panics or is cancelled that is the result at once, and the
/// others run on; who is cancelled while awaiting this cancels all of them: their futures are gone when this is.
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
pub fn gather<G: Gather>(futures: G) -> GatherFuture<G> {
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
pub trait Gather: sealed::Gather {}

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
pub struct GatherFuture<G: Gather> {
    tasks: Option<G::Tasks>,
    countdown: Rc<Countdown>,
    awaited: bool,
}

impl<G: Gather> Future for GatherFuture<G> {
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

impl<G: Gather> Unpin for GatherFuture<G> {}

impl<G: Gather> Drop for GatherFuture<G> {
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

impl<G: Gather> fmt::Debug for GatherFuture<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatherFuture")
            .field("left", &self.countdown.left.get())
            .finish_non_exhaustive()
    }
}

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
    fn spawn<F: Future + 'static>(&self, index: usize, future: F) -> Task<F::Output> {
        self.0.left.set(self.0.left.get() + 1);
        let mut end = End {
            countdown: Rc::clone(self.0),
            index,
            well: false,
        };
        create_task(async move {
            let output = future.await;
            end.well = true;
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

    pub trait Gather {
        type Output;
        type Tasks;
        #[track_caller]
        fn spawn(self, children: &Children<'_>) -> Self::Tasks;
        fn outputs(tasks: &mut Self::Tasks) -> Result<Self::Output, JoinError>;
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

impl<F: Future + 'static> Gather for Vec<F> {}
impl<F: Future + 'static> sealed::Gather for Vec<F> {
    type Output = Vec<F::Output>;
    type Tasks = Vec<Task<F::Output>>;

    #[track_caller]
    fn spawn(self, children: &Children<'_>) -> Self::Tasks {
        let mut tasks = Vec::with_capacity(self.len());
        for (index, future) in self.into_iter().enumerate() {
            tasks.push(children.spawn(index, future));
        }
        tasks
    }

    fn outputs(tasks: &mut Self::Tasks) -> Result<Self::Output, JoinError> {
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

impl<F: Future + 'static, const N: usize> Gather for [F; N] {}
impl<F: Future + 'static, const N: usize> sealed::Gather for [F; N] {
    type Output = Vec<F::Output>;
    type Tasks = Vec<Task<F::Output>>;

    #[track_caller]
    fn spawn(self, children: &Children<'_>) -> Self::Tasks {
        sealed::Gather::spawn(Vec::from(self), children)
    }

    fn outputs(tasks: &mut Self::Tasks) -> Result<Self::Output, JoinError> {
        <Vec<F> as sealed::Gather>::outputs(tasks)
    }

    fn error(tasks: &mut Self::Tasks, index: usize) -> Option<JoinError> {
        <Vec<F> as sealed::Gather>::error(tasks, index)
    }

    fn cancel(tasks: &Self::Tasks) {
        <Vec<F> as sealed::Gather>::cancel(tasks);
    }
}

macro_rules! gather_tuple {
    ($($name:ident $index:tt),+) => {
        impl<$($name: Future + 'static),+> Gather for ($($name,)+) {}
        impl<$($name: Future + 'static),+> sealed::Gather for ($($name,)+) {
            type Output = ($($name::Output,)+);
            type Tasks = ($(Task<$name::Output>,)+);

            #[track_caller]
            fn spawn(self, children: &Children<'_>) -> Self::Tasks {
                ($(children.spawn($index, self.$index),)+)
            }

            fn outputs(tasks: &mut Self::Tasks) -> Result<Self::Output, JoinError> {
                Ok(($(output(&mut tasks.$index)?,)+))
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
