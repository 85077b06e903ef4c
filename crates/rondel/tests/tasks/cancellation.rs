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
fn a_task_that_cancels_itself_goes_behind_what_it_schedules_before_it_waits() {
    let log = Log::default();
    virtually(async {
        let (guard, of_task) = (log.on_drop("task"), log.clone());
        create_task(async move {
            let _guard = guard;
            current_task().unwrap().cancel();
            create_task(async move { of_task.add("scheduled after that") }).detach();
            pending::<()>().await;
        })
        .detach();
        sleep(SECOND).await;
    });
    // As in asyncio, where it is cancelled when it begins to wait.
    assert_eq!(log.take(), ["scheduled after that", "drop task"]);
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
        // What is ready at the deadline is in time; a deadline that has passed still lets the
        // future try.
        assert_eq!(timeout_at(start, async { 3 }).await, Ok(3));
        assert!(timeout_at(start, pending::<()>()).await.is_err());
    });
    assert_eq!(log.take(), ["drop future", "timed out"]);
}

/// Logs when it is cancelled, and only then ends what it waits for.
fn layers(log: &Log, depth: usize) -> rondel::Task<()> {
    let guard = log.on_drop(&depth.to_string());
    let inner = (depth > 1).then(|| layers(log, depth - 1));
    create_task(async move {
        let _guard = guard;
        match inner {
            Some(inner) => drop(inner.await),
            None => pending().await,
        }
    })
}

#[test]
fn what_a_timeout_has_cancelled_is_gone_when_it_answers() {
    let log = Log::default();
    virtually(async {
        assert!(timeout(SECOND, layers(&log, 3)).await.is_err());
        log.add("task");
        let both = rondel::gather([layers(&log, 1), layers(&log, 2)]);
        assert!(timeout(SECOND, both).await.is_err());
        log.add("gathering");
        let group = rondel::task_group(async |group| {
            let guard = log.on_drop("member");
            group
                .create_task(async move {
                    let _guard = guard;
                    pending::<Result<(), ()>>().await
                })
                .detach();
            Ok(())
        });
        assert!(timeout(SECOND, group).await.is_err());
        log.add("group");
    });
    let expected = [
        "drop 1",
        "drop 2",
        "drop 3",
        "task",
        "drop 1",
        "drop 1",
        "drop 2",
        "gathering",
        "drop member",
        "group",
    ];
    assert_eq!(log.take(), expected);
}

#[test]
fn who_awaits_a_cancelled_task_goes_on_when_all_it_waited_for_is_gone() {
    let log = Log::default();
    virtually(async {
        let children = [layers(&log, 1), layers(&log, 1)];
        let outer = create_task(async move { drop(rondel::gather(children).await) });
        sleep(SECOND).await;
        outer.cancel();
        assert!(outer.await.unwrap_err().is_cancelled());
        log.add("gone");
    });
    assert_eq!(log.take(), ["drop 1", "drop 1", "gone"]);
}

#[test]
fn a_task_may_drop_the_handle_of_a_task_that_runs() {
    // A handle that was awaited by someone else, which the task finds, and drops, in its own step
    // and destructor.
    let log = Log::default();
    virtually(async {
        let shelf = std::rc::Rc::new(std::cell::RefCell::new(None));
        let of_task = std::rc::Rc::clone(&shelf);
        let guard = log.on_drop("task");
        let mut task = create_task(async move {
            let _guard = guard;
            sleep(SECOND * 2).await;
            drop(of_task.take());
            pending::<()>().await;
        });
        assert!(timeout(SECOND, &mut task).await.is_err());
        let handle = task.cancel_handle();
        *shelf.borrow_mut() = Some(task);
        sleep(SECOND).await;
        assert!(!handle.done());
        yield_now().await;
        yield_now().await;
        assert!(handle.done());
    });
    assert_eq!(log.take(), ["drop task"]);
}

#[test]
fn a_long_chain_of_waiting_tasks_is_dropped_on_a_small_stack() {
    const LENGTH: usize = 100_000;
    let small = std::thread::Builder::new().stack_size(128 * 1024);
    let chain = small.spawn(|| {
        let gone = std::rc::Rc::new(std::cell::Cell::new(0));
        struct Counts(std::rc::Rc<std::cell::Cell<usize>>);
        impl Drop for Counts {
            fn drop(&mut self) {
                self.0.set(self.0.get() + 1);
            }
        }
        let build = || {
            let mut last = create_task(pending::<()>());
            for _ in 0..LENGTH {
                let counts = Counts(std::rc::Rc::clone(&gone));
                last = create_task(async move {
                    let _counts = counts;
                    let _ = last.await;
                });
            }
            last
        };
        virtually(async {
            assert!(timeout(SECOND, build()).await.is_err());
            assert_eq!(gone.take(), LENGTH);
            build().detach();
            sleep(SECOND).await;
            // The end of the loop has another.
        });
        assert_eq!(gone.take(), LENGTH);
    });
    chain.unwrap().join().unwrap();
}
