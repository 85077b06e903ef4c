//! Tasks with a name, tasks that start at once.

use std::fmt;
use std::future::Future;

use super::join::Task;
use super::{cell, end, inherit, start, step_eagerly};
use crate::context::Context;
use crate::runtime;
use crate::spans;
use crate::task::header::HANDLE;

/// How a task is to be made, where there is more to say than [`create_task`](crate::create_task)
/// takes.
///
/// ```
/// rondel::run(async {
///     let options: rondel::TaskBuilder = rondel::build_task().name("answer").eager_start(true);
///     let task = options.create(async { 42 });
///     assert!(task.done());
///     assert_eq!(task.name(), "answer");
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[must_use = "`create` makes the task"]
#[derive(Default)]
pub struct TaskBuilder {
    name: Option<String>,
    eager_start: bool,
    context: Option<Context>,
}

/// How a task is to be made: asyncio's `create_task(…, name=…, eager_start=…)`.
///
/// ```
/// rondel::run(async {
///     let task = rondel::build_task().name("greeter").create(async { "hello" });
///     assert_eq!(task.name(), "greeter");
///     assert_eq!(task.await?, "hello");
///     Ok::<(), rondel::JoinError>(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn build_task() -> TaskBuilder {
    TaskBuilder::default()
}

impl TaskBuilder {
    /// Its name; otherwise it is called `Task-1`, `Task-2`, …
    ///
    /// ```
    /// rondel::run(async {
    ///     let task = rondel::build_task().name("reader").create(async {});
    ///     assert_eq!(task.name(), "reader");
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Whether its first step runs within [`create`](Self::create), as asyncio's eager tasks: what
    /// never has to wait is done when that returns, and costs no turn of the loop. What it does
    /// comes before what is ready already.
    ///
    /// Eager tasks that create eager tasks that … start as others do from some depth on.
    ///
    /// ```
    /// use std::{cell::Cell, rc::Rc};
    ///
    /// rondel::run(async {
    ///     let cache = Rc::new(Cell::new(Some(42)));
    ///     let look_up = async move {
    ///         match cache.get() {
    ///             Some(value) => value,
    ///             None => {
    ///                 rondel::yield_now().await;
    ///                 0
    ///             }
    ///         }
    ///     };
    ///     let mut task = rondel::build_task().eager_start(true).create(look_up);
    ///     assert_eq!(task.result().unwrap()?, 42);
    ///     Ok::<(), rondel::JoinError>(())
    /// })??;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn eager_start(mut self, eager_start: bool) -> Self {
        self.eager_start = eager_start;
        self
    }

    /// The values of its [context variables](crate::ContextVar), instead of those of whoever
    /// creates it.
    ///
    /// ```
    /// static USER: rondel::ContextVar<&str> = rondel::ContextVar::new("user");
    ///
    /// rondel::run(async {
    ///     USER.set("ann");
    ///     let none = rondel::build_task().context(rondel::Context::default());
    ///     assert_eq!(none.create(async { USER.get() }).await?, None);
    ///     Ok::<(), rondel::JoinError>(())
    /// })??;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn context(mut self, context: Context) -> Self {
        self.context = Some(context);
        self
    }

    /// Makes the task; see [`create_task`](crate::create_task).
    ///
    /// # Panics
    /// If no loop runs on this thread.
    ///
    /// ```
    /// rondel::run(async {
    ///     let task = rondel::build_task().create(async { 42 });
    ///     assert_eq!(task.await.unwrap(), 42);
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    #[track_caller]
    pub fn create<F: Future + 'static>(self, future: F) -> Task<F::Output> {
        let runtime = runtime::current();
        let task = if runtime.is_closing() {
            end::create_late(&runtime, future)
        } else {
            let task = cell::allocate(future, runtime.inbox_ptr(), HANDLE);
            inherit(&runtime, &task);
            if let Some(context) = self.context {
                task.with_context(|own| *own = context);
            }
            task
        };
        if let Some(name) = self.name {
            task.header().with_extra(|extra| extra.name = name);
        }
        if !runtime.is_closing() {
            spans::begin(&task);
            match self.eager_start {
                true => step_eagerly(&runtime, &task),
                false => start(&runtime, &task),
            }
        }
        // SAFETY: the future's output is what the handle says.
        unsafe { Task::new::<F>(task) }
    }
}

impl fmt::Debug for TaskBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskBuilder")
            .field("name", &self.name)
            .field("eager_start", &self.eager_start)
            .finish()
    }
}
