//! Python awaitables that Rust awaits.
//!
//! A Rust future is polled in the step of the Python task that awaits its coroutine. An awaitable
//! is advanced in the same step: no task is made for it, and `current_task()` and the context are
//! the awaiting task's. What it yields, a future of the loop mostly, can be waited for in two ways:
//!
//! - If the Rust future waits for nothing else, the coroutine yields the same object, as `await`
//!   would in Python, and hands what the task sends or throws to the awaitable. The Rust future is
//!   not polled again before the awaitable has ended.
//! - If it waits for something else as well (`select!`, `join!`, a timeout), a callback of the
//!   yielded future wakes the Rust future. What the task throws is thrown into all awaitables that
//!   the Rust future waits for.
//!
//! Whether it waits for something else is seen by the coroutine's waker: nobody has a clone of it.
//! A task of Rust's has no step of a Python task. There the awaitable is made a task.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::marker::PhantomData;
use std::mem;
use std::pin::Pin;
use std::ptr;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use pyo3::exceptions::asyncio::CancelledError;
use pyo3::exceptions::{PyRuntimeError, PyStopIteration, PyTypeError};
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::coroutine::Coroutine;

/// Awaits something of Python's, in the step of the task that awaits the Rust future.
///
/// Like `await` in Python, it begins when it is polled first. A cancellation, or whatever else is
/// thrown into the task, reaches the awaitable first; what it makes of that is the outcome here.
///
/// Where the Rust future waits for other things beside it (`select!`, `join!`, a timeout), and a
/// cancellation ends all of its awaitables without ending the Rust future, that one is dropped.
///
/// Dropped before its end, an awaitable is cancelled: it sees `CancelledError` before the drop
/// returns. If it waits for something then, it goes on as a task.
///
/// In a task of Rust's ([`spawn`](crate::spawn)) the awaitable becomes a task of the loop.
pub fn await_py(awaitable: impl Into<Py<PyAny>>) -> AwaitPy {
    AwaitPy {
        shared: Rc::new(Awaited {
            state: RefCell::new(State::Fresh(awaitable.into())),
            end: Cell::new(None),
        }),
        _not_send: PhantomData,
    }
}

/// The future of [`await_py`].
#[must_use = "futures do nothing unless they are awaited"]
pub struct AwaitPy {
    shared: Rc<Awaited>,
    _not_send: PhantomData<*const ()>,
}

/// An awaitable that Rust awaits. Its coroutine has it as well while it delegates to it.
pub(crate) struct Awaited {
    /// Never borrowed while Python code runs.
    state: RefCell<State>,
    /// How it has ended, if it has.
    end: Cell<Option<End>>,
}

/// How an awaitable has ended.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum End {
    /// With `CancelledError`.
    Cancelled,
    /// With a result or another exception, or Rust has dropped it.
    Otherwise,
}

/// Where an awaitable stands.
enum State {
    Fresh(Py<PyAny>),
    /// It has yielded something, and how to wait for that is not decided yet.
    Yielded(Py<PyAny>, Py<PyAny>),
    /// The task that awaits the coroutine waits for what it has yielded.
    Delegated(Py<PyAny>),
    /// A callback of the future that it has yielded wakes the Rust future.
    Waiting(Py<PyAny>, Py<PyAny>, Py<Wakes>),
    /// It goes on at the next poll: with an exception, if there is one.
    Ready(Py<PyAny>, Option<PyErr>),
    /// A task of the loop's runs it.
    Task(Pin<Box<dyn Future<Output = PyResult<Py<PyAny>>>>>),
    Done(PyResult<Py<PyAny>>),
    /// It runs, or its outcome was taken.
    Busy,
}

/// What goes into an awaitable.
pub(crate) enum Input<'a, 'py> {
    Value(&'a Bound<'py, PyAny>),
    Exception(PyErr),
}

/// What comes out of it.
enum Output {
    Yielded(Py<PyAny>),
    Ended(PyResult<Py<PyAny>>),
}

