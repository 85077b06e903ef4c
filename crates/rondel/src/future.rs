//! `Future`: a result that somebody sets, and any number of tasks await.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::calls::call_soon;
use crate::exceptions::call_exception_handler;
use crate::sync::WaitList;
use crate::task::CancelledError;

/// A future without a result: asyncio's `loop.create_future()`.
///
/// See [`Future`] for an example.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// rondel::run(async {
///     let future = rondel::create_future();
///     let to_complete = future.clone();
///     rondel::call_soon(move || to_complete.set_result(42).unwrap());
///     assert_eq!(future.await?, 42);
///     Ok(())
/// })?
/// # }
/// ```
pub fn create_future<T>() -> Future<T> {
    Future(Rc::new(Inner {
        result: RefCell::new(None),
        retrieved: Cell::new(false),
        waiters: WaitList::default(),
        callbacks: RefCell::new(Vec::new()),
    }))
}

/// asyncio's `Future`: a result that is set once, and awaited by as many as want it. Clones are the
/// same future.
///
/// Awaiting it gives a copy of the result. As in asyncio, who awaits it and is cancelled (dropped)
/// cancels it for all; await [`Future::shielded`] where that is not meant.
///
/// ```
/// rondel::run(async {
///     let future = rondel::create_future();
///     let of_task = future.clone();
///     rondel::create_task(async move { of_task.set_result("done") }).detach();
///     assert_eq!(future.clone().await?, "done");
///     assert_eq!(future.await?, "done");
///     Ok::<(), rondel::FutureError>(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Future<T>(Rc<Inner<T>>);

struct Inner<T> {
    result: RefCell<Option<Result<T, FutureError>>>,
    /// Somebody has learned of its exception.
    retrieved: Cell<bool>,
    waiters: WaitList,
    callbacks: RefCell<Vec<Callback<T>>>,
}

type Callback<T> = Box<dyn FnOnce(&Future<T>)>;

impl<T: 'static> Future<T> {
    /// Sets the result, and wakes who awaits it.
    ///
    /// # Errors
    /// If it has one already.
    ///
    /// ```
    /// rondel::run(async {
    ///     let future = rondel::create_future();
    ///     assert!(future.set_result(1).is_ok());
    ///     assert_eq!(future.set_result(2), Err(rondel::InvalidStateError));
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn set_result(&self, result: T) -> Result<(), InvalidStateError> {
        self.finish(Ok(result))
    }

    /// Lets it fail.
    ///
    /// # Errors
    /// If it has a result already.
    ///
    /// ```
    /// rondel::run(async {
    ///     let future = rondel::create_future::<()>();
    ///     future.set_exception("no luck").unwrap();
    ///     assert!(future.set_result(()).is_err());
    ///     assert_eq!(future.await.unwrap_err().to_string(), "no luck");
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn set_exception(
        &self,
        exception: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Result<(), InvalidStateError> {
        self.finish(Err(FutureError::Exception(exception.into().into())))
    }

    /// Lets it be cancelled; `false` if it has a result.
    ///
    /// ```
    /// rondel::run(async {
    ///     let future = rondel::create_future::<()>();
    ///     assert!(future.cancel());
    ///     assert!(future.await.is_err());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn cancel(&self) -> bool {
        self.finish(Err(FutureError::Cancelled(CancelledError)))
            .is_ok()
    }

    /// Calls `callback` in the loop's next turn after it is done; if it is, in the next turn.
    ///
    /// # Panics
    /// If it is done, and no loop runs on this thread.
    ///
    /// ```
    /// rondel::run(async {
    ///     let future = rondel::create_future();
    ///     let told = std::rc::Rc::new(std::cell::Cell::new(0));
    ///     let tell = told.clone();
    ///     future.add_done_callback(move |future| tell.set(future.result().unwrap().unwrap()));
    ///     future.set_result(7).unwrap();
    ///     rondel::yield_now().await;
    ///     assert_eq!(told.get(), 7);
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    #[track_caller]
    pub fn add_done_callback(&self, callback: impl FnOnce(&Self) + 'static) {
        match self.done() {
            true => self.call(Box::new(callback)),
            false => self.0.callbacks.borrow_mut().push(Box::new(callback)),
        }
    }

    #[track_caller]
    fn call(&self, callback: Callback<T>) {
        let this = self.clone();
        call_soon(move || callback(&this));
    }

    fn finish(&self, result: Result<T, FutureError>) -> Result<(), InvalidStateError> {
        if self.done() {
            return Err(InvalidStateError);
        }
        self.0.result.replace(Some(result));
        self.0.waiters.wake_all();
        for callback in self.0.callbacks.take() {
            self.call(callback);
        }
        Ok(())
    }
}

