//! `Semaphore` and `BoundedSemaphore`: so many tasks at a time.

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::ops::Deref;
use std::rc::Rc;

use super::wait_list::{Wait, WaitList};
use crate::budget;
use crate::exceptions::call_exception_handler;

/// asyncio's `Semaphore`: a count of permits. Tasks take one each, and wait if there is none.
///
/// Who waits is served in the order of the first polls, and before any newcomer. A permit goes back
/// when it is dropped; or it is [forgotten](SemaphorePermit::forget), and given back by hand with
/// [`release`](Self::release).
///
/// As with [`Lock`](crate::Lock), a future that was polled and is kept without being polled may
/// hold a permit that it was given.
///
/// ```
/// use std::rc::Rc;
/// use std::time::Duration;
///
/// rondel::run(async {
///     let connections = Rc::new(rondel::Semaphore::new(2));
///     let download = async |connections: Rc<rondel::Semaphore>| {
///         let _permit = connections.acquire().await;
///         rondel::sleep(Duration::from_millis(1)).await; // two of us at a time
///     };
///     rondel::gather([0; 10].map(|_| download(Rc::clone(&connections)))).await
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Semaphore {
    value: Cell<usize>,
    waiters: WaitList,
}

impl Semaphore {
    /// A semaphore with so many permits.
    ///
    /// ```
    /// assert_eq!(rondel::Semaphore::new(3).available(), 3);
    /// ```
    pub fn new(value: usize) -> Self {
        Self {
            value: Cell::new(value),
            waiters: WaitList::default(),
        }
    }

    /// Waits for a permit.
    ///
    /// # Cancel safety
    /// A future that is dropped has taken no permit, and has lost its place in the queue. If it had
    /// just been given one, that goes to the next.
    ///
    /// ```
    /// rondel::run(async {
    ///     let semaphore = rondel::Semaphore::new(1);
    ///     let permit = semaphore.acquire().await;
    ///     assert!(semaphore.locked());
    ///     drop(permit);
    ///     assert!(!semaphore.locked());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub async fn acquire(&self) -> SemaphorePermit<&Self> {
        self.acquired().await;
        SemaphorePermit(Some(self))
    }

    /// As [`acquire`](Self::acquire), for a permit that can go to another task.
    ///
    /// # Cancel safety
    /// As [`acquire`](Self::acquire).
    ///
    /// ```
    /// use std::rc::Rc;
    ///
    /// rondel::run(async {
    ///     let workers = Rc::new(rondel::Semaphore::new(1));
    ///     for _ in 0..3 {
    ///         let permit = Rc::clone(&workers).acquire_owned().await;
    ///         rondel::create_task(async move { drop(permit) }).detach();
    ///     }
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub async fn acquire_owned(self: Rc<Self>) -> SemaphorePermit<Rc<Self>> {
        self.acquired().await;
        SemaphorePermit(Some(self))
    }

    /// Takes a permit if there is one and nobody waits.
    ///
    /// ```
    /// let semaphore = rondel::Semaphore::new(1);
    /// let permit = semaphore.try_acquire();
    /// assert!(permit.is_some() && semaphore.try_acquire().is_none());
    /// ```
    pub fn try_acquire(&self) -> Option<SemaphorePermit<&Self>> {
        self.take_at_once().then_some(SemaphorePermit(Some(self)))
    }

    /// Whether [`acquire`](Self::acquire) would have to wait now.
    ///
    /// ```
    /// assert!(rondel::Semaphore::new(0).locked());
    /// ```
    pub fn locked(&self) -> bool {
        self.value.get() == 0 || !self.waiters.all_cancelled()
    }

    /// How many permits there are that nobody has and nobody waits for.
    ///
    /// ```
    /// let semaphore = rondel::Semaphore::new(2);
    /// let _permit = semaphore.try_acquire();
    /// assert_eq!(semaphore.available(), 1);
    /// ```
    pub fn available(&self) -> usize {
        self.value.get()
    }

    /// Adds a permit: one that was [forgotten](SemaphorePermit::forget), or one more.
    ///
    /// # Panics
    /// If there are more permits than `usize` can count.
    ///
    /// ```
    /// let semaphore = rondel::Semaphore::new(1);
    /// semaphore.try_acquire().unwrap().forget();
    /// assert!(semaphore.locked());
    /// semaphore.release();
    /// assert!(!semaphore.locked());
    /// ```
    pub fn release(&self) {
        let value = self.value.get().checked_add(1);
        self.value.set(value.expect("too many permits"));
        self.wake_next();
    }

    fn take_at_once(&self) -> bool {
        if self.locked() {
            return false;
        }
        self.value.set(self.value.get() - 1);
        true
    }

    async fn acquired(&self) {
        budget::taken().await;
        if !self.take_at_once() {
            let mut turn = Turn {
                semaphore: self,
                wait: self.waiters.wait(),
            };
            poll_fn(|context| turn.wait.poll_with(context, || self.wake_allowed())).await;
        }
    }

    /// Gives a permit to the next in the queue, if there is one of each.
    fn wake_next(&self) -> bool {
        let Some(left) = self.value.get().checked_sub(1) else {
            return false;
        };
        self.value.set(left);
        let woken = self.waiters.wake_next();
        if !woken {
            self.value.set(self.value.get() + 1);
        }
        woken
    }

    /// Gives all permits to those who wait.
    fn wake_allowed(&self) {
        while self.wake_next() {}
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("value", &self.value.get())
            .field("waiters", &self.waiters.len())
            .finish()
    }
}

