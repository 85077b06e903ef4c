//! The Rust face's host: what the event loop queues for Rust programs, and how a program is run on
//! it.
//!
//! A [`Runtime`] is one event loop with its tasks. [`run`] makes one, runs the main task on it, and
//! takes everything down again. While it runs, the thread's [`current`] runtime is this one; that
//! is how `create_task`, `sleep` and the streams find it.

use std::cell::{Cell, OnceCell, RefCell};
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use crate::blocking::Pool;
use crate::budget::Budget;
use crate::calls::Call;
use crate::context::{Context, copy_context};
use crate::debug::Debug;
use crate::descriptor::{Side, Watched};
use crate::exceptions::{ExceptionHandler, LostPanic, call_exception_handler};
use crate::guest;
use crate::loop_handle::SentCall;
use crate::runner::Runner;
use crate::signal::Interrupts;
use crate::streams::{Connecting, Connection, Listener, Outbox, linger};
use crate::task::{self, CancelledError, Ending, Header, Names, SentWake, TaskList, TaskRef};
use crate::time::TimerEntry;
use rondel_engine::event_loop::clock::{Clock, Jump};
use rondel_engine::event_loop::inbox::Inbox;
use rondel_engine::event_loop::{EventLoop, Host};
use rondel_engine::reactor::Wake;

/// The inbox of a loop of this face.
pub(crate) type LoopInbox = Inbox<Remote, Wake>;

/// One entry of the ready ring.
pub(crate) enum Item {
    /// A step of a task.
    Task(TaskRef),
    /// A waker that isn't a task's own.
    Wake(Box<Waker>),
    /// A connection has something to receive, and nobody waits for it.
    Receive(Rc<Connection>),
    /// A connection that was blocked can send again.
    Send(Rc<Connection>),
    /// Connections wait at a listening socket.
    Accept(Rc<Listener>),
    /// A program's descriptor is ready, for several who wait or for nobody.
    Ready(Rc<Watched>, Side),
    /// Ctrl-C.
    Interrupt,
    /// A panic of another thread.
    Lost(Box<LostPanic>),
    /// A function that is to be called.
    Call(Rc<Call>),
}

/// What comes from other threads.
pub(crate) enum Remote {
    /// A task is to run.
    Wake(SentWake),
    /// A panic that nobody waits for.
    Lost(Box<LostPanic>),
    /// A function that is to be called.
    Call(SentCall),
}

/// What descriptors are registered with.
pub(crate) enum Source {
    /// A connection, for both sides.
    Stream(Rc<Connection>),
    /// A listening socket.
    Listener(Rc<Listener>),
    /// A socket that is being connected.
    Connecting(Rc<Connecting>),
    /// A descriptor of the program's.
    Descriptor(Rc<Watched>),
    /// The eventfd that the signal handler writes to.
    Interrupt,
    /// The timer that a guest has the kernel keep; see `guest.rs`.
    TimerFd(RawFd),
}

/// The host: it has no state of its own, for the current runtime has it.
pub(crate) struct RustHost;

impl Host for RustHost {
    type Item = Item;
    type Source = Source;
    type Timer = TimerEntry;
    type Remote = Remote;
    type Exit = io::Error;

    #[inline]
    fn run(&self, item: Item) -> ControlFlow<io::Error> {
        match item {
            Item::Task(task) => with_current(|runtime| {
                runtime.budget.begin_step();
                match runtime.debug.is_on() {
                    false => task::step(runtime, &task),
                    true => runtime.debug.step(runtime, &task),
                }
                runtime.budget.end_step();
                runtime.outbox.flush();
            }),
            Item::Receive(connection) => connection.receive_unasked(),
            Item::Send(connection) => connection.send_queued(),
            Item::Accept(listener) => listener.accept(),
            Item::Ready(watched, side) => with_current(|runtime| watched.tell(side, runtime)),
            Item::Wake(waker) => waker.wake(),
            Item::Interrupt => with_current(Runtime::interrupt),
            Item::Lost(panic) => drop(panic),
            Item::Call(call) => {
                call.run();
                with_current(|runtime| runtime.outbox.flush());
            }
        }
        ControlFlow::Continue(())
    }

