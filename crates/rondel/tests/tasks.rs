//! Tasks and timers: order, cancellation, panics, gatherings and groups, the end of a run.

use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::rc::Rc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use rondel::{
    Builder, Instant, RunError, TaskFailure, create_task, current_task, gather, sleep, task_group,
    timeout, timeout_at, yield_now,
};

const SECOND: Duration = Duration::from_secs(1);

/// What happened, in order.
#[derive(Clone, Default)]
struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    fn add(&self, what: impl Into<String>) {
        self.0.borrow_mut().push(what.into());
    }

    fn take(&self) -> Vec<String> {
        self.0.take()
    }

    /// Logs when it is dropped.
    fn on_drop(&self, what: &str) -> impl Drop + use<> {
        struct OnDrop(Log, String);
        impl Drop for OnDrop {
            fn drop(&mut self) {
                self.0.add(format!("drop {}", self.1));
            }
        }
        OnDrop(self.clone(), what.to_owned())
    }
}

fn virtually<F: Future>(main: F) -> F::Output {
    Builder::new().virtual_clock().run(main).unwrap()
}

// Order

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

// Cancellation

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

// Panics

#[test]
fn a_panic_goes_to_who_joins_and_nobody_else() {
    virtually(async {
        let task = create_task(async {
            yield_now().await;
            panic!("number {}", 7);
        });
        let bystander = create_task(async {
            sleep(SECOND).await;
            "unharmed"
        });
        let error = task.await.unwrap_err();
        assert_eq!(error.to_string(), "task panicked: number 7");
        assert_eq!(bystander.await.unwrap(), "unharmed");
    });
}

#[test]
fn panicking_destructors_take_nothing_down() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !thread::panicking() {
                panic!("bomb");
            }
        }
    }
    virtually(async {
        // Of the future, when it is cancelled; of the future, when it has ended; of an output nobody wants.
        let bomb = Bomb;
        let cancelled = create_task(async move {
            let _bomb = bomb;
            pending::<()>().await;
        });
        cancelled.cancel();
        assert!(cancelled.await.unwrap_err().is_panic());
        let bomb = Bomb;
        let ended = create_task(async move {
            let _bomb = bomb;
        });
        assert!(ended.await.unwrap_err().is_panic());
        create_task(async { Bomb }).detach();
        yield_now().await;
        drop(create_task(async { Bomb }));
        yield_now().await;
    });
}

#[test]
fn a_panic_of_main_comes_out_after_everything_is_taken_down() {
    let log = Log::default();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        rondel::run(async {
            let guard = log.on_drop("task");
            create_task(async move {
                let _guard = guard;
                pending::<()>().await;
            })
            .detach();
            yield_now().await;
            panic!("main");
        })
    }));
    assert_eq!(outcome.unwrap_err().downcast_ref::<&str>(), Some(&"main"));
    assert_eq!(log.take(), ["drop task"]);
    // And the thread can run another.
    assert_eq!(rondel::run(async { 5 }).unwrap(), 5);
}

// Many

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
                    format!("panic {}", panic.downcast_ref::<&str>().unwrap())
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

// The end of a run

#[test]
fn what_is_left_is_cancelled_in_the_order_of_creation() {
    let log = Log::default();
    virtually(async {
        for name in ["one", "two", "three"] {
            let guard = log.on_drop(name);
            create_task(async move {
                let _guard = guard;
                // Spawned while the loop ends, by a destructor: it is cancelled before it starts.
                struct Spawns;
                impl Drop for Spawns {
                    fn drop(&mut self) {
                        let late = create_task(async { unreachable!() });
                        assert!(late.done());
                    }
                }
                let _spawns = Spawns;
                pending::<()>().await;
            })
            .detach();
        }
        yield_now().await;
        log.add("main is done");
    });
    assert_eq!(
        log.take(),
        ["main is done", "drop one", "drop two", "drop three"]
    );
}

#[test]
fn one_loop_a_thread() {
    rondel::run(async {
        assert!(matches!(
            rondel::run(async {}),
            Err(RunError::AlreadyRunning)
        ));
        assert!(current_task().is_some());
    })
    .unwrap();
    assert!(current_task().is_none());
}

#[test]
fn loops_in_many_threads_share_nothing() {
    let threads: Vec<_> = (0..4_u64)
        .map(|seed| {
            thread::spawn(move || {
                rondel::run(async move {
                    let tasks: Vec<_> = (0..100)
                        .map(|n| async move {
                            yield_now().await;
                            seed * 1000 + n
                        })
                        .collect();
                    gather(tasks).await.unwrap().into_iter().sum::<u64>()
                })
                .unwrap()
            })
        })
        .collect();
    for (seed, thread) in threads.into_iter().enumerate() {
        assert_eq!(thread.join().unwrap(), seed as u64 * 100_000 + 4950);
    }
}

#[test]
fn a_short_sleep_is_neither_none_nor_a_millisecond() {
    let shortest = rondel::run(async {
        let mut shortest = Duration::MAX;
        // The shortest of many: a busy machine only ever makes them longer.
        for _ in 0..50 {
            let start = std::time::Instant::now();
            sleep(Duration::from_micros(200)).await;
            let slept = start.elapsed();
            assert!(slept >= Duration::from_micros(200), "{slept:?}");
            shortest = shortest.min(slept);
        }
        shortest
    })
    .unwrap();
    assert!(shortest < Duration::from_micros(900), "{shortest:?}");
}
