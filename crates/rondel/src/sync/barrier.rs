//! `Barrier`: tasks that go on together.
//!
//! The lock of its condition gives the order in which tasks come and go, as in asyncio. What is
//! counted is not behind it, as a task whose future is dropped goes without the lock.

use std::cell::Cell;
use std::error::Error;
use std::fmt;

use super::condition::{Condition, ConditionGuard};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Filling,
    Draining,
    Resetting,
    Broken,
}

/// asyncio's `Barrier`: tasks wait until there are so many of them, and go on together. It can be
/// used again and again.
///
/// ```
/// use std::rc::Rc;
///
/// rondel::run(async {
///     let barrier = Rc::new(rondel::Barrier::new(3));
///     let runner = async |barrier: Rc<rondel::Barrier>| barrier.wait().await.unwrap();
///     let places = rondel::gather([0; 3].map(|_| runner(Rc::clone(&barrier)))).await?;
///     assert_eq!(places, [0, 1, 2]);
///     Ok::<(), rondel::JoinError>(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Barrier {
    condition: Condition,
    parties: usize,
    state: Cell<State>,
    count: Cell<usize>,
}

impl Barrier {
    /// A barrier for so many tasks.
    ///
    /// # Panics
    /// If `parties` is zero; asyncio's `ValueError`.
    ///
    /// ```
    /// let barrier = rondel::Barrier::new(3);
    /// assert_eq!(barrier.parties(), 3);
    /// ```
    pub fn new(parties: usize) -> Self {
        assert!(parties > 0, "parties must be > 0");
        Self {
            condition: Condition::default(),
            parties,
            state: Cell::new(State::Filling),
            count: Cell::new(0),
        }
    }

    /// Waits until all parties wait. Gives each one its number, from 0 on in the order in which
    /// they came.
    ///
    /// # Errors
    /// If the barrier is broken, or is reset meanwhile.
    ///
    /// # Cancel safety
    /// A future that is dropped no longer counts: the barrier waits for one more. If it is dropped
    /// after the barrier has opened, the others go on without it.
    pub async fn wait(&self) -> Result<usize, BrokenBarrierError> {
        let mut guard = self.condition.acquire().await;
        guard = self
            .until(guard, |state| {
                !matches!(state, State::Draining | State::Resetting)
            })
            .await;
        if self.broken() {
            return Err(BrokenBarrierError("Barrier aborted"));
        }
        let index = self.count.get();
        self.count.set(index + 1);
        // Dropped before the guard: whoever comes next finds a barrier that is as it should be.
        let place = Place(self);
        if index + 1 == self.parties {
            self.state.set(State::Draining);
            guard.notify_all();
        } else {
            guard = self.until(guard, |state| state != State::Filling).await;
            if matches!(self.state.get(), State::Broken | State::Resetting) {
                return Err(BrokenBarrierError("Abort or reset of barrier"));
            }
        }
        drop(place);
        drop(guard);
        Ok(index)
    }

    async fn until<'a>(
        &'a self,
        guard: ConditionGuard<'a, ()>,
        wanted: impl Fn(State) -> bool,
    ) -> ConditionGuard<'a, ()> {
        guard.wait_for(|()| wanted(self.state.get())).await
    }

    /// Makes the barrier as new. Who waits gets [`BrokenBarrierError`].
    ///
    /// # Cancel safety
    /// A future that is dropped has changed nothing.
    ///
    /// ```
    /// use std::rc::Rc;
    ///
    /// rondel::run(async {
    ///     let barrier = Rc::new(rondel::Barrier::new(2));
    ///     let of_task = Rc::clone(&barrier);
    ///     let task = rondel::create_task(async move { of_task.wait().await });
    ///     rondel::yield_now().await;
    ///     assert_eq!(barrier.n_waiting(), 1);
    ///     barrier.reset().await;
    ///     assert!(task.await?.is_err());
    ///     assert!(!barrier.broken());
    ///     Ok::<(), rondel::JoinError>(())
    /// })??;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn reset(&self) {
        let guard = self.condition.acquire().await;
        self.state.set(if self.count.get() > 0 {
            State::Resetting
        } else {
            State::Filling
        });
        guard.notify_all();
    }

    /// Breaks the barrier: who waits, or will wait, gets [`BrokenBarrierError`], until it is
    /// [`reset`](Self::reset).
    ///
    /// # Cancel safety
    /// A future that is dropped has changed nothing.
    ///
    /// ```
    /// rondel::run(async {
    ///     let barrier = rondel::Barrier::new(2);
    ///     barrier.abort().await;
    ///     assert!(barrier.broken());
    ///     assert!(barrier.wait().await.is_err());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub async fn abort(&self) {
        let guard = self.condition.acquire().await;
        self.state.set(State::Broken);
        guard.notify_all();
    }

    /// How many tasks it waits for.
    ///
    /// ```
    /// assert_eq!(rondel::Barrier::new(2).parties(), 2);
    /// ```
    pub fn parties(&self) -> usize {
        self.parties
    }

    /// How many tasks wait for the others.
    ///
    /// ```
    /// assert_eq!(rondel::Barrier::new(2).n_waiting(), 0);
    /// ```
    pub fn n_waiting(&self) -> usize {
        match self.state.get() {
            State::Filling => self.count.get(),
            _ => 0,
        }
    }

    /// Whether it is broken.
    ///
    /// ```
    /// rondel::run(async {
    ///     let barrier = rondel::Barrier::new(2);
    ///     assert!(!barrier.broken());
    ///     barrier.abort().await;
    ///     assert!(barrier.broken());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn broken(&self) -> bool {
        self.state.get() == State::Broken
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier")
            .field("state", &self.state.get())
            .field("waiting", &self.n_waiting())
            .field("parties", &self.parties)
            .finish()
    }
}

/// One that is counted.
struct Place<'a>(&'a Barrier);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let left = self.0.count.get() - 1;
        self.0.count.set(left);
        if left == 0 {
            if matches!(self.0.state.get(), State::Resetting | State::Draining) {
                self.0.state.set(State::Filling);
            }
            self.0.condition.notify_all();
        }
    }
}

/// The barrier was reset while the task waited, or is broken.
///
/// ```
/// rondel::run(async {
///     let barrier = rondel::Barrier::new(2);
///     barrier.abort().await;
///     let error: rondel::BrokenBarrierError = barrier.wait().await.unwrap_err();
///     assert_eq!(error.to_string(), "Barrier aborted");
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BrokenBarrierError(&'static str);

impl fmt::Display for BrokenBarrierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for BrokenBarrierError {}