    fn readable(&self, source: &Source) -> Option<Item> {
        match source {
            Source::Stream(connection) => connection.readable(),
            Source::Listener(listener) => Some(Item::Accept(Rc::clone(listener))),
            Source::Descriptor(watched) => watched.ready(Side::Reading),
            Source::Interrupt => Some(Item::Interrupt),
            Source::TimerFd(fd) => {
                guest::acknowledge(*fd);
                None
            }
            Source::Connecting(_) => None,
        }
    }

    fn writable(&self, source: &Source) -> Option<Item> {
        match source {
            Source::Stream(connection) => connection.writable(),
            Source::Connecting(connecting) => connecting.writable(),
            Source::Descriptor(watched) => watched.ready(Side::Writing),
            Source::Listener(_) | Source::Interrupt | Source::TimerFd(_) => None,
        }
    }

    fn is_expecting(&self) -> bool {
        with_current(|runtime| {
            let pools = [runtime.blocking.get(), runtime.resolver.get()];
            pools.into_iter().flatten().any(Pool::is_busy)
        })
    }

    fn is_internal(&self, source: &Source) -> bool {
        match source {
            Source::Interrupt | Source::TimerFd(_) => true,
            Source::Descriptor(watched) => watched.is_internal(),
            Source::Stream(_) | Source::Listener(_) | Source::Connecting(_) => false,
        }
    }

    #[inline]
    fn due(&self, timer: TimerEntry) -> Option<Item> {
        timer.fire()
    }

    #[inline]
    fn received(&self, remote: Remote) -> Option<Item> {
        match remote {
            Remote::Wake(wake) => wake.receive(),
            Remote::Lost(panic) => Some(Item::Lost(panic)),
            Remote::Call(call) => Some(Item::Call(call.receive())),
        }
    }
}

/// One loop and its tasks.
pub(crate) struct Runtime {
    pub(crate) event_loop: EventLoop<RustHost>,
    /// The address of the loop's inbox, by which tasks know whose they are.
    inbox: *const LoopInbox,
    pub(crate) tasks: TaskList,
    /// Of tasks that have no other.
    pub(crate) task_names: Names,
    /// The task whose step runs.
    pub(crate) current_task: Cell<Option<NonNull<Header>>>,
    /// What is being dropped.
    pub(crate) ending: Ending,
    /// Set once the loop has ended: no task starts any more.
    closing: Cell<bool>,
    /// Set at the very end, when nothing can be registered or sent any more.
    over: Cell<bool>,
    /// How long what is written may wait to be sent when nobody waits for it.
    linger: Duration,
    /// How long is waited for functions that block when the run is over.
    shutdown_timeout: Cell<Option<Duration>>,
    pub(crate) main: Cell<Option<task::CancelHandle>>,
    pub(crate) interrupted: Cell<bool>,
    /// The context of what runs outside of tasks.
    pub(crate) context: RefCell<Context>,
    pub(crate) debug: Debug,
    /// What the step that runs has written.
    pub(crate) outbox: Outbox,
    /// What it may still do before it gives way.
    pub(crate) budget: Budget,
    /// Who hears of failures that reach nobody.
    pub(crate) exception_handler: ExceptionHandler,
    /// The threads of `spawn_blocking`.
    pub(crate) blocking: OnceCell<Pool>,
    /// The threads that look names up: apart, so that slow names hold up nothing else.
    pub(crate) resolver: OnceCell<Pool>,
}

thread_local! {
    static CURRENT: Cell<Option<NonNull<Runtime>>> = const { Cell::new(None) };
}

/// Applies `f` to the runtime that runs on this thread; `None` if there is none.
#[inline]
pub(crate) fn try_current<R>(f: impl FnOnce(&Runtime) -> R) -> Option<R> {
    // SAFETY: `Visit` keeps the runtime alive as long as the pointer is set.
    CURRENT.get().map(|runtime| f(unsafe { runtime.as_ref() }))
}

/// Applies `f` to the runtime that runs on this thread.
///
/// # Panics
/// If there is none.
#[inline]
#[track_caller]
pub(crate) fn with_current<R>(f: impl FnOnce(&Runtime) -> R) -> R {
    match try_current(f) {
        Some(result) => result,
        None => no_running_event_loop(),
    }
}

