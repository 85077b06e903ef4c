//! `create_future`: results that are set by hand.

use std::rc::Rc;

use rondel::{FutureError, InvalidStateError, create_future, create_task, timeout, yield_now};

use super::cut::at_every_poll;
use super::{Log, SECOND, turns, virtually};

#[test]
fn all_who_await_it_get_a_copy() {
    virtually(async {
        let future = create_future::<String>();
        let tasks = [0; 3].map(|_| {
            let future = future.clone();
            create_task(async move { future.await })
        });
        yield_now().await;
        assert!(!future.done() && future.result().is_none());
        future.set_result("x".into()).unwrap();
        assert_eq!(future.set_result("y".into()), Err(InvalidStateError));
        for task in tasks {
            assert_eq!(task.await.unwrap().unwrap(), "x");
        }
        assert_eq!(future.await.unwrap(), "x");
    });
}

#[test]
fn who_is_cancelled_while_it_awaits_cancels_it_unless_it_is_shielded() {
    virtually(async {
        let future = create_future::<()>();
        assert!(timeout(SECOND, future.shielded()).await.is_err());
        assert!(!future.done());
        assert!(timeout(SECOND, future.clone()).await.is_err());
        assert!(future.cancelled() && !future.cancel());
        assert!(matches!(future.await, Err(FutureError::Cancelled(_))));
    });
}

#[test]
fn callbacks_come_once_in_order_in_the_next_turn() {
    let log = Log::default();
    virtually(async {
        let future = create_future();
        for name in ["a", "b"] {
            let log = log.clone();
            future.add_done_callback(move |future| {
                log.add(format!("{name} {}", future.result().unwrap().unwrap()));
            });
        }
        future.set_result(1).unwrap();
        log.add("set");
        yield_now().await;
        let of_late = log.clone();
        future.add_done_callback(move |_| of_late.add("late"));
        log.add("added");
        yield_now().await;
    });
    assert_eq!(log.take(), ["set", "a 1", "b 1", "added", "late"]);
}

#[test]
fn an_exception_that_nobody_learns_of_is_told() {
    let log = Log::default();
    virtually(async {
        let of_handler = log.clone();
        rondel::set_exception_handler(move |context| of_handler.add(context.to_string()));
        create_future::<()>().set_exception("lost").unwrap();
        let learnt = create_future::<()>();
        learnt.set_exception("learnt").unwrap();
        assert_eq!(learnt.await.unwrap_err().to_string(), "learnt");
    });
    assert_eq!(log.take(), ["Future exception was never retrieved: lost"]);
}

#[test]
fn a_future_that_is_given_up_at_any_poll_holds_nobody_up() {
    at_every_poll(1, async |knife| {
        let future = create_future::<u32>();
        let of_victim = future.clone();
        let victim = create_task(async move {
            knife.cut(async move { of_victim.shielded().await }).await;
        });
        let of_other = Rc::new(future.clone());
        let other = create_task(async move { of_other.shielded().await });
        turns(2).await;
        future.set_result(1).unwrap();
        assert_eq!(timeout(SECOND, other).await.unwrap().unwrap().unwrap(), 1);
        victim.await.unwrap();
    });
}