/// A place in the queue. Whoever is woken has a permit already.
struct Turn<'a> {
    semaphore: &'a Semaphore,
    wait: Wait<'a>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.wait.leave() {
            let value = &self.semaphore.value;
            value.set(value.get() + 1);
        }
        // Whoever came meanwhile had to wait even if there was a permit.
        self.semaphore.wake_allowed();
    }
}

/// A permit of a [`Semaphore`] or [`BoundedSemaphore`], given back when this is dropped.
///
/// ```
/// let semaphore = rondel::Semaphore::new(1);
/// let permit: rondel::SemaphorePermit<&rondel::Semaphore> = semaphore.try_acquire().unwrap();
/// drop(permit);
/// assert_eq!(semaphore.available(), 1);
/// ```
#[must_use = "the permit goes back when this is dropped"]
pub struct SemaphorePermit<S>(Option<S>)
where
    S: Deref,
    S::Target: sealed::Permits;

impl<S> SemaphorePermit<S>
where
    S: Deref,
    S::Target: sealed::Permits,
{
    /// Keeps the permit; [`Semaphore::release`] gives it back.
    ///
    /// ```
    /// let semaphore = rondel::Semaphore::new(1);
    /// semaphore.try_acquire().unwrap().forget();
    /// assert_eq!(semaphore.available(), 0);
    /// ```
    pub fn forget(mut self) {
        self.0 = None;
    }
}

impl<S> Drop for SemaphorePermit<S>
where
    S: Deref,
    S::Target: sealed::Permits,
{
    fn drop(&mut self) {
        if let Some(semaphore) = &self.0 {
            sealed::Permits::give_back(&**semaphore);
        }
    }
}

impl<S> fmt::Debug for SemaphorePermit<S>
where
    S: Deref,
    S::Target: sealed::Permits,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SemaphorePermit")
    }
}

mod sealed {
    pub trait Permits {
        fn give_back(&self);
    }
}

impl sealed::Permits for Semaphore {
    fn give_back(&self) {
        self.release();
    }
}

impl sealed::Permits for BoundedSemaphore {
    fn give_back(&self) {
        if let Err(error) = self.release() {
            call_exception_handler("Exception ignored in a SemaphorePermit", &error);
        }
    }
}

