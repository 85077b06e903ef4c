//! Eager tasks: the first step runs where the task is created.

use std::future::{Future, pending};
use std::pin::Pin;

use rondel::{build_task, create_task, current_task, yield_now};

use super::{Log, turns, virtually};

fn eager<F: Future + 'static>(future: F) -> rondel::Task<F::Output> {
    build_task().eager_start(true).create(future)
}

#[test]
fn the_first_step_comes_before_all_that_is_ready() {
    let log = Log::default();
    virtually(async {
        let task = |what: &'static str| {
            let log = log.clone();
            async move {
                log.add(format!("{what} 1"));
                yield_now().await;
                log.add(format!("{what} 2"));
            }
        };
        create_task(task("plain")).detach();
        eager(task("eager")).detach();
        log.add("created");
        turns(3).await;
    });
    assert_eq!(
        log.take(),
        ["eager 1", "created", "plain 1", "eager 2", "plain 2"]
    );
}

#[test]
fn an_eager_task_is_the_current_one_in_its_first_step() {
    virtually(async {
        let me = current_task().unwrap();
        let mut task = eager(async { current_task().unwrap() });
        let inner = task.result().unwrap().unwrap();
        assert!(inner.is(&task.cancel_handle()) && !inner.is(&me));
        assert!(current_task().unwrap().is(&me));
    });
}

#[test]
fn its_panic_and_its_cancellation_are_its_own() {
    virtually(async {
        let panics = eager(async { panic!("expected") });
        assert!(panics.await.unwrap_err().is_panic());
        let cancels = eager(async {
            current_task().unwrap().cancel();
            pending::<()>().await;
        });
        assert!(!cancels.done());
        assert!(cancels.await.unwrap_err().is_cancelled());
        assert!(current_task().is_some());
    });
}

#[test]
fn an_eager_task_may_drop_the_handle_of_the_one_that_creates_it() {
    virtually(async {
        let shelf = std::rc::Rc::new(std::cell::RefCell::new(None::<rondel::Task<()>>));
        let of_task = shelf.clone();
        let mut outer = create_task(async move {
            yield_now().await;
            let inner = of_task.clone();
            eager(async move { drop(inner.take()) }).detach();
            pending::<()>().await;
        });
        let handle = outer.cancel_handle();
        // It was awaited, so dropping it cancels.
        let awaited = rondel::timeout(std::time::Duration::ZERO, &mut outer).await;
        assert!(awaited.is_err());
        shelf.replace(Some(outer));
        turns(4).await;
        assert!(handle.done());
    });
}

#[test]
fn eager_tasks_within_each_other_do_not_take_all_of_the_stack() {
    fn nested(depth: usize) -> Pin<Box<dyn Future<Output = usize>>> {
        Box::pin(async move {
            match depth {
                0 => 0,
                _ => 1 + eager(nested(depth - 1)).await.unwrap(),
            }
        })
    }
    assert_eq!(
        virtually(async { eager(nested(100_000)).await.unwrap() }),
        100_000
    );
}

#[test]
fn an_eager_task_that_is_created_at_the_end_of_the_loop_does_not_start() {
    let log = Log::default();
    struct Creates(Log);
    impl Drop for Creates {
        fn drop(&mut self) {
            let log = self.0.clone();
            eager(async move { log.add("started") }).detach();
            self.0.add("dropped");
        }
    }
    virtually(async {
        let creates = Creates(log.clone());
        create_task(async move {
            let _creates = creates;
            pending::<()>().await;
        })
        .detach();
        yield_now().await;
    });
    assert_eq!(log.take(), ["dropped"]);
}
