//! Streams that go from one language to the other: a Rust stream as an async iterator of Python's,
//! and an async iterable as a Rust stream.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use pyo3::exceptions::{PyRuntimeError, PyStopAsyncIteration, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;

use crate::coroutine::Coroutine;
use crate::delegate::{AwaitPy, await_py};
use crate::local::Local;
use crate::thread_bound::{OfThread, ThreadBound};
use crate::wakeup::Mailbox;

/// The stream behind an async iterator.
type Boxed = Pin<Box<dyn Stream<Item = PyResult<Py<PyAny>>>>>;

/// An async iterator of Python's over a Rust stream.
///
/// `async for` polls the stream in the step of its task. An item that is an error is raised, and
/// ends the stream. `aclose()` drops it, as does the end of the last reference.
#[pyclass(frozen, weakref, module = "rondel_pyo3")]
pub struct AsyncIterator(ThreadBound<Iteration>);

#[derive(Default)]
struct Iteration {
    stream: Rc<RefCell<Step>>,
    /// The loop that has polled it.
    local: Cell<Weak<Local>>,
}

/// Where a stream stands.
#[derive(Default)]
enum Step {
    Idle(Boxed),
    /// It is being awaited.
    Busy,
    #[default]
    Ended,
}

impl AsyncIterator {
    /// An async iterator over this stream. The stream need not be `Send`.
    pub fn new<S, T>(stream: S) -> Self
    where
        S: Stream<Item = PyResult<T>> + 'static,
        T: for<'py> IntoPyObject<'py> + 'static,
    {
        let stream: Boxed = Box::pin(Objects(Box::pin(stream)));
        Self(ThreadBound::new(Iteration {
            stream: Rc::new(RefCell::new(Step::Idle(stream))),
            local: Cell::default(),
        }))
    }
}

#[pymethods]
impl AsyncIterator {
    fn __aiter__(this: Bound<'_, Self>) -> Bound<'_, Self> {
        this
    }

    fn __anext__(&self, py: Python<'_>) -> PyResult<Py<Coroutine>> {
        let own = self.0.get()?;
        own.local.set(Rc::downgrade(&Local::current(py)?));
        let stream = Rc::clone(&own.stream);
        crate::coroutine(py, "AsyncIterator.__anext__", async move {
            let mut taken = Taken::new(&stream)?;
            let item = match &mut taken.stream {
                Some(stream) => poll_fn(|context| stream.as_mut().poll_next(context)).await,
                None => None,
            };
            match item {
                Some(Ok(item)) => Ok(item),
                Some(Err(error)) => {
                    taken.stream = None;
                    Err(error)
                }
                None => {
                    taken.stream = None;
                    Err(PyStopAsyncIteration::new_err(()))
                }
            }
        })
    }

    /// Drops the stream.
    fn aclose(&self, py: Python<'_>) -> PyResult<Py<Coroutine>> {
        let stream = Rc::clone(&self.0.get()?.stream);
        crate::coroutine(py, "AsyncIterator.aclose", async move {
            Taken::new(&stream)?.stream = None;
            Ok(())
        })
    }
}

/// A stream that is being awaited. Nothing is lost if that is given up: it is put back.
struct Taken<'a> {
    from: &'a RefCell<Step>,
    stream: Option<Boxed>,
}

impl<'a> Taken<'a> {
    fn new(from: &'a RefCell<Step>) -> PyResult<Self> {
        let stream = match from.replace(Step::Busy) {
            Step::Idle(stream) => Some(stream),
            Step::Ended => None,
            Step::Busy => {
                return Err(PyRuntimeError::new_err(
                    "anext(): asynchronous iterator is already running",
                ));
            }
        };
        Ok(Self { from, stream })
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.from.replace(match self.stream.take() {
            Some(stream) => Step::Idle(stream),
            None => Step::Ended,
        });
    }
}

impl OfThread for Iteration {
    fn mailbox(&mut self) -> Option<Arc<Mailbox>> {
        let local = self.local.get_mut().upgrade()?;
        Some(Arc::clone(&local.mailbox))
    }
}

impl Drop for Iteration {
    /// Drops the stream with its loop as the running one. What is being awaited is left to that.
    fn drop(&mut self) {
        let stream = std::mem::take(&mut self.stream);
        match self.local.take().upgrade() {
            Some(local) => drop(Python::try_attach(|py| local.enter(py, || drop(stream)))),
            None => drop(stream),
        }
    }
}

/// A stream with its items as objects.
struct Objects<S>(Pin<Box<S>>);

impl<S, T> Stream for Objects<S>
where
    S: Stream<Item = PyResult<T>>,
    T: for<'py> IntoPyObject<'py> + 'static,
{
    type Item = PyResult<Py<PyAny>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0
            .as_mut()
            .poll_next(context)
            .map(|item| item.map(|item| Python::attach(|py| crate::to_object(py, item?))))
    }
}

/// Makes a Rust stream of an async iterable of Python's: an async generator, say.
///
/// Each item is awaited as by [`await_py`]: in the step of the task that awaits the Rust future. An
/// exception is the last item. Dropping the stream cancels the item that is being awaited; an
/// async generator that is not at its end is closed by its loop, as in Python.
pub fn into_stream(iterable: impl Into<Py<PyAny>>) -> PyStream {
    PyStream {
        state: Iterable::Fresh(iterable.into()),
        next: None,
    }
}

/// The stream of [`into_stream`].
#[must_use = "streams do nothing unless they are polled"]
pub struct PyStream {
    state: Iterable,
    /// The item that is being awaited.
    next: Option<AwaitPy>,
}

enum Iterable {
    Fresh(Py<PyAny>),
    Iterator(Py<PyAny>),
    Ended,
}

impl PyStream {
    /// Begins to await the next item.
    fn anext(&mut self, py: Python<'_>) -> PyResult<Option<AwaitPy>> {
        if let Iterable::Fresh(iterable) = &self.state {
            let iterable = iterable.bind(py);
            let kind = iterable.get_type();
            let Some(aiter) = kind.getattr_opt(intern!(py, "__aiter__"))? else {
                return Err(PyTypeError::new_err(format!(
                    "'async for' requires an object with __aiter__ method, got {}",
                    kind.name()?
                )));
            };
            self.state = Iterable::Iterator(aiter.call1((iterable,))?.unbind());
        }
        let Iterable::Iterator(iterator) = &self.state else {
            return Ok(None);
        };
        let iterator = iterator.bind(py);
        let anext = iterator.get_type().getattr(intern!(py, "__anext__"))?;
        Ok(Some(await_py(anext.call1((iterator,))?.unbind())))
    }
}

impl Stream for PyStream {
    type Item = PyResult<Py<PyAny>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.next.is_none() {
            match Python::attach(|py| this.anext(py)) {
                Ok(next) => this.next = next,
                Err(error) => {
                    this.state = Iterable::Ended;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        let Some(next) = &mut this.next else {
            return Poll::Ready(None);
        };
        let Poll::Ready(result) = Pin::new(next).poll(context) else {
            return Poll::Pending;
        };
        this.next = None;
        let Err(error) = result else {
            return Poll::Ready(Some(result));
        };
        this.state = Iterable::Ended;
        let ended = Python::attach(|py| error.is_instance_of::<PyStopAsyncIteration>(py));
        Poll::Ready((!ended).then_some(Err(error)))
    }
}
