//! `Runner`: several runs on one loop.

use std::fmt;
use std::future::Future;
use std::process;
use std::rc::Rc;

use crate::exceptions::ExceptionContext;
use crate::loop_handle::LoopHandle;
use crate::runtime::{Builder, RunError, Runtime, Visit, try_current};
use crate::signal::Interrupts;
use crate::task::{self, CancelledError, JoinError, Task};

/// A loop that runs one future after the other: asyncio's `Runner`.
///
/// Tasks that one run leaves go on in the next. Between runs nothing runs; what belongs to the loop
/// (streams, servers, tasks) may be kept, but not used. Dropping the runner ends the loop as the
/// end of [`run`](crate::run) does.
///
/// ```
/// let runner = rondel::Runner::new()?;
/// let task = runner.run(async {
///     rondel::create_task(async {
///         rondel::yield_now().await;
///         "from the first run"
///     })
/// })?;
/// let result = runner.run(task)?;
/// assert_eq!(result.unwrap(), "from the first run");
/// # Ok::<(), rondel::RunError>(())
/// ```
#[must_use = "the loop ends when this is dropped"]
pub struct Runner {
    runtime: Rc<Runtime>,
    handle_interrupts: bool,
}

impl Runner {
    /// A loop with the settings of [`run`](crate::run); [`Builder::build`] is for others.
    ///
    /// # Errors
    /// If no loop can be made.
    ///
    /// ```
    /// let runner = rondel::Runner::new()?;
    /// assert_eq!(runner.run(async { 42 })?, 42);
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn new() -> Result<Self, RunError> {
        Builder::new().build()
    }

    pub(crate) fn with(runtime: Rc<Runtime>, handle_interrupts: bool) -> Self {
        Self {
            runtime,
            handle_interrupts,
        }
    }

    /// Runs a future to its end; see [`run`](crate::run), which also takes the loop down then.
    ///
    /// # Errors
    /// As [`run`](crate::run).
    ///
    /// # Panics
    /// With the panic of `main`.
    ///
    /// ```
    /// let runner = rondel::Runner::new()?;
    /// let task = runner.run(async { rondel::create_task(async { "begun in one run" }) })?;
    /// assert_eq!(runner.run(task)?.unwrap(), "begun in one run");
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    #[track_caller]
    pub fn run<F: Future>(&self, main: F) -> Result<F::Output, RunError> {
        self.run_main(main)?.outcome()
    }

    /// Has the loop call `handler` for failures that reach nobody, in all its runs and at its end;
    /// see [`set_exception_handler`](crate::set_exception_handler).
    ///
    /// ```
    /// use std::{cell::Cell, rc::Rc};
    ///
    /// let runner = rondel::Runner::new()?;
    /// let told = Rc::new(Cell::new(0));
    /// let count = Rc::clone(&told);
    /// runner.set_exception_handler(move |_| count.set(count.get() + 1));
    /// for _ in 0..2 {
    ///     runner.run(async {
    ///         rondel::create_task(async { panic!("out of cheese") }).detach();
    ///         rondel::yield_now().await;
    ///     })?;
    /// }
    /// assert_eq!(told.get(), 2);
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn set_exception_handler(&self, handler: impl Fn(&ExceptionContext<'_>) + 'static) {
        self.runtime.exception_handler.set(handler);
    }

    /// A handle of the loop, for other threads.
    ///
    /// ```
    /// let runner = rondel::Runner::new()?;
    /// let event_loop = runner.get_loop();
    /// let future = event_loop.run_coroutine_threadsafe(async || 42);
    /// assert_eq!(runner.run(future)?.unwrap(), 42);
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn get_loop(&self) -> LoopHandle {
        LoopHandle::new(&self.runtime)
    }

    /// Takes the loop down, as dropping does.
    ///
    /// ```
    /// let runner = rondel::Runner::new()?;
    /// let event_loop = runner.get_loop();
    /// runner.close();
    /// assert!(event_loop.stop().is_err());
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn close(self) {}

    #[track_caller]
    pub(crate) fn run_main<F: Future>(&self, main: F) -> Result<Ran<F::Output>, RunError> {
        if try_current(|_| ()).is_some() {
            return Err(RunError::AlreadyRunning);
        }
        let runtime = &self.runtime;
        let _visit = Visit::new(Rc::clone(runtime));
        let interrupts = match self.handle_interrupts {
            true => Interrupts::install(&runtime.event_loop)?,
            false => None,
        };
        runtime.interrupted.set(false);
        // SAFETY: `Main` sees to it that the task is complete before `main`'s borrows end.
        let mut main = Main(unsafe { task::create_main_task(runtime, main) });
        runtime.main.set(Some(main.0.cancel_handle()));
        let ran = runtime.event_loop.run_forever();
        drop(runtime.main.take());
        let stopped = !main.0.done();
        main.end();
        drop(interrupts);
        ran?;
        Ok(Ran {
            result: main.0.result(),
            interrupted: runtime.interrupted.get(),
            stopped,
        })
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // Also within another loop's run: then this is the current one for a while.
        let _visit = Visit::new(Rc::clone(&self.runtime));
        self.runtime.close();
    }
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner").finish_non_exhaustive()
    }
}

/// The main task, which may borrow: it does not outlive this.
struct Main<T>(Task<T>);

impl<T> Main<T> {
    fn end(&self) {
        self.0.cancel_at_once();
        if !self.0.done() {
            // Its future borrows what is about to go. It can't be: no step is running.
            process::abort();
        }
    }
}

impl<T> Drop for Main<T> {
    /// Also when a panic passes through.
    fn drop(&mut self) {
        self.end();
    }
}

/// How a run has ended.
pub(crate) struct Ran<T> {
    result: Option<Result<T, JoinError>>,
    interrupted: bool,
    stopped: bool,
}

impl<T> Ran<T> {
    /// What `run` gives.
    pub(crate) fn outcome(self) -> Result<T, RunError> {
        match self.result {
            Some(Ok(output)) => Ok(output),
            Some(Err(JoinError::Panicked(panic))) => panic.resume(),
            Some(Err(JoinError::Cancelled(_))) | None if self.interrupted => {
                Err(RunError::KeyboardInterrupt)
            }
            _ if self.stopped => Err(RunError::Stopped),
            Some(Err(JoinError::Cancelled(cancelled))) => Err(RunError::Cancelled(cancelled)),
            None => Err(RunError::Cancelled(CancelledError)),
        }
    }
}
