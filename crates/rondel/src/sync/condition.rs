//! `Condition`: tasks wait for news about what a lock protects.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use super::lock::{Lock, LockGuard};
use super::wait_list::{Wait, WaitList};

/// asyncio's `Condition`: a [`Lock`], and tasks that wait until another one says that the value has
/// changed.
///
/// [`wait`](ConditionGuard::wait) and [`notify`](ConditionGuard::notify) are methods of the guard,
/// so that nobody can call them without the lock, which asyncio answers with a `RuntimeError`.
///
/// ```
/// use std::rc::Rc;
///
/// rondel::run(async {
///     let stock = Rc::new(rondel::Condition::new(0));
///     let of_task = Rc::clone(&stock);
///     let buyer = rondel::create_task(async move {
///         let mut stock = of_task.acquire().await.wait_for(|stock| *stock >= 3).await;
///         *stock -= 3;
///     });
///     for _ in 0..3 {
///         let mut stock = stock.acquire().await;
///         *stock += 1;
///         stock.notify(1);
///         drop(stock);
///         rondel::yield_now().await;
///     }
///     buyer.await?;
///     assert_eq!(*stock.acquire().await, 0);
///     Ok::<(), rondel::JoinError>(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct Condition<T: ?Sized = ()> {
    waiters: WaitList,
    lock: Rc<Lock<T>>,
}

impl<T> Condition<T> {
    /// A condition with a lock of its own.
    ///
    /// ```
    /// let condition = rondel::Condition::new("value");
    /// assert!(!condition.locked());
    /// ```
    pub fn new(value: T) -> Self {
        Self::with_lock(Rc::new(Lock::new(value)))
    }
}

impl<T: ?Sized> Condition<T> {
    /// A condition of a lock that is used by others, too, e.g. by another condition.
    ///
    /// ```
    /// rondel::run(async {
    ///     use std::rc::Rc;
    ///
    ///     let lock = Rc::new(rondel::Lock::new(0));
    ///     let not_empty = rondel::Condition::with_lock(Rc::clone(&lock));
    ///     let not_full = rondel::Condition::with_lock(lock);
    ///     let _guard = not_empty.acquire().await;
    ///     assert!(not_full.locked());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn with_lock(lock: Rc<Lock<T>>) -> Self {
        Self {
            waiters: WaitList::default(),
            lock,
        }
    }

    /// Waits for the lock; see [`Lock::acquire`].
    ///
    /// # Cancel safety
    /// As [`Lock::acquire`].
    ///
    /// ```
    /// rondel::run(async {
    ///     let condition = rondel::Condition::new(1);
    ///     let mut guard = condition.acquire().await;
    ///     *guard += 1;
    ///     guard.notify_all();
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub async fn acquire(&self) -> ConditionGuard<'_, T> {
        ConditionGuard {
            guard: self.lock.acquire().await,
            condition: self,
        }
    }

    /// As [`Lock::locked`].
    ///
    /// ```
    /// rondel::run(async {
    ///     let condition = rondel::Condition::new(());
    ///     let guard = condition.acquire().await;
    ///     assert!(condition.locked());
    ///     drop(guard);
    ///     assert!(!condition.locked());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn locked(&self) -> bool {
        self.lock.locked()
    }

    pub(super) fn notify_all(&self) {
        self.waiters.wake_all();
    }

    /// As `acquire`, without giving way to others.
    pub(super) async fn acquire_at_once(&self) -> ConditionGuard<'_, T> {
        ConditionGuard {
            guard: self.lock.acquire_at_once().await,
            condition: self,
        }
    }
}

impl<T: ?Sized> fmt::Debug for Condition<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condition")
            .field("locked", &self.locked())
            .field("waiters", &self.waiters.len())
            .finish_non_exhaustive()
    }
}

/// The lock of a [`Condition`], for as long as this lives.
///
/// ```
/// rondel::run(async {
///     let condition = rondel::Condition::new(1);
///     let guard: rondel::ConditionGuard<'_, i32> = condition.acquire().await;
///     guard.notify_all();
///     assert_eq!(*guard, 1);
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[must_use = "the lock is free again when this is dropped"]
pub struct ConditionGuard<'a, T: ?Sized> {
    guard: LockGuard<'a, T>,
    condition: &'a Condition<T>,
}

