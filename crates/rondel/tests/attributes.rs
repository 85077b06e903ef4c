//! `#[rondel::main]` and `#[rondel::test]`.

use std::error::Error;
use std::time::Duration;

use rondel::{Instant, sleep};

mod programs {
    /// Attributes and visibility stay.
    #[must_use]
    #[rondel::main]
    pub(crate) async fn with_a_result() -> Result<usize, Box<dyn std::error::Error>> {
        rondel::yield_now().await;
        Ok("12".parse::<usize>()? + 1)
    }

    #[rondel::main]
    pub(crate) async fn cancelled() -> std::io::Result<()> {
        rondel::current_task().map(|task| task.cancel());
        std::future::pending().await
    }

    #[rondel::main]
    pub(crate) async fn without() {
        rondel::yield_now().await;
    }
}

#[test]
fn a_main_function_gives_its_output_or_the_run_s_error() {
    assert_eq!(programs::with_a_result().unwrap(), 13);
    programs::without();
    assert!(programs::cancelled().is_err());
}

#[rondel::test]
async fn a_test_has_a_virtual_clock() {
    let (start, began) = (Instant::now(), std::time::Instant::now());
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(start.elapsed(), Duration::from_secs(3600));
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[rondel::test(real_clock)]
async fn or_the_real_one() -> Result<(), Box<dyn Error>> {
    let began = std::time::Instant::now();
    sleep(Duration::from_millis(5)).await;
    assert!(began.elapsed() >= Duration::from_millis(5));
    Ok(())
}

#[rondel::test]
#[should_panic(expected = "as it should")]
async fn a_test_may_be_expected_to_panic() {
    sleep(Duration::from_millis(1)).await;
    panic!("as it should");
}
