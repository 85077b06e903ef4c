//! The errors that several kinds of channels have.

use std::error::Error;
use std::fmt;

/// There is no receiver any more; the value comes back.
///
/// ```
/// use rondel::broadcast::{SendError, channel};
///
/// let (sender, receiver) = channel(10);
/// drop(receiver);
/// assert_eq!(sender.send(1), Err(SendError(1)));
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SendError<T>(pub T);

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SendError(..)")
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("channel closed")
    }
}

impl<T> Error for SendError<T> {}

/// The senders are gone, and have left nothing that could be received.
///
/// ```
/// rondel::run(async {
///     let (sender, receiver) = rondel::oneshot::channel::<()>();
///     drop(sender);
///     assert_eq!(receiver.await, Err(rondel::oneshot::RecvError));
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecvError;

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("channel closed")
    }
}

impl Error for RecvError {}

/// Why `try_recv` gave nothing.
///
/// ```
/// use rondel::mpsc::{TryRecvError, channel};
///
/// let (sender, mut receiver) = channel::<()>(1);
/// drop(sender);
/// assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TryRecvError {
    /// There is no value yet.
    Empty,
    /// There is no value, and none will come.
    Closed,
}

impl fmt::Display for TryRecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "channel empty",
            Self::Closed => "channel closed",
        })
    }
}

impl Error for TryRecvError {}
