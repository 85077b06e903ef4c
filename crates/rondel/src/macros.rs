//! What the attributes `#[rondel::main]` and `#[rondel::test]` call.

use std::future::Future;

use crate::runtime::{Builder, RunError, run};

/// What a program's main function may give: nothing, or a `Result` whose error can tell of a run's.
pub trait MainOutput: Sized {
    /// What to give when the run has failed.
    fn failed(error: RunError) -> Self;
}

impl MainOutput for () {
    /// # Panics
    /// Always, but after Ctrl-C: that ends the process as Python's interpreter ends then.
    fn failed(error: RunError) {
        match error {
            RunError::KeyboardInterrupt => std::process::exit(130),
            error => panic!("{error}"),
        }
    }
}

impl<T, E: From<RunError>> MainOutput for Result<T, E> {
    fn failed(error: RunError) -> Self {
        Err(error.into())
    }
}

/// Runs a program's main function.
pub fn main<F: Future<Output: MainOutput>>(main: F) -> F::Output {
    run(main).unwrap_or_else(MainOutput::failed)
}

/// Runs a test on a virtual clock.
///
/// # Panics
/// If it can't be run.
pub fn test<F: Future>(test: F) -> F::Output {
    outcome(Builder::new().virtual_clock().run(test))
}

/// Runs a test.
///
/// # Panics
/// If it can't be run.
pub fn test_in_real_time<F: Future>(test: F) -> F::Output {
    outcome(run(test))
}

fn outcome<T>(outcome: Result<T, RunError>) -> T {
    outcome.unwrap_or_else(|error| panic!("the test could not be run: {error}"))
}
