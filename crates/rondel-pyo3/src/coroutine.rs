//! A Rust future as a Python coroutine.
//!
//! It is polled by the step of the Python task that awaits it: `current_task()`, context variables
//! and tracebacks are that task's. While it is pending, the task waits for a future of its loop,
//! which the waker completes. An exception that is thrown in, a cancellation above all, drops the
//! Rust future first and is raised then. While the future waits for a Python awaitable alone, what
//! the task sends and throws goes to that one (`delegate.rs`).

use std::cell::RefCell;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use pyo3::exceptions::{
    PyGeneratorExit, PyRuntimeError, PyRuntimeWarning, PyStopIteration, PyTypeError, PyValueError,
};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;

use crate::delegate::step::Step;
use crate::delegate::{Awaited, End, Input};
use crate::local::{Local, OWN_WAKERS, WakeParts};
use crate::thread_bound::{OfThread, ThreadBound};
use crate::wakeup::Mailbox;

/// The future behind a coroutine.
type Boxed = Pin<Box<dyn Future<Output = PyResult<Py<PyAny>>>>>;

/// A Python coroutine that runs a Rust future, on the thread of the loop that awaits it.
///
/// asyncio takes it for a coroutine: `await` it, or give it to `create_task`, `gather` or
/// `wait_for`. It begins when it is awaited first, and belongs to the loop that runs then.
#[pyclass(frozen, weakref, module = "rondel_pyo3")]
pub struct Coroutine {
    /// The function's, with that of the class before it if it is a method.
    name: &'static str,
    state: ThreadBound<RefCell<State>>,
}

/// Where a coroutine stands.
#[derive(Default)]
enum State {
    /// It was not awaited yet.
    Fresh(Boxed),
    Suspended(Box<Started>),
    Running,
    #[default]
    Done,
}

/// A future that was polled.
struct Started {
    future: Option<Boxed>,
    local: Rc<Local>,
    wake: Option<WakeParts>,
    /// The awaitable of Python's that it waits for, and for nothing else.
    delegate: Option<Rc<Awaited>>,
    /// The awaitables of Python's that it waits for beside other things.
    awaited: Vec<Rc<Awaited>>,
    /// What was thrown into these.
    thrown: Option<Thrown>,
}

/// An exception that was thrown into awaitables of Python's. If it ends them all, but not the
/// future that awaits them, it ends the future as well.
struct Thrown {
    error: PyErr,
    into: Vec<Rc<Awaited>>,
}

impl Started {
    fn new(py: Python<'_>, future: Boxed) -> Result<Box<Self>, (PyErr, Boxed)> {
        let local = match Local::current(py) {
            Ok(local) => local,
            Err(error) => return Err((error, future)),
        };
        let wake = local.take_wake_parts();
        Ok(Box::new(Self {
            future: Some(future),
            local,
            wake: Some(wake),
            delegate: None,
            awaited: Vec::new(),
            thrown: None,
        }))
    }
}

impl Drop for Started {
    /// Drops the future with its loop as the running one: what it has there is let go of.
    fn drop(&mut self) {
        let future = self.future.take();
        self.local.give_wake_parts_back(self.wake.take());
        if future.is_some() {
            Python::try_attach(|py| self.local.enter(py, || drop(future)));
        }
    }
}

