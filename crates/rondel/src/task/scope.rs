//! Task groups that borrow: children that live inside the group's own future.
//!
//! A child is not a task of the loop but a future that the scope owns and polls, so it may borrow
//! whatever outlives the scope. Nothing here is unsafe, and nothing could be made so by leaking: a
//! scope that is forgotten takes its children along, and they are never polled again. That is what
//! a task of the loop's own, with a borrow in it, could not promise.
//!
//! Each child has a waker of its own ([`Bell`]), which puts its number into a queue and wakes
//! whoever polls the scope; only the children in the queue are polled. A child that is being polled
//! is out of its place meanwhile, so it may create others, or fail and have all others dropped.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};

use slab::Slab;

use super::catch::DropsQuietly;
use super::group::{ExceptionGroup, TaskFailure};
use super::waiter::Waiter;

/// The number of the scope's body in the queue.
const BODY: usize = usize::MAX;

/// Runs `body` and the children that are created in the scope, which may borrow; ends when all of
/// them have ended.
///
/// As [`task_group`](crate::task_group), but the children are no tasks of the loop: they run within
/// the future of this function, whenever it is polled, and all of them are the same
/// [`current_task`](crate::current_task). When the body or a child fails (its output is an `Err`,
/// or it panics) all others are dropped, and the failures come out in an [`ExceptionGroup`].
///
/// # Errors
/// What has failed.
///
/// # Panics
/// With the panic of `body`.
///
/// # Cancel safety
/// A future that is dropped drops its children; they are gone when it is.
///
/// ```
/// use std::time::Duration;
///
/// rondel::run(async {
///     let words = vec!["a".to_owned(), "bc".to_owned()];
///     let longest = std::cell::Cell::new(0);
///     let total = rondel::task_scope(async |scope| {
///         let lengths = words.iter().map(|word| {
///             scope.create_plain_task(async {
///                 rondel::sleep(Duration::from_millis(1)).await;
///                 longest.set(longest.get().max(word.len()));
///                 word.len()
///             })
///         });
///         let mut total = 0;
///         for length in lengths.collect::<Vec<_>>() {
///             total += length.await;
///         }
///         Ok::<_, std::io::Error>(total)
///     })
///     .await
///     .unwrap();
///     assert_eq!((total, longest.get()), (3, 2));
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
///
/// What a child borrows has to outlive the scope, so it can't be something of the body:
///
/// ```compile_fail,E0597
/// rondel::run(rondel::task_scope(async |scope| {
///     let local = String::from("gone with the body");
///     scope.create_plain_task(async { println!("{local}") });
///     Ok::<(), ()>(())
/// }));
/// ```
///
/// Nor can what is borrowed be dropped while the scope may run:
///
/// ```compile_fail,E0505
/// let data = String::from("data");
/// let scope = rondel::task_scope(async |scope| {
///     scope.create_plain_task(async { println!("{data}") });
///     Ok::<(), ()>(())
/// });
/// drop(data);
/// rondel::run(scope);
/// ```
///
/// And the future does not become `'static` by that:
///
/// ```compile_fail,E0597
/// rondel::run(async {
///     let data = String::from("data");
///     rondel::create_task(rondel::task_scope(async |scope| {
///         scope.create_plain_task(async { println!("{data}") });
///         Ok::<(), ()>(())
///     }))
///     .detach();
/// });
/// ```
pub async fn task_scope<'env, T, E, B>(body: B) -> Result<T, ExceptionGroup<E>>
where
    B: AsyncFnOnce(&TaskScope<'env, E>) -> Result<T, E>,
    E: 'env,
{
    let scope = TaskScope {
        inner: Rc::new(Inner {
            children: RefCell::new(Slab::new()),
            bells: Bells::new(),
            failures: RefCell::new(Vec::new()),
            is_over: Cell::new(false),
        }),
    };
    // Children may have the scope: that circle is broken here.
    let _clear = ClearOnDrop(&scope.inner);
    let inner = &*scope.inner;
    let mut value = None;
    {
        let fails = |panic| inner.fail(TaskFailure::Panic(panic));
        let mut body = pin!(DropsQuietly::new(body(&scope), fails));
        let bell = inner.bells.bell(BODY);
        bell.ring();
        let bell = Waker::from(bell);
        poll_fn(|context| {
            for number in inner.bells.rung(context) {
                if inner.is_over.get() {
                    break;
                }
                if number != BODY {
                    inner.poll_child(number);
                } else if value.is_none()
                    && let Poll::Ready(output) = body.as_mut().poll(&mut Context::from_waker(&bell))
                {
                    match output {
                        Ok(output) => value = Some(output),
                        Err(error) => inner.fail(TaskFailure::Error(error)),
                    }
                }
            }
            let all = value.is_some() && inner.children.borrow().is_empty();
            match all || inner.is_over.get() {
                true => Poll::Ready(()),
                false => inner.bells.go_on(context),
            }
        })
        .await;
        inner.clear();
    }
    let exceptions = inner.failures.take();
    match value {
        Some(value) if exceptions.is_empty() => Ok(value),
        _ => Err(ExceptionGroup { exceptions }),
    }
}

/// Where the children of a [`task_scope`] are created. Clones are the same scope: a child can take
/// one along to create others.
///
/// ```
/// rondel::run(async {
///     let count = &std::cell::Cell::new(0);
///     rondel::task_scope(async |scope: &rondel::TaskScope<'_, ()>| {
///         let inner = scope.clone();
///         scope.create_plain_task(async move {
///             for _ in 0..3 {
///                 inner.create_plain_task(async { count.set(count.get() + 1) });
///             }
///         });
///         Ok(())
///     })
///     .await
///     .unwrap();
///     assert_eq!(count.get(), 3);
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
pub struct TaskScope<'env, E> {
    inner: Rc<Inner<'env, E>>,
}