impl<'a, T: ?Sized> ConditionGuard<'a, T> {
    /// Lets go of the lock, waits until someone notifies, and takes the lock again.
    ///
    /// It may be for nothing: someone else may have had the lock between the notification and now,
    /// so look at the value again, or use [`wait_for`](Self::wait_for).
    ///
    /// # Cancel safety
    /// The guard goes with a future that is dropped: unlike in asyncio, who waits in vain (by a
    /// [`timeout`](crate::timeout)) has the lock no more. If there had been a notification, the
    /// next one gets it.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// rondel::run(async {
    ///     let condition = rondel::Condition::new("value");
    ///     let guard = condition.acquire().await;
    ///     assert!(rondel::timeout(Duration::from_millis(1), guard.wait()).await.is_err());
    ///     assert!(!condition.locked());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub async fn wait(self) -> Self {
        let condition = self.condition;
        let mut notified = Notified {
            condition,
            wait: condition.waiters.wait(),
            unused: false,
        };
        drop(self);
        (&mut notified.wait).await;
        notified.unused = true;
        let guard = condition.acquire_at_once().await;
        notified.unused = false;
        guard
    }

    /// Waits until `predicate` says yes of the value.
    ///
    /// # Cancel safety
    /// As [`wait`](Self::wait).
    ///
    /// ```
    /// rondel::run(async {
    ///     let condition = rondel::Condition::new(3);
    ///     // It says yes at once: nobody is waited for.
    ///     let guard = condition.acquire().await.wait_for(|value| *value > 2).await;
    ///     assert_eq!(*guard, 3);
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub async fn wait_for(self, mut predicate: impl FnMut(&mut T) -> bool) -> Self {
        let mut guard = self;
        while !predicate(&mut guard) {
            guard = guard.wait().await;
        }
        guard
    }

    /// Wakes the first `n` of those who wait. They go on one after the other, as they get the lock.
    ///
    /// ```
    /// rondel::run(async {
    ///     use std::rc::Rc;
    ///
    ///     let condition = Rc::new(rondel::Condition::new(()));
    ///     let of_tasks = Rc::clone(&condition);
    ///     let waiting = move || {
    ///         let condition = Rc::clone(&of_tasks);
    ///         rondel::create_task(async move { drop(condition.acquire().await.wait().await) })
    ///     };
    ///     let (first, second) = (waiting(), waiting());
    ///     rondel::yield_now().await;
    ///     condition.acquire().await.notify(1);
    ///     first.await.unwrap();
    ///     assert!(!second.done());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn notify(&self, n: usize) {
        for _ in 0..n {
            if !self.condition.waiters.wake_next_or_cancelled() {
                return;
            }
        }
    }

    /// Wakes all who wait.
    ///
    /// ```
    /// rondel::run(async {
    ///     let condition = rondel::Condition::new(());
    ///     condition.acquire().await.notify_all(); // nobody waits, nothing happens
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn notify_all(&self) {
        self.condition.notify_all();
    }

    /// The plain guard of the lock.
    ///
    /// ```
    /// rondel::run(async {
    ///     let condition = rondel::Condition::new(1);
    ///     let guard: rondel::LockGuard<'_, i32> = condition.acquire().await.into_guard();
    ///     assert_eq!(*guard, 1);
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn into_guard(self) -> LockGuard<'a, T> {
        self.guard
    }

    /// The lock, e.g. for another condition.
    ///
    /// ```
    /// rondel::run(async {
    ///     let condition = rondel::Condition::new(1);
    ///     let lock = condition.acquire().await.lock();
    ///     assert!(!lock.locked(), "the guard is gone");
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn lock(&self) -> &'a Lock<T> {
        self.guard.lock()
    }
}

impl<T: ?Sized> Deref for ConditionGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T: ?Sized> DerefMut for ConditionGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for ConditionGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.guard.fmt(f)
    }
}

/// One that waits, from the release of the lock until it has the lock again.
struct Notified<'a, T: ?Sized> {
    condition: &'a Condition<T>,
    wait: Wait<'a>,
    /// Notified, but without the lock.
    unused: bool,
}

impl<T: ?Sized> Drop for Notified<'_, T> {
    fn drop(&mut self) {
        if self.wait.leave() || self.unused {
            self.condition.waiters.wake_next_or_cancelled();
        }
    }
}
