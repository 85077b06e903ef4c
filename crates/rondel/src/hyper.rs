//! What hyper asks a runtime for: [`RondelExecutor`], [`RondelTimer`], and its traits for reading
//! and writing.

use std::fmt;
use std::future::Future;
use std::io;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use ::hyper::rt::{Executor, Read, ReadBufCursor, Sleep as HyperSleep, Timer, Write};

use crate::duplex::{Duplex, HasWriter, impl_write};
use crate::task::create_task;
use crate::time::{Sleep, sleep};

/// Runs hyper's tasks on the running loop. They need not be `Send`.
///
/// ```
/// use hyper::rt::Executor;
///
/// rondel::run(async {
///     rondel::RondelExecutor.execute(async { println!("a task") });
///     rondel::yield_now().await;
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct RondelExecutor;

impl<F: Future<Output: 'static> + 'static> Executor<F> for RondelExecutor {
    fn execute(&self, future: F) {
        create_task(future).detach();
    }
}

/// Has hyper's timeouts kept by the running loop.
///
/// hyper wants sleeps that may be sent to other threads. These may, but they belong to the loop's
/// thread: polled by another one they panic, and dropped by another one they leave a few bytes
/// behind.
///
/// ```
/// use std::time::Duration;
/// use hyper::rt::Timer;
///
/// rondel::Builder::new().virtual_clock().run(async {
///     let start = rondel::Instant::now();
///     rondel::RondelTimer.sleep(Duration::from_secs(60)).await;
///     assert_eq!(start.elapsed(), Duration::from_secs(60));
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct RondelTimer;

impl Timer for RondelTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn HyperSleep>> {
        Box::pin(BoundSleep {
            sleep: ManuallyDrop::new(Box::pin(sleep(duration))),
            thread: thread::current().id(),
        })
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn HyperSleep>> {
        self.sleep(deadline.saturating_duration_since(Instant::now()))
    }
}

/// A sleep that is bound to its thread, though its type is not.
struct BoundSleep {
    sleep: ManuallyDrop<Pin<Box<Sleep>>>,
    thread: ThreadId,
}

// SAFETY: what is in it is used by the thread that has made it alone: `poll` and `drop` see to
// that, and there is nothing else that can be done with it.
unsafe impl Send for BoundSleep {}
// SAFETY: as above. Nothing can be done with a shared reference to it.
unsafe impl Sync for BoundSleep {}

impl Future for BoundSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        assert_eq!(
            self.thread,
            thread::current().id(),
            "a sleep is polled by another thread than its loop's"
        );
        self.sleep.as_mut().poll(context)
    }
}

impl HyperSleep for BoundSleep {}

impl Drop for BoundSleep {
    fn drop(&mut self) {
        if self.thread == thread::current().id() {
            // SAFETY: the field is not looked at again: this is its end.
            unsafe { ManuallyDrop::drop(&mut self.sleep) };
        }
    }
}

impl fmt::Debug for BoundSleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundSleep").finish_non_exhaustive()
    }
}

impl Read for Duplex {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut memory: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let room = memory.remaining();
        self.get_mut()
            .reader
            .poll_read_by(context, room, |data| memory.put_slice(data))
            .map_ok(drop)
    }
}

impl_write!(Write for Duplex; end = poll_shutdown;
    fn is_write_vectored(&self) -> bool {
        true
    }
);