impl<T> Future<T> {
    /// Whether it has a result, an exception, or is cancelled.
    ///
    /// ```
    /// rondel::run(async {
    ///     let future = rondel::create_future();
    ///     assert!(!future.done());
    ///     future.set_result(1).unwrap();
    ///     assert!(future.done());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn done(&self) -> bool {
        self.0.result.borrow().is_some()
    }

    /// Whether it is cancelled.
    ///
    /// ```
    /// rondel::run(async {
    ///     let future = rondel::create_future::<()>();
    ///     future.cancel();
    ///     assert!(future.cancelled());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn cancelled(&self) -> bool {
        matches!(
            *self.0.result.borrow(),
            Some(Err(FutureError::Cancelled(_)))
        )
    }

    /// A copy of the result; `None` if it is not done, where asyncio has an `InvalidStateError`.
    ///
    /// ```
    /// rondel::run(async {
    ///     let future = rondel::create_future();
    ///     assert!(future.result().is_none());
    ///     future.set_result(1).unwrap();
    ///     assert_eq!(future.result().unwrap().unwrap(), 1);
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn result(&self) -> Option<Result<T, FutureError>>
    where
        T: Clone,
    {
        let result = self.0.result.borrow().clone();
        if result.is_some() {
            self.0.retrieved.set(true);
        }
        result
    }

    /// Awaits it without cancelling it when that is given up.
    ///
    /// # Errors
    /// If it fails, or is cancelled.
    ///
    /// # Cancel safety
    /// A future that is dropped has changed nothing.
    ///
    /// ```
    /// rondel::run(async {
    ///     use std::time::Duration;
    ///
    ///     let future = rondel::create_future::<i32>();
    ///     let waited = rondel::timeout(Duration::from_millis(1), future.shielded()).await;
    ///     assert!(waited.is_err() && !future.cancelled());
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub async fn shielded(&self) -> Result<T, FutureError>
    where
        T: Clone,
    {
        loop {
            if let Some(result) = self.result() {
                return result;
            }
            self.0.waiters.wait().await;
        }
    }
}

impl<T> Clone for Future<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> Drop for Inner<T> {
    fn drop(&mut self) {
        if let Some(Err(FutureError::Exception(exception))) = self.result.get_mut()
            && !self.retrieved.get()
        {
            call_exception_handler("Future exception was never retrieved", exception);
        }
    }
}

impl<T> fmt::Debug for Future<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Future")
            .field("done", &self.done())
            .field("cancelled", &self.cancelled())
            .finish()
    }
}

impl<T: Clone + 'static> IntoFuture for Future<T> {
    type Output = Result<T, FutureError>;
    type IntoFuture = FutureWait<T>;

    fn into_future(self) -> FutureWait<T> {
        let future = self.clone();
        FutureWait {
            future,
            awaited: false,
            waiting: Box::pin(async move { self.shielded().await }),
        }
    }
}

/// Awaits a [`Future`].
///
/// # Cancel safety
/// Dropping it before it is ready cancels the future.
#[must_use = "futures do nothing unless awaited"]
pub struct FutureWait<T: Clone + 'static> {
    future: Future<T>,
    awaited: bool,
    waiting: Pin<Box<dyn std::future::Future<Output = Result<T, FutureError>>>>,
}

impl<T: Clone + 'static> std::future::Future for FutureWait<T> {
    type Output = Result<T, FutureError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.awaited = true;
        self.waiting.as_mut().poll(context)
    }
}

impl<T: Clone + 'static> Unpin for FutureWait<T> {}

impl<T: Clone + 'static> Drop for FutureWait<T> {
    fn drop(&mut self) {
        if self.awaited && !self.future.done() {
            self.future.cancel();
        }
    }
}

impl<T: Clone + 'static> fmt::Debug for FutureWait<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FutureWait").field(&self.future).finish()
    }
}

/// Why a [`Future`] has no result. Copies are the same error.
///
/// ```
/// rondel::run(async {
///     let future = rondel::create_future::<()>();
///     future.cancel();
///     assert!(matches!(future.await, Err(rondel::FutureError::Cancelled(_))));
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[derive(Clone, Debug)]
pub enum FutureError {
    /// It was cancelled.
    Cancelled(CancelledError),
    /// What [`Future::set_exception`] was called with.
    Exception(Arc<dyn Error + Send + Sync>),
}

impl fmt::Display for FutureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled(cancelled) => cancelled.fmt(f),
            Self::Exception(exception) => exception.fmt(f),
        }
    }
}

impl Error for FutureError {}

/// The [`Future`] is done already.
///
/// ```
/// let future = rondel::create_future();
/// future.set_result(1).unwrap();
/// assert_eq!(future.set_result(2), Err(rondel::InvalidStateError));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidStateError;

impl fmt::Display for InvalidStateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid state")
    }
}

impl Error for InvalidStateError {}