impl<'env, E: 'env> TaskScope<'env, E> {
    /// Runs a future in the scope. An error, as a panic, is the scope's: it ends all others. The
    /// handle gives the value.
    ///
    /// In a scope that is over or has failed the future is dropped at once.
    ///
    /// ```
    /// rondel::run(async {
    ///     let words = vec!["one", "two"];
    ///     let lengths = rondel::task_scope(async |scope| {
    ///         let first = scope.create_task(async { Ok::<_, String>(words[0].len()) });
    ///         let second = scope.create_task(async { Ok(words[1].len()) });
    ///         Ok::<_, String>(first.await + second.await)
    ///     });
    ///     assert_eq!(lengths.await.unwrap(), 6);
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn create_task<T, F>(&self, future: F) -> ScopedTask<T>
    where
        T: 'env,
        F: Future<Output = Result<T, E>> + 'env,
    {
        let slot = Rc::new(Slot::default());
        let (of_child, inner) = (Rc::clone(&slot), Rc::downgrade(&self.inner));
        self.add(async move {
            match (future.await, inner.upgrade()) {
                (Ok(value), _) => of_child.fill(value),
                (Err(error), Some(inner)) => inner.fail(TaskFailure::Error(error)),
                (Err(_), None) => {}
            }
        });
        ScopedTask(slot)
    }

    /// As [`create_task`](Self::create_task), for a future that can't fail, but by a panic.
    ///
    /// ```
    /// rondel::run(async {
    ///     let counter = std::cell::Cell::new(0);
    ///     let counted = rondel::task_scope(async |scope| {
    ///         for _ in 0..3 {
    ///             scope.create_plain_task(async { counter.set(counter.get() + 1) });
    ///         }
    ///         Ok::<_, String>(())
    ///     });
    ///     counted.await.unwrap();
    ///     assert_eq!(counter.get(), 3);
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn create_plain_task<T, F>(&self, future: F) -> ScopedTask<T>
    where
        T: 'env,
        F: Future<Output = T> + 'env,
    {
        let slot = Rc::new(Slot::default());
        let of_child = Rc::clone(&slot);
        self.add(async move { of_child.fill(future.await) });
        ScopedTask(slot)
    }

    fn add(&self, future: impl Future<Output = ()> + 'env) {
        if self.inner.is_over.get() {
            return;
        }
        let mut children = self.inner.children.borrow_mut();
        let entry = children.vacant_entry();
        let number = entry.key();
        let bell = self.inner.bells.bell(number);
        bell.ring();
        entry.insert(Child {
            future: Some(Box::pin(future)),
            bell: Waker::from(bell),
        });
    }
}

impl<E> Clone for TaskScope<'_, E> {
    fn clone(&self) -> Self {
        Self {
            inner: Rc::clone(&self.inner),
        }
    }
}

