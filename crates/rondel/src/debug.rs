//! Debug mode: which steps and callbacks last too long, and whose they are.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::Location;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::exceptions::write;
use crate::runtime::{self, Runtime};
use crate::spans;
use crate::task::{self, TaskRef};

type Reporter = dyn Fn(&SlowStep);

/// A loop's debug mode.
#[derive(Default)]
pub(crate) struct Debug {
    is_on: Cell<bool>,
    most: Cell<Duration>,
    reporter: RefCell<Option<Rc<Reporter>>>,
}

impl Debug {
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.get()
    }

    pub(crate) fn switch_on(&self, most: Duration) {
        self.is_on.set(true);
        self.most.set(most);
    }

    /// At the end of its loop.
    pub(crate) fn forget(&self) {
        let reporter = self.reporter.take();
        drop(reporter);
    }

    /// A step whose time is taken. In real time, whatever the loop's clock: it is the thread that
    /// is kept.
    #[cold]
    pub(crate) fn step(&self, runtime: &Runtime, task: &TaskRef) {
        if let Some(duration) = self.too_long(|| task::step(runtime, task)) {
            self.report(&SlowStep {
                task: Some((task::name(task), spans::id(task))),
                created_at: task.created_at(),
                duration,
            });
        }
    }

    /// A function of `call_soon` and its like, whose time is taken.
    #[cold]
    pub(crate) fn callback(
        &self,
        created_at: Option<&'static Location<'static>>,
        function: impl FnOnce(),
    ) {
        if let Some(duration) = self.too_long(function) {
            self.report(&SlowStep {
                task: None,
                created_at,
                duration,
            });
        }
    }

    fn too_long(&self, step: impl FnOnce()) -> Option<Duration> {
        let began = Instant::now();
        step();
        let duration = began.elapsed();
        (duration >= self.most.get()).then_some(duration)
    }

    fn report(&self, step: &SlowStep) {
        spans::slow_step(step);
        let reporter = self.reporter.borrow().clone();
        match reporter {
            Some(reporter) => reporter(step),
            None => write(&format!("{step}\n")),
        }
    }
}

/// Has the running loop's debug mode tell `reporter` of slow steps, instead of standard error. See
/// [`Builder::debug`](crate::Builder::debug).
///
/// # Panics
/// If no loop runs on this thread.
///
/// ```
/// use std::time::Duration;
///
/// let slow = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
/// let report = slow.clone();
/// let debugged = rondel::Builder::new().debug(true).slow_callback_duration(Duration::from_millis(2));
/// debugged.run(async {
///     rondel::set_slow_step_reporter(move |step| {
///         report.borrow_mut().extend(step.name().map(str::to_owned));
///     });
///     let task = rondel::build_task().name("greedy").create(async {
///         std::thread::sleep(Duration::from_millis(3));
///     });
///     task.await
/// })?.unwrap();
/// assert_eq!(*slow.borrow(), ["greedy"]);
/// # Ok::<(), rondel::RunError>(())
/// ```
#[track_caller]
pub fn set_slow_step_reporter(reporter: impl Fn(&SlowStep) + 'static) {
    let runtime = runtime::current();
    let before = runtime.debug.reporter.replace(Some(Rc::new(reporter)));
    drop(before); // with the cell free: it may hold anything
}

/// A task's step, or a function of [`call_soon`](crate::call_soon) and its like, that has kept the
/// thread for too long. Its text is asyncio's warning.
///
/// ```
/// use std::time::Duration;
///
/// let debugged = rondel::Builder::new().debug(true).slow_callback_duration(Duration::from_millis(2));
/// debugged.run(async {
///     rondel::set_slow_step_reporter(|step: &rondel::SlowStep| {
///         assert!(step.name().is_none() && step.created_at().is_some());
///         assert!(step.duration() >= Duration::from_millis(2));
///         assert!(step.to_string().starts_with("Executing <Handle created at "));
///     });
///     rondel::call_soon(|| std::thread::sleep(Duration::from_millis(3)));
///     rondel::yield_now().await;
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[derive(Clone)]
pub struct SlowStep {
    /// Its name and number; none if it is a function.
    task: Option<(String, usize)>,
    created_at: Option<&'static Location<'static>>,
    duration: Duration,
}

impl SlowStep {
    /// The task's name; `None` if it is a function.
    pub fn name(&self) -> Option<&str> {
        self.task.as_ref().map(|(name, _)| name.as_str())
    }

    /// The task's number in spans.
    #[cfg(feature = "tracing")]
    pub(crate) fn id(&self) -> Option<usize> {
        self.task.as_ref().map(|(_, id)| *id)
    }

    /// Where the task or the function's handle was created; `None` if that was before the loop
    /// knew of debug mode.
    pub fn created_at(&self) -> Option<&'static Location<'static>> {
        self.created_at
    }

    /// How long the step took.
    pub fn duration(&self) -> Duration {
        self.duration
    }
}

impl fmt::Display for SlowStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "Executing <Task name='{name}'")?,
            None => write!(f, "Executing <Handle")?,
        }
        if let Some(place) = self.created_at {
            write!(f, " created at {}:{}", place.file(), place.line())?;
        }
        write!(f, "> took {:.3} seconds", self.duration.as_secs_f64())
    }
}

impl fmt::Debug for SlowStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlowStep({self})")
    }
}
