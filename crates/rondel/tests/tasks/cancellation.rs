//! Cancelling: tasks, handles, timeouts.

use std::future::pending;
use std::time::Duration;

use rondel::{Instant, create_task, current_task, sleep, timeout, timeout_at, yield_now};

use super::{Log, SECOND, virtually};

#[test]
fn cancelling_drops_the_future_at_the_next_step() {
    let log = Log::default();
    virtually(async {
        let guard = log.on_drop("guard");
        let task = create_task(async move {
            let _guard = guard;
            pending::<()>().await;
        });
        yield_now().await;
        assert!(task.cancel());
        log.add("cancelled");
        assert!(!task.done());
        assert!(task.await.unwrap_err().is_cancelled());
        log.add("joined");
    });
    assert_eq!(log.take(), ["cancelled", "drop guard", "joined"]);
}

#[test]
fn a_task_cancelled_before_its_first_step_never_starts() {
    virtually(async {
        let task = create_task(async { unreachable!() });
        assert!(task.cancel());
        assert!(task.await.unwrap_err().is_cancelled());
    });
}

#[test]
fn a_task_that_is_done_can_not_be_cancelled() {
    virtually(async {
        let mut task = create_task(async { 1 });
        yield_now().await;
        assert!(task.done() && !task.cancel());
        assert_eq!(task.result().unwrap().unwrap(), 1);
        assert!(task.result().is_none());
    });
}

#[test]
fn a_task_that_cancels_itself_and_returns_is_cancelled() {
    virtually(async {
        let task = create_task(async {
            current_task().unwrap().cancel();
            "a result"
        });
        assert!(task.await.unwrap_err().is_cancelled());
    });
}

#[test]
fn cancelling_who_awaits_a_task_cancels_that_task() {
    let log = Log::default();
    virtually(async {
        let guard = log.on_drop("inner");
        let outer = create_task(async move {
            let inner = create_task(async move {
                let _guard = guard;
                pending::<()>().await;
            });
            let _ = inner.await;
        });
        for _ in 0..3 {
            yield_now().await;
        }
        outer.cancel();
        assert!(outer.await.unwrap_err().is_cancelled());
        log.add("outer is gone");
        yield_now().await;
    });
    // As in asyncio, the inner one ends first.
    assert_eq!(log.take(), ["drop inner", "outer is gone"]);
}

#[test]
fn a_handle_that_was_never_awaited_or_is_detached_lets_its_task_go_on() {
    let log = Log::default();
    virtually(async {
        let task = |what: &'static str| {
            let log = log.clone();
            create_task(async move {
                sleep(SECOND).await;
                log.add(what);
            })
        };
        drop(task("dropped"));
        let mut awaited = task("detached");
        assert!(timeout(Duration::ZERO, &mut awaited).await.is_err());
        awaited.detach();
        assert!(timeout(Duration::ZERO, task("timed out")).await.is_err());
        sleep(SECOND * 2).await;
    });
    assert_eq!(log.take(), ["dropped", "detached"]);
}

#[test]
fn a_timeout_drops_its_future_before_it_answers() {
    let log = Log::default();
    virtually(async {
        let guard = log.on_drop("future");
        let start = Instant::now();
        let timed = timeout(SECOND, async {
            let _guard = guard;
            sleep(SECOND * 5).await;
        });
        assert_eq!(timed.await, Err(rondel::TimeoutError));
        log.add("timed out");
        assert_eq!(start.elapsed(), SECOND);
        // What is ready at the deadline is in time; a deadline that has passed still lets the future try.
        assert_eq!(timeout_at(start, async { 3 }).await, Ok(3));
        assert!(timeout_at(start, pending::<()>()).await.is_err());
    });
    assert_eq!(log.take(), ["drop future", "timed out"]);
}
