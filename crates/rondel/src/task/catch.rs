//! Futures whose panics are somebody's business.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use super::Panic;

/// Awaits a future, a panic of which becomes an error.
pub(crate) async fn catch<F: Future>(future: F) -> Result<F::Output, Box<dyn Any + Send>> {
    let mut future = pin!(future);
    poll_fn(
        |context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        },
    )
    .await
}

/// A future whose destructor never panics: someone else is told.
pub(super) struct DropsQuietly<F, T: FnMut(Panic)> {
    future: Option<F>,
    tell: T,
}

impl<F, T: FnMut(Panic)> DropsQuietly<F, T> {
    pub(super) fn new(future: F, tell: T) -> Self {
        Self {
            future: Some(future),
            tell,
        }
    }
}

impl<F: Future, T: FnMut(Panic)> Future for DropsQuietly<F, T> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: `future` is pinned as `self` is: never moved, dropped in place.
        let future = unsafe { self.map_unchecked_mut(|this| &mut this.future) };
        match future.as_pin_mut() {
            Some(future) => future.poll(context),
            None => Poll::Pending,
        }
    }
}

impl<F, T: FnMut(Panic)> Drop for DropsQuietly<F, T> {
    fn drop(&mut self) {
        // SAFETY: as above.
        let mut future = unsafe { Pin::new_unchecked(&mut self.future) };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| future.set(None))) {
            (self.tell)(panic.into());
        }
    }
}
