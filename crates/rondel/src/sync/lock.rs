//! `Lock`: one task at a time. The value that it protects is inside, and reached through the guard.

use std::cell::{Cell, RefCell, RefMut};
use std::fmt;
use std::future::poll_fn;
use std::ops::{Deref, DerefMut};

use super::wait_list::{Wait, WaitList};
use crate::budget;

/// asyncio's `Lock`, with the value that it protects: only one task has the guard at a time, also
/// over its `await`s.
///
/// Who waits is served in the order of the first polls. The lock is free again when the guard is
/// dropped.
///
/// What is not held over an `await` needs no lock: a `Cell` or `RefCell` will do, as there is only
/// one thread.
///
/// **Two of them in one task.** A future that was polled and is kept, but not polled any more (in
/// an arm of a `select!` that has gone on with another one, say) keeps its place in the queue, and
/// the lock may be given to it. Whoever then awaits the lock in the same task waits for ever. Drop
/// such a future, or go on polling it.
///
/// ```
/// use std::rc::Rc;
/// use std::time::Duration;
///
/// rondel::run(async {
///     let lock = Rc::new(rondel::Lock::new(0));
///     let add = async |lock: Rc<rondel::Lock<i32>>| {
///         let mut value = lock.acquire().await;
///         let before = *value;
///         rondel::sleep(Duration::from_millis(1)).await; // nobody comes in between
///         *value = before + 1;
///     };
///     rondel::gather([0; 3].map(|_| add(Rc::clone(&lock)))).await?;
///     assert_eq!(*lock.acquire().await, 3);
///     Ok::<(), rondel::JoinError>(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct Lock<T: ?Sized = ()> {
    locked: Cell<bool>,
    waiters: WaitList,
    value: RefCell<T>,
}

impl<T> Lock<T> {
    /// A lock that nobody has.
    ///
    /// ```
    /// let lock = rondel::Lock::new("value");
    /// assert!(!lock.locked());
    /// ```
    pub fn new(value: T) -> Self {
        Self {
            locked: Cell::new(false),
            waiters: WaitList::default(),
            value: RefCell::new(value),
        }
    }

    /// The value, of a lock that nobody uses any more.
    ///
    /// ```
    /// assert_eq!(rondel::Lock::new("value").into_inner(), "value");
    /// ```
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> Lock<T> {
    /// Waits until the lock is free and all who came before have had it; takes it.
    ///
    /// # Cancel safety
    /// A future that is dropped has not taken the lock, and has lost its place in the queue. If it
    /// was its turn, the next one is woken.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// rondel::run(async {
    ///     let lock = rondel::Lock::new("value");
    ///     let guard = lock.acquire().await;
    ///     assert!(rondel::timeout(Duration::from_millis(1), lock.acquire()).await.is_err());
    ///     drop(guard);
    ///     assert_eq!(*lock.acquire().await, "value");
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub async fn acquire(&self) -> LockGuard<'_, T> {
        budget::taken().await;
        self.acquire_at_once().await
    }

    /// As `acquire`, without giving way to others.
    pub(super) async fn acquire_at_once(&self) -> LockGuard<'_, T> {
        if let Some(guard) = self.try_acquire() {
            return guard;
        }
        let mut turn = Turn {
            lock: self,
            wait: self.waiters.wait(),
        };
        poll_fn(|context| turn.wait.poll_with(context, || self.wake_first())).await;
        self.take()
    }

    /// Takes the lock if it is free and nobody waits for it.
    ///
    /// ```
    /// let lock = rondel::Lock::new(1);
    /// let guard = lock.try_acquire().unwrap();
    /// assert!(lock.try_acquire().is_none());
    /// drop(guard);
    /// assert!(lock.try_acquire().is_some());
    /// ```
    pub fn try_acquire(&self) -> Option<LockGuard<'_, T>> {
        (!self.locked.get() && self.waiters.all_cancelled()).then(|| self.take())
    }

    /// Whether somebody has the lock.
    ///
    /// ```
    /// let lock = rondel::Lock::new(());
    /// let guard = lock.try_acquire();
    /// assert!(lock.locked());
    /// drop(guard);
    /// assert!(!lock.locked());
    /// ```
    pub fn locked(&self) -> bool {
        self.locked.get()
    }

    /// The value, of a lock that nobody else can use now.
    ///
    /// ```
    /// let mut lock = rondel::Lock::new(1);
    /// *lock.get_mut() += 1;
    /// assert_eq!(lock.into_inner(), 2);
    /// ```
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    fn take(&self) -> LockGuard<'_, T> {
        self.locked.set(true);
        LockGuard {
            value: self.value.borrow_mut(),
            held: Held(self),
        }
    }

    fn wake_first(&self) {
        if !self.locked.get() {
            self.waiters.wake_first();
        }
    }
}

impl<T> From<T> for Lock<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<T: ?Sized> fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("locked", &self.locked())
            .field("waiters", &self.waiters.len())
            .finish_non_exhaustive()
    }
}

/// A place in the queue. When it goes while the lock is free, whoever is first then is to have it.
struct Turn<'a, T: ?Sized> {
    lock: &'a Lock<T>,
    wait: Wait<'a>,
}

impl<T: ?Sized> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        // Not if it ended well: `take` comes next, and nothing in between.
        if self.wait.leave() {
            self.lock.wake_first();
        }
    }
}

/// The lock is one's own for as long as this lives; the value is reached through it.
///
/// ```
/// rondel::run(async {
///     let lock = rondel::Lock::new(Vec::new());
///     let mut guard: rondel::LockGuard<'_, Vec<i32>> = lock.acquire().await;
///     guard.push(1);
///     assert!(lock.locked());
///     drop(guard);
///     assert!(!lock.locked());
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[must_use = "the lock is free again when this is dropped"]
pub struct LockGuard<'a, T: ?Sized> {
    // In this order: the value is let go of before anybody is woken.
    value: RefMut<'a, T>,
    held: Held<'a, T>,
}

impl<'a, T: ?Sized> LockGuard<'a, T> {
    /// Whose guard it is.
    pub(super) fn lock(&self) -> &'a Lock<T> {
        self.held.0
    }
}

struct Held<'a, T: ?Sized>(&'a Lock<T>);

impl<T: ?Sized> Drop for Held<'_, T> {
    fn drop(&mut self) {
        self.0.locked.set(false);
        self.0.waiters.wake_first();
    }
}

impl<T: ?Sized> Deref for LockGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: ?Sized> DerefMut for LockGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for LockGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.value, f)
    }
}
