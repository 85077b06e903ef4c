//! Many senders, one receiver: a [`Queue`](crate::Queue) that ends when either side is gone.
//!
//! ```
//! rondel::run(async {
//!     let (sender, mut receiver) = rondel::mpsc::channel(10);
//!     for number in 1..=3 {
//!         let sender = sender.clone();
//!         rondel::create_task(async move { sender.send(number).await }).detach();
//!     }
//!     drop(sender);
//!     let mut sum = 0;
//!     while let Some(number) = receiver.recv().await {
//!         sum += number;
//!     }
//!     assert_eq!(sum, 6);
//! })?;
//! # Ok::<(), rondel::RunError>(())
//! ```

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::rc::Rc;

pub use super::errors::{SendError, TryRecvError};
use crate::sync::{Core, Fifo, GetNowaitError, PutNowaitError, Reserved};

struct Shared<T> {
    channel: Core<Fifo<T>>,
    senders: Cell<usize>,
}

/// A channel in which `capacity` values may wait for the receiver.
///
/// # Panics
/// If `capacity` is zero.
///
/// ```
/// rondel::run(async {
///     let (sender, mut receiver) = rondel::mpsc::channel(2);
///     rondel::create_task(async move {
///         for number in 0..10 {
///             if sender.send(number).await.is_err() {
///                 break; // nobody receives any more
///             }
///         }
///     })
///     .detach();
///     let mut sum = 0;
///     while let Some(number) = receiver.recv().await {
///         sum += number;
///     }
///     assert_eq!(sum, 45);
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "a channel needs room for a value");
    with_room(capacity)
}

/// A channel in which any number of values may wait: sending never does.
///
/// ```
/// let (sender, receiver) = rondel::mpsc::unbounded();
/// for number in 0..1000 {
///     sender.try_send(number).unwrap();
/// }
/// assert_eq!(receiver.len(), 1000);
/// ```
pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    with_room(0)
}

fn with_room<T>(maxsize: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(Shared {
        channel: Core::new(maxsize),
        senders: Cell::new(1),
    });
    (Sender(Rc::clone(&shared)), Receiver(shared))
}

/// Sends values. Clones send to the same receiver.
///
/// ```
/// let (sender, mut receiver) = rondel::mpsc::channel(1);
/// sender.try_send(1).unwrap();
/// assert!(sender.try_send(2).is_err());
/// assert_eq!(receiver.try_recv(), Ok(1));
/// ```
pub struct Sender<T>(Rc<Shared<T>>);

impl<T> Sender<T> {
    /// Sends a value; waits for room.
    ///
    /// # Errors
    /// The value, if the receiver is gone.
    ///
    /// # Cancel safety
    /// A future that is dropped has sent nothing, and the value goes with it. Where that may
    /// happen, as in a `select!`, wait for [`reserve`](Self::reserve), and send then.
    ///
    /// ```
    /// rondel::run(async {
    ///     let (sender, receiver) = rondel::mpsc::channel(1);
    ///     assert_eq!(sender.send(1).await, Ok(()));
    ///     drop(receiver);
    ///     assert_eq!(sender.send(2).await, Err(rondel::mpsc::SendError(2)));
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub async fn send(&self, value: T) -> Result<(), SendError<T>> {
        let sent = self.0.channel.put(value).await;
        sent.map_err(|error| SendError(error.0))
    }

    /// Sends a value if there is room.
    ///
    /// # Errors
    /// If there is none, or the receiver is gone. The value is in the error.
    ///
    /// ```
    /// use rondel::mpsc::TrySendError;
    ///
    /// let (sender, _receiver) = rondel::mpsc::channel(1);
    /// assert_eq!(sender.try_send(1), Ok(()));
    /// assert_eq!(sender.try_send(2), Err(TrySendError::Full(2)));
    /// ```
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        self.0
            .channel
            .put_nowait(value)
            .map_err(|error| match error {
                PutNowaitError::Full(value) => TrySendError::Full(value),
                PutNowaitError::ShutDown(value) => TrySendError::Closed(value),
            })
    }

    /// Waits for room, and keeps it for a value that is sent later.
    ///
    /// # Errors
    /// If the receiver is gone.
    ///
    /// # Cancel safety
    /// A future that is dropped has kept nothing, and has lost its place in the queue.
    ///
    /// ```
    /// rondel::run(async {
    ///     let (sender, mut receiver) = rondel::mpsc::channel(1);
    ///     let permit = sender.reserve().await?;
    ///     assert!(sender.try_send("in between").is_err());
    ///     permit.send("value");
    ///     assert_eq!(receiver.recv().await, Some("value"));
    ///     Ok::<(), rondel::mpsc::SendError<()>>(())
    /// })??;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn reserve(&self) -> Result<Permit<'_, T>, SendError<()>> {
        match self.0.channel.reserve().await {
            Ok(reserved) => Ok(Permit(reserved)),
            Err(_) => Err(SendError(())),
        }
    }

    /// Whether the receiver is gone.
    ///
    /// ```
    /// let (sender, mut receiver) = rondel::mpsc::channel::<()>(1);
    /// receiver.close();
    /// assert!(sender.is_closed());
    /// ```
    pub fn is_closed(&self) -> bool {
        self.0.channel.is_shut_down()
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
            self.0.channel.shutdown(false);
        }
    }
}

