//! Task groups that borrow, on a loop: timers, threads, locks, cancelling.

use std::cell::{Cell, RefCell};

use rondel::{
    Instant, Lock, TaskFailure, gather_scoped, sleep, spawn_blocking, task_scope, timeout,
    try_gather_scoped, yield_now,
};

use super::cut::at_every_poll;
use super::{Log, SECOND, virtually};

#[test]
fn children_borrow_wait_and_run_side_by_side() {
    virtually(async {
        let names = ["a", "b", "c"].map(String::from);
        let order = RefCell::new(Vec::new());
        let start = Instant::now();
        let lengths = task_scope(async |scope| {
            for (index, name) in names.iter().enumerate() {
                let order = &order;
                scope.create_plain_task(async move {
                    sleep(SECOND * (3 - index as u32)).await;
                    order.borrow_mut().push(name.as_str());
                });
            }
            Ok::<_, ()>(names.len())
        })
        .await;
        assert_eq!(lengths.unwrap(), 3);
        assert_eq!(start.elapsed(), SECOND * 3);
        assert_eq!(*order.borrow(), ["c", "b", "a"]);
    });
}

#[test]
fn children_use_threads_and_locks() {
    rondel::run(async {
        let lock = Lock::new(0);
        let results = gather_scoped((0..8).map(async |number| {
            let more = spawn_blocking(move || number).await.unwrap();
            let mut sum = lock.acquire().await;
            let before = *sum;
            yield_now().await;
            *sum = before + more;
            number
        }))
        .await;
        assert_eq!(results, (0..8).collect::<Vec<_>>());
        assert_eq!(lock.into_inner(), 28);
    })
    .unwrap();
}

#[test]
fn a_failure_ends_the_scope_at_once() {
    virtually(async {
        let start = Instant::now();
        let log = Log::default();
        let failed = task_scope(async |scope| {
            let guard = log.on_drop("child");
            scope.create_plain_task(async move {
                let _guard = guard;
                sleep(SECOND * 5).await;
            });
            scope.create_task(async {
                sleep(SECOND).await;
                Err::<(), _>("no luck")
            });
            sleep(SECOND * 9).await;
            Ok(())
        });
        let failed = failed.await.unwrap_err();
        assert!(matches!(
            failed.exceptions[0],
            TaskFailure::Error("no luck")
        ));
        assert_eq!(start.elapsed(), SECOND);
        assert_eq!(log.take(), ["drop child"]);
    });
}

#[test]
fn a_child_that_never_waits_lets_the_loop_run() {
    virtually(async {
        let turns = Cell::new(0);
        let busy = task_scope(async |scope| {
            scope.create_plain_task(async {
                for _ in 0..100 {
                    yield_now().await;
                    turns.set(turns.get() + 1);
                }
            });
            Ok::<(), ()>(())
        });
        let other = rondel::create_task(async { yield_now().await });
        let (done, _) = (busy.await, other.await);
        assert!(done.is_ok() && turns.get() == 100);
    });
}

#[test]
fn the_first_error_is_the_result_and_a_panic_goes_on() {
    virtually(async {
        let limit = 2;
        let check = async |number: u32| {
            sleep(SECOND * number).await;
            if number < limit {
                Ok(number)
            } else {
                Err(number)
            }
        };
        assert_eq!(try_gather_scoped([1, 0].map(check)).await, Ok(vec![1, 0]));
        assert_eq!(try_gather_scoped([5, 2, 1].map(check)).await, Err(2));
    });
    let panics = std::panic::catch_unwind(|| {
        virtually(async { gather_scoped([async { panic!("boo") }]).await.len() })
    });
    assert!(panics.is_err());
}

#[test]
fn scopes_that_are_dropped_at_any_poll_leave_nothing() {
    at_every_poll(2, async |knife| {
        let log = Log::default();
        let (first, second) = (log.on_drop("a"), log.on_drop("b"));
        let scope = async move {
            let (first, second) = (first, second);
            let seconds = [1, 2];
            task_scope(async |scope| {
                let (first, second) = (&first, &second);
                scope.create_plain_task(async move {
                    let _first = first;
                    sleep(SECOND * seconds[0]).await;
                });
                scope.create_plain_task(async move {
                    let _second = second;
                    yield_now().await;
                    sleep(SECOND * seconds[1]).await;
                });
                Ok::<(), ()>(())
            })
            .await
        };
        knife.cut(scope).await;
        assert_eq!(log.take().len(), 2);
        assert!(timeout(SECOND, yield_now()).await.is_ok());
    });
}