impl<E> fmt::Debug for TaskScope<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskScope")
            .field("children", &self.inner.children.borrow().len())
            .finish_non_exhaustive()
    }
}

/// A scope that has no child left keeps room for so many at most.
const KEPT_ROOM: usize = 64;

struct Inner<'env, E> {
    children: RefCell<Slab<Child<'env>>>,
    bells: Bells,
    failures: RefCell<Vec<TaskFailure<E>>>,
    /// Something failed, or the scope has ended: no child may run any more.
    is_over: Cell<bool>,
}

struct Child<'env> {
    /// `None` while it is being polled.
    future: Option<Pin<Box<dyn Future<Output = ()> + 'env>>>,
    bell: Waker,
}

impl<E> Inner<'_, E> {
    fn poll_child(&self, number: usize) {
        let mut children = self.children.borrow_mut();
        // It may have ended since its bell was rung.
        let Some(child) = children.get_mut(number) else {
            return;
        };
        let (future, bell) = (child.future.take(), child.bell.clone());
        drop(children);
        let Some(mut future) = future else { return };
        let polled = catch_unwind(AssertUnwindSafe(|| {
            future.as_mut().poll(&mut Context::from_waker(&bell))
        }));
        match polled {
            Ok(Poll::Pending) if !self.is_over.get() => {
                if let Some(child) = self.children.borrow_mut().get_mut(number) {
                    child.future = Some(future);
                }
                return;
            }
            Ok(_) => {}
            Err(panic) => self.fail(TaskFailure::Panic(panic.into())),
        }
        self.drop_child(future);
        let mut children = self.children.borrow_mut();
        let child = children.try_remove(number);
        if children.is_empty() && children.capacity() > KEPT_ROOM {
            *children = Slab::new();
        }
        drop(children);
        drop(child);
    }

    fn drop_child(&self, future: Pin<Box<dyn Future<Output = ()> + '_>>) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(future))) {
            self.fail(TaskFailure::Panic(panic.into()));
        }
    }

    fn fail(&self, failure: TaskFailure<E>) {
        self.failures.borrow_mut().push(failure);
        self.is_over.set(true);
    }

    /// Drops all children. Their destructors may create others, which are dropped at once.
    fn clear(&self) {
        self.is_over.set(true);
        let children = self.children.take();
        for (_, child) in children {
            if let Some(future) = child.future {
                self.drop_child(future);
            }
        }
    }
}

struct ClearOnDrop<'a, 'env, E>(&'a Inner<'env, E>);

impl<E> Drop for ClearOnDrop<'_, '_, E> {
    fn drop(&mut self) {
        self.0.clear();
    }
}

/// Who is to be polled next, and who polls.
struct Bells(Arc<Mutex<Rung>>);

#[derive(Default)]
struct Rung {
    bells: VecDeque<Arc<Bell>>,
    poller: Option<Waker>,
}

impl Bells {
    fn new() -> Self {
        Self(Arc::default())
    }

    fn bell(&self, number: usize) -> Arc<Bell> {
        Arc::new(Bell {
            number,
            is_rung: AtomicBool::new(false),
            rung: Arc::clone(&self.0),
        })
    }

    /// Those that were woken up to now.
    fn rung(&self, context: &Context<'_>) -> impl Iterator<Item = usize> + use<> {
        let mut rung = lock(&self.0);
        let before = match &rung.poller {
            Some(poller) if poller.will_wake(context.waker()) => None,
            _ => rung.poller.replace(context.waker().clone()),
        };
        let bells = std::mem::take(&mut rung.bells);
        drop(rung);
        drop(before); // with the lock free: a foreign waker may be anything
        bells.into_iter().map(|bell| {
            // A read-modify-write: what whoever rang it, then or since, wrote before is seen by the
            // poll.
            bell.is_rung.swap(false, Ordering::AcqRel);
            bell.number
        })
    }

