//! One value, once.
//!
//! ```
//! rondel::run(async {
//!     let (sender, receiver) = rondel::oneshot::channel();
//!     rondel::create_task(async move { sender.send("answer") }).detach();
//!     assert_eq!(receiver.await, Ok("answer"));
//! })?;
//! # Ok::<(), rondel::RunError>(())
//! ```

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

pub use super::errors::{RecvError, TryRecvError};
use crate::task::Waiter;

struct Shared<T> {
    value: Cell<Option<T>>,
    receiver: Cell<Option<Waiter>>,
    sender: Cell<Option<Waiter>>,
    /// The sender is gone.
    sent: Cell<bool>,
    /// The receiver is gone, or takes nothing any more.
    closed: Cell<bool>,
}

/// A sender and a receiver of one value.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// rondel::run(async {
///     let (sender, receiver) = rondel::oneshot::channel();
///     rondel::create_task(async move { sender.send("done") }).detach();
///     assert_eq!(receiver.await?, "done");
///     Ok(())
/// })?
/// # }
/// ```
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(Shared {
        value: Cell::new(None),
        receiver: Cell::new(None),
        sender: Cell::new(None),
        sent: Cell::new(false),
        closed: Cell::new(false),
    });
    (Sender(Rc::clone(&shared)), Receiver(shared))
}

/// Sends the value.
///
/// ```
/// let (sender, mut receiver) = rondel::oneshot::channel();
/// assert_eq!(sender.send(1), Ok(()));
/// assert_eq!(receiver.try_recv(), Ok(1));
/// ```
pub struct Sender<T>(Rc<Shared<T>>);

impl<T> Sender<T> {
    /// Sends the value.
    ///
    /// # Errors
    /// The value, if the receiver is gone.
    ///
    /// ```
    /// let (sender, receiver) = rondel::oneshot::channel();
    /// drop(receiver);
    /// assert_eq!(sender.send("nobody wants it"), Err("nobody wants it"));
    /// ```
    pub fn send(self, value: T) -> Result<(), T> {
        if self.0.closed.get() {
            return Err(value);
        }
        self.0.value.set(Some(value));
        Ok(())
    }

    /// Whether the receiver is gone.
    ///
    /// ```
    /// let (sender, receiver) = rondel::oneshot::channel::<()>();
    /// assert!(!sender.is_closed());
    /// drop(receiver);
    /// assert!(sender.is_closed());
    /// ```
    pub fn is_closed(&self) -> bool {
        self.0.closed.get()
    }

    /// Waits until the receiver is gone: nobody wants the value any more.
    ///
    /// # Cancel safety
    /// A future that is dropped has changed nothing.
    ///
    /// ```
    /// rondel::run(async {
    ///     let (mut sender, receiver) = rondel::oneshot::channel::<i32>();
    ///     drop(receiver);
    ///     sender.closed().await;
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub async fn closed(&mut self) {
        poll_fn(|context| {
            if self.0.closed.get() {
                return Poll::Ready(());
            }
            drop(self.0.sender.replace(Some(Waiter::new(context))));
            Poll::Pending
        })
        .await;
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.sent.set(true);
        drop(self.0.sender.take());
        if let Some(waiter) = self.0.receiver.take() {
            waiter.wake();
        }
    }
}

/// Gives the value when it is awaited.
///
/// # Cancel safety
/// `&mut receiver` can be awaited, dropped, and awaited again: the value is taken only when it is
/// given.
///
/// ```
/// use std::time::Duration;
///
/// rondel::run(async {
///     let (sender, mut receiver) = rondel::oneshot::channel();
///     assert!(rondel::timeout(Duration::from_millis(1), &mut receiver).await.is_err());
///     sender.send(1).unwrap();
///     assert_eq!(receiver.await, Ok(1));
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
pub struct Receiver<T>(Rc<Shared<T>>);

impl<T> Receiver<T> {
    /// The value, if it is there.
    ///
    /// # Errors
    /// If it is not there, or will not come.
    ///
    /// ```
    /// use rondel::oneshot::{TryRecvError, channel};
    ///
    /// let (sender, mut receiver) = channel();
    /// assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    /// sender.send(1).unwrap();
    /// assert_eq!(receiver.try_recv(), Ok(1));
    /// ```
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        match self.0.value.take() {
            Some(value) => Ok(value),
            None if self.0.sent.get() || self.0.closed.get() => Err(TryRecvError::Closed),
            None => Err(TryRecvError::Empty),
        }
    }

    /// Takes nothing that is sent from now on. What was sent before can still be taken.
    ///
    /// ```
    /// let (sender, mut receiver) = rondel::oneshot::channel();
    /// receiver.close();
    /// assert_eq!(sender.send(1), Err(1));
    /// ```
    pub fn close(&mut self) {
        self.0.closed.set(true);
        if let Some(waiter) = self.0.sender.take() {
            waiter.wake();
        }
    }
}

impl<T> Future for Receiver<T> {
    type Output = Result<T, RecvError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.try_recv() {
            Ok(value) => Poll::Ready(Ok(value)),
            Err(TryRecvError::Closed) => Poll::Ready(Err(RecvError)),
            Err(TryRecvError::Empty) => {
                drop(self.0.receiver.replace(Some(Waiter::new(context))));
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.close();
        drop(self.0.receiver.take());
        drop(self.0.value.take());
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("oneshot::Sender")
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("oneshot::Receiver")
    }
}
