//! The same as `say_after_tasks.rs`, with gather: it makes the tasks and collects what they return.
//! The twin of `examples/say_after_gather.py`.

use std::time::Duration;

async fn say_after(delay: Duration, what: &str) -> String {
    rondel::sleep(delay).await;
    println!("{what}");
    what.to_uppercase()
}

async fn program() -> Result<(), rondel::JoinError> {
    let start = rondel::Instant::now();

    let results = rondel::gather((
        say_after(Duration::from_secs(1), "hello"),
        say_after(Duration::from_secs(2), "world"),
    ))
    .await?;

    println!("{results:?}");
    println!("took {:.0} seconds", start.elapsed().as_secs_f64());
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    Ok(rondel::run(program())??)
}
