//! Futures that go from one language to the other: a Rust future as a future of the loop, and a
//! Python awaitable as a Rust future.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use pyo3::exceptions::asyncio::CancelledError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::local::Local;

/// Starts a Rust future on the running loop, and gives a future of the loop's that has its outcome.
/// Cancelling that one drops the Rust future.
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
    local_future_into_py(py, future)
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
    let local = Local::current(py)?;
    let event_loop = running_loop(py, &local)?;
    let result = event_loop.call_method0(intern!(py, "create_future"))?;
    let target = result.clone().unbind();
    let task = local.enter(py, || {
        rondel::create_task(async move {
            let outcome = future.await;
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
            local: std::rc::Rc::downgrade(&local),
        },
    )?;
    local.enter(py, || task.detach());
    result.call_method1(intern!(py, "add_done_callback"), (cancel,))?;
    Ok(result)
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
    local: std::rc::Weak<Local>,
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

/// Runs a Rust future as a task on the running loop, beside what runs there. Awaited in Rust, the
/// handle gives the output; dropping it lets the task go on.
///
/// # Errors
/// `RuntimeError` if no loop runs in this thread.
pub fn spawn<F>(py: Python<'_>, future: F) -> PyResult<rondel::Task<F::Output>>
where
    F: Future + 'static,
{
    Ok(Local::current(py)?.enter(py, || rondel::create_task(future)))
}

fn running_loop<'py>(py: Python<'py>, local: &Local) -> PyResult<Bound<'py, PyAny>> {
    local
        .event_loop(py)
        .ok_or_else(|| pyo3::exceptions::PyRuntimeError::new_err("no running event loop"))
}

/// Makes a Rust future of a Python awaitable, which begins at once, as a task of the running loop
/// if it is a coroutine. Dropping the future cancels it.
///
/// # Errors
/// `RuntimeError` if no loop runs in this thread, `TypeError` if it is no awaitable.
pub fn into_future(
    awaitable: Bound<'_, PyAny>,
) -> PyResult<impl Future<Output = PyResult<Py<PyAny>>> + Send + use<>> {
    static ENSURE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = awaitable.py();
    let local = Local::current(py)?;
    let event_loop = running_loop(py, &local)?;
    let future = ENSURE
        .import(py, "asyncio", "ensure_future")?
        .call1((awaitable,))?;
    let shared = Arc::new(Mutex::new(Outcome::default()));
    let done = Bound::new(py, Done(Arc::clone(&shared)))?;
    future.call_method1(intern!(py, "add_done_callback"), (done,))?;
    Ok(PyFuture {
        future: Some(future.unbind()),
        event_loop: event_loop.unbind(),
        shared,
        mailbox: Arc::clone(&local.mailbox),
    })
}

#[derive(Default)]
struct Outcome {
    result: Option<PyResult<Py<PyAny>>>,
    waker: Option<Waker>,
}

/// A Python future that Rust waits for.
struct PyFuture {
    /// Until it is done.
    future: Option<Py<PyAny>>,
    event_loop: Py<PyAny>,
    shared: Arc<Mutex<Outcome>>,
    mailbox: Arc<crate::wakeup::Mailbox>,
}

impl Future for PyFuture {
    type Output = PyResult<Py<PyAny>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut outcome = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome.result.take() {
            Some(result) => {
                drop(outcome);
                self.future = None;
                Poll::Ready(result)
            }
            None => {
                outcome.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for PyFuture {
    fn drop(&mut self) {
        let Some(future) = self.future.take() else {
            return;
        };
        Python::attach(|py| {
            let cancelled = match self.mailbox.is_own_thread() {
                true => future.call_method0(py, intern!(py, "cancel")),
                false => future
                    .getattr(py, intern!(py, "cancel"))
                    .and_then(|cancel| {
                        let send = intern!(py, "call_soon_threadsafe");
                        self.event_loop.call_method1(py, send, (cancel,))
                    }),
            };
            // A loop that is closed runs nothing that could be cancelled.
            drop(cancelled);
        });
    }
}

/// The callback of a Python future that Rust waits for.
#[pyclass(frozen, module = "rondel_pyo3")]
struct Done(Arc<Mutex<Outcome>>);

#[pymethods]
impl Done {
    fn __call__(&self, future: &Bound<'_, PyAny>) {
        let result = future
            .call_method0(intern!(future.py(), "result"))
            .map(Bound::unbind);
        let mut outcome = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.result = Some(result);
        let waker = outcome.waker.take();
        drop(outcome);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
