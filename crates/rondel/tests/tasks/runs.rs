//! `Runner`, `stop`, debug mode.
#![allow(
    clippy::async_yields_async,
    reason = "a task of one run is awaited in another"
)]

use std::cell::RefCell;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use rondel::{
    Builder, Event, RunError, Runner, call_soon, create_task, current_task, sleep, stop, yield_now,
};

use super::{Log, SECOND, turns};

#[test]
fn tasks_go_on_from_one_run_to_the_next() {
    let log = Log::default();
    let runner = Builder::new().virtual_clock().build().unwrap();
    let of_task = log.clone();
    let task = runner
        .run(async {
            create_task(async move {
                of_task.add("begins");
                yield_now().await;
                yield_now().await;
                of_task.add("ends");
            })
        })
        .unwrap();
    assert!(!task.done());
    log.add("between");
    runner.run(turns(4)).unwrap();
    assert!(task.done());
    assert_eq!(log.take(), ["between", "begins", "ends"]);
}

#[test]
fn what_happens_between_runs_counts_in_the_next() {
    let runner = Builder::new().virtual_clock().build().unwrap();
    let event = Rc::new(Event::new());
    let log = Log::default();
    let (waits, cancelled, guard) = (Rc::clone(&event), log.clone(), log.on_drop("cancelled"));
    let (waiting, mut awaited, cancelled) = runner
        .run(async {
            let waiting = create_task(async move { waits.wait().await });
            let mut awaited = create_task(async move {
                let _guard = guard;
                std::future::pending::<()>().await;
            });
            let _ = rondel::timeout(SECOND, &mut awaited).await;
            let handle = create_task(std::future::pending::<()>());
            cancelled.add("ready");
            (waiting, Some(awaited), handle)
        })
        .unwrap();
    event.set();
    cancelled.cancel();
    // It was awaited: dropping it cancels the task, as soon as its loop runs.
    drop(awaited.take());
    runner.run(turns(2)).unwrap();
    assert!(waiting.done() && cancelled.done());
    assert_eq!(log.take(), ["ready", "drop cancelled"]);
}

#[test]
fn two_loops_of_one_thread_keep_their_tasks_apart() {
    let [one, other] = [0; 2].map(|_| Builder::new().virtual_clock().build().unwrap());
    let event = Rc::new(Event::new());
    let waits = Rc::clone(&event);
    let task = one
        .run(async {
            let task = create_task(async move { waits.wait().await });
            yield_now().await;
            task
        })
        .unwrap();
    other
        .run(async {
            event.set();
            turns(3).await;
            assert!(!task.done(), "it has run on another's loop");
        })
        .unwrap();
    one.run(turns(2)).unwrap();
    assert!(task.done());
    // A handle that is awaited on the other loop.
    let task = one
        .run(async { create_task(async { sleep(SECOND).await }) })
        .unwrap();
    let task = other
        .run(async {
            let mut task = task;
            assert!(rondel::timeout(SECOND, &mut task).await.is_err());
            task
        })
        .unwrap();
    assert!(one.run(task).unwrap().is_ok());
}

#[test]
fn a_run_that_is_stopped_drops_its_main_future_and_the_loop_goes_on() {
    let runner = Runner::new().unwrap();
    let log = Log::default();
    let local = String::from("borrowed");
    let stopped = runner.run(async {
        let _guard = log.on_drop("main");
        let _borrowed = &local;
        call_soon(stop);
        std::future::pending::<()>().await;
    });
    assert!(matches!(stopped, Err(RunError::Stopped)));
    assert_eq!(log.take(), ["drop main"]);
    assert_eq!(runner.run(async { 1 }).unwrap(), 1);
    let cancelled = runner.run(async {
        current_task().unwrap().cancel();
        yield_now().await;
    });
    assert!(matches!(cancelled, Err(RunError::Cancelled(_))));
    let event_loop = runner.get_loop();
    let thread = thread::spawn(move || {
        thread::sleep(Duration::from_millis(2));
        event_loop.stop()
    });
    let stopped = runner.run(std::future::pending::<()>());
    assert!(matches!(stopped, Err(RunError::Stopped)));
    thread.join().unwrap().unwrap();
    let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        runner.run(async { panic!("boo") })
    }));
    assert!(panics.is_err());
    assert_eq!(runner.run(async { 2 }).unwrap(), 2);
}

#[test]
fn a_runner_is_not_run_within_a_run_but_may_end_there() {
    let log = Log::default();
    rondel::run(async {
        let runner = Runner::new().unwrap();
        assert!(matches!(
            runner.run(async {}),
            Err(RunError::AlreadyRunning)
        ));
        drop(runner);
        yield_now().await;
        log.add("goes on");
    })
    .unwrap();
    let runner = Runner::new().unwrap();
    let guard = log.on_drop("task");
    runner
        .run(async {
            create_task(async move {
                let _guard = guard;
                std::future::pending::<()>().await;
            })
            .detach();
        })
        .unwrap();
    runner.close();
    assert_eq!(log.take(), ["goes on", "drop task"]);
}

#[test]
fn debug_mode_tells_which_step_was_slow_and_where_its_task_comes_from() {
    let told = Rc::new(RefCell::new(Vec::new()));
    let tell = Rc::clone(&told);
    let debugged = Builder::new()
        .debug(true)
        .slow_callback_duration(Duration::from_millis(20));
    debugged
        .run(async {
            rondel::set_slow_step_reporter(move |step| tell.borrow_mut().push(step.clone()));
            create_task(async { yield_now().await }).await.unwrap();
            let slow = create_task(async { thread::sleep(Duration::from_millis(30)) });
            slow.set_name("slow");
            slow.await.unwrap();
        })
        .unwrap();
    let told = told.borrow();
    assert_eq!(told.len(), 1);
    assert!(told[0].duration() >= Duration::from_millis(30));
    assert_eq!(told[0].created_at().unwrap().file(), file!());
    let text = told[0].to_string();
    assert!(
        text.starts_with("Executing <Task name='slow' created at "),
        "{text}"
    );
    assert!(text.ends_with(" seconds"), "{text}");
}