impl Coroutine {
    /// A coroutine of this name that runs a future. The future need not be `Send`.
    pub fn new<F, T>(name: &'static str, future: F) -> Self
    where
        F: Future<Output = PyResult<T>> + 'static,
        T: for<'py> IntoPyObject<'py> + 'static,
    {
        let future = async move {
            let output = future.await?;
            Python::attach(|py| crate::to_object(py, output))
        };
        Self {
            name,
            state: ThreadBound::new(RefCell::new(State::Fresh(Box::pin(future)))),
        }
    }

    /// Goes on: to what the task is to wait for, or to the end. `None` is the end with the result
    /// `None`, which the interpreter takes without an exception; any other is a `StopIteration`.
    fn resume(&self, py: Python<'_>, input: Input<'_, '_>) -> PyResult<Option<Py<PyAny>>> {
        let state = self.state.get()?;
        let before = state.replace(State::Running);
        let mut started = match before {
            State::Fresh(future) => match Started::new(py, future) {
                Ok(started) => started,
                Err((error, future)) => {
                    state.replace(State::Done);
                    drop(future);
                    return Err(error);
                }
            },
            State::Suspended(started) => started,
            State::Running => return Err(PyValueError::new_err("coroutine already executing")),
            State::Done => {
                state.replace(State::Done);
                return Err(PyRuntimeError::new_err(
                    "cannot reuse already awaited coroutine",
                ));
            }
        };
        // A panic leaves it done: the future is not polled again.
        let ended = EndedByPanic(state);
        let yielded = match (&started.delegate, input) {
            (Some(delegate), input) => delegate.resume(py, input),
            (None, Input::Value(_)) => None,
            (None, Input::Exception(error)) => {
                started.interrupt(py, error);
                None
            }
        };
        let outcome = match yielded {
            Some(yielded) => Outcome::Yielded(Ok(yielded)),
            None => started.poll(py),
        };
        mem::forget(ended);
        match outcome {
            Outcome::Ended(result) => {
                state.replace(State::Done);
                drop(started);
                match result {
                    Ok(value) if value.is_none(py) => Ok(None),
                    Ok(value) => Err(PyStopIteration::new_err((value,))),
                    Err(error) => Err(error),
                }
            }
            Outcome::Yielded(yielded) => {
                state.replace(State::Suspended(started));
                yielded.map(Some)
            }
        }
    }

    /// Whether what is thrown in goes to awaitables of Python's.
    fn delegates(&self) -> PyResult<bool> {
        let state = self.state.get()?.borrow();
        Ok(match &*state {
            State::Suspended(started) => started.delegate.is_some() || !started.awaited.is_empty(),
            _ => false,
        })
    }

    /// Ends the coroutine: the future is dropped when this returns. What it delegates to is closed
    /// first, as by a coroutine of Python's.
    fn end(&self, py: Python<'_>) -> PyResult<()> {
        let state = self.state.get()?;
        let before = state.replace(State::Running);
        if let State::Running = before {
            return Err(PyValueError::new_err("coroutine already executing"));
        }
        let closed = match &before {
            State::Suspended(started) => match &started.delegate {
                Some(delegate) => delegate.close(py),
                None => Ok(()),
            },
            _ => Ok(()),
        };
        state.replace(State::Done);
        drop(before);
        closed
    }
}

/// What a step has come to.
enum Outcome {
    /// What the task is to wait for, or an exception that says why it cannot.
    Yielded(PyResult<Py<PyAny>>),
    Ended(PyResult<Py<PyAny>>),
}

impl Started {
    /// Throws into the awaitables that the future waits for beside other things.
    fn interrupt(&mut self, py: Python<'_>, error: PyErr) {
        let Some(wake) = &self.wake else { return };
        let into = mem::take(&mut self.awaited);
        for awaited in &into {
            awaited.interrupt(py, &error, &wake.waker);
        }
        self.thrown = Some(Thrown { error, into });
    }

    /// The future is pending. What was thrown, if it has ended all that it was thrown into.
    fn take_thrown(&mut self) -> Option<PyErr> {
        let thrown = self.thrown.as_ref()?;
        let mut ends = thrown.into.iter().map(|awaited| awaited.end());
        if ends.clone().any(|end| end.is_none()) {
            return None;
        }
        let cancelled = ends.all(|end| end == Some(End::Cancelled));
        let thrown = self.thrown.take()?;
        cancelled.then_some(thrown.error)
    }

    /// Polls the future.
    fn poll(&mut self, py: Python<'_>) -> Outcome {
        self.delegate = None;
        let (Some(future), Some(wake)) = (&mut self.future, &self.wake) else {
            return Outcome::Yielded(Ok(py.None()));
        };
        drop(self.local.take_future(wake.number));
        wake.wakeup.reset();
        let mut context = Context::from_waker(&wake.waker);
        let step = Step::begin(&wake.waker);
        let polled = self.local.enter(py, || future.as_mut().poll(&mut context));
        let pending = step.pending();
        drop(step);
        if let Poll::Ready(result) = polled {
            return Outcome::Ended(result);
        }
        // Nobody else has a waker of the future's: it waits for nothing else.
        let alone = !wake.wakeup.is_woken() && Arc::strong_count(&wake.wakeup) == OWN_WAKERS;
        if let [awaited] = &*pending
            && alone
            && let Some(yielded) = awaited.delegate()
        {
            self.delegate = pending.into_iter().next();
            return Outcome::Yielded(Ok(yielded));
        }
        for awaited in &pending {
            awaited.wait(py, &wake.waker);
        }
        self.awaited = pending;
        if let Some(error) = self.take_thrown() {
            return Outcome::Ended(Err(error));
        }
        Outcome::Yielded(self.wait(py))
    }

