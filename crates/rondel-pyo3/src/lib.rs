//! Rust futures on the thread of a Python program's own asyncio loop.
//!
//! An extension module that is written in Rust usually brings a second runtime, with threads of its
//! own: each `await` crosses from one thread to the other and back. With this crate its futures run
//! on the loop that the program has, whichever that is (asyncio's own, uvloop, Rondel), in the step
//! of the task that awaits them. No second thread is needed, and the futures need not be `Send`.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use pyo3::prelude::*;
//!
//! /// `await say_after(0.5, "hello")` gives "hello" half a second later.
//! #[rondel_pyo3::function]
//! async fn say_after(delay: f64, text: String) -> PyResult<String> {
//!     rondel::sleep(Duration::from_secs_f64(delay)).await;
//!     Ok(text)
//! }
//!
//! #[pymodule]
//! fn my_extension(module: &Bound<'_, PyModule>) -> PyResult<()> {
//!     module.add_function(wrap_pyfunction!(say_after, module)?)
//! }
//! ```
//!
//! # How it works
//! For each loop there is a [`rondel::Guest`]: an executor and a reactor whose descriptor the loop
//! watches (`local.rs`). A [`Coroutine`] polls its future within it (`coroutine.rs`). A waker, on
//! whatever thread, leads back to the loop (`wakeup.rs`). A Python awaitable is advanced in the
//! same step (`delegate.rs`). All of the crate `rondel` works in such a future: sockets, timers,
//! tasks, threads for what blocks.
//!
//! # Cancellation
//! A cancelled task drops the future at its `await`, on the loop's thread, before the coroutine
//! that awaits it sees `CancelledError`. If the future waits for a Python awaitable alone, that one
//! sees the cancellation first, and the future goes on with what comes of it.

mod bridge;
mod coroutine;
mod delegate;
mod local;
mod locals;
mod streams;
mod thread_bound;
mod wakeup;

pub use bridge::{
    future_into_py, future_into_py_with_locals, into_future, into_future_with_locals,
    local_future_into_py, local_future_into_py_with_locals, run, run_until_complete, spawn,
};
pub use coroutine::Coroutine;
pub use delegate::{AwaitPy, await_py};
pub use locals::{
    Scope, TaskLocals, get_current_locals, get_current_loop, get_running_loop, scope, scope_local,
};
pub use rondel_pyo3_macros::{function, methods};
pub use streams::{AsyncIterator, PyStream, into_stream};

use std::any::TypeId;

use pyo3::BoundObject;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

#[doc(hidden)]
pub use pyo3;

/// Any value as an object; `()` is `None`, as in PyO3's functions.
pub(crate) fn to_object<'py, T: IntoPyObject<'py> + 'static>(
    py: Python<'py>,
    value: T,
) -> PyResult<Py<PyAny>> {
    if TypeId::of::<T>() == TypeId::of::<()>() {
        return Ok(py.None());
    }
    match value.into_pyobject(py) {
        Ok(object) => Ok(object.into_any().unbind()),
        Err(error) => Err(error.into()),
    }
}

/// What a function of [`function`] returns to Python.
#[doc(hidden)]
pub fn coroutine<F, T>(py: Python<'_>, name: &'static str, future: F) -> PyResult<Py<Coroutine>>
where
    F: Future<Output = PyResult<T>> + 'static,
    T: for<'py> IntoPyObject<'py> + 'static,
{
    register(py)?;
    Py::new(py, Coroutine::new(name, future))
}

/// Has asyncio take our class for one of coroutines. Once.
pub(crate) fn register(py: Python<'_>) -> PyResult<()> {
    static REGISTERED: PyOnceLock<()> = PyOnceLock::new();
    REGISTERED
        .get_or_try_init(py, || {
            let abc = py.import("collections.abc")?.getattr("Coroutine")?;
            abc.call_method1("register", (py.get_type::<Coroutine>(),))?;
            Ok(())
        })
        .copied()
}
