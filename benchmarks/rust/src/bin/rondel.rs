//! Rondel's Rust face: the same programs as in `tokio.rs`.
//!
//! `bench-rondel echo` is the echo server; `bench-rondel
//! spawn-join|yield|timers-cancelled|timers-fired` are the in-process cases.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::process::ExitCode;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use rondel::{ServerOptions, StreamReader, StreamWriter};
use rondel_bench::in_process::measure;
use rondel_bench::options::Options;

/// The number of concurrent timers in the timer cases.
const BATCH: u64 = 5_000;
/// The number of live tasks in the task cases.
const TASKS: u64 = 100;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-rondel: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let options = Options::from_command_line(&["seconds"])?;
    if options.mode == "echo" {
        return rondel::run(serve())
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string());
    }
    let seconds = options.get("seconds")?;
    match options.mode.as_str() {
        "spawn-join" => measure(seconds, |count| in_a_task(spawn_join(count))),
        "yield" => measure(seconds, |count| in_a_task(yield_now(count))),
        "timers-cancelled" => measure(seconds, |count| in_a_task(timers_cancelled(count))),
        "timers-fired" => measure(seconds, |count| in_a_task(timers_fired(count))),
        mode => Err(format!("unknown mode {mode}")),
    }
}

/// Runs a case as a task, as in `tokio.rs`.
fn in_a_task(case: impl Future<Output = Result<u64, String>> + 'static) -> Result<u64, String> {
    rondel::run(async move {
        rondel::create_task(case)
            .await
            .map_err(|error| error.to_string())?
    })
    .map_err(|error| error.to_string())?
}

async fn serve() -> std::io::Result<()> {
    let mut options = ServerOptions::default();
    options.backlog = 4096;
    let server = rondel::start_server_with(echo, ("127.0.0.1", 0), options).await?;
    println!("{{\"port\": {}}}", server.addresses()[0].port());
    server.serve_forever().await;
    Ok(())
}

async fn echo(mut reader: StreamReader, writer: StreamWriter) -> std::io::Result<()> {
    loop {
        let data = reader.read(64 * 1024).await?;
        if data.is_empty() {
            return Ok(());
        }
        writer.write(data);
        writer.drain().await?;
    }
}

/// Creates a hundred tasks, then awaits each.
async fn spawn_join(count: u64) -> Result<u64, String> {
    let batches = count.div_ceil(TASKS);
    let mut sum = 0;
    for _ in 0..batches {
        let tasks: Vec<_> = (0..TASKS)
            .map(|number| rondel::create_task(async move { number }))
            .collect();
        for task in tasks {
            sum += task.await.map_err(|error| error.to_string())?;
        }
    }
    if sum != batches * (0..TASKS).sum::<u64>() {
        return Err("a task's result is wrong".to_owned());
    }
    Ok(batches * TASKS)
}

/// A hundred tasks yield to each other. Each checks which task ran before it: a yield that lets no
/// other task run is not counted.
async fn yield_now(count: u64) -> Result<u64, String> {
    let each = count.div_ceil(TASKS);
    let last = Rc::new(Cell::new(TASKS));
    let switches = Rc::new(Cell::new(0));
    let tasks: Vec<_> = (0..TASKS)
        .map(|name| {
            let (last, switches) = (last.clone(), switches.clone());
            rondel::create_task(async move {
                for _ in 0..each {
                    if last.get() != name {
                        switches.set(switches.get() + 1);
                        last.set(name);
                    }
                    rondel::yield_now().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(|error| error.to_string())?;
    }
    let (yields, switches) = (each * TASKS, switches.get());
    if switches < yields - yields / 20 {
        return Err(format!(
            "{yields} yields changed tasks only {switches} times"
        ));
    }
    Ok(yields)
}

async fn timers_cancelled(count: u64) -> Result<u64, String> {
    let earlier = rondel::create_task(rondel::sleep(Duration::from_secs(5)));
    rondel::yield_now().await;
    for _ in 0..count {
        let mut timer = pin!(rondel::sleep(Duration::from_secs(10)));
        let fired = poll_fn(|context| Poll::Ready(timer.as_mut().poll(context).is_ready())).await;
        if fired {
            return Err("a timer of 10 s fired at once".to_owned());
        }
    }
    earlier.cancel();
    Ok(count)
}

async fn timers_fired(count: u64) -> Result<u64, String> {
    let batches = count.div_ceil(BATCH);
    for _ in 0..batches {
        let start = rondel::Instant::now();
        let timers: Vec<_> = (0..BATCH)
            .map(|number| {
                // 1 to 10 ms, unordered.
                let delay = Duration::from_millis(1 + number * 7 % 10);
                rondel::create_task(async move {
                    rondel::sleep(delay).await;
                    start.elapsed() >= delay
                })
            })
            .collect();
        for timer in timers {
            if !timer.await.map_err(|error| error.to_string())? {
                return Err("a timer fired too early".to_owned());
            }
        }
    }
    Ok(batches * BATCH)
}
