//! Debug mode: which steps last too long, and whose they are.

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
        let began = Instant::now();
        task::step(runtime, task);
        let duration = began.elapsed();
        if duration < self.most.get() {
            return;
        }
        let step = SlowStep {
            name: task::name(task),
            created_at: task.created_at(),
            duration,
        };
        spans::slow_step(task, &step);
        let reporter = self.reporter.borrow().clone();
        match reporter {
            Some(reporter) => reporter(&step),
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
///     rondel::set_slow_step_reporter(move |step| report.borrow_mut().push(step.name().to_owned()));
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

/// A step that has kept the thread for too long. Its text is asyncio's warning.
#[derive(Clone)]
pub struct SlowStep {
    name: String,
    created_at: Option<&'static Location<'static>>,
    duration: Duration,
}

impl SlowStep {
    /// The task's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the task was created; `None` if that was before the loop knew of debug mode.
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
        write!(f, "Executing <Task name='{}'", self.name)?;
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
