//! The Rust code of docs/extensions.md, as a module of its own. Its test compares the two.

#![allow(missing_docs, reason = "the page is for readers")]

use std::time::Duration;

use pyo3::prelude::*;

/// `await say_after(0.5, "hello")` gives "hello" half a second later.
#[rondel_pyo3::function]
async fn say_after(delay: f64, text: String) -> PyResult<String> {
    rondel::sleep(Duration::from_secs_f64(delay)).await;
    Ok(text)
}

#[pymodule]
mod my_extension {
    #[pymodule_export]
    use super::{Client, countdown, say_after, total, twice, word_count};
}

#[pyclass(frozen)]
struct Client {
    host: String,
    port: u16,
}

#[rondel_pyo3::methods]
impl Client {
    #[new]
    fn new(host: String, port: u16) -> Self {
        Self { host, port }
    }

    /// Sends a line, and gives the answer.
    #[pyo3(signature = (line, *, timeout=10.0))]
    async fn ask(&self, line: Vec<u8>, timeout: f64) -> PyResult<Vec<u8>> {
        let asked = async {
            let address = (self.host.as_str(), self.port);
            let (mut reader, writer) = rondel::open_connection(address).await?;
            writer.write(line);
            writer.write("\n");
            let answer = reader.readline().await?.to_vec();
            std::io::Result::Ok(answer)
        };
        match rondel::timeout(Duration::from_secs_f64(timeout), asked).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(pyo3::exceptions::PyTimeoutError::new_err("no answer")),
        }
    }
}

#[rondel_pyo3::function]
async fn word_count(text: String) -> PyResult<usize> {
    let counted = rondel::spawn_blocking(move || text.split_whitespace().count());
    counted
        .await
        .map_err(|error| pyo3::exceptions::PyRuntimeError::new_err(error.to_string()))
}

#[rondel_pyo3::function]
async fn twice(awaitable: Py<PyAny>) -> PyResult<i64> {
    let result = rondel_pyo3::await_py(awaitable).await?;
    let number: i64 = Python::attach(|py| result.extract(py))?;
    Ok(2 * number)
}

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use futures_core::Stream;
use rondel_pyo3::AsyncIterator;

struct Countdown(u32);

impl Stream for Countdown {
    type Item = PyResult<u32>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<PyResult<u32>>> {
        let number = self.0;
        self.0 = number.saturating_sub(1);
        Poll::Ready((number > 0).then_some(Ok(number)))
    }
}

#[pyfunction]
fn countdown(from: u32) -> AsyncIterator {
    AsyncIterator::new(Countdown(from))
}

#[rondel_pyo3::function]
async fn total(iterable: Py<PyAny>) -> PyResult<i64> {
    let mut stream = pin!(rondel_pyo3::into_stream(iterable));
    let mut total = 0;
    while let Some(item) = poll_fn(|context| stream.as_mut().poll_next(context)).await {
        total += Python::attach(|py| item?.extract::<i64>(py))?;
    }
    Ok(total)
}