impl Future for AwaitPy {
    type Output = PyResult<Py<PyAny>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let shared = &self.shared;
        let (iterator, input) = match shared.take() {
            State::Done(result) => return Poll::Ready(result),
            State::Task(mut task) => {
                let polled = task.as_mut().poll(context);
                if polled.is_pending() {
                    shared.put(State::Task(task));
                }
                return polled;
            }
            State::Fresh(awaitable) if step::is_running() => {
                match Python::attach(|py| iterator_of(awaitable.bind(py))) {
                    Ok(iterator) => (iterator, None),
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            State::Fresh(awaitable) => return self.poll_as_task(awaitable, context),
            State::Yielded(iterator, yielded) => {
                shared.put(State::Yielded(iterator, yielded));
                return self.suspend(context);
            }
            State::Waiting(iterator, future, wakes) => {
                let outcome = Python::attach(|py| outcome_of(future.bind(py)));
                if matches!(outcome, Ok(false)) {
                    wakes.get().set(context.waker());
                    shared.put(State::Waiting(iterator, future, wakes));
                    step::register(shared, context.waker());
                    return Poll::Pending;
                }
                (iterator, outcome.err())
            }
            State::Ready(iterator, input) => (iterator, input),
            // It was polled after its end, or by the Python code that it runs.
            state @ (State::Delegated(_) | State::Busy) => {
                shared.put(state);
                return Poll::Pending;
            }
        };
        if !step::is_running() {
            // It was moved into a task of Rust's.
            let rest = State::Ready(iterator, input);
            return match Python::attach(|py| into_task(py, rest)) {
                Ok(task) => self.poll_as_task(task, context),
                Err(error) => Poll::Ready(Err(error)),
            };
        }
        let output = Python::attach(|py| match input {
            None => send(iterator.bind(py), py.None().bind(py)),
            Some(error) => throw(iterator.bind(py), error),
        });
        match output {
            Output::Ended(result) => {
                shared.note_end(&result);
                Poll::Ready(result)
            }
            Output::Yielded(yielded) => {
                shared.put(State::Yielded(iterator, yielded));
                self.suspend(context)
            }
        }
    }
}

impl AwaitPy {
    /// It has yielded something. The coroutine decides how to wait for that if it polls this future
    /// with its own waker. With another one, which wakes a part of the Rust future, a callback
    /// does.
    fn suspend(&self, context: &mut Context<'_>) -> Poll<PyResult<Py<PyAny>>> {
        if !step::register(&self.shared, context.waker()) {
            Python::attach(|py| self.shared.wait(py, context.waker()));
        }
        Poll::Pending
    }