/// Room for one value; see [`Sender::reserve`]. Dropping it gives the room back.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// rondel::run(async {
///     let (sender, mut receiver) = rondel::mpsc::channel(1);
///     let permit: rondel::mpsc::Permit<'_, i32> = sender.reserve().await?;
///     permit.send(1);
///     assert_eq!(receiver.try_recv(), Ok(1));
///     Ok(())
/// })?
/// # }
/// ```
#[must_use = "the room is given back when this is dropped"]
pub struct Permit<'a, T>(Reserved<'a, Fifo<T>>);

impl<T> Permit<'_, T> {
    /// Sends the value. If the receiver is gone, or has closed the channel, it is dropped.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// rondel::run(async {
    ///     let (sender, mut receiver) = rondel::mpsc::channel(1);
    ///     sender.reserve().await?.send("there was room");
    ///     assert_eq!(receiver.try_recv(), Ok("there was room"));
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn send(self, value: T) {
        self.0.put(value);
    }
}

/// Receives the values, in the order in which they were sent.
///
/// ```
/// let (sender, mut receiver) = rondel::mpsc::unbounded();
/// sender.try_send("last words").unwrap();
/// drop(sender);
/// assert_eq!(receiver.try_recv(), Ok("last words"));
/// assert_eq!(receiver.try_recv(), Err(rondel::mpsc::TryRecvError::Closed));
/// ```
pub struct Receiver<T>(Rc<Shared<T>>);

impl<T> Receiver<T> {
    /// The next value; `None` when there is none, and all senders are gone or the channel is
    /// closed.
    ///
    /// # Cancel safety
    /// A future that is dropped has taken nothing.
    ///
    /// ```
    /// rondel::run(async {
    ///     let (sender, mut receiver) = rondel::mpsc::channel(1);
    ///     sender.try_send(1).unwrap();
    ///     drop(sender);
    ///     assert_eq!(receiver.recv().await, Some(1));
    ///     assert_eq!(receiver.recv().await, None);
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub async fn recv(&mut self) -> Option<T> {
        self.0.channel.get().await.ok()
    }

    /// The next value, if it is there.
    ///
    /// # Errors
    /// If it is not, or will not come.
    ///
    /// ```
    /// use rondel::mpsc::TryRecvError;
    ///
    /// let (sender, mut receiver) = rondel::mpsc::channel(1);
    /// assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    /// sender.try_send(1).unwrap();
    /// assert_eq!(receiver.try_recv(), Ok(1));
    /// ```
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.0.channel.get_nowait().map_err(|error| match error {
            GetNowaitError::Empty => TryRecvError::Empty,
            GetNowaitError::ShutDown => TryRecvError::Closed,
        })
    }

    /// Lets nothing more be sent. What was sent before can still be received.
    ///
    /// ```
    /// let (sender, mut receiver) = rondel::mpsc::channel(2);
    /// sender.try_send(1).unwrap();
    /// receiver.close();
    /// assert!(sender.try_send(2).is_err());
    /// assert_eq!(receiver.try_recv(), Ok(1));
    /// ```
    pub fn close(&mut self) {
        self.0.channel.shutdown(false);
    }

    /// How many values wait.
    ///
    /// ```
    /// let (sender, receiver) = rondel::mpsc::channel(2);
    /// sender.try_send(1).unwrap();
    /// assert_eq!(receiver.len(), 1);
    /// ```
    pub fn len(&self) -> usize {
        self.0.channel.qsize()
    }

    /// Whether none waits.
    ///
    /// ```
    /// let (sender, receiver) = rondel::mpsc::channel(2);
    /// assert!(receiver.is_empty());
    /// sender.try_send(1).unwrap();
    /// assert!(!receiver.is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.channel.shutdown(true);
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("mpsc::Sender")
    }
}

impl<T> fmt::Debug for Permit<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("mpsc::Permit")
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("mpsc::Receiver")
            .field("len", &self.len())
            .finish()
    }
}

/// Why [`try_send`](Sender::try_send) did not send; the value comes back.
///
/// ```
/// use rondel::mpsc::{TrySendError, channel};
///
/// let (sender, receiver) = channel(1);
/// drop(receiver);
/// assert_eq!(sender.try_send(1), Err(TrySendError::Closed(1)));
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TrySendError<T> {
    /// There is no room.
    Full(T),
    /// The receiver is gone.
    Closed(T),
}

impl<T> fmt::Debug for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "TrySendError::Full(..)",
            Self::Closed(_) => "TrySendError::Closed(..)",
        })
    }
}

impl<T> fmt::Display for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "channel full",
            Self::Closed(_) => "channel closed",
        })
    }
}

impl<T> Error for TrySendError<T> {}
