//! Each value to each receiver.
//!
//! A value stays until all receivers have taken it, or until there are too many: who is that slow
//! misses the oldest ones, and is told how many.
//!
//! ```
//! rondel::run(async {
//!     let (sender, mut one) = rondel::broadcast::channel(16);
//!     let mut other = sender.subscribe();
//!     sender.send("news")?;
//!     assert_eq!(one.recv().await?, "news");
//!     assert_eq!(other.recv().await?, "news");
//!     Ok::<(), Box<dyn std::error::Error>>(())
//! })??;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::rc::Rc;

pub use super::errors::SendError;
use crate::budget;
use crate::sync::WaitList;

struct Shared<T> {
    values: RefCell<Values<T>>,
    capacity: usize,
    sent: WaitList,
    senders: Cell<usize>,
    receivers: Cell<usize>,
}

struct Values<T> {
    /// Each with the number of receivers that have not taken it.
    values: VecDeque<(T, usize)>,
    /// The number of the first in `values`, counted from the channel's beginning.
    first: u64,
}

impl<T> Values<T> {
    fn end(&self) -> u64 {
        self.first + self.values.len() as u64
    }

    /// One that is to be taken, unless it was overwritten.
    fn get_mut(&mut self, number: u64) -> Option<&mut (T, usize)> {
        let index = number.checked_sub(self.first)?;
        self.values.get_mut(usize::try_from(index).ok()?)
    }

    /// Takes out those that nobody wants any more.
    fn take_done(&mut self) -> Vec<T> {
        let mut done = Vec::new();
        while let Some((_, 0)) = self.values.front() {
            done.extend(self.values.pop_front().map(|(value, _)| value));
            self.first += 1;
        }
        done
    }
}

/// A channel that keeps at most `capacity` values for receivers that are slow.
///
/// # Panics
/// If `capacity` is zero.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// rondel::run(async {
///     let (sender, mut ann) = rondel::broadcast::channel(10);
///     let mut bob = sender.subscribe();
///     sender.send("hello")?;
///     assert_eq!((ann.recv().await?, bob.recv().await?), ("hello", "hello"));
///     Ok(())
/// })?
/// # }
/// ```
pub fn channel<T: Clone>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "a channel needs room for a value");
    let shared = Rc::new(Shared {
        values: RefCell::new(Values {
            values: VecDeque::new(),
            first: 0,
        }),
        capacity,
        sent: WaitList::default(),
        senders: Cell::new(1),
        receivers: Cell::new(1),
    });
    (Sender(Rc::clone(&shared)), Receiver { shared, next: 0 })
}

/// Sends to all receivers. Clones send to the same.
///
/// ```
/// let (sender, receiver) = rondel::broadcast::channel(1);
/// assert_eq!(sender.send(1).unwrap(), 1);
/// drop(receiver);
/// assert!(sender.send(2).is_err());
/// ```
pub struct Sender<T>(Rc<Shared<T>>);

impl<T: Clone> Sender<T> {
    /// Sends a value; says to how many receivers.
    ///
    /// # Errors
    /// The value, if there is no receiver.
    ///
    /// ```
    /// let (sender, _one) = rondel::broadcast::channel(10);
    /// let _two = sender.subscribe();
    /// assert_eq!(sender.send(1), Ok(2));
    /// ```
    pub fn send(&self, value: T) -> Result<usize, SendError<T>> {
        let receivers = self.0.receivers.get();
        if receivers == 0 {
            return Err(SendError(value));
        }
        let mut values = self.0.values.borrow_mut();
        let mut oldest = None;
        if values.values.len() == self.0.capacity {
            oldest = values.values.pop_front();
            values.first += 1;
        }
        values.values.push_back((value, receivers));
        drop(values);
        drop(oldest); // with the values free: its destructor may be anything
        self.0.sent.wake_all();
        Ok(receivers)
    }

    /// One more receiver, of what is sent from now on.
    ///
    /// ```
    /// let (sender, mut first) = rondel::broadcast::channel(10);
    /// sender.send(1).unwrap();
    /// let mut late = sender.subscribe();
    /// assert_eq!(first.try_recv(), Ok(1));
    /// assert!(late.try_recv().is_err());
    /// ```
    pub fn subscribe(&self) -> Receiver<T> {
        self.0.receivers.set(self.0.receivers.get() + 1);
        Receiver {
            shared: Rc::clone(&self.0),
            next: self.0.values.borrow().end(),
        }
    }

    /// How many receivers there are.
    ///
    /// ```
    /// let (sender, receiver) = rondel::broadcast::channel::<()>(1);
    /// assert_eq!(sender.receiver_count(), 1);
    /// drop(receiver);
    /// assert_eq!(sender.receiver_count(), 0);
    /// ```
    pub fn receiver_count(&self) -> usize {
        self.0.receivers.get()
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
            self.0.sent.wake_all();
        }
    }
}

