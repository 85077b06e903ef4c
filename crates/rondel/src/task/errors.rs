//! Why a task has no result, and why a wait ended early, under asyncio's names.

use std::any::Any;
use std::error::Error;
use std::fmt;

/// The task was cancelled: [`Task::cancel`](crate::Task::cancel) was called, or its loop ended.
///
/// ```
/// rondel::run(async {
///     let task = rondel::create_task(std::future::pending::<()>());
///     task.cancel();
///     let error = task.await.unwrap_err();
///     assert!(error.is_cancelled());
///     assert_eq!(error.to_string(), "CancelledError");
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CancelledError;

impl fmt::Display for CancelledError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CancelledError")
    }
}

impl Error for CancelledError {}

/// The time of a [`timeout`](crate::timeout) is over.
///
/// ```
/// use std::time::Duration;
///
/// rondel::run(async {
///     let wait = rondel::timeout(Duration::from_millis(1), std::future::pending::<()>());
///     assert_eq!(wait.await, Err(rondel::TimeoutError));
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeoutError;

impl fmt::Display for TimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TimeoutError")
    }
}

impl Error for TimeoutError {}

impl From<TimeoutError> for std::io::Error {
    fn from(error: TimeoutError) -> Self {
        Self::new(std::io::ErrorKind::TimedOut, error)
    }
}

/// What a panic was raised with.
///
/// It can be looked at by one thread only, but sent and shared between threads, as errors have to
/// be.
///
/// ```
/// let panic = rondel::Panic::new("out of cheese");
/// assert_eq!(panic.message(), "out of cheese");
/// assert!(panic.into_inner().is::<&str>());
/// ```
pub struct Panic(Box<dyn Any + Send>);

// SAFETY: through a shared reference only `message` gets at the payload, and it reads nothing but a
// `&str` or a `String`, which are `Sync`.
unsafe impl Sync for Panic {}

impl Panic {
    /// The panic of `std::panic::panic_any(payload)`.
    ///
    /// ```
    /// let panic = rondel::Panic::new("out of cheese");
    /// assert_eq!(panic.message(), "out of cheese");
    /// ```
    pub fn new(payload: impl Any + Send) -> Self {
        Self(Box::new(payload))
    }

    /// What it said, as far as it was a text.
    ///
    /// ```
    /// assert_eq!(rondel::Panic::new(String::from("no")).message(), "no");
    /// ```
    pub fn message(&self) -> &str {
        panic_message(&*self.0)
    }

    /// The payload, as `std::panic::resume_unwind` takes it.
    ///
    /// ```
    /// let payload = rondel::Panic::new(42).into_inner();
    /// assert_eq!(payload.downcast_ref(), Some(&42));
    /// ```
    pub fn into_inner(self) -> Box<dyn Any + Send> {
        self.0
    }

    /// Panics again.
    ///
    /// ```
    /// let caught = std::panic::catch_unwind(|| rondel::Panic::new("on it goes").resume());
    /// assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"on it goes"));
    /// ```
    pub fn resume(self) -> ! {
        std::panic::resume_unwind(self.0)
    }
}

impl From<Box<dyn Any + Send>> for Panic {
    fn from(payload: Box<dyn Any + Send>) -> Self {
        Self(payload)
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl fmt::Debug for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Panic").field(&self.message()).finish()
    }
}

/// Why awaiting a [`Task`](crate::Task) gave no result.
///
/// ```
/// rondel::run(async {
///     let error = rondel::create_task(async { panic!("out of cheese") }).await.unwrap_err();
///     assert!(error.is_panic());
///     assert_eq!(error.to_string(), "task panicked: out of cheese");
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
pub enum JoinError {
    /// The task was cancelled.
    Cancelled(CancelledError),
    /// The task panicked, with this payload.
    Panicked(Panic),
}

impl JoinError {
    /// Whether the task was cancelled.
    ///
    /// ```
    /// rondel::run(async {
    ///     let task = rondel::create_task(std::future::pending::<()>());
    ///     task.cancel();
    ///     assert!(task.await.unwrap_err().is_cancelled());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled(_))
    }

    /// Whether the task panicked.
    ///
    /// ```
    /// rondel::run(async {
    ///     let task = rondel::create_task(async { panic!("no") });
    ///     assert!(task.await.unwrap_err().is_panic());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn is_panic(&self) -> bool {
        matches!(self, Self::Panicked(_))
    }

    /// Panics again with the task's panic; gives the cancellation back otherwise.
    ///
    /// ```should_panic
    /// rondel::run(async {
    ///     let error = rondel::create_task(async { panic!("boo") }).await.unwrap_err();
    ///     error.resume_panic();
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn resume_panic(self) -> CancelledError {
        match self {
            Self::Cancelled(cancelled) => cancelled,
            Self::Panicked(panic) => panic.resume(),
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled(cancelled) => cancelled.fmt(f),
            Self::Panicked(panic) => write!(f, "task panicked: {panic}"),
        }
    }
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled(_) => f.write_str("JoinError::Cancelled"),
            Self::Panicked(panic) => {
                write!(f, "JoinError::Panicked({:?})", panic.message())
            }
        }
    }
}

impl Error for JoinError {}

impl From<CancelledError> for JoinError {
    fn from(cancelled: CancelledError) -> Self {
        Self::Cancelled(cancelled)
    }
}

impl From<JoinError> for std::io::Error {
    fn from(error: JoinError) -> Self {
        Self::other(error.to_string())
    }
}

/// What a panic said, as far as it was a text.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "no message"
    }
}
