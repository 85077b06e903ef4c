//! The end of a run, and loops of several threads.

use std::future::pending;
use std::thread;
use std::time::Duration;

use rondel::{RunError, create_task, current_task, gather, sleep, yield_now};

use super::{Log, virtually};

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

/// Creates a task like its own when it is dropped, so many times.
struct Again(usize, Log);

impl Drop for Again {
    fn drop(&mut self) {
        self.1.add("again");
        if self.0 > 0 {
            let again = Again(self.0 - 1, self.1.clone());
            create_task(async move {
                let _again = again;
                unreachable!();
            })
            .detach();
        }
    }
}

#[test]
fn destructors_may_create_tasks_that_do_so_too_and_the_end_comes() {
    let small = thread::Builder::new().stack_size(128 * 1024);
    let run = small.spawn(|| {
        let log = Log::default();
        let start = |times: usize| {
            let again = Again(times, log.clone());
            virtually(async {
                create_task(async move {
                    let _again = again;
                    pending::<()>().await;
                })
                .detach();
                yield_now().await;
            });
            log.take().len()
        };
        assert_eq!(start(1000), 1001);
        // Without end: some are leaked, but the program goes on.
        assert!((1000..1_000_000).contains(&start(usize::MAX)));
    });
    run.unwrap().join().unwrap();
}