/// Receives all values that are sent.
///
/// ```
/// use rondel::broadcast::TryRecvError;
///
/// let (sender, mut receiver) = rondel::broadcast::channel(2);
/// for number in 1..=3 {
///     sender.send(number).unwrap();
/// }
/// assert_eq!(receiver.try_recv(), Err(TryRecvError::Lagged(1)));
/// assert_eq!(receiver.try_recv(), Ok(2));
/// assert_eq!(receiver.try_recv(), Ok(3));
/// assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
/// ```
pub struct Receiver<T> {
    shared: Rc<Shared<T>>,
    /// The number of the next value to take.
    next: u64,
}

impl<T: Clone> Receiver<T> {
    /// The next value.
    ///
    /// # Errors
    /// If values were missed, once; if all are taken and all senders are gone.
    ///
    /// # Cancel safety
    /// A future that is dropped has taken nothing.
    ///
    /// ```
    /// rondel::run(async {
    ///     use rondel::broadcast::{RecvError, channel};
    ///
    ///     let (sender, mut receiver) = channel(10);
    ///     sender.send(1).unwrap();
    ///     drop(sender);
    ///     assert_eq!(receiver.recv().await, Ok(1));
    ///     assert_eq!(receiver.recv().await, Err(RecvError::Closed));
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub async fn recv(&mut self) -> Result<T, RecvError> {
        budget::taken().await;
        loop {
            match self.try_recv() {
                Ok(value) => return Ok(value),
                Err(TryRecvError::Lagged(missed)) => return Err(RecvError::Lagged(missed)),
                Err(TryRecvError::Closed) => return Err(RecvError::Closed),
                Err(TryRecvError::Empty) => self.shared.sent.wait().await,
            }
        }
    }

    /// The next value, if it is there.
    ///
    /// # Errors
    /// If it is not; if values were missed, once; if none will come.
    ///
    /// ```
    /// use rondel::broadcast::{TryRecvError, channel};
    ///
    /// let (sender, mut receiver) = channel(10);
    /// assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    /// sender.send(1).unwrap();
    /// assert_eq!(receiver.try_recv(), Ok(1));
    /// ```
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        let mut values = self.shared.values.borrow_mut();
        if self.next < values.first {
            let missed = values.first - self.next;
            self.next = values.first;
            return Err(TryRecvError::Lagged(missed));
        }
        let Some((value, left)) = values.get_mut(self.next) else {
            return Err(match self.shared.senders.get() {
                0 => TryRecvError::Closed,
                _ => TryRecvError::Empty,
            });
        };
        // Who is the last to take a value gets it itself. It is the oldest: nobody takes a value
        // without those before it, so that none of these is waited for either.
        let taken = if *left == 1 {
            values.first += 1;
            values.values.pop_front().map(|(value, _)| value)
        } else {
            // A `Clone` of the program's own must not use this channel.
            let copy = value.clone();
            *left -= 1;
            Some(copy)
        };
        self.next += 1;
        taken.ok_or(TryRecvError::Empty)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.set(self.shared.receivers.get() - 1);
        let mut values = self.shared.values.borrow_mut();
        for number in self.next.max(values.first)..values.end() {
            if let Some((_, left)) = values.get_mut(number) {
                *left -= 1;
            }
        }
        let done = values.take_done();
        drop(values);
        drop(done); // with the values free: their destructors may be anything
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broadcast::Sender")
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broadcast::Receiver")
    }
}

/// Why [`recv`](Receiver::recv) gave no value.
///
/// ```
/// rondel::run(async {
///     use rondel::broadcast::{RecvError, channel};
///
///     let (sender, mut receiver) = channel(1);
///     sender.send("missed").unwrap();
///     sender.send("kept").unwrap();
///     assert_eq!(receiver.recv().await, Err(RecvError::Lagged(1)));
///     assert_eq!(receiver.recv().await, Ok("kept"));
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecvError {
    /// So many values were missed; the next call gives the oldest there is.
    Lagged(u64),
    /// All senders are gone.
    Closed,
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lagged(missed) => write!(f, "channel lagged by {missed}"),
            Self::Closed => f.write_str("channel closed"),
        }
    }
}

impl Error for RecvError {}

/// Why [`try_recv`](Receiver::try_recv) gave no value.
///
/// ```
/// use rondel::broadcast::{TryRecvError, channel};
///
/// let (sender, mut receiver) = channel::<()>(1);
/// drop(sender);
/// assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TryRecvError {
    /// Nothing waits.
    Empty,
    /// So many values were missed; the next call gives the oldest there is.
    Lagged(u64),
    /// All senders are gone.
    Closed,
}

impl fmt::Display for TryRecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("channel empty"),
            Self::Lagged(missed) => write!(f, "channel lagged by {missed}"),
            Self::Closed => f.write_str("channel closed"),
        }
    }
}

impl Error for TryRecvError {}
