//! `Event`: a flag that tasks wait for.

use std::cell::Cell;
use std::fmt;

use super::wait_list::WaitList;
use crate::budget;

/// asyncio's `Event`: tasks wait until it is set.
///
/// ```
/// use std::rc::Rc;
///
/// rondel::run(async {
///     let ready = Rc::new(rondel::Event::new());
///     let of_task = Rc::clone(&ready);
///     let task = rondel::create_task(async move { of_task.wait().await });
///     rondel::yield_now().await;
///     assert!(!task.done());
///     ready.set();
///     task.await
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct Event {
    value: Cell<bool>,
    waiters: WaitList,
}

impl Event {
    /// An event that is not set.
    ///
    /// ```
    /// assert!(!rondel::Event::new().is_set());
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it is set.
    ///
    /// ```
    /// let event = rondel::Event::new();
    /// event.set();
    /// assert!(event.is_set());
    /// ```
    pub fn is_set(&self) -> bool {
        self.value.get()
    }

    /// Sets it. Who waits now goes on, even if it is cleared before they run.
    ///
    /// ```
    /// let event = rondel::Event::new();
    /// event.set();
    /// assert!(event.is_set());
    /// event.clear();
    /// assert!(!event.is_set());
    /// ```
    pub fn set(&self) {
        if !self.value.replace(true) {
            self.waiters.wake_all();
        }
    }

    /// Takes it back: from now on [`wait`](Self::wait) waits again.
    ///
    /// ```
    /// let event = rondel::Event::new();
    /// event.set();
    /// event.clear();
    /// assert!(!event.is_set());
    /// ```
    pub fn clear(&self) {
        self.value.set(false);
    }

    /// Waits until it is set; goes on at once if it is.
    ///
    /// # Cancel safety
    /// A future that is dropped has taken nothing.
    ///
    /// ```
    /// rondel::run(async {
    ///     let event = rondel::Event::new();
    ///     event.set();
    ///     event.wait().await;
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub async fn wait(&self) {
        if self.is_set() {
            budget::taken().await;
        } else {
            self.waiters.wait().await;
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("set", &self.is_set())
            .field("waiters", &self.waiters.len())
            .finish()
    }
}
