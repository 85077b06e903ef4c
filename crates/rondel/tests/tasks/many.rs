//! Gatherings and groups.

use std::cell::Cell;
use std::future::pending;
use std::rc::Rc;

use rondel::{Instant, TaskFailure, gather, sleep, task_group, timeout, yield_now};

use super::{Log, SECOND, virtually};

#[test]
fn gather_gives_the_first_failure_at_once_and_lets_the_others_run() {
    let log = Log::default();
    virtually(async {
        let start = Instant::now();
        let of_slow = log.clone();
        let error = gather((
            async move {
                sleep(SECOND * 3).await;
                of_slow.add("slow one done");
            },
            async {
                sleep(SECOND).await;
                panic!("quick one");
            },
        ))
        .await
        .unwrap_err();
        assert_eq!(error.to_string(), "task panicked: quick one");
        assert_eq!(start.elapsed(), SECOND);
        assert!(log.take().is_empty());
        sleep(SECOND * 5).await;
    });
    assert_eq!(log.take(), ["slow one done"]);
}

#[test]
fn gather_of_nothing_is_ready_and_order_is_that_of_the_arguments() {
    virtually(async {
        let nothing: Vec<std::future::Ready<u8>> = Vec::new();
        assert!(gather(nothing).await.unwrap().is_empty());
        let late_first: Vec<_> = (0..5_u32)
            .map(|n| async move {
                sleep(SECOND * (5 - n)).await;
                n
            })
            .collect();
        assert_eq!(gather(late_first).await.unwrap(), [0, 1, 2, 3, 4]);
        let one = gather((async { 1_u8 }, async { "two" }, async { 3.0 }))
            .await
            .unwrap();
        assert_eq!(one, (1, "two", 3.0));
    });
}

#[test]
fn cancelling_a_gathering_cancels_all_of_it() {
    let log = Log::default();
    virtually(async {
        let guards = [log.on_drop("one"), log.on_drop("two")];
        let all = gather(guards.map(|guard| async move {
            let _guard = guard;
            pending::<()>().await;
        }));
        assert!(timeout(SECOND, all).await.is_err());
        yield_now().await;
    });
    assert_eq!(log.take(), ["drop one", "drop two"]);
}

#[test]
fn the_first_failure_of_a_group_cancels_the_rest_and_all_failures_come_out() {
    let log = Log::default();
    virtually(async {
        let (body, sibling) = (log.on_drop("body"), log.on_drop("sibling"));
        let start = Instant::now();
        let error = task_group(async move |group| {
            let _body = body;
            group
                .create_task(async move {
                    let _sibling = sibling;
                    pending::<Result<(), &str>>().await
                })
                .detach();
            group
                .create_task(async {
                    sleep(SECOND).await;
                    Err::<(), _>("one")
                })
                .detach();
            group
                .create_task(async {
                    sleep(SECOND).await;
                    panic!("two");
                    #[allow(unreachable_code)]
                    Ok(())
                })
                .detach();
            group
                .create_task(async {
                    sleep(SECOND * 2).await;
                    Err::<(), _>("too late")
                })
                .detach();
            pending::<Result<(), &str>>().await
        })
        .await
        .unwrap_err();
        assert_eq!(start.elapsed(), SECOND);
        log.add("over");
        let failures: Vec<_> = error
            .exceptions
            .iter()
            .map(|failure| match failure {
                TaskFailure::Error(error) => (*error).to_owned(),
                TaskFailure::Panic(panic) => {
                    format!("panic {}", panic.message())
                }
            })
            .collect();
        // "two" was cancelled by "one" in the same turn, before it could run.
        assert_eq!(failures, ["one"]);
    });
    assert_eq!(log.take(), ["drop sibling", "drop body", "over"]);
}

#[test]
fn a_group_waits_for_tasks_that_its_tasks_create_and_a_cancelled_one_is_no_failure() {
    let done = Rc::new(Cell::new(0));
    virtually(async {
        let counter = Rc::clone(&done);
        let value = task_group(async |group| {
            let (inner, counter) = (group.clone(), Rc::clone(&counter));
            group
                .create_task(async move {
                    sleep(SECOND).await;
                    inner
                        .create_task(async move {
                            sleep(SECOND).await;
                            counter.set(counter.get() + 1);
                            Ok(())
                        })
                        .detach();
                    Ok(())
                })
                .detach();
            group.create_task(pending::<Result<(), ()>>()).cancel();
            Ok::<_, ()>("value")
        })
        .await;
        assert_eq!(value.unwrap(), "value");
    });
    assert_eq!(done.get(), 1);
}

#[test]
fn a_panic_and_an_error_of_the_body_are_failures_of_the_group() {
    virtually(async {
        let error = task_group(async |group| {
            group
                .create_task(async {
                    panic!("boom");
                    #[allow(unreachable_code)]
                    Ok(())
                })
                .detach();
            yield_now().await;
            yield_now().await;
            Ok::<(), &str>(())
        })
        .await
        .unwrap_err();
        assert!(matches!(&*error.exceptions, [TaskFailure::Panic(_)]));
        let error = task_group(async |_| Err::<(), _>("body"))
            .await
            .unwrap_err();
        assert!(matches!(&*error.exceptions, [TaskFailure::Error("body")]));
    });
}
