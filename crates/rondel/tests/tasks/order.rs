//! Order: who runs when, and what timers make of it.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use rondel::{Instant, create_task, gather, sleep, yield_now};

use super::{Log, SECOND, virtually};

#[test]
fn say_after_takes_two_seconds_not_three() {
    let log = Log::default();
    let say_after = |delay: u32, what: &'static str| {
        let log = log.clone();
        async move {
            sleep(SECOND * delay).await;
            log.add(what);
        }
    };
    let took = virtually(async {
        let start = Instant::now();
        let (one, two) = (
            create_task(say_after(1, "hello")),
            create_task(say_after(2, "world")),
        );
        one.await.unwrap();
        two.await.unwrap();
        start.elapsed()
    });
    assert_eq!(took, SECOND * 2);
    assert_eq!(log.take(), ["hello", "world"]);
    let took = virtually(async {
        let start = Instant::now();
        gather((say_after(1, "hello"), say_after(2, "world")))
            .await
            .unwrap();
        start.elapsed()
    });
    assert_eq!(took, SECOND * 2);
    assert_eq!(log.take(), ["hello", "world"]);
}

#[test]
fn tasks_take_turns_in_the_order_of_their_creation() {
    let log = Log::default();
    virtually(async {
        let tasks: Vec<_> = (0..3)
            .map(|task| {
                let log = log.clone();
                create_task(async move {
                    for step in 0..3 {
                        log.add(format!("{task}.{step}"));
                        yield_now().await;
                    }
                })
            })
            .collect();
        log.add("main");
        for task in tasks {
            task.await.unwrap();
        }
    });
    assert_eq!(
        log.take(),
        [
            "main", "0.0", "1.0", "2.0", "0.1", "1.1", "2.1", "0.2", "1.2", "2.2"
        ]
    );
}

#[test]
fn equal_deadlines_fire_in_the_order_in_which_they_were_set() {
    let log = Log::default();
    virtually(async {
        let deadline = Instant::now() + SECOND;
        let sleepers: Vec<_> = (0..200)
            .map(|number| {
                let log = log.clone();
                async move {
                    rondel::sleep_until(deadline).await;
                    log.add(number.to_string());
                }
            })
            .collect();
        gather(sleepers).await.unwrap();
    });
    let expected: Vec<_> = (0..200).map(|number: i32| number.to_string()).collect();
    assert_eq!(log.take(), expected);
}

#[test]
fn a_task_woken_many_times_runs_once() {
    let polls = Rc::new(Cell::new(0));
    virtually(async {
        let counted = Rc::clone(&polls);
        let task = create_task(poll_fn(move |context| {
            counted.set(counted.get() + 1);
            if counted.get() == 1 {
                let waker = context.waker().clone();
                for _ in 0..5 {
                    waker.wake_by_ref();
                    let clone = waker.clone();
                    clone.wake();
                }
                return Poll::Pending;
            }
            Poll::Ready(())
        }));
        task.await.unwrap();
    });
    assert_eq!(polls.get(), 2);
}

#[test]
fn a_main_future_may_borrow() {
    let text = String::from("borrowed");
    let mut seen = "";
    rondel::run(async {
        yield_now().await;
        seen = &text;
    })
    .unwrap();
    assert_eq!(seen, "borrowed");
}
