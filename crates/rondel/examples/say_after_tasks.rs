//! Two tasks that wait at the same time: 2 seconds in all, not 3. The twin of
//! `examples/say_after_tasks.py`.

use std::time::Duration;

async fn say_after(delay: Duration, what: &str) {
    rondel::sleep(delay).await;
    println!("{what}");
}

async fn program() -> Result<(), rondel::JoinError> {
    let start = rondel::Instant::now();

    let task1 = rondel::create_task(say_after(Duration::from_secs(1), "hello"));
    let task2 = rondel::create_task(say_after(Duration::from_secs(2), "world"));
    task1.await?;
    task2.await?;

    println!("took {:.0} seconds", start.elapsed().as_secs_f64());
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    Ok(rondel::run(program())??)
}