    fn poll_as_task(
        &self,
        awaitable: Py<PyAny>,
        context: &mut Context<'_>,
    ) -> Poll<PyResult<Py<PyAny>>> {
        match Python::attach(|py| crate::into_future(awaitable.into_bound(py))) {
            Ok(future) => {
                let mut future: Pin<Box<dyn Future<Output = _>>> = Box::pin(future);
                let polled = future.as_mut().poll(context);
                if polled.is_pending() {
                    self.shared.put(State::Task(future));
                }
                polled
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl Awaited {
    fn take(&self) -> State {
        self.state.replace(State::Busy)
    }

    fn put(&self, state: State) {
        let before = self.state.replace(state);
        drop(before);
    }

    /// What it has yielded, if the coroutine is to delegate to it; `None` if that is not for it to
    /// decide any more.
    pub(crate) fn delegate(&self) -> Option<Py<PyAny>> {
        match self.take() {
            State::Yielded(iterator, yielded) => {
                self.put(State::Delegated(iterator));
                Some(yielded)
            }
            state => {
                self.put(state);
                None
            }
        }
    }

    /// Has a callback wake `waker` when what it has yielded is done.
    pub(crate) fn wait(&self, py: Python<'_>, waker: &Waker) {
        let (iterator, yielded) = match self.take() {
            State::Yielded(iterator, yielded) => (iterator, yielded),
            state => return self.put(state),
        };
        // It gives way to others.
        if yielded.is_none(py) {
            self.put(State::Ready(iterator, None));
            return waker.wake_by_ref();
        }
        match Wakes::wait_for(yielded.bind(py), waker) {
            Ok(wakes) => self.put(State::Waiting(iterator, yielded, wakes)),
            Err(error) => {
                self.put(State::Ready(iterator, Some(error)));
                waker.wake_by_ref();
            }
        }
    }

    /// How it has ended, if it has.
    pub(crate) fn end(&self) -> Option<End> {
        self.end.get()
    }

    fn note_end(&self, result: &PyResult<Py<PyAny>>) {
        let cancelled = result
            .as_ref()
            .is_err_and(|error| Python::attach(|py| error.is_instance_of::<CancelledError>(py)));
        self.end.set(Some(match cancelled {
            true => End::Cancelled,
            false => End::Otherwise,
        }));
    }

    /// The task has thrown something into the coroutine, which waits for this and for other things.
    pub(crate) fn interrupt(&self, py: Python<'_>, error: &PyErr, waker: &Waker) {
        let iterator = match self.take() {
            State::Waiting(iterator, future, wakes) => {
                // As `Task.cancel` does, which does not know of this future. A task, say, is to
                // end first.
                if error.is_instance_of::<CancelledError>(py)
                    && cancel_future(future.bind(py), error).unwrap_or(false)
                    && matches!(is_done(future.bind(py)), Ok(false))
                {
                    return self.put(State::Waiting(iterator, future, wakes));
                }
                iterator
            }
            State::Ready(iterator, _) => iterator,
            state => return self.put(state),
        };
        let output = throw(iterator.bind(py), error.clone_ref(py));
        match output {
            Output::Yielded(yielded) => {
                self.put(State::Yielded(iterator, yielded));
                self.wait(py, waker);
            }
            Output::Ended(result) => {
                self.note_end(&result);
                self.put(State::Done(result));
            }
        }
    }

    /// The task has sent something to the coroutine that delegates to this, or thrown it in. `None`
    /// is the end: the Rust future is polled for it.
    pub(crate) fn resume(&self, py: Python<'_>, input: Input<'_, '_>) -> Option<Py<PyAny>> {
        let iterator = match self.take() {
            State::Delegated(iterator) => iterator,
            state => {
                self.put(state);
                return None;
            }
        };
        let output = match input {
            Input::Value(value) => send(iterator.bind(py), value),
            Input::Exception(error) => throw(iterator.bind(py), error),
        };
        match output {
            Output::Yielded(yielded) => {
                self.put(State::Delegated(iterator));
                Some(yielded)
            }
            Output::Ended(result) => {
                self.put(State::Done(result));
                None
            }
        }
    }

    /// The coroutine that delegates to this is closed.
    pub(crate) fn close(&self, py: Python<'_>) -> PyResult<()> {
        if let State::Delegated(iterator) = self.take()
            && let Some(close) = iterator.bind(py).getattr_opt(intern!(py, "close"))?
        {
            close.call0()?;
        }
        Ok(())
    }

    /// What a coroutine delegates to.
    pub(crate) fn iterator(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        match &*self.state.borrow() {
            State::Delegated(iterator) => Some(iterator.clone_ref(py)),
            _ => None,
        }
    }

    /// For the garbage collector, which may come at any time.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self.state.try_borrow().as_deref() {
            Ok(State::Delegated(iterator)) => visit.call(iterator),
            _ => Ok(()),
        }
    }
}

impl Drop for AwaitPy {
    fn drop(&mut self) {
        if self.shared.end().is_none() {
            self.shared.end.set(Some(End::Otherwise));
        }
        match self.shared.take() {
            state @ (State::Yielded(..) | State::Waiting(..) | State::Ready(..)) => {
                Python::try_attach(|py| cancel(py, state));
            }
            // One that is fresh says so itself; one that is delegated to is closed by its end.
            state => drop(state),
        }
    }
}

/// Cancels an awaitable that nobody awaits any more, as `Task.cancel` does: first what it waits
/// for, or else by throwing. What is left of it then goes on as a task.
fn cancel(py: Python<'_>, state: State) {
    let (iterator, waits_for) = match state {
        State::Yielded(iterator, yielded) => (iterator, Some(yielded)),
        State::Waiting(iterator, future, _) => (iterator, Some(future)),
        State::Ready(iterator, _) => (iterator, None),
        _ => return,
    };
    let Ok(Some(event_loop)) = crate::local::get_running_loop(py) else {
        // There is nobody to go on with it. It sees GeneratorExit when it is dropped.
        return drop(iterator);
    };
    let waits_for = waits_for.filter(|future| !future.is_none(py));
    let cancelled = waits_for.as_ref().is_some_and(|future| {
        let cancelled = future.call_method0(py, intern!(py, "cancel"));
        cancelled.is_ok_and(|cancelled| cancelled.is_truthy(py).unwrap_or(false))
    });
    let rest = match waits_for {
        // A task, say, which is to end first.
        Some(future) if cancelled && matches!(is_done(future.bind(py)), Ok(false)) => {
            Some(State::Ready(iterator, None).after(py, future))
        }
        _ => {
            let output = throw(iterator.bind(py), CancelledError::new_err(()));
            match output {
                Output::Yielded(yielded) => Some(State::Yielded(iterator, yielded)),
                Output::Ended(Ok(_)) => None,
                Output::Ended(Err(error)) if error.is_instance_of::<CancelledError>(py) => None,
                Output::Ended(Err(error)) => {
                    report(&event_loop, &error);
                    None
                }
            }
        }
    };
    if let Some(rest) = rest
        && let Err(error) = into_task(py, rest)
    {
        report(&event_loop, &error);
    }
}

impl State {
    /// What is left of an awaitable that goes on when `future` is done. The future counts as
    /// yielded just now.
    fn after(self, py: Python<'_>, future: Py<PyAny>) -> Self {
        match self {
            State::Ready(iterator, _)
                if future
                    .setattr(py, intern!(py, "_asyncio_future_blocking"), true)
                    .is_ok() =>
            {
                State::Yielded(iterator, future)
            }
            state => state,
        }
    }
}

/// Has a task of the running loop go on with an awaitable.
fn into_task(py: Python<'_>, rest: State) -> PyResult<Py<PyAny>> {
    let rest = AwaitPy {
        shared: Rc::new(Awaited {
            state: RefCell::new(rest),
            end: Cell::new(None),
        }),
        _not_send: PhantomData,
    };
    crate::register(py)?;
    let coroutine = Py::new(py, Coroutine::new("await_py", rest))?;
    let event_loop = crate::local::running_loop(py)?;
    let task = event_loop.call_method1(intern!(py, "create_task"), (coroutine,))?;
    Ok(task.unbind())
}

/// Tells the loop's exception handler of an exception that nobody awaits.
fn report(event_loop: &Bound<'_, PyAny>, error: &PyErr) {
    let py = event_loop.py();
    let told = || {
        let context = PyDict::new(py);
        context.set_item("message", "An awaitable that Rust has dropped failed")?;
        context.set_item("exception", error.value(py))?;
        event_loop.call_method1(intern!(py, "call_exception_handler"), (context,))
    };
    if let Err(error) = told() {
        error.write_unraisable(py, Some(event_loop));
    }
}

/// Cancels a future with the message of `error`.
fn cancel_future(future: &Bound<'_, PyAny>, error: &PyErr) -> PyResult<bool> {
    let py = future.py();
    let arguments = error.value(py).getattr(intern!(py, "args"))?;
    let arguments = arguments.cast_into::<PyTuple>()?;
    let cancelled = future.call_method1(intern!(py, "cancel"), arguments)?;
    cancelled.is_truthy()
}

/// Whether a future is done. What it raises is thrown into what awaits it, as a task does.
fn outcome_of(future: &Bound<'_, PyAny>) -> PyResult<bool> {
    if !is_done(future)? {
        return Ok(false);
    }
    future.call_method0(intern!(future.py(), "result"))?;
    Ok(true)
}

fn is_done(future: &Bound<'_, PyAny>) -> PyResult<bool> {
    future
        .call_method0(intern!(future.py(), "done"))?
        .is_truthy()
}

/// The iterator of an awaitable, as the interpreter's `GET_AWAITABLE` finds it.
fn iterator_of(awaitable: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    static COROUTINE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static GENERATOR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    /// `inspect.CO_ITERABLE_COROUTINE`: what `types.coroutine` marks.
    const ITERABLE_COROUTINE: u32 = 0x100;
    let py = awaitable.py();
    let kind = awaitable.get_type();
    if kind.is(COROUTINE.import(py, "types", "CoroutineType")?) {
        if !awaitable.getattr(intern!(py, "cr_await"))?.is_none() {
            return Err(PyRuntimeError::new_err(
                "coroutine is being awaited already",
            ));
        }
        return Ok(awaitable.clone().unbind());
    }
    if let Some(method) = kind.getattr_opt(intern!(py, "__await__"))? {
        let iterator = method.call1((awaitable,))?;
        // SAFETY: an object that is alive.
        if unsafe { ffi::PyIter_Check(iterator.as_ptr()) } == 0 {
            return Err(PyTypeError::new_err(format!(
                "__await__() returned non-iterator of type '{}'",
                iterator.get_type().name()?
            )));
        }
        return Ok(iterator.unbind());
    }
    if kind.is(GENERATOR.import(py, "types", "GeneratorType")?) {
        let code = awaitable.getattr(intern!(py, "gi_code"))?;
        let flags: u32 = code.getattr(intern!(py, "co_flags"))?.extract()?;
        if flags & ITERABLE_COROUTINE != 0 {
            return Ok(awaitable.clone().unbind());
        }
    }
    Err(PyTypeError::new_err(format!(
        "object {} can't be used in 'await' expression",
        kind.name()?
    )))
}

fn send(iterator: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> Output {
    let py = iterator.py();
    let mut result = ptr::null_mut();
    // SAFETY: both objects are alive; `result` has room for a new reference.
    let outcome = unsafe { ffi::PyIter_Send(iterator.as_ptr(), value.as_ptr(), &raw mut result) };
    match outcome {
        ffi::PySendResult::PYGEN_ERROR => Output::Ended(Err(PyErr::fetch(py))),
        // SAFETY: without an error there is a new reference.
        outcome => match (outcome, unsafe { Bound::from_owned_ptr(py, result) }) {
            (ffi::PySendResult::PYGEN_NEXT, yielded) => Output::Yielded(yielded.unbind()),
            (_, value) => Output::Ended(Ok(value.unbind())),
        },
    }
}

fn throw(iterator: &Bound<'_, PyAny>, error: PyErr) -> Output {
    let py = iterator.py();
    let result = match iterator.getattr_opt(intern!(py, "throw")) {
        Ok(Some(throw)) => throw.call1((error,)),
        // It cannot be told: what awaits it is.
        Ok(None) => Err(error),
        Err(error) => Err(error),
    };
    match result {
        Ok(yielded) => Output::Yielded(yielded.unbind()),
        Err(error) if error.is_instance_of::<PyStopIteration>(py) => {
            let value = error.value(py).getattr(intern!(py, "value"));
            Output::Ended(value.map(Bound::unbind))
        }
        Err(error) => Output::Ended(Err(error)),
    }
}

/// The callback of a future that Rust waits for.
#[pyclass(frozen, module = "rondel_pyo3")]
struct Wakes(Mutex<Waker>);

impl Wakes {
    /// Waits for what an awaitable has yielded, with the checks of a task.
    fn wait_for(yielded: &Bound<'_, PyAny>, waker: &Waker) -> PyResult<Py<Self>> {
        let py = yielded.py();
        let blocking = intern!(py, "_asyncio_future_blocking");
        if !matches!(yielded.getattr_opt(blocking)?, Some(value) if value.is_truthy()?) {
            return Err(PyRuntimeError::new_err(format!(
                "Task got bad yield: {}",
                yielded.repr()?
            )));
        }
        yielded.setattr(blocking, false)?;
        let wakes = Py::new(py, Self(Mutex::new(waker.clone())))?;
        yielded.call_method1(intern!(py, "add_done_callback"), (&wakes,))?;
        Ok(wakes)
    }

    fn set(&self, waker: &Waker) {
        let mut own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !own.will_wake(waker) {
            let before = mem::replace(&mut *own, waker.clone());
            drop(own);
            drop(before);
        }
    }
}

#[pymethods]
impl Wakes {
    fn __call__(&self, future: &Bound<'_, PyAny>) {
        let _ = future;
        let waker = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waker = Waker::clone(&waker);
        waker.wake();
    }
}

/// The step of a Python task that this thread is in.
pub(crate) mod step {
    use super::{Awaited, Cell, Rc, RefCell, Waker, ptr};

    thread_local! {
        /// What the coroutine's waker points to; null outside of steps.
        static WAKER: Cell<*const ()> = const { Cell::new(ptr::null()) };
        /// The awaitables that are pending in the step.
        static PENDING: RefCell<Vec<Rc<Awaited>>> = const { RefCell::new(Vec::new()) };
    }

    /// A coroutine is being polled. Steps may be within each other: Rust, Python, Rust.
    pub(crate) struct Step {
        waker: *const (),
        pending: Vec<Rc<Awaited>>,
    }

    impl Step {
        pub(crate) fn begin(waker: &Waker) -> Self {
            Self {
                waker: WAKER.replace(waker.data()),
                pending: PENDING.take(),
            }
        }

        /// The awaitables that are pending in it.
        pub(crate) fn pending(&self) -> Vec<Rc<Awaited>> {
            PENDING.take()
        }
    }

    impl Drop for Step {
        fn drop(&mut self) {
            WAKER.set(self.waker);
            let pending = PENDING.replace(std::mem::take(&mut self.pending));
            drop(pending);
        }
    }

    /// Whether this thread is in one.
    pub(super) fn is_running() -> bool {
        !WAKER.get().is_null()
    }

    /// An awaitable is pending in this step. Whether it is polled with the coroutine's waker: the
    /// coroutine decides then how to wait for what it has yielded.
    pub(super) fn register(awaited: &Rc<Awaited>, waker: &Waker) -> bool {
        if WAKER.get().is_null() {
            return false;
        }
        PENDING.with_borrow_mut(|pending| {
            if !pending.iter().any(|other| Rc::ptr_eq(other, awaited)) {
                pending.push(Rc::clone(awaited));
            }
        });
        WAKER.get() == waker.data()
    }
}
