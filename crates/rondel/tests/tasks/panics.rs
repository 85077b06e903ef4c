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
        // Of the future, when it is cancelled; of the future, when it has ended; of an output
        // nobody wants.
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

/// Panics when it is dropped, unless a panic is under way.
struct Bomb(&'static str);

impl Drop for Bomb {
    fn drop(&mut self) {
        if !thread::panicking() {
            panic!("{}", self.0);
        }
    }
}

#[test]
fn a_panicking_destructor_in_a_group_is_the_group_s() {
    virtually(async {
        let outcome = rondel::task_group(async |group| {
            for name in ["one", "two"] {
                let bomb = Bomb(name);
                group
                    .create_task(async move {
                        let _bomb = bomb;
                        pending::<Result<(), &str>>().await
                    })
                    .detach();
            }
            group
                .create_task(async { Err::<(), _>("an error") })
                .detach();
            let _bomb = Bomb("body");
            pending::<Result<(), _>>().await
        });
        let failures: Vec<_> = outcome
            .await
            .unwrap_err()
            .exceptions
            .into_iter()
            .map(|failure| match failure {
                rondel::TaskFailure::Error(error) => error.to_owned(),
                rondel::TaskFailure::Panic(panic) => panic.message().to_owned(),
            })
            .collect();
        assert_eq!(failures, ["an error", "one", "two", "body"]);
    });
}

#[test]
fn a_group_fails_by_a_destructor_of_what_has_ended_well() {
    virtually(async {
        struct Ends(#[expect(dead_code, reason = "for its destructor")] Bomb);
        impl std::future::Future for Ends {
            type Output = Result<(), ()>;
            fn poll(
                self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Result<(), ()>> {
                std::task::Poll::Ready(Ok(()))
            }
        }
        let outcome = rondel::task_group(async |group| {
            group.create_task(Ends(Bomb("late"))).detach();
            Ok(())
        });
        assert_eq!(outcome.await.unwrap_err().exceptions.len(), 1);
    });
}

#[test]
fn errors_can_be_sent_shared_and_boxed() {
    type Boxed = Box<dyn std::error::Error + Send + Sync>;
    async fn fails() -> Result<(), Boxed> {
        create_task(async { panic!("out of cheese") }).await?;
        Ok(())
    }
    async fn group_fails() -> Result<(), Boxed> {
        rondel::task_group(async |_| Err::<(), _>("no luck")).await?;
        Ok(())
    }
    fn sync<T: Send + Sync + 'static>() {}
    sync::<rondel::JoinError>();
    sync::<rondel::ExceptionGroup<std::io::Error>>();
    sync::<rondel::RunError>();
    sync::<rondel::ReadError>();
    let (task, group) = virtually(async { (fails().await, group_fails().await) });
    assert_eq!(
        task.unwrap_err().to_string(),
        "task panicked: out of cheese"
    );
    assert_eq!(
        group.unwrap_err().to_string(),
        "unhandled errors in a TaskGroup (1 sub-exception)"
    );
}