/// A [`Semaphore`] that never has more permits than at its beginning.
///
/// ```
/// rondel::run(async {
///     let semaphore = rondel::BoundedSemaphore::new(1);
///     let permit = semaphore.acquire().await;
///     assert!(semaphore.locked());
///     drop(permit);
///     assert_eq!(semaphore.release(), Err(rondel::ReleaseError));
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[derive(Debug)]
pub struct BoundedSemaphore {
    semaphore: Semaphore,
    bound: usize,
}

impl BoundedSemaphore {
    /// A semaphore with so many permits, now and at most.
    ///
    /// ```
    /// assert_eq!(rondel::BoundedSemaphore::new(3).available(), 3);
    /// ```
    pub fn new(value: usize) -> Self {
        Self {
            semaphore: Semaphore::new(value),
            bound: value,
        }
    }

    /// As [`Semaphore::acquire`].
    ///
    /// # Cancel safety
    /// As [`Semaphore::acquire`].
    ///
    /// ```
    /// rondel::run(async {
    ///     let semaphore = rondel::BoundedSemaphore::new(1);
    ///     let _permit = semaphore.acquire().await;
    ///     assert!(semaphore.locked());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub async fn acquire(&self) -> SemaphorePermit<&Self> {
        self.semaphore.acquired().await;
        SemaphorePermit(Some(self))
    }

    /// As [`Semaphore::acquire_owned`].
    ///
    /// # Cancel safety
    /// As [`Semaphore::acquire`].
    ///
    /// ```
    /// rondel::run(async {
    ///     let semaphore = std::rc::Rc::new(rondel::BoundedSemaphore::new(1));
    ///     let permit = std::rc::Rc::clone(&semaphore).acquire_owned().await;
    ///     rondel::create_task(async move { drop(permit) }).await.unwrap();
    ///     assert_eq!(semaphore.available(), 1);
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub async fn acquire_owned(self: Rc<Self>) -> SemaphorePermit<Rc<Self>> {
        self.semaphore.acquired().await;
        SemaphorePermit(Some(self))
    }

    /// As [`Semaphore::try_acquire`].
    ///
    /// ```
    /// assert!(rondel::BoundedSemaphore::new(0).try_acquire().is_none());
    /// ```
    pub fn try_acquire(&self) -> Option<SemaphorePermit<&Self>> {
        self.semaphore
            .take_at_once()
            .then_some(SemaphorePermit(Some(self)))
    }

    /// As [`Semaphore::locked`].
    ///
    /// ```
    /// assert!(!rondel::BoundedSemaphore::new(1).locked());
    /// ```
    pub fn locked(&self) -> bool {
        self.semaphore.locked()
    }

    /// As [`Semaphore::available`].
    ///
    /// ```
    /// assert_eq!(rondel::BoundedSemaphore::new(1).available(), 1);
    /// ```
    pub fn available(&self) -> usize {
        self.semaphore.available()
    }

    /// Gives back a permit that was [forgotten](SemaphorePermit::forget).
    ///
    /// # Errors
    /// If all permits are there.
    ///
    /// ```
    /// let semaphore = rondel::BoundedSemaphore::new(1);
    /// semaphore.try_acquire().unwrap().forget();
    /// assert_eq!(semaphore.release(), Ok(()));
    /// assert_eq!(semaphore.release(), Err(rondel::ReleaseError));
    /// ```
    pub fn release(&self) -> Result<(), ReleaseError> {
        if self.available() >= self.bound {
            return Err(ReleaseError);
        }
        self.semaphore.release();
        Ok(())
    }
}

/// A [`BoundedSemaphore`] was released more often than acquired: asyncio's `ValueError`.
///
/// ```
/// let error = rondel::BoundedSemaphore::new(0).release().unwrap_err();
/// assert_eq!(error.to_string(), "BoundedSemaphore released too many times");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReleaseError;

impl fmt::Display for ReleaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoundedSemaphore released too many times")
    }
}

impl Error for ReleaseError {}