    /// What the task is to wait for: a future of the loop, or nothing if it was woken meanwhile.
    fn wait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let Some(wake) = self.wake.as_ref().filter(|wake| !wake.wakeup.is_woken()) else {
            return Ok(py.None());
        };
        let Some(event_loop) = self.local.event_loop(py) else {
            return Err(PyRuntimeError::new_err("Event loop is closed"));
        };
        let future = event_loop.call_method0(intern!(py, "create_future"))?;
        future.setattr(intern!(py, "_asyncio_future_blocking"), true)?;
        self.local.wait_for(wake.number, future.clone().unbind());
        Ok(future.unbind())
    }
}

#[pymethods]
impl Coroutine {
    fn send(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        match self.resume(py, Input::Value(value))? {
            Some(yielded) => Ok(yielded),
            None => Err(PyStopIteration::new_err(())),
        }
    }

    #[pyo3(signature = (kind, value=None, traceback=None, /))]
    fn throw(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _ = traceback;
        let exception = match value {
            Some(value) if value.is_instance(kind)? => value.clone(),
            Some(value) => kind.call1((value,))?,
            None if kind.is_callable() => kind.call0()?,
            None => kind.clone(),
        };
        if !exception.is_instance_of::<pyo3::exceptions::PyBaseException>() {
            return Err(PyTypeError::new_err(
                "exceptions must be classes or instances deriving from BaseException",
            ));
        }
        let closes = exception.is_instance_of::<PyGeneratorExit>();
        let error = PyErr::from_value(exception);
        if !closes && self.delegates()? {
            return match self.resume(py, Input::Exception(error))? {
                Some(yielded) => Ok(yielded),
                None => Err(PyStopIteration::new_err(())),
            };
        }
        self.end(py)?;
        Err(error)
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.end(py)
    }

    fn __await__(this: Bound<'_, Self>) -> Bound<'_, Self> {
        this
    }

    fn __iter__(this: Bound<'_, Self>) -> Bound<'_, Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.resume(py, Input::Value(py.None().bind(py)))
    }

    #[getter]
    fn __name__(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    #[getter]
    fn __qualname__(&self) -> &'static str {
        self.name
    }

    #[getter]
    fn cr_running(&self) -> PyResult<bool> {
        Ok(matches!(&*self.state.get()?.borrow(), State::Running))
    }

    #[getter]
    fn cr_await(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let state = self.state.get()?.borrow();
        let State::Suspended(started) = &*state else {
            return Ok(None);
        };
        let delegate = started.delegate.as_ref();
        Ok(delegate.and_then(|delegate| delegate.iterator(py)))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // In another thread it counts as in use.
        if let Ok(state) = self.state.get()
            && let Ok(state) = state.try_borrow()
            && let State::Suspended(started) = &*state
            && let Some(delegate) = &started.delegate
        {
            delegate.traverse(&visit)?;
        }
        Ok(())
    }

    fn __repr__(&self) -> String {
        format!("<coroutine object {} at {self:p}>", self.name)
    }
}

impl Drop for Coroutine {
    fn drop(&mut self) {
        if let Ok(state) = self.state.get()
            && let State::Fresh(_) = &*state.borrow()
        {
            Python::attach(|py| {
                let category = py.get_type::<PyRuntimeWarning>();
                let text = format!("coroutine '{}' was never awaited\0", self.name);
                let text = std::ffi::CStr::from_bytes_until_nul(text.as_bytes());
                if let Ok(text) = text
                    && let Err(error) = PyErr::warn(py, &category, text, 1)
                {
                    error.write_unraisable(py, None);
                }
            });
        }
    }
}

/// Marks a coroutine as done when a panic passes through.
struct EndedByPanic<'a>(&'a RefCell<State>);

impl Drop for EndedByPanic<'_> {
    fn drop(&mut self) {
        self.0.replace(State::Done);
    }
}

impl OfThread for RefCell<State> {
    fn mailbox(&mut self) -> Option<Arc<Mailbox>> {
        match self.get_mut() {
            State::Suspended(started) => Some(Arc::clone(&started.local.mailbox)),
            _ => None,
        }
    }
}
