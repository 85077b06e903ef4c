//! Drives the cases that need no socket: determines how many operations fill the requested time,
//! then runs that many and prints their CPU time, in the same form as the Python programs.

use std::io;
use std::time::{Duration, Instant};

use crate::cpu_clock::CpuTime;

/// Runs `body(operations)` for about `seconds` and prints the result as a line of JSON.
///
/// `body` performs the given number of operations, verifies them, and returns how many it did,
/// which may be rounded up to a whole batch.
pub fn measure(
    seconds: f64,
    mut body: impl FnMut(u64) -> Result<u64, String>,
) -> Result<(), String> {
    let warm_up = Duration::from_secs_f64((seconds / 4.0).clamp(0.02, 0.3));
    let mut operations = 1_000;
    let (done, took) = loop {
        let start = Instant::now();
        let done = body(operations)?;
        let took = start.elapsed();
        if took >= warm_up {
            break (done, took);
        }
        operations *= 2;
    };
    let wanted = (done as f64 * seconds / took.as_secs_f64()).max(1.0) as u64;

    let text = |error: io::Error| format!("CPU clock: {error}");
    let start = Instant::now();
    let before = CpuTime::of_this_process().map_err(text)?;
    let done = body(wanted)?;
    let spent = CpuTime::of_this_process().map_err(text)?.since(&before);
    let elapsed = start.elapsed();
    if done < wanted {
        return Err(format!("{done} operations done, {wanted} wanted"));
    }
    println!(
        "{{\"operations\": {done}, \"seconds\": {:.6}, \"user\": {:.6}, \"system\": {:.6}, \"cpu\": {:.9}}}",
        elapsed.as_secs_f64(),
        spent.user().as_secs_f64(),
        spent.system().as_secs_f64(),
        spent.total.as_secs_f64(),
    );
    // The harness reads this process's memory before it closes our input.
    io::copy(&mut io::stdin(), &mut io::sink()).map_err(|error| format!("input: {error}"))?;
    Ok(())
}
