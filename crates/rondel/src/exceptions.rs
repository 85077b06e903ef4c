//! Failures that reach nobody, and who is told of them: asyncio's exception handler.
//!
//! A panic that no one awaited, a connection's handler that failed, a listening socket out of
//! descriptors: the loop goes on, and its exception handler hears of it. Whatever that does, the
//! loop goes on, too: a panic of the handler is itself reported by [`default_exception_handler`],
//! which writes to standard error and does not mind if that is closed.
//!
//! The handler belongs to its loop's thread. What fails in a thread of `spawn_blocking` when its
//! future is gone comes through the loop's inbox ([`LostPanic`]).

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::rc::Rc;

use crate::runtime;
use crate::spans;
use crate::task::{self, CancelHandle, Header, panic_message};

/// What an exception handler is told; its text is `message: exception`.
///
/// ```
/// use std::{cell::RefCell, rc::Rc};
///
/// let told = Rc::new(RefCell::new(String::new()));
/// let tell = Rc::clone(&told);
/// rondel::run(async move {
///     rondel::set_exception_handler(move |context| *tell.borrow_mut() = context.to_string());
///     rondel::create_task(async { panic!("out of cheese") }).detach();
///     rondel::yield_now().await;
/// })?;
/// assert_eq!(*told.borrow(), "Task exception was never retrieved: out of cheese");
/// # Ok::<(), rondel::RunError>(())
/// ```
#[derive(Clone, Copy)]
pub struct ExceptionContext<'a> {
    message: &'a str,
    exception: &'a dyn fmt::Display,
    task: Option<&'a CancelHandle>,
}

impl<'a> ExceptionContext<'a> {
    /// What has happened, in asyncio's words.
    ///
    /// ```
    /// rondel::run(async {
    ///     rondel::set_exception_handler(|context| {
    ///         assert_eq!(context.message(), "The cache is cold");
    ///     });
    ///     rondel::call_exception_handler("The cache is cold", &"no file");
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn message(&self) -> &'a str {
        self.message
    }

    /// What it happened with: an error, or the text of a panic.
    ///
    /// ```
    /// rondel::run(async {
    ///     rondel::set_exception_handler(|context| {
    ///         assert_eq!(context.exception().to_string(), "no file");
    ///     });
    ///     rondel::call_exception_handler("The cache is cold", &"no file");
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn exception(&self) -> &'a dyn fmt::Display {
        self.exception
    }

    /// The task that it is about: the one that has failed, or else the one that ran when this was
    /// told. It may be done. asyncio's `task` or `future`.
    ///
    /// ```
    /// rondel::run(async {
    ///     rondel::set_exception_handler(|context| {
    ///         assert_eq!(context.task().unwrap().name(), "cook");
    ///     });
    ///     let cook = rondel::build_task().name("cook");
    ///     cook.create(async { panic!("out of cheese") }).detach();
    ///     rondel::yield_now().await;
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn task(&self) -> Option<&'a CancelHandle> {
        self.task
    }
}

impl fmt::Display for ExceptionContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.message, self.exception)
    }
}

impl fmt::Debug for ExceptionContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExceptionContext")
            .field("message", &self.message)
            .field("exception", &format_args!("{}", self.exception))
            .finish()
    }
}

