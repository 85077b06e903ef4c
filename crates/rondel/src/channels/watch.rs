//! The newest value, for everybody who looks.
//!
//! ```
//! rondel::run(async {
//!     let (sender, mut receiver) = rondel::watch::channel("starting");
//!     rondel::create_task(async move { sender.send("running") }).detach();
//!     receiver.changed().await?;
//!     assert_eq!(*receiver.borrow_and_update(), "running");
//!     assert!(receiver.changed().await.is_err(), "the sender is gone");
//!     Ok::<(), rondel::watch::RecvError>(())
//! })??;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::cell::{Cell, Ref, RefCell};
use std::fmt;
use std::rc::Rc;

pub use super::errors::RecvError;
use crate::sync::WaitList;

struct Shared<T> {
    value: RefCell<T>,
    /// How often the value was changed.
    version: Cell<u64>,
    changed: WaitList,
    /// Senders that wait until there are no receivers.
    closed: WaitList,
    senders: Cell<usize>,
    receivers: Cell<usize>,
}

/// A value that is watched. The first one counts as seen.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// rondel::run(async {
///     let (sender, mut receiver) = rondel::watch::channel("red");
///     rondel::create_task(async move { sender.send("green") }).detach();
///     receiver.changed().await?;
///     assert_eq!(*receiver.borrow(), "green");
///     Ok(())
/// })?
/// # }
/// ```
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(Shared {
        value: RefCell::new(value),
        version: Cell::new(0),
        changed: WaitList::default(),
        closed: WaitList::default(),
        senders: Cell::new(1),
        receivers: Cell::new(1),
    });
    (Sender(Rc::clone(&shared)), Receiver { shared, seen: 0 })
}

/// Changes the value. Clones change the same.
///
/// ```
/// let (sender, receiver) = rondel::watch::channel(1);
/// sender.send_modify(|value| *value += 1);
/// assert_eq!(*receiver.borrow(), 2);
/// ```
pub struct Sender<T>(Rc<Shared<T>>);

impl<T> Sender<T> {
    /// Replaces the value, whether anybody looks or not; gives the one before.
    ///
    /// # Panics
    /// If the value is being looked at: what [`borrow`](Receiver::borrow) gave is still there.
    ///
    /// ```
    /// let (sender, receiver) = rondel::watch::channel(1);
    /// assert_eq!(sender.send(2), 1);
    /// assert_eq!(*receiver.borrow(), 2);
    /// ```
    pub fn send(&self, value: T) -> T {
        let before = self.0.value.replace(value);
        self.notify();
        before
    }