    /// Waits; or, if somebody was woken meanwhile, gives way and goes on in the next step.
    fn go_on(&self, context: &Context<'_>) -> Poll<()> {
        if !lock(&self.0).bells.is_empty() {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

fn lock(rung: &Mutex<Rung>) -> MutexGuard<'_, Rung> {
    // A panic while the lock was held can only be the queue's allocation: its contents are whole.
    rung.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The waker of a child, or of the body.
struct Bell {
    number: usize,
    /// In the queue, or taken from it and not looked at yet.
    is_rung: AtomicBool,
    rung: Arc<Mutex<Rung>>,
}

impl Bell {
    /// Puts it into the queue, unless it is there; says who polls.
    fn ring(self: &Arc<Self>) -> Option<Waker> {
        if self.is_rung.swap(true, Ordering::AcqRel) {
            return None;
        }
        let mut rung = lock(&self.rung);
        rung.bells.push_back(Arc::clone(self));
        rung.poller.clone()
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(poller) = self.ring() {
            poller.wake();
        }
    }
}

/// The value of a child, on its way to whoever awaits it.
struct Slot<T> {
    value: Cell<Option<T>>,
    waiter: Cell<Option<Waiter>>,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self {
            value: Cell::new(None),
            waiter: Cell::new(None),
        }
    }
}

impl<T> Slot<T> {
    fn fill(&self, value: T) {
        self.value.set(Some(value));
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }
}

/// A child of a [`task_scope`], to be awaited within it. If the child fails so does the scope, and
/// this is never ready.
///
/// Dropping it does nothing: the child belongs to the scope.
///
/// ```
/// rondel::run(async {
///     let text = String::from("text");
///     let length = rondel::task_scope(async |scope| {
///         let task: rondel::ScopedTask<usize> = scope.create_plain_task(async { text.len() });
///         Ok::<_, ()>(task.await)
///     });
///     assert_eq!(length.await.unwrap(), 4);
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
pub struct ScopedTask<T>(Rc<Slot<T>>);

impl<T> Future for ScopedTask<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        if let Some(value) = self.0.value.take() {
            return Poll::Ready(value);
        }
        drop(self.0.waiter.replace(Some(Waiter::new(context))));
        Poll::Pending
    }
}

impl<T> fmt::Debug for ScopedTask<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScopedTask")
    }
}

/// Awaits futures concurrently, which may borrow, and gives their outputs in order:
/// [`gather`](crate::gather) within this future. They begin when it is first polled.
///
/// # Panics
/// With the first panic of one of them; the others are dropped.
///
/// # Cancel safety
/// A future that is dropped drops all of them.
///
/// ```
/// rondel::run(async {
///     let words = ["a", "bc"].map(String::from);
///     let lengths = rondel::gather_scoped(words.iter().map(async |word| word.len())).await;
///     assert_eq!(lengths, [1, 2]);
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
pub async fn gather_scoped<I>(futures: I) -> Vec<<I::Item as Future>::Output>
where
    I: IntoIterator,
    I::Item: Future,
{
    let all = futures
        .into_iter()
        .map(async |future| Ok::<_, Infallible>(future.await));
    match try_gather_scoped(all).await {
        Ok(outputs) => outputs,
        Err(never) => match never {},
    }
}

/// As [`gather_scoped`], for futures that may fail: the first error drops the others and is the
/// result.
///
/// # Errors
/// The first of the futures' errors.
///
/// # Panics
/// As [`gather_scoped`].
///
/// # Cancel safety
/// As [`gather_scoped`].
///
/// ```
/// rondel::run(async {
///     let numbers = ["1", "two"].map(String::from);
///     let parse = async |text: &String| text.parse::<i32>();
///     assert!(rondel::try_gather_scoped(numbers.iter().map(parse)).await.is_err());
///     assert_eq!(rondel::try_gather_scoped(numbers[..1].iter().map(parse)).await, Ok(vec![1]));
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
pub async fn try_gather_scoped<T, E, I>(futures: I) -> Result<Vec<T>, E>
where
    I: IntoIterator,
    I::Item: Future<Output = Result<T, E>>,
{
    let gathered = task_scope(async |scope| {
        let tasks: Vec<_> = futures
            .into_iter()
            .map(|future| scope.create_task(future))
            .collect();
        let mut outputs = Vec::with_capacity(tasks.len());
        for task in tasks {
            outputs.push(task.await);
        }
        Ok(outputs)
    });
    match gathered.await {
        Ok(outputs) => Ok(outputs),
        Err(failed) => match failed.exceptions.into_iter().next() {
            Some(TaskFailure::Error(error)) => Err(error),
            Some(TaskFailure::Panic(panic)) => panic.resume(),
            None => unreachable!("a scope fails by a failure"),
        },
    }
}

#[cfg(test)]
mod tests;
