//! Panics: where they go, and what they leave alone.

use std::future::pending;
use std::thread;

use rondel::{create_task, sleep, yield_now};

use super::{Log, SECOND, virtually};

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
