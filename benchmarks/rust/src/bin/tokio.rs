//! tokio's current-thread runtime, with which the Rust face is compared.
//!
//! `bench-tokio echo` is the echo server; `bench-tokio
//! spawn-join|yield|timers-cancelled|timers-fired` are the in-process cases. `rondel.rs` has the
//! same programs for Rondel.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use rondel_bench::in_process::measure;
use rondel_bench::options::Options;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Runtime;

/// The number of concurrent timers in the timer cases.
const BATCH: u64 = 5_000;
/// The number of live tasks in the task cases.
const TASKS: u64 = 100;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-tokio: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let options = Options::from_command_line(&["seconds"])?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    if options.mode == "echo" {
        return runtime.block_on(serve()).map_err(|error| error.to_string());
    }
    let seconds = options.get("seconds")?;
    match options.mode.as_str() {
        "spawn-join" => measure(seconds, |count| in_a_task(&runtime, spawn_join(count))),
        "yield" => measure(seconds, |count| in_a_task(&runtime, yield_now(count))),
        "timers-cancelled" => measure(seconds, |count| {
            in_a_task(&runtime, timers_cancelled(count))
        }),
        "timers-fired" => measure(seconds, |count| in_a_task(&runtime, timers_fired(count))),
        mode => Err(format!("unknown mode {mode}")),
    }
}

/// Runs a case as a task: the future given to `block_on` is polled on a slower path.
fn in_a_task(
    runtime: &Runtime,
    case: impl Future<Output = Result<u64, String>> + Send + 'static,
) -> Result<u64, String> {
    runtime
        .block_on(runtime.spawn(case))
        .map_err(|error| error.to_string())?
}

async fn serve() -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, 1], 0).into())?;
    let listener = socket.listen(4096)?;
    println!("{{\"port\": {}}}", listener.local_addr()?.port());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(echo(stream));
    }
}

async fn echo(mut stream: TcpStream) {
    // Room for the largest message; 64 KiB for each of 1,000 connections would waste memory.
    let mut buffer = vec![0; 16 * 1024];
    // An error ends the connection, like the end of the stream; the load generator reports it.
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
}

/// Spawns a hundred tasks, then joins each.
async fn spawn_join(count: u64) -> Result<u64, String> {
    let batches = count.div_ceil(TASKS);
    let mut sum = 0;
    for _ in 0..batches {
        let tasks: Vec<_> = (0..TASKS)
            .map(|number| tokio::spawn(async move { number }))
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
    let last = Arc::new(AtomicU64::new(TASKS));
    let switches = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..TASKS)
        .map(|name| {
            let (last, switches) = (last.clone(), switches.clone());
            tokio::spawn(async move {
                for _ in 0..each {
                    if last.load(Relaxed) != name {
                        switches.store(switches.load(Relaxed) + 1, Relaxed);
                        last.store(name, Relaxed);
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(|error| error.to_string())?;
    }
    let (yields, switches) = (each * TASKS, switches.load(Relaxed));
    if switches < yields - yields / 20 {
        return Err(format!(
            "{yields} yields changed tasks only {switches} times"
        ));
    }
    Ok(yields)
}

async fn timers_cancelled(count: u64) -> Result<u64, String> {
    // With an earlier timer pending, a new one need not interrupt the driver's wait. Real programs
    // usually have one.
    let earlier = tokio::spawn(tokio::time::sleep(Duration::from_secs(5)));
    tokio::task::yield_now().await;
    for _ in 0..count {
        let mut timer = pin!(tokio::time::sleep(Duration::from_secs(10)));
        let fired = poll_fn(|context| Poll::Ready(timer.as_mut().poll(context).is_ready())).await;
        if fired {
            return Err("a timer of 10 s fired at once".to_owned());
        }
    }
    earlier.abort();
    Ok(count)
}

async fn timers_fired(count: u64) -> Result<u64, String> {
    let batches = count.div_ceil(BATCH);
    for _ in 0..batches {
        let start = tokio::time::Instant::now();
        let timers: Vec<_> = (0..BATCH)
            .map(|number| {
                // 1 to 10 ms, unordered.
                let delay = Duration::from_millis(1 + number * 7 % 10);
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
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
