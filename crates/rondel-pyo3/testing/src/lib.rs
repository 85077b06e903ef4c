//! What the tests of `rondel-pyo3` await.

mod tutorial;

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_core::Stream;
use pyo3::exceptions::{PyKeyError, PyOSError};
use pyo3::prelude::*;

/// Values of Rust's that are alive.
static ALIVE: AtomicUsize = AtomicUsize::new(0);

/// Something that has to be dropped.
struct Alive;

impl Alive {
    fn new() -> Self {
        ALIVE.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many values are alive.
#[pyfunction]
fn alive() -> usize {
    ALIVE.load(Ordering::Relaxed)
}

/// Gives its argument at once.
#[rondel_pyo3::function]
async fn ready(value: Py<PyAny>) -> PyResult<Py<PyAny>> {
    Ok(value)
}

/// Gives nothing, at once.
#[rondel_pyo3::function]
async fn nothing() -> PyResult<()> {
    Ok(())
}

/// Lets the loop go on so many times.
#[rondel_pyo3::function(signature = (times=1))]
async fn give_way(times: usize) -> PyResult<usize> {
    for _ in 0..times {
        rondel::yield_now().await;
    }
    Ok(times)
}

/// Sleeps, holding something.
#[rondel_pyo3::function]
async fn sleep(seconds: f64, result: Py<PyAny>) -> PyResult<Py<PyAny>> {
    let _alive = Alive::new();
    rondel::sleep(Duration::from_secs_f64(seconds)).await;
    Ok(result)
}

/// Never ends.
#[rondel_pyo3::function]
async fn never() -> PyResult<()> {
    let _alive = Alive::new();
    pending().await
}

/// Uses what is not `Send`.
#[rondel_pyo3::function]
async fn count_in_tasks(tasks: usize) -> PyResult<usize> {
    let counter = Rc::new(Cell::new(0));
    let handles: Vec<_> = (0..tasks)
        .map(|_| {
            let counter = Rc::clone(&counter);
            rondel::create_task(async move {
                rondel::yield_now().await;
                counter.set(counter.get() + 1);
            })
        })
        .collect();
    for handle in handles {
        handle
            .await
            .map_err(|error| PyOSError::new_err(error.to_string()))?;
    }
    Ok(counter.get())
}

/// Raises `KeyError`.
#[rondel_pyo3::function]
async fn fail(key: String) -> PyResult<()> {
    rondel::yield_now().await;
    Err(PyKeyError::new_err(key))
}

/// Panics.
#[rondel_pyo3::function]
async fn crash() -> PyResult<()> {
    rondel::yield_now().await;
    panic!("out of cheese")
}

/// Wakes itself from so many threads, one after the other.
#[rondel_pyo3::function]
async fn woken_by_threads(count: usize) -> PyResult<usize> {
    for _ in 0..count {
        let mut thread = None;
        let ended = poll_fn(|context| match thread.take() {
            None => {
                let waker = context.waker().clone();
                thread = Some(std::thread::spawn(move || waker.wake()));
                Poll::Pending
            }
            Some(thread) => Poll::Ready(thread.join()),
        })
        .await;
        assert!(ended.is_ok());
    }
    Ok(count)
}

/// Adds numbers in a thread of the pool.
#[rondel_pyo3::function]
async fn add_in_thread(first: i64, second: i64) -> PyResult<i64> {
    rondel::spawn_blocking(move || first + second)
        .await
        .map_err(|error| PyOSError::new_err(error.to_string()))
}

/// Sends a line to a server, and gives its answer.
#[rondel_pyo3::function]
async fn request(host: String, port: u16, line: Vec<u8>) -> PyResult<Vec<u8>> {
    let _alive = Alive::new();
    let (mut reader, writer) = rondel::open_connection((host.as_str(), port)).await?;
    writer.write(line);
    writer.write("\n");
    Ok(reader.readline().await?.to_vec())
}

/// Awaits something of Python's, as a task of the loop.
#[rondel_pyo3::function]
async fn awaited_as_task(awaitable: Py<PyAny>) -> PyResult<Py<PyAny>> {
    let _alive = Alive::new();
    Python::attach(|py| rondel_pyo3::into_future(awaitable.into_bound(py)))?.await
}

/// Awaits something of Python's.
#[rondel_pyo3::function]
async fn awaited(awaitable: Py<PyAny>) -> PyResult<Py<PyAny>> {
    let _alive = Alive::new();
    rondel_pyo3::await_py(awaitable).await
}

/// Awaits one after the other.
#[rondel_pyo3::function]
async fn awaited_in_turn(awaitables: Vec<Py<PyAny>>) -> PyResult<Vec<Py<PyAny>>> {
    let _alive = Alive::new();
    let mut results = Vec::new();
    for awaitable in awaitables {
        results.push(rondel_pyo3::await_py(awaitable).await?);
        rondel::yield_now().await;
    }
    Ok(results)
}

/// Awaits something of Python's, and gives the name of the exception's class if it fails.
#[rondel_pyo3::function]
async fn outcome(awaitable: Py<PyAny>) -> PyResult<Py<PyAny>> {
    let _alive = Alive::new();
    match rondel_pyo3::await_py(awaitable).await {
        Ok(value) => Ok(value),
        Err(error) => Python::attach(|py| Ok(error.get_type(py).name()?.into_any().unbind())),
    }
}

/// Awaits something of Python's for so many seconds: `None` if that was not enough.
#[rondel_pyo3::function]
async fn awaited_within(seconds: f64, awaitable: Py<PyAny>) -> PyResult<Option<Py<PyAny>>> {
    let _alive = Alive::new();
    let awaited = rondel_pyo3::await_py(awaitable);
    match rondel::timeout(Duration::from_secs_f64(seconds), awaited).await {
        Ok(result) => result.map(Some),
        Err(_) => Ok(None),
    }
}

/// Awaits several at once, polling each with the task's own waker or with one of its own.
#[rondel_pyo3::function]
async fn joined(awaitables: Vec<Py<PyAny>>, own_wakers: bool) -> PyResult<Vec<Py<PyAny>>> {
    let _alive = Alive::new();
    let mut futures: Vec<_> = awaitables
        .into_iter()
        .map(|awaitable| Some(Box::pin(rondel_pyo3::await_py(awaitable))))
        .collect();
    let mut results: Vec<Option<PyResult<_>>> = futures.iter().map(|_| None).collect();
    poll_fn(|context| {
        let own = std::task::Waker::from(std::sync::Arc::new(Forward(context.waker().clone())));
        let mut context = match own_wakers {
            true => std::task::Context::from_waker(&own),
            false => std::task::Context::from_waker(context.waker()),
        };
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if let Some(pending) = future
                && let Poll::Ready(output) = pending.as_mut().poll(&mut context)
            {
                *future = None;
                *result = Some(output);
            }
        }
        match futures.iter().all(Option::is_none) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    results.into_iter().flatten().collect()
}

/// Awaits something of Python's, and something that never comes.
#[rondel_pyo3::function]
async fn awaited_beside_nothing(awaitable: Py<PyAny>) -> PyResult<()> {
    let _alive = Alive::new();
    let mut awaited = Some(Box::pin(rondel_pyo3::await_py(awaitable)));
    let mut waker = None;
    poll_fn(|context| {
        // As join! does.
        if let Some(future) = &mut awaited
            && future.as_mut().poll(context).is_ready()
        {
            awaited = None;
        }
        waker = Some(context.waker().clone());
        Poll::<()>::Pending
    })
    .await;
    drop(waker);
    Ok(())
}

/// A waker that wakes another.
struct Forward(std::task::Waker);

impl std::task::Wake for Forward {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.wake_by_ref();
    }
}

/// Begins to await something of Python's, and goes on in a task of Rust's.
#[rondel_pyo3::function]
async fn awaited_elsewhere(awaitable: Py<PyAny>, begin_here: bool) -> PyResult<Py<PyAny>> {
    let _alive = Alive::new();
    let mut future = Box::pin(rondel_pyo3::await_py(awaitable));
    if begin_here {
        let polled = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
        assert!(polled.is_pending());
    }
    rondel::create_task(future)
        .await
        .map_err(|error| PyOSError::new_err(error.to_string()))?
}

/// The task that runs now, as asyncio sees it, before and after a wait.
#[rondel_pyo3::function]
async fn current_task() -> PyResult<(Py<PyAny>, Py<PyAny>)> {
    let current = || {
        Python::attach(|py| {
            let task = py.import("asyncio")?.call_method0("current_task")?;
            PyResult::Ok(task.unbind())
        })
    };
    let before = current()?;
    rondel::yield_now().await;
    Ok((before, current()?))
}

/// A future of the loop's that sleeps.
#[pyfunction]
fn sleep_as_future<'py>(py: Python<'py>, seconds: f64) -> PyResult<Bound<'py, PyAny>> {
    rondel_pyo3::local_future_into_py(py, async move {
        let _alive = Alive::new();
        rondel::sleep(Duration::from_secs_f64(seconds)).await;
        Ok("slept")
    })
}