/// The runtime that runs on this thread, for what may outlive it.
///
/// # Panics
/// If there is none.
#[inline]
#[track_caller]
pub(crate) fn current() -> Rc<Runtime> {
    let Some(runtime) = CURRENT.get() else {
        no_running_event_loop()
    };
    // SAFETY: the pointer is that of the `Rc` in `Visit`, which is alive.
    unsafe {
        Rc::increment_strong_count(runtime.as_ptr());
        Rc::from_raw(runtime.as_ptr())
    }
}

#[cold]
#[track_caller]
fn no_running_event_loop() -> ! {
    panic!("no running event loop on this thread: call this from within rondel::run")
}

/// Makes a runtime the thread's current one for as long as this lives.
pub(crate) struct Visit {
    outer: Option<NonNull<Runtime>>,
    _runtime: Rc<Runtime>,
}

impl Visit {
    pub(crate) fn new(runtime: Rc<Runtime>) -> Self {
        Self {
            outer: CURRENT.replace(NonNull::new(Rc::as_ptr(&runtime).cast_mut())),
            _runtime: runtime,
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        CURRENT.set(self.outer);
    }
}

impl Runtime {
    pub(crate) fn new(clock: Clock, linger: Duration) -> io::Result<Self> {
        let event_loop = EventLoop::new(RustHost, clock)?;
        Ok(Self {
            inbox: Arc::as_ptr(event_loop.inbox()),
            event_loop,
            tasks: TaskList::default(),
            task_names: Names::default(),
            current_task: Cell::new(None),
            ending: Ending::default(),
            closing: Cell::new(false),
            over: Cell::new(false),
            linger,
            shutdown_timeout: Cell::new(None),
            main: Cell::new(None),
            interrupted: Cell::new(false),
            context: RefCell::new(copy_context()),
            debug: Debug::default(),
            outbox: Outbox::default(),
            budget: Budget::default(),
            exception_handler: ExceptionHandler::default(),
            blocking: OnceCell::new(),
            resolver: OnceCell::new(),
        })
    }

    #[inline]
    pub(crate) fn inbox_ptr(&self) -> *const LoopInbox {
        self.inbox
    }

    /// Whether the loop has ended.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Whether everything that follows the loop's end is over, too.
    #[inline]
    pub(crate) fn is_over(&self) -> bool {
        self.over.get()
    }

    /// How long what is written may wait to be sent when nobody waits for it.
    pub(crate) fn linger(&self) -> Duration {
        self.linger
    }

    /// Drops what is queued or registered, and ends the connections with it.
    fn end_streams(&self) {
        let drained = self.event_loop.drain();
        self.over.set(true);
        self.outbox.close();
        for source in &drained.sources {
            if let Source::Stream(connection) = source {
                connection.end_with_loop();
            }
        }
    }

    /// Ctrl-C: the main task is cancelled, and `run` will say why.
    fn interrupt(&self) {
        Interrupts::acknowledge();
        if let Some(main) = self.main.take() {
            self.interrupted.set(main.cancel());
        }
    }