type Handler = dyn Fn(&ExceptionContext<'_>);

/// A loop's exception handler, if it has one of its own.
#[derive(Default)]
pub(crate) struct ExceptionHandler {
    own: RefCell<Option<Rc<Handler>>>,
    /// The task whose output is being dropped, which may be a failure: alive meanwhile.
    pub(crate) about: Cell<Option<NonNull<Header>>>,
}

impl ExceptionHandler {
    pub(crate) fn set(&self, handler: impl Fn(&ExceptionContext<'_>) + 'static) {
        self.replace(Some(Rc::new(handler)));
    }

    fn replace(&self, handler: Option<Rc<Handler>>) {
        let before = self.own.replace(handler);
        drop(before); // with the cell free: it may hold anything
    }

    /// At the end of its loop.
    pub(crate) fn forget(&self) {
        self.replace(None);
    }
}

/// Has the running loop call `handler`, instead of [`default_exception_handler`], for failures that
/// reach nobody: asyncio's `loop.set_exception_handler`. It is the loop's until the end of
/// [`run`](crate::run).
///
/// A handler that panics harms nothing: both failures are then reported on standard error.
///
/// # Panics
/// If no loop runs on this thread.
///
/// ```
/// rondel::run(async {
///     rondel::set_exception_handler(|context| {
///         if context.message() != "Unhandled exception in client_connected_cb" {
///             rondel::default_exception_handler(context);
///         }
///     });
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[track_caller]
pub fn set_exception_handler(handler: impl Fn(&ExceptionContext<'_>) + 'static) {
    let runtime = runtime::current();
    runtime.exception_handler.set(handler);
}

/// Reports on standard error. If that is closed, or full, nothing happens.
///
/// ```
/// rondel::run(async {
///     rondel::set_exception_handler(|context| {
///         // To standard error as before, and the program's own log besides.
///         rondel::default_exception_handler(context);
///         println!("{context}");
///     });
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
pub fn default_exception_handler(context: &ExceptionContext<'_>) {
    // A `Display` of the program's own may panic.
    let text = catch_unwind(AssertUnwindSafe(|| format!("{context}\n")))
        .unwrap_or_else(|_| format!("{}\n", context.message));
    write(&text);
}

/// Tells the running loop's exception handler of a failure; the default one if no loop runs on this
/// thread.
///
/// ```
/// rondel::run(async {
///     if let Err(error) = std::fs::read("/no/such/file") {
///         rondel::call_exception_handler("The cache is cold", &error);
///     }
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
pub fn call_exception_handler(message: &str, exception: &dyn fmt::Display) {
    let task = runtime::try_current(task::of_report).flatten();
    let context = ExceptionContext {
        message,
        exception,
        task: task.as_ref(),
    };
    // A `Display` of the program's own may panic.
    let _ = catch_unwind(AssertUnwindSafe(|| spans::exception(&context)));
    let own = runtime::try_current(|runtime| runtime.exception_handler.own.borrow().clone());
    let Some(handler) = own.flatten() else {
        default_exception_handler(&context);
        return;
    };
    // The handler itself goes within, too: it may just have been replaced, and this is the last
    // there is of it.
    if let Err(panic) = catch_unwind(AssertUnwindSafe(move || handler(&context))) {
        default_exception_handler(&context);
        default_exception_handler(&ExceptionContext {
            message: "Unhandled error in exception handler",
            exception: &panic_message(&*panic),
            task: None,
        });
    }
}

/// Tells of a panic that went nowhere else.
pub(crate) fn report_panic(message: &str, panic: &(dyn Any + Send)) {
    call_exception_handler(message, &panic_message(panic));
}

/// Says what asyncio logs as a warning.
pub(crate) fn warn(text: &str) {
    spans::warning(text);
    write(&format!("{text}\n"));
}

/// Writes to standard error, or doesn't if nobody reads.
pub(crate) fn write(text: &str) {
    // Not `eprintln!`, which panics if nobody reads.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// A panic of another thread that nobody waits for, on its way to the loop's handler.
pub(crate) struct LostPanic {
    message: &'static str,
    panic: Option<Box<dyn Any + Send>>,
}

impl LostPanic {
    pub(crate) fn new(message: &'static str, panic: Box<dyn Any + Send>) -> Self {
        Self {
            message,
            panic: Some(panic),
        }
    }
}

impl Drop for LostPanic {
    /// Where it is dropped it is reported: by the loop, or, if that is closed, by the thread that
    /// sent it.
    fn drop(&mut self) {
        if let Some(panic) = self.panic.take() {
            report_panic(self.message, &*panic);
        }
    }
}
