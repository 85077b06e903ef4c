//! The loop and the context that a Rust future's Python code belongs to.
//!
//! A coroutine has those of the task that awaits it. A future that runs as a task of Rust's, of
//! [`future_into_py`](crate::future_into_py) or [`spawn`](crate::spawn), takes along those of the
//! code that has started it: a [`Scope`] enters the context at each poll. The names are those of
//! the crate pyo3-async-runtimes.

use std::cell::RefCell;
use std::ffi::c_int;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

thread_local! {
    /// Those of the innermost scope that is being polled.
    static CURRENT: RefCell<Option<TaskLocals>> = const { RefCell::new(None) };
}

/// A loop, and a context (`contextvars.Context`) or `None`.
#[derive(Clone)]
pub struct TaskLocals(Arc<Both>);

struct Both {
    event_loop: Py<PyAny>,
    context: Py<PyAny>,
}

impl TaskLocals {
    /// A loop, without a context.
    pub fn new(event_loop: Bound<'_, PyAny>) -> Self {
        let context = event_loop.py().None();
        Self(Arc::new(Both {
            event_loop: event_loop.unbind(),
            context,
        }))
    }

    /// The loop that runs in this thread, without a context.
    ///
    /// # Errors
    /// `RuntimeError` if none does.
    pub fn with_running_loop(py: Python<'_>) -> PyResult<Self> {
        Ok(Self::new(get_running_loop(py)?))
    }

    /// The same loop, and this context.
    #[must_use]
    pub fn with_context(self, context: Bound<'_, PyAny>) -> Self {
        let event_loop = self.0.event_loop.clone_ref(context.py());
        Self(Arc::new(Both {
            event_loop,
            context: context.unbind(),
        }))
    }

    /// The same loop, and a copy of the current context.
    ///
    /// # Errors
    /// What `contextvars.copy_context` raises.
    pub fn copy_context(self, py: Python<'_>) -> PyResult<Self> {
        static COPY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let context = COPY.import(py, "contextvars", "copy_context")?.call0()?;
        Ok(self.with_context(context))
    }

    /// The loop.
    pub fn event_loop<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.0.event_loop.bind(py).clone()
    }

    /// The context, or `None`.
    pub fn context<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.0.context.bind(py).clone()
    }

    /// Whether the loop runs in this thread.
    pub(crate) fn is_running(&self, py: Python<'_>) -> PyResult<bool> {
        let running = crate::local::get_running_loop(py)?;
        Ok(running.is_some_and(|running| running.is(&self.0.event_loop)))
    }

    /// Has the loop call `callback` soon in the context, from whatever thread.
    pub(crate) fn call_soon_threadsafe(&self, callback: Bound<'_, PyAny>) -> PyResult<()> {
        let py = callback.py();
        let name = intern!(py, "call_soon_threadsafe");
        let event_loop = self.event_loop(py);
        match self.0.context.is_none(py) {
            true => event_loop.call_method1(name, (callback,))?,
            false => {
                let options = pyo3::types::PyDict::new(py);
                options.set_item(intern!(py, "context"), &self.0.context)?;
                event_loop.call_method(name, (callback,), Some(&options))?
            }
        };
        Ok(())
    }

    /// Calls `f` in the context.
    pub(crate) fn run<R>(&self, py: Python<'_>, f: impl FnOnce() -> R) -> R {
        let _entered = Entered::new(py, &self.0.context);
        f()
    }
}

/// Those of the innermost [`scope`]; else the running loop and a copy of the current context.
///
/// # Errors
/// `RuntimeError` if no loop runs in this thread.
pub fn get_current_locals(py: Python<'_>) -> PyResult<TaskLocals> {
    match CURRENT.with_borrow(Clone::clone) {
        Some(locals) => Ok(locals),
        None => TaskLocals::with_running_loop(py)?.copy_context(py),
    }
}

/// The loop of [`get_current_locals`].
///
/// # Errors
/// As there.
pub fn get_current_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    Ok(get_current_locals(py)?.event_loop(py))
}

/// The loop that runs in this thread.
///
/// # Errors
/// `RuntimeError` if none does.
pub fn get_running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    crate::local::running_loop(py)
}

/// Polls a future with these as [`get_current_locals`], in their context if they have one.
pub fn scope<F, R>(locals: TaskLocals, future: F) -> impl Future<Output = R> + Send
where
    F: Future<Output = R> + Send + 'static,
{
    scope_local(locals, future)
}

/// As [`scope`], for any future.
pub fn scope_local<F, R>(locals: TaskLocals, future: F) -> Scope<F>
where
    F: Future<Output = R> + 'static,
{
    Scope {
        locals,
        future: Some(Box::pin(future)),
    }
}

/// The future of [`scope`].
#[must_use = "futures do nothing unless they are awaited"]
pub struct Scope<F> {
    locals: TaskLocals,
    /// Until it is dropped, in the scope.
    future: Option<Pin<Box<F>>>,
}

impl<F> Scope<F> {
    fn within<R>(
        locals: &TaskLocals,
        future: &mut Option<Pin<Box<F>>>,
        f: impl FnOnce(&mut Option<Pin<Box<F>>>) -> R,
    ) -> R {
        let _restored = Restored(CURRENT.replace(Some(locals.clone())));
        match Python::try_attach(|py| Entered::new(py, &locals.0.context)) {
            Some(_entered) => f(future),
            None => f(future),
        }
    }
}

impl<F: Future> Future for Scope<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        Self::within(&this.locals, &mut this.future, |future| match future {
            Some(future) => future.as_mut().poll(context),
            None => Poll::Pending,
        })
    }
}

impl<F> Drop for Scope<F> {
    fn drop(&mut self) {
        Self::within(&self.locals, &mut self.future, |future| drop(future.take()));
    }
}

/// Puts back the locals of the scope around.
struct Restored(Option<TaskLocals>);

impl Drop for Restored {
    fn drop(&mut self) {
        let inner = CURRENT.replace(self.0.take());
        drop(inner);
    }
}

// Exported by every CPython, though not of its stable ABI: PyO3 leaves them out of `abi3` builds.
unsafe extern "C" {
    fn PyContext_Enter(context: *mut ffi::PyObject) -> c_int;
    fn PyContext_Exit(context: *mut ffi::PyObject) -> c_int;
}

/// A context is the thread's current one as long as this lives.
struct Entered(Option<Py<PyAny>>);

impl Entered {
    fn new(py: Python<'_>, context: &Py<PyAny>) -> Self {
        if context.is_none(py) {
            return Self(None);
        }
        // SAFETY: the object is alive; one that is no context is refused with an exception.
        if unsafe { PyContext_Enter(context.as_ptr()) } < 0 {
            // It is entered already, by who has passed it most likely, or it is no context.
            drop(PyErr::take(py));
            return Self(None);
        }
        Self(Some(context.clone_ref(py)))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(context) = self.0.take() {
            Python::attach(|py| {
                // SAFETY: `new` has entered it in this thread; scopes end in the reverse order.
                if unsafe { PyContext_Exit(context.as_ptr()) } < 0 {
                    drop(PyErr::take(py));
                }
            });
        }
    }
}