    /// Drops the futures of all tasks, then everything that is queued or registered. Only while
    /// this is the current runtime.
    pub(crate) fn close(&self) {
        self.closing.set(true);
        task::cancel_all(self);
        self.outbox.flush();
        linger::end_of_run(self);
        self.main.take();
        self.end_streams();
        if let Some(pool) = self.blocking.get()
            && !pool.join(self.shutdown_timeout.get())
        {
            call_exception_handler(
                "Functions of spawn_blocking are left running",
                &"they did not end within the shutdown timeout",
            );
        }
        self.event_loop.inbox().close();
        drop(self.event_loop.drain());
        self.exception_handler.forget();
        self.debug.forget();
        drop(self.context.take());
        // What destructors have created just now.
        task::cancel_all(self);
        drop(self.event_loop.drain());
    }
}

/// Runs a future and all the tasks that it creates; returns its output.
///
/// As `asyncio.run`: makes a loop of its own, and when `main` is done it cancels the tasks that are
/// left. What they have written and nobody has taken yet is sent, for as long as
/// [`Builder::linger`] says; then connections are closed. On the program's main thread, Ctrl-C
/// cancels `main` (unless the program handles SIGINT by itself), and the answer is
/// [`RunError::KeyboardInterrupt`]; a second Ctrl-C that finds the first one not yet taken notice
/// of kills the process.
///
/// # Errors
/// See [`RunError`]. If the output is a `Result` itself, both are unpacked by
/// `rondel::run(main())??`, or by one `?` where the function returns that type.
///
/// # Panics
/// With the panic of `main`, if it panics, after everything is taken down.
///
/// ```
/// use std::time::Duration;
///
/// fn main() -> std::io::Result<()> {
///     rondel::run(async {
///         println!("hello");
///         rondel::sleep(Duration::from_millis(10)).await;
///         println!("world");
///         Ok(())
///     })?
/// }
/// ```
#[track_caller]
pub fn run<F: Future>(main: F) -> Result<F::Output, RunError> {
    Builder::new().run(main)
}

/// How a loop is to be made; [`run`] is `Builder::new().run(…)`.
///
/// ```
/// use std::time::Duration;
///
/// // Two hours on the virtual clock take no time.
/// let slept = rondel::Builder::new().virtual_clock().run(async {
///     let start = rondel::Instant::now();
///     rondel::sleep(Duration::from_secs(7200)).await;
///     start.elapsed()
/// })?;
/// assert_eq!(slept, Duration::from_secs(7200));
/// # Ok::<(), rondel::RunError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    virtual_clock: Option<Jump>,
    handle_interrupts: bool,
    linger: Duration,
    debug: bool,
    slow_callback_duration: Duration,
    shutdown_timeout: Option<Duration>,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// The settings of [`run`].
    pub fn new() -> Self {
        Self {
            virtual_clock: None,
            handle_interrupts: true,
            linger: linger::DEFAULT,
            debug: false,
            slow_callback_duration: Duration::from_millis(100),
            shutdown_timeout: None,
        }
    }

    /// Time stands still while there is anything to run, and jumps to the next timer when there is
    /// not: for tests. It does not overtake what is under way outside: as long as a function of
    /// [`spawn_blocking`](crate::spawn_blocking) runs, a name is looked up, or a connection or a
    /// server is open, the loop waits in real time, and its clock goes along.
    pub fn virtual_clock(self) -> Self {
        self.virtual_clock_with(Jump::Idle)
    }

    /// A virtual clock with another policy of when it jumps.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// rondel::Builder::new().virtual_clock_with(rondel::Jump::Manual).run(async {
    ///     let task = rondel::create_task(rondel::sleep(Duration::from_secs(60)));
    ///     rondel::yield_now().await;
    ///     rondel::advance(Duration::from_secs(59));
    ///     rondel::yield_now().await;
    ///     assert!(!task.done());
    ///     rondel::advance(Duration::from_secs(1));
    ///     task.await
    /// })?.unwrap();
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn virtual_clock_with(mut self, jump: Jump) -> Self {
        self.virtual_clock = Some(jump);
        self
    }

    /// Whether Ctrl-C cancels the main future (the default). Only ever on the program's main
    /// thread, and only if SIGINT has no handler yet.
    pub fn handle_interrupts(mut self, handle: bool) -> Self {
        self.handle_interrupts = handle;
        self
    }