/// A future of the loop's that fails.
#[pyfunction]
fn fail_as_future(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    rondel_pyo3::local_future_into_py(py, async {
        rondel::yield_now().await;
        PyResult::<()>::Err(PyKeyError::new_err("missing"))
    })
}

/// A future of the loop's that panics.
#[pyfunction]
fn crash_as_future(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    rondel_pyo3::local_future_into_py(py, async {
        let _alive = Alive::new();
        rondel::yield_now().await;
        if true {
            panic!("out of cheese")
        }
        Ok(())
    })
}

/// Gives the values of a context variable before and after a wait, as a task of Rust's.
#[pyfunction]
fn variable_as_future(variable: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyAny>> {
    let py = variable.py();
    let variable = variable.unbind();
    rondel_pyo3::local_future_into_py(py, async move {
        let get = || Python::attach(|py| variable.call_method0(py, "get"));
        let before = get()?;
        rondel::sleep(Duration::from_millis(1)).await;
        Python::attach(|py| variable.call_method1(py, "set", ("set within",)))?;
        Ok((before, get()?))
    })
}

/// Awaits what a function returns, in a task of Rust's.
#[pyfunction]
fn call_as_future(function: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyAny>> {
    let py = function.py();
    let function = function.unbind();
    rondel_pyo3::local_future_into_py(py, async move {
        rondel::yield_now().await;
        rondel_pyo3::await_py(Python::attach(|py| function.call0(py))?).await
    })
}

/// In another thread, awaits what a function returns, on the loop of the caller.
#[rondel_pyo3::function]
async fn awaited_from_a_thread(function: Py<PyAny>) -> PyResult<Py<PyAny>> {
    let locals = Python::attach(rondel_pyo3::get_current_locals)?;
    rondel::spawn_blocking(move || {
        let future = Python::attach(|py| {
            let awaitable = function.call0(py)?.into_bound(py);
            rondel_pyo3::into_future_with_locals(&locals, awaitable)
        })?;
        rondel::run(future).map_err(|error| PyOSError::new_err(error.to_string()))?
    })
    .await
    .map_err(|error| PyOSError::new_err(error.to_string()))?
}

/// Begins to await what a function returns on the loop of the caller, in another thread, and drops
/// the future at once.
#[rondel_pyo3::function]
async fn dropped_in_a_thread(function: Py<PyAny>) -> PyResult<()> {
    let locals = Python::attach(rondel_pyo3::get_current_locals)?;
    let future = Python::attach(|py| {
        let awaitable = function.call0(py)?.into_bound(py);
        rondel_pyo3::into_future_with_locals(&locals, awaitable)
    })?;
    rondel::sleep(Duration::from_millis(5)).await;
    rondel::spawn_blocking(move || drop(future))
        .await
        .map_err(|error| PyOSError::new_err(error.to_string()))
}

/// Runs on a loop that another thread runs, and gives that loop.
#[pyfunction]
fn loop_of(event_loop: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyAny>> {
    let py = event_loop.py();
    let locals = rondel_pyo3::TaskLocals::new(event_loop);
    rondel_pyo3::future_into_py_with_locals(py, locals, async {
        let mut woken = false;
        poll_fn(|context| {
            context.waker().wake_by_ref();
            match std::mem::replace(&mut woken, true) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
        Python::attach(|py| rondel_pyo3::get_current_loop(py).map(Bound::unbind))
    })
}

/// Runs a loop until a future of Rust's has ended.
#[pyfunction]
fn run_until_slept(event_loop: Bound<'_, PyAny>) -> PyResult<String> {
    rondel_pyo3::run_until_complete(event_loop, async {
        rondel::sleep(Duration::from_millis(1)).await;
        Ok("slept".to_owned())
    })
}

/// As `asyncio.run` does, with a future of Rust's that awaits something.
#[pyfunction]
fn run_awaiting(py: Python<'_>, function: Py<PyAny>) -> PyResult<Py<PyAny>> {
    rondel_pyo3::run(py, async move {
        rondel_pyo3::await_py(Python::attach(|py| function.call0(py))?).await
    })
}

/// Numbers, each after so many seconds; a negative limit fails instead of ending.
struct Numbers {
    next: i64,
    limit: i64,
    seconds: f64,
    sleep: Option<std::pin::Pin<Box<rondel::Sleep>>>,
    _alive: Alive,
}

impl Stream for Numbers {
    type Item = PyResult<i64>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.next == this.limit.abs() {
            let failed = (this.limit < 0).then(|| Err(PyKeyError::new_err("the limit")));
            return Poll::Ready(failed);
        }
        let seconds = this.seconds;
        let sleep = this
            .sleep
            .get_or_insert_with(|| Box::pin(rondel::sleep(Duration::from_secs_f64(seconds))));
        if sleep.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        this.sleep = None;
        this.next += 1;
        Poll::Ready(Some(Ok(this.next - 1)))
    }
}

/// An async iterator over numbers.
#[pyfunction]
#[pyo3(signature = (limit, seconds=0.0))]
fn numbers(limit: i64, seconds: f64) -> rondel_pyo3::AsyncIterator {
    rondel_pyo3::AsyncIterator::new(Numbers {
        next: 0,
        limit,
        seconds,
        sleep: None,
        _alive: Alive::new(),
    })
}

/// The items of an async iterable, up to so many; an exception of it is the last item.
#[rondel_pyo3::function(signature = (iterable, limit=usize::MAX))]
async fn collect(iterable: Py<PyAny>, limit: usize) -> PyResult<Vec<Py<PyAny>>> {
    let _alive = Alive::new();
    let mut stream = std::pin::pin!(rondel_pyo3::into_stream(iterable));
    let mut items = Vec::new();
    while items.len() < limit {
        match poll_fn(|context| stream.as_mut().poll_next(context)).await {
            Some(Ok(item)) => items.push(item),
            Some(Err(error)) => items.push(Python::attach(|py| error.into_value(py).into_any())),
            None => break,
        }
    }
    Ok(items)
}

/// Counts, with async methods of each kind.
#[pyclass(frozen)]
struct Counter {
    count: AtomicUsize,
    _alive: Alive,
}

#[rondel_pyo3::methods]
impl Counter {
    #[new]
    fn new() -> Self {
        Self {
            count: AtomicUsize::new(0),
            _alive: Alive::new(),
        }
    }

    /// Adds to it, in so many steps.
    #[pyo3(signature = (amount, *, steps=1))]
    async fn add(&self, amount: usize, steps: usize) -> PyResult<usize> {
        for _ in 0..steps {
            rondel::yield_now().await;
            self.count.fetch_add(amount, Ordering::Relaxed);
        }
        Ok(self.count())
    }

    /// What it has counted.
    #[getter]
    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    async fn itself(slf: Py<Self>) -> PyResult<Py<Self>> {
        rondel::yield_now().await;
        Ok(slf)
    }

    #[classmethod]
    async fn name_of(cls: Py<pyo3::types::PyType>, mut after: String) -> PyResult<String> {
        rondel::yield_now().await;
        after.insert_str(
            0,
            &Python::attach(|py| cls.bind(py).name()?.extract::<String>())?,
        );
        Ok(after)
    }

    #[staticmethod]
    #[pyo3(name = "double")]
    async fn twice(number: usize) -> PyResult<usize> {
        rondel::yield_now().await;
        Ok(2 * number)
    }

    async fn __aenter__(slf: Py<Self>) -> PyResult<Py<Self>> {
        Ok(slf)
    }

    #[pyo3(signature = (*_details))]
    async fn __aexit__(&self, _details: Py<pyo3::types::PyTuple>) -> PyResult<()> {
        rondel::yield_now().await;
        self.count.store(0, Ordering::Relaxed);
        Ok(())
    }
}

/// A class that changes.
#[pyclass]
struct Changing {
    value: i64,
}

#[rondel_pyo3::methods]
impl Changing {
    #[new]
    fn new(value: i64) -> Self {
        Self { value }
    }

    async fn swap(slf: Py<Self>, value: i64) -> PyResult<i64> {
        rondel::yield_now().await;
        Python::attach(|py| {
            let mut own = slf.try_borrow_mut(py)?;
            Ok(std::mem::replace(&mut own.value, value))
        })
    }
}

#[pymodule]
fn rondel_pyo3_testing(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(alive, module)?)?;
    module.add_function(wrap_pyfunction!(ready, module)?)?;
    module.add_function(wrap_pyfunction!(nothing, module)?)?;
    module.add_function(wrap_pyfunction!(give_way, module)?)?;
    module.add_function(wrap_pyfunction!(sleep, module)?)?;
    module.add_function(wrap_pyfunction!(never, module)?)?;
    module.add_function(wrap_pyfunction!(count_in_tasks, module)?)?;
    module.add_function(wrap_pyfunction!(fail, module)?)?;
    module.add_function(wrap_pyfunction!(crash, module)?)?;
    module.add_function(wrap_pyfunction!(woken_by_threads, module)?)?;
    module.add_function(wrap_pyfunction!(add_in_thread, module)?)?;
    module.add_function(wrap_pyfunction!(request, module)?)?;
    module.add_function(wrap_pyfunction!(awaited, module)?)?;
    module.add_function(wrap_pyfunction!(awaited_as_task, module)?)?;
    module.add_function(wrap_pyfunction!(awaited_in_turn, module)?)?;
    module.add_function(wrap_pyfunction!(outcome, module)?)?;
    module.add_function(wrap_pyfunction!(awaited_within, module)?)?;
    module.add_function(wrap_pyfunction!(joined, module)?)?;
    module.add_function(wrap_pyfunction!(awaited_beside_nothing, module)?)?;
    module.add_function(wrap_pyfunction!(awaited_elsewhere, module)?)?;
    module.add_function(wrap_pyfunction!(current_task, module)?)?;
    module.add_function(wrap_pyfunction!(sleep_as_future, module)?)?;
    module.add_function(wrap_pyfunction!(fail_as_future, module)?)?;
    module.add_function(wrap_pyfunction!(crash_as_future, module)?)?;
    module.add_function(wrap_pyfunction!(variable_as_future, module)?)?;
    module.add_function(wrap_pyfunction!(call_as_future, module)?)?;
    module.add_function(wrap_pyfunction!(awaited_from_a_thread, module)?)?;
    module.add_function(wrap_pyfunction!(dropped_in_a_thread, module)?)?;
    module.add_function(wrap_pyfunction!(loop_of, module)?)?;
    module.add_function(wrap_pyfunction!(run_until_slept, module)?)?;
    module.add_function(wrap_pyfunction!(run_awaiting, module)?)?;
    module.add_function(wrap_pyfunction!(numbers, module)?)?;
    module.add_function(wrap_pyfunction!(collect, module)?)?;
    module.add_class::<Counter>()?;
    module.add_class::<Changing>()?;
    Ok(())
}
