//! `call_soon`, `call_later`, `call_at`; from other threads; `interval`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rondel::{
    Instant, LoopClosedError, ResultError, call_at, call_later, call_soon, create_task,
    get_running_loop, interval, set_exception_handler, sleep, timeout, yield_now,
};

use super::cut::at_every_poll;
use super::{Log, SECOND, turns, virtually};

#[test]
fn calls_and_tasks_stand_in_one_line() {
    let log = Log::default();
    virtually(async {
        let add = |what: &'static str| {
            let log = log.clone();
            move || log.add(what)
        };
        call_soon(add("first"));
        let task = add("task");
        create_task(async move { task() }).detach();
        call_soon(add("second"));
        let cancelled = call_soon(add("cancelled"));
        assert!(cancelled.cancel() && !cancelled.cancel() && cancelled.cancelled());
        let nested = log.clone();
        call_soon(move || {
            nested.add("third");
            call_soon(move || nested.add("in the next turn"));
        });
        log.add("scheduled");
        yield_now().await;
        log.add("a turn later");
        yield_now().await;
    });
    assert_eq!(
        log.take(),
        [
            "scheduled",
            "first",
            "task",
            "second",
            "third",
            "a turn later",
            "in the next turn"
        ]
    );
}

#[test]
fn calls_come_at_their_time_and_equal_ones_in_order() {
    let log = Log::default();
    virtually(async {
        let start = Instant::now();
        let add = |what: &'static str| {
            let log = log.clone();
            move || log.add(format!("{what} {}", start.elapsed().as_secs()))
        };
        call_later(SECOND * 2, add("b"));
        call_at(start + SECOND, add("a"));
        call_at(start + SECOND * 2, add("c"));
        let cancelled = call_later(SECOND, add("cancelled"));
        assert_eq!(cancelled.when(), start + SECOND);
        assert!(cancelled.cancel() && cancelled.cancelled());
        sleep(SECOND * 3).await;
        assert!(!cancelled.cancel());
    });
    assert_eq!(log.take(), ["a 1", "b 2", "c 2"]);
}

#[test]
fn a_call_that_panics_is_told_to_the_exception_handler() {
    let log = Log::default();
    virtually(async {
        let of_handler = log.clone();
        set_exception_handler(move |context| of_handler.add(context.to_string()));
        call_soon(|| panic!("boo"));
        call_later(SECOND, || panic!("later"));
        sleep(SECOND * 2).await;
    });
    assert_eq!(
        log.take(),
        ["Exception in callback: boo", "Exception in callback: later"]
    );
}

#[test]
fn calls_that_are_left_at_the_end_are_dropped_and_not_called() {
    let log = Log::default();
    virtually(async {
        let (soon, later) = (log.on_drop("soon"), log.on_drop("later"));
        call_later(SECOND, move || {
            drop(later);
            panic!("it was called");
        });
        let handle = Rc::new(Cell::new(None));
        let of_call = Rc::clone(&handle);
        handle.set(Some(call_later(SECOND, move || drop((soon, of_call)))));
        handle.take().unwrap().cancel();
    });
    assert_eq!(log.take(), ["drop soon", "drop later"]);
}

#[test]
fn other_threads_call_and_run_coroutines() {
    rondel::run(async {
        let event_loop = get_running_loop();
        let (sender, receiver) = rondel::oneshot::channel::<&str>();
        let local = Rc::new(RefCell::new(Some(sender)));
        // What is not `Send` stays on the loop's thread.
        let shelf: &'static rondel::ContextVar<Rc<RefCell<Option<rondel::oneshot::Sender<&str>>>>> =
            Box::leak(Box::new(rondel::ContextVar::new("shelf")));
        shelf.set(local);
        let context = rondel::copy_context();
        let (to_thread, of_thread) = mpsc::channel::<u32>();
        let other = event_loop.clone();
        let thread = thread::spawn(move || {
            event_loop.call_soon_threadsafe(move || to_thread.send(1).unwrap())?;
            let sum = event_loop.run_coroutine_threadsafe(|| async {
                let local = Rc::new(Cell::new(20));
                yield_now().await;
                local.set(local.get() + 22);
                local.get()
            });
            let sum = sum.result(None).unwrap();
            let panics = event_loop.run_coroutine_threadsafe(|| async { panic!("boo") });
            assert!(
                matches!(panics.result(None), Err(ResultError::Join(error)) if error.is_panic())
            );
            let late = event_loop.run_coroutine_threadsafe(std::future::pending::<()>);
            let in_time = late.result(Some(Duration::from_millis(1)));
            assert!(matches!(in_time, Err(ResultError::Timeout(_))));
            Ok::<_, LoopClosedError>(sum)
        });
        while !thread.is_finished() {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(thread.join().unwrap(), Ok(42));
        assert_eq!(of_thread.try_recv(), Ok(1));
        context.run(|| {
            let sender = shelf.get().unwrap().take();
            sender.unwrap().send("here").unwrap();
        });
        assert_eq!(receiver.await, Ok("here"));
        // And from the loop's own thread.
        let own = other.run_coroutine_threadsafe(|| async { 1 });
        assert_eq!(own.await.unwrap(), 1);
        let never = other.run_coroutine_threadsafe(std::future::pending::<()>);
        turns(2).await;
        assert!(never.cancel());
        assert!(never.await.unwrap_err().is_cancelled());
    })
    .unwrap();
}

#[test]
fn a_closed_loop_refuses_and_cancels() {
    let log = Log::default();
    let (event_loop, pending) = virtually(async {
        let event_loop = get_running_loop();
        let pending = event_loop.run_coroutine_threadsafe(std::future::pending::<()>);
        turns(2).await;
        (event_loop, pending)
    });
    let cancelled =
        |result| matches!(result, Err(ResultError::Join(error)) if error.is_cancelled());
    assert!(pending.done() && cancelled(pending.result(None)));
    assert_eq!(
        event_loop.call_soon_threadsafe(|| unreachable!()),
        Err(LoopClosedError)
    );
    let late = event_loop.run_coroutine_threadsafe(|| async { unreachable!() });
    assert!(cancelled(late.result(None)));
    log.add("done");
}

#[test]
fn an_interval_loses_no_tick_when_it_is_given_up() {
    at_every_poll(1, async |knife| {
        let interval = Rc::new(rondel::Lock::new(interval(SECOND)));
        let start = Instant::now();
        interval.acquire().await.tick().await;
        let of_victim = Rc::clone(&interval);
        let whole = knife
            .cut(async move { of_victim.acquire().await.tick().await })
            .await;
        if whole.is_none() {
            let due = timeout(SECOND * 3, interval.acquire().await.tick())
                .await
                .unwrap();
            assert_eq!(due - start, SECOND);
        }
    });
}