    /// How long what was written may wait to be sent when nobody waits for it: ten seconds, if
    /// nothing else is said.
    ///
    /// The end of [`run`] sends what is unsent, and takes so long at most; Ctrl-C ends that. While
    /// the loop runs, a connection of which both halves are dropped (a handler's that has returned,
    /// say) goes on sending by itself as long as the peer takes something within each linger time.
    /// What is given up is reported.
    ///
    /// ```
    /// use std::io::Read;
    /// use std::time::Duration;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let address = listener.local_addr()?;
    /// let peer = std::thread::spawn(move || {
    ///     let mut all = Vec::new();
    ///     listener.accept()?.0.read_to_end(&mut all).map(|_| all.len())
    /// });
    /// rondel::Builder::new().linger(Duration::from_secs(60)).run(async {
    ///     let (_reader, writer) = rondel::open_connection(address).await?;
    ///     writer.write(vec![0; 20_000_000]);
    ///     Ok::<(), std::io::Error>(())
    /// })??;
    /// assert_eq!(peer.join().unwrap()?, 20_000_000);
    /// # Ok(())
    /// # }
    /// ```
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// How long the end of [`run`] waits for functions of [`spawn_blocking`](crate::spawn_blocking)
    /// that have begun; without this, until they end. Those that have not begun by then never run,
    /// and the others are left to their threads, which is reported.
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    ///
    /// let began = Instant::now();
    /// rondel::Builder::new().shutdown_timeout(Duration::from_millis(10)).run(async {
    ///     rondel::spawn_blocking(|| std::thread::sleep(Duration::from_secs(60))).detach();
    /// })?;
    /// assert!(began.elapsed() < Duration::from_secs(60));
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn shutdown_timeout(mut self, limit: Duration) -> Self {
        self.shutdown_timeout = Some(limit);
        self
    }

    /// Runs a future to its end; see [`run`].
    ///
    /// # Errors
    /// As [`run`].
    ///
    /// # Panics
    /// As [`run`].
    #[track_caller]
    pub fn run<F: Future>(self, main: F) -> Result<F::Output, RunError> {
        let runner = self.build()?;
        let ran = runner.run_main(main)?;
        // What is left goes before a panic of `main` goes on.
        drop(runner);
        ran.outcome()
    }

    /// A loop for several runs; see [`Runner`].
    ///
    /// # Errors
    /// If no loop can be made.
    pub fn build(self) -> Result<Runner, RunError> {
        let clock = match self.virtual_clock {
            None => Clock::Monotonic,
            Some(jump) => Clock::at(0, jump),
        };
        let runtime = Runtime::new(clock, self.linger)?;
        runtime.shutdown_timeout.set(self.shutdown_timeout);
        if self.debug {
            runtime.debug.switch_on(self.slow_callback_duration);
        }
        Ok(Runner::with(Rc::new(runtime), self.handle_interrupts))
    }

    /// asyncio's debug mode: tasks know where they were created, and a step that lasts longer than
    /// [`slow_callback_duration`](Self::slow_callback_duration) is reported, with the task's name
    /// and that place. Reading the clock twice for each step costs something.
    pub fn debug(mut self, debug: bool) -> Self {
        self.debug = debug;
        self
    }

    /// How long a step may last in debug mode; a tenth of a second, if nothing else is said.
    pub fn slow_callback_duration(mut self, duration: Duration) -> Self {
        self.slow_callback_duration = duration;
        self
    }
}

/// Why [`run`] has no output.
///
/// ```
/// let error = rondel::run(async {
///     rondel::current_task().unwrap().cancel();
///     std::future::pending::<()>().await
/// })
/// .unwrap_err();
/// assert!(matches!(error, rondel::RunError::Cancelled(_)));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError {
    /// The loop could not be made, or its reactor failed.
    Io(io::Error),
    /// Ctrl-C.
    KeyboardInterrupt,
    /// The main task was cancelled by the program.
    Cancelled(CancelledError),
    /// There is a running loop on this thread already.
    AlreadyRunning,
    /// [`stop`](crate::stop) was called before the main future was done.
    Stopped,
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::KeyboardInterrupt => f.write_str("KeyboardInterrupt"),
            Self::Cancelled(cancelled) => cancelled.fmt(f),
            Self::AlreadyRunning => {
                f.write_str("rondel::run() cannot be called from a running event loop")
            }
            Self::Stopped => f.write_str("Event loop stopped before Future completed."),
        }
    }
}

impl Error for RunError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Cancelled(cancelled) => Some(cancelled),
            Self::KeyboardInterrupt | Self::AlreadyRunning | Self::Stopped => None,
        }
    }
}

impl From<io::Error> for RunError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<RunError> for io::Error {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Io(error) => error,
            RunError::KeyboardInterrupt => Self::new(io::ErrorKind::Interrupted, error),
            RunError::Cancelled(_) | RunError::AlreadyRunning | RunError::Stopped => {
                Self::other(error)
            }
        }
    }
}