    /// Changes the value in place.
    ///
    /// # Panics
    /// As [`send`](Self::send).
    ///
    /// ```
    /// let (sender, receiver) = rondel::watch::channel(vec![1]);
    /// sender.send_modify(|values| values.push(2));
    /// assert_eq!(*receiver.borrow(), [1, 2]);
    /// ```
    pub fn send_modify(&self, modify: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            modify(value);
            true
        });
    }

    /// Changes the value in place; `modify` says whether receivers are to hear of it.
    ///
    /// # Panics
    /// As [`send`](Self::send).
    ///
    /// ```
    /// let (sender, receiver) = rondel::watch::channel(5);
    /// let largest = |new: i32| {
    ///     sender.send_if_modified(|value| std::mem::replace(value, new.max(*value)) < new)
    /// };
    /// assert!(!largest(3));
    /// assert_eq!(receiver.has_changed(), Ok(false));
    /// assert!(largest(7));
    /// assert_eq!(receiver.has_changed(), Ok(true));
    /// ```
    pub fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        let modified = modify(&mut self.0.value.borrow_mut());
        if modified {
            self.notify();
        }
        modified
    }

    fn notify(&self) {
        self.0.version.set(self.0.version.get() + 1);
        self.0.changed.wake_all();
    }

    /// The value. Don't keep the borrow over an `await`: nothing can be sent meanwhile.
    ///
    /// ```
    /// let (sender, _receiver) = rondel::watch::channel(1);
    /// assert_eq!(*sender.borrow(), 1);
    /// ```
    pub fn borrow(&self) -> Ref<'_, T> {
        self.0.value.borrow()
    }

    /// One more receiver, that has seen the value as it is now.
    ///
    /// ```
    /// let (sender, receiver) = rondel::watch::channel(1);
    /// sender.send(2);
    /// assert_eq!(receiver.has_changed(), Ok(true));
    /// assert_eq!(sender.subscribe().has_changed(), Ok(false));
    /// ```
    pub fn subscribe(&self) -> Receiver<T> {
        self.0.receivers.set(self.0.receivers.get() + 1);
        Receiver {
            shared: Rc::clone(&self.0),
            seen: self.0.version.get(),
        }
    }

    /// Whether there are no receivers.
    ///
    /// ```
    /// let (sender, receiver) = rondel::watch::channel(1);
    /// drop(receiver);
    /// assert!(sender.is_closed());
    /// ```
    pub fn is_closed(&self) -> bool {
        self.0.receivers.get() == 0
    }

    /// Waits until there are no receivers.
    ///
    /// # Cancel safety
    /// A future that is dropped has changed nothing.
    ///
    /// ```
    /// rondel::run(async {
    ///     let (sender, receiver) = rondel::watch::channel(1);
    ///     rondel::create_task(async move { drop(receiver) }).detach();
    ///     sender.closed().await;
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub async fn closed(&self) {
        while !self.is_closed() {
            self.0.closed.wait().await;
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.set(self.0.senders.get() + 1);
        Self(Rc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let left = self.0.senders.get() - 1;
        self.0.senders.set(left);
        if left == 0 {
            self.0.changed.wake_all();
        }
    }
}

/// Looks at the value. Clones have seen what this one has.
///
/// ```
/// let (sender, mut receiver) = rondel::watch::channel(1);
/// assert_eq!(receiver.has_changed(), Ok(false));
/// sender.send(2);
/// assert_eq!(receiver.has_changed(), Ok(true));
/// assert_eq!(*receiver.borrow_and_update(), 2);
/// assert_eq!(receiver.has_changed(), Ok(false));
/// ```
pub struct Receiver<T> {
    shared: Rc<Shared<T>>,
    seen: u64,
}

impl<T> Receiver<T> {
    /// The value; it does not count as seen by that. Don't keep the borrow over an `await`.
    ///
    /// ```
    /// let (sender, receiver) = rondel::watch::channel(1);
    /// sender.send(2);
    /// assert_eq!(*receiver.borrow(), 2);
    /// assert_eq!(receiver.has_changed(), Ok(true));
    /// ```
    pub fn borrow(&self) -> Ref<'_, T> {
        self.shared.value.borrow()
    }

    /// The value, which counts as seen. Don't keep the borrow over an `await`.
    ///
    /// ```
    /// let (sender, mut receiver) = rondel::watch::channel(1);
    /// sender.send(2);
    /// assert_eq!(*receiver.borrow_and_update(), 2);
    /// assert_eq!(receiver.has_changed(), Ok(false));
    /// ```
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.seen = self.shared.version.get();
        self.shared.value.borrow()
    }

    /// Whether there is a value that was not seen.
    ///
    /// # Errors
    /// If there is none, and all senders are gone.
    ///
    /// ```
    /// let (sender, receiver) = rondel::watch::channel(1);
    /// assert_eq!(receiver.has_changed(), Ok(false));
    /// sender.send(1);
    /// assert_eq!(receiver.has_changed(), Ok(true));
    /// ```
    pub fn has_changed(&self) -> Result<bool, RecvError> {
        if self.seen != self.shared.version.get() {
            return Ok(true);
        }
        match self.shared.senders.get() {
            0 => Err(RecvError),
            _ => Ok(false),
        }
    }

    /// Waits for a value that was not seen; it counts as seen then.
    ///
    /// # Errors
    /// If there is none, and all senders are gone.
    ///
    /// # Cancel safety
    /// A future that is dropped has seen nothing.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// rondel::run(async {
    ///     let (sender, mut receiver) = rondel::watch::channel(1);
    ///     sender.send(2);
    ///     sender.send(3);
    ///     receiver.changed().await?;
    ///     assert_eq!(*receiver.borrow(), 3);
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn changed(&mut self) -> Result<(), RecvError> {
        while !self.has_changed()? {
            self.shared.changed.wait().await;
        }
        self.seen = self.shared.version.get();
        Ok(())
    }

    /// Waits until `predicate` says yes of the value, which counts as seen then.
    ///
    /// # Errors
    /// If all senders are gone, and it says no.
    ///
    /// # Cancel safety
    /// A future that is dropped has seen what `predicate` has.
    ///
    /// ```
    /// rondel::run(async {
    ///     let (sender, mut receiver) = rondel::watch::channel(0);
    ///     rondel::create_task(async move {
    ///         for number in 1..=5 {
    ///             sender.send(number);
    ///             rondel::yield_now().await;
    ///         }
    ///     })
    ///     .detach();
    ///     assert_eq!(*receiver.wait_for(|number| *number >= 3).await?, 3);
    ///     Ok::<(), rondel::watch::RecvError>(())
    /// })??;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn wait_for(
        &mut self,
        mut predicate: impl FnMut(&T) -> bool,
    ) -> Result<Ref<'_, T>, RecvError> {
        loop {
            if predicate(&self.borrow_and_update()) {
                return Ok(self.shared.value.borrow());
            }
            self.changed().await?;
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.receivers.set(self.shared.receivers.get() + 1);
        Self {
            shared: Rc::clone(&self.shared),
            seen: self.seen,
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let left = self.shared.receivers.get() - 1;
        self.shared.receivers.set(left);
        if left == 0 {
            self.shared.closed.wake_all();
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("watch::Sender")
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("watch::Receiver")
    }
}
