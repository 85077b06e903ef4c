//! Futures that go from one language to the other: a Rust future as a future of the loop, and a
//! Python awaitable as a Rust future that may go to any thread.

use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use pyo3::exceptions::PyRuntimeError;
use pyo3::exceptions::asyncio::CancelledError;
use pyo3::intern;
use pyo3::panic::PanicException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::local::Local;
use crate::locals::{TaskLocals, get_current_locals, scope_local};

/// Starts a Rust future on the running loop, and gives a future of the loop's that has its outcome.
/// Cancelling that one drops the Rust future. Its Python code has a copy of the current context.
///
/// The signature is that of `pyo3-async-runtimes`; see [`local_future_into_py`] for futures that
/// are not `Send`.
///
/// # Errors
/// `RuntimeError` if no loop runs in this thread.
pub fn future_into_py<F, T>(py: Python<'_>, future: F) -> PyResult<Bound<'_, PyAny>>
where
    F: Future<Output = PyResult<T>> + Send + 'static,
    T: for<'py> IntoPyObject<'py> + Send + 'static,
{
    future_into_py_with_locals(py, get_current_locals(py)?, future)
}

/// As [`future_into_py`], on the loop and in the context of `locals`. The loop may run in another
/// thread: the future runs there.
///
/// # Errors
/// What the loop raises, if it is closed.
pub fn future_into_py_with_locals<F, T>(
    py: Python<'_>,
    locals: TaskLocals,
    future: F,
) -> PyResult<Bound<'_, PyAny>>
where
    F: Future<Output = PyResult<T>> + Send + 'static,
    T: for<'py> IntoPyObject<'py> + Send + 'static,
{
    if locals.is_running(py)? {
        return local_future_into_py_with_locals(py, locals, future);
    }
    let result = create_future(&locals.event_loop(py))?;
    let target = result.clone().unbind();
    let own = locals.clone();
    let start = Later::new(move |py| start(py, own, future, target));
    locals.call_soon_threadsafe(Bound::new(py, start)?.into_any())?;
    Ok(result)
}

/// As [`future_into_py`], for any future.
///
/// # Errors
/// As there.
pub fn local_future_into_py<F, T>(py: Python<'_>, future: F) -> PyResult<Bound<'_, PyAny>>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'py> IntoPyObject<'py> + 'static,
{
    local_future_into_py_with_locals(py, get_current_locals(py)?, future)
}

/// As [`local_future_into_py`], in the context of `locals`, whose loop runs in this thread.
///
/// # Errors
/// `RuntimeError` if it does not.
pub fn local_future_into_py_with_locals<F, T>(
    py: Python<'_>,
    locals: TaskLocals,
    future: F,
) -> PyResult<Bound<'_, PyAny>>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'py> IntoPyObject<'py> + 'static,
{
    if !locals.is_running(py)? {
        return Err(PyRuntimeError::new_err(
            "the event loop does not run in this thread",
        ));
    }
    let result = create_future(&locals.event_loop(py))?;
    start(py, locals, future, result.clone().unbind())?;
    Ok(result)
}

fn create_future<'py>(event_loop: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    event_loop.call_method0(intern!(event_loop.py(), "create_future"))
}

/// Runs a future in the guest of the running loop, and completes `target` with its outcome.
fn start<F, T>(py: Python<'_>, locals: TaskLocals, future: F, target: Py<PyAny>) -> PyResult<()>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'py> IntoPyObject<'py> + 'static,
{
    let local = Local::current(py)?;
    let result = target.clone_ref(py);
    let future = scope_local(locals, future);
    let task = local.enter(py, || {
        rondel::create_task(async move {
            let outcome = Caught(Box::pin(future)).await;
            Python::attach(|py| {
                if let Err(error) = complete(target.bind(py), outcome) {
                    error.write_unraisable(py, Some(target.bind(py)));
                }
            });
        })
    });
    let cancel = Bound::new(
        py,
        CancelTask {
            handle: task.cancel_handle(),
            local: Rc::downgrade(&local),
        },
    )?;
    local.enter(py, || task.detach());
    result.call_method1(py, intern!(py, "add_done_callback"), (cancel,))?;
    Ok(())
}

/// A future whose panic is an exception.
struct Caught<F>(Pin<Box<F>>);

impl<F, T> Future for Caught<F>
where
    F: Future<Output = PyResult<T>>,
{
    type Output = PyResult<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // The future is not polled again after a panic, but dropped.
        let poll = AssertUnwindSafe(|| self.0.as_mut().poll(context));
        panic::catch_unwind(poll).unwrap_or_else(|panic| {
            let text = match panic.downcast::<String>() {
                Ok(text) => *text,
                Err(panic) => match panic.downcast::<&str>() {
                    Ok(text) => (*text).to_owned(),
                    Err(_) => "a panic in Rust code".to_owned(),
                },
            };
            Poll::Ready(Err(PanicException::new_err(text)))
        })
    }
}

fn complete<T>(future: &Bound<'_, PyAny>, outcome: PyResult<T>) -> PyResult<()>
where
    T: for<'py> IntoPyObject<'py> + 'static,
{
    let py = future.py();
    if future.call_method0(intern!(py, "done"))?.is_truthy()? {
        return Ok(());
    }
    match outcome.and_then(|value| crate::to_object(py, value)) {
        Ok(value) => future.call_method1(intern!(py, "set_result"), (value,))?,
        Err(error) if error.is_instance_of::<CancelledError>(py) => {
            future.call_method0(intern!(py, "cancel"))?
        }
        Err(error) => future.call_method1(intern!(py, "set_exception"), (error,))?,
    };
    Ok(())
}

/// The callback of a future that stands for a task of Rust's: cancels that one if the future was.
#[pyclass(unsendable, frozen, module = "rondel_pyo3")]
struct CancelTask {
    handle: rondel::CancelHandle,
    local: Weak<Local>,
}

#[pymethods]
impl CancelTask {
    fn __call__(&self, py: Python<'_>, future: &Bound<'_, PyAny>) -> PyResult<()> {
        if future.call_method0(intern!(py, "cancelled"))?.is_truthy()?
            && let Some(local) = self.local.upgrade()
        {
            local.enter(py, || self.handle.cancel());
        }
        Ok(())
    }
}

/// Runs a Rust future as a task on the running loop, beside what runs there; its Python code has a
/// copy of the current context. Awaited in Rust, the handle gives the output; dropping it lets the
/// task go on.
///
/// # Errors
/// `RuntimeError` if no loop runs in this thread.
pub fn spawn<F>(py: Python<'_>, future: F) -> PyResult<rondel::Task<F::Output>>
where
    F: Future + 'static,
{
    let future = scope_local(get_current_locals(py)?, future);
    Ok(Local::current(py)?.enter(py, || rondel::create_task(future)))
}

/// Makes a Rust future of a Python awaitable, which begins at once, as a task of the running loop
/// if it is a coroutine. Dropping the future cancels it. The future may be awaited in any thread;
/// in a coroutine, [`await_py`](crate::await_py) is cheaper.
///
/// # Errors
/// `RuntimeError` if no loop runs in this thread, `TypeError` if it is no awaitable.
pub fn into_future(
    awaitable: Bound<'_, PyAny>,
) -> PyResult<impl Future<Output = PyResult<Py<PyAny>>> + Send + use<>> {
    into_future_with_locals(&get_current_locals(awaitable.py())?, awaitable)
}

/// As [`into_future`], on the loop and in the context of `locals`. The loop may run in another
/// thread: the awaitable begins there soon.
///
/// # Errors
/// As there, and what the loop raises if it is closed.
pub fn into_future_with_locals(
    locals: &TaskLocals,
    awaitable: Bound<'_, PyAny>,
) -> PyResult<impl Future<Output = PyResult<Py<PyAny>>> + Send + use<>> {
    let py = awaitable.py();
    let shared = Arc::new(Shared::default());
    if locals.is_running(py)? {
        locals.run(py, || begin(awaitable, &shared))?;
    } else {
        let (shared, awaitable) = (Arc::clone(&shared), awaitable.unbind());
        let begin = Later::new(move |py| {
            if let Err(error) = begin(awaitable.into_bound(py), &shared) {
                shared.complete(Err(error));
            }
            Ok(())
        });
        locals.call_soon_threadsafe(Bound::new(py, begin)?.into_any())?;
    }
    Ok(PyFuture {
        locals: locals.clone(),
        shared,
    })
}

/// Runs the awaitable as a future of the running loop.
fn begin(awaitable: Bound<'_, PyAny>, shared: &Arc<Shared>) -> PyResult<()> {
    static ENSURE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = awaitable.py();
    if shared.lock().dropped {
        return Ok(());
    }
    let future = ENSURE
        .import(py, "asyncio", "ensure_future")?
        .call1((awaitable,))?;
    let done = Bound::new(py, Done(Arc::clone(shared)))?;
    future.call_method1(intern!(py, "add_done_callback"), (done,))?;
    shared.lock().future = Some(future.unbind());
    Ok(())
}

#[derive(Default)]
struct Shared(Mutex<Outcome>);

#[derive(Default)]
struct Outcome {
    result: Option<PyResult<Py<PyAny>>>,
    waker: Option<Waker>,
    /// The loop's future, from its begin to its end.
    future: Option<Py<PyAny>>,
    /// Nobody waits for it.
    dropped: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Outcome> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn complete(&self, result: PyResult<Py<PyAny>>) {
        let mut outcome = self.lock();
        outcome.result = Some(result);
        let future = outcome.future.take();
        let waker = outcome.waker.take();
        drop(outcome);
        drop(future);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A Python future that Rust waits for.
struct PyFuture {
    locals: TaskLocals,
    shared: Arc<Shared>,
}

impl Future for PyFuture {
    type Output = PyResult<Py<PyAny>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut outcome = self.shared.lock();
        match outcome.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                let before = outcome.waker.replace(context.waker().clone());
                drop(outcome);
                drop(before);
                Poll::Pending
            }
        }
    }
}

impl Drop for PyFuture {
    fn drop(&mut self) {
        let mut outcome = self.shared.lock();
        outcome.dropped = true;
        let (future, waker) = (outcome.future.take(), outcome.waker.take());
        drop(outcome);
        drop(waker);
        let Some(future) = future else { return };
        Python::try_attach(|py| {
            let cancel = future.getattr(py, intern!(py, "cancel"))?;
            match self.locals.is_running(py)? {
                true => drop(cancel.call0(py)?),
                // A loop that is closed runs nothing that could be cancelled.
                false => self.locals.call_soon_threadsafe(cancel.into_bound(py))?,
            }
            PyResult::Ok(())
        });
    }
}

/// The callback of a Python future that Rust waits for.
#[pyclass(frozen, module = "rondel_pyo3")]
struct Done(Arc<Shared>);

#[pymethods]
impl Done {
    fn __call__(&self, future: &Bound<'_, PyAny>) {
        let result = future.call_method0(intern!(future.py(), "result"));
        self.0.complete(result.map(Bound::unbind));
    }
}

/// A callback that is called once, in a loop's thread.
type Callback = Box<dyn FnOnce(Python<'_>) -> PyResult<()> + Send>;

/// What a loop calls in its own thread.
#[pyclass(frozen, module = "rondel_pyo3")]
struct Later(Mutex<Option<Callback>>);

impl Later {
    fn new(f: impl FnOnce(Python<'_>) -> PyResult<()> + Send + 'static) -> Self {
        Self(Mutex::new(Some(Box::new(f))))
    }
}

#[pymethods]
impl Later {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        let callback = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        callback.map_or(Ok(()), |callback| callback(py))
    }
}

/// Runs a future on a loop that does not run yet, until it has ended.
///
/// # Errors
/// What the future returns, and what `run_until_complete` raises.
pub fn run_until_complete<F, T>(event_loop: Bound<'_, PyAny>, future: F) -> PyResult<T>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: 'static,
{
    let py = event_loop.py();
    run_with(py, future, |coroutine| {
        event_loop.call_method1(intern!(py, "run_until_complete"), (coroutine,))
    })
}

/// Runs a future as `asyncio.run` runs a coroutine.
///
/// # Errors
/// What the future returns, and what `asyncio.run` raises.
pub fn run<F, T>(py: Python<'_>, future: F) -> PyResult<T>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: 'static,
{
    run_with(py, future, |coroutine| {
        py.import("asyncio")?
            .call_method1(intern!(py, "run"), (coroutine,))
    })
}

fn run_with<'py, F, T>(
    py: Python<'py>,
    future: F,
    run: impl FnOnce(Py<crate::Coroutine>) -> PyResult<Bound<'py, PyAny>>,
) -> PyResult<T>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: 'static,
{
    let output = Rc::new(std::cell::Cell::new(None));
    let slot = Rc::clone(&output);
    run(crate::coroutine(py, "run", async move {
        slot.set(Some(future.await?));
        Ok(())
    })?)?;
    output
        .take()
        .ok_or_else(|| PyRuntimeError::new_err("the event loop has not run it to its end"))
}
