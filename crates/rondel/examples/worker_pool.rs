//! Workers that share a queue: `worker_pool WORKERS JOBS [BAD]`. The job of number `BAD` fails,
//! which ends all others.
//!
//! A task group owns producer and workers. When the jobs are in the queue the producer shuts it
//! down: the workers do what is left and end by themselves. If one fails, the group cancels the
//! rest, and waits for them.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use rondel::Queue;

/// What is to be done for a job: this one takes a while.
async fn square(job: u64, bad: Option<u64>) -> Result<u64, String> {
    rondel::sleep(Duration::from_millis(job % 5)).await;
    match Some(job) == bad {
        true => Err(format!("job {job} can't be done")),
        false => Ok(job * job),
    }
}

#[rondel::main]
async fn main() -> io::Result<()> {
    let numbers: Result<Vec<u64>, _> = std::env::args().skip(1).map(|text| text.parse()).collect();
    let (workers, jobs, bad) = match numbers.map_err(io::Error::other)?[..] {
        [workers, jobs] => (workers, jobs, None),
        [workers, jobs, bad] => (workers, jobs, Some(bad)),
        _ => return Err(io::Error::other("arguments: WORKERS JOBS [BAD]")),
    };
    let queue = Rc::new(Queue::new(10));
    let total = Rc::new(Cell::new(0));
    let done = Rc::new(Cell::new(0));
    let worked = rondel::task_group(async |group| {
        for _ in 0..workers {
            let (queue, total, done) = (queue.clone(), total.clone(), done.clone());
            let work = async move {
                // The error of a queue that was shut down, and is empty, ends the loop.
                while let Ok(job) = queue.get().await {
                    let squared = square(job, bad).await?;
                    // Read behind the await: others add meanwhile.
                    total.set(total.get() + squared);
                    done.set(done.get() + 1);
                }
                Ok::<(), String>(())
            };
            group.create_task(work).detach();
        }
        for job in 0..jobs {
            queue.put(job).await.map_err(|error| error.to_string())?;
        }
        queue.shutdown(false);
        Ok(())
    })
    .await;
    match worked {
        Ok(()) => println!("{} jobs, total {}", done.get(), total.get()),
        Err(failures) => println!("given up: {failures:?}"),
    }
    println!("{} tasks are left", rondel::all_tasks().len() - 1);
    Ok(())
}
