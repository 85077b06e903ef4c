//! `wait`, `as_completed`, `shield`.

use std::future::pending;
use std::rc::Rc;

use rondel::{
    Event, Instant, ReturnWhen, Task, as_completed, create_task, shield, sleep, timeout, wait,
    yield_now,
};

use super::cut::at_every_poll;
use super::{Log, SECOND, turns, virtually};

fn nap(seconds: u32) -> Task<u32> {
    create_task(async move {
        sleep(SECOND * seconds).await;
        seconds
    })
}

#[test]
fn wait_returns_when_it_is_told_to() {
    virtually(async {
        let (done, pending) = wait([nap(3), nap(1), nap(2)])
            .return_when(ReturnWhen::FirstCompleted)
            .await;
        assert_eq!((done.len(), pending.len()), (1, 2));
        let start = Instant::now();
        let (done, pending) = wait(pending).await;
        assert_eq!(start.elapsed(), SECOND * 2);
        assert!(pending.is_empty());
        let mut values = Vec::new();
        for task in done {
            values.push(task.await.unwrap());
        }
        assert_eq!(values, [3, 2], "the order is that of the tasks");
    });
}

#[test]
fn what_is_done_already_is_not_waited_for() {
    virtually(async {
        let mut tasks = [nap(0), nap(5)];
        turns(2).await;
        let first = wait(&mut tasks).return_when(ReturnWhen::FirstCompleted);
        let (done, pending) = first.await;
        assert_eq!((done.len(), pending.len()), (1, 1));
        assert_eq!(wait(Vec::<Task<()>>::new()).await.0.len(), 0);
        assert_eq!(wait([nap(0)]).timeout(SECOND).await.0.len(), 1);
    });
}

#[test]
fn a_wait_that_times_out_says_what_is_there_and_cancels_nothing() {
    virtually(async {
        let start = Instant::now();
        let (done, pending) = wait([nap(1), nap(3)]).timeout(SECOND * 2).await;
        assert_eq!(start.elapsed(), SECOND * 2);
        assert_eq!((done.len(), pending.len()), (1, 1));
        assert_eq!(pending.into_iter().next().unwrap().await.unwrap(), 3);
    });
}

#[test]
fn the_first_exception_is_a_panic_and_not_a_cancellation() {
    virtually(async {
        let first = create_task(async {
            sleep(SECOND).await;
            panic!("expected");
        });
        let cancelled = create_task(pending::<()>());
        cancelled.cancel();
        let (done, pending) = wait([first, cancelled, create_task(pending())])
            .return_when(ReturnWhen::FirstException)
            .await;
        assert_eq!((done.len(), pending.len()), (2, 1));
        for task in done {
            assert!(task.await.is_err());
        }
        // None fails: then it is all of them.
        let all = wait([nap(1), nap(2)]).return_when(ReturnWhen::FirstException);
        assert_eq!(all.await.0.len(), 2);
    });
}

#[test]
fn an_output_that_is_an_error_counts_if_that_is_asked_for() {
    virtually(async {
        let task = |seconds, result: Result<(), &'static str>| {
            create_task(async move {
                sleep(SECOND * seconds).await;
                result
            })
        };
        let tasks = [task(1, Ok(())), task(2, Err("no")), task(3, Ok(()))];
        let (done, pending) = wait(tasks).or_first_error().await;
        assert_eq!((done.len(), pending.len()), (2, 1));
    });
}

#[test]
fn waiting_for_a_task_that_was_awaited_before_is_woken_all_the_same() {
    virtually(async {
        let mut task = nap(2);
        assert!(timeout(SECOND, shield(&mut task)).await.is_err());
        let (done, _) = wait([&mut task]).await;
        assert_eq!(done.len(), 1);
        assert_eq!(task.await.unwrap(), 2);
    });
}

#[test]
fn tasks_come_as_they_are_completed() {
    virtually(async {
        let mut early = nap(0);
        turns(2).await;
        assert!(early.done());
        let mut others = [nap(3), nap(1), nap(2)];
        let mut tasks = as_completed(others.iter_mut().chain([&mut early]));
        let mut order = Vec::new();
        while let Some(task) = tasks.next().await {
            order.push(task.result().unwrap().unwrap());
        }
        assert_eq!(order, [0, 1, 2, 3]);
    });
}

#[test]
fn a_shielded_task_outlives_who_awaits_it() {
    let log = Log::default();
    virtually(async {
        let of_task = log.clone();
        let inner = create_task(async move {
            sleep(SECOND).await;
            of_task.add("saved");
        });
        let outer = create_task(async move { shield(inner).await });
        yield_now().await;
        yield_now().await;
        outer.cancel();
        assert!(outer.await.unwrap_err().is_cancelled());
        log.add("outer is gone");
        sleep(SECOND * 2).await;
    });
    assert_eq!(log.take(), ["outer is gone", "saved"]);
}

#[test]
fn many_tasks_are_waited_for_in_linear_time() {
    const MANY: usize = 50_000;
    virtually(async {
        let event = Rc::new(Event::new());
        let tasks: Vec<_> = (0..MANY)
            .map(|_| {
                let event = Rc::clone(&event);
                create_task(async move { event.wait().await })
            })
            .collect();
        yield_now().await;
        event.set();
        let (mut done, _) = wait(tasks).await;
        assert_eq!(done.len(), MANY);
        let mut completed = as_completed(&mut done);
        let mut number = 0;
        while completed.next().await.is_some() {
            number += 1;
        }
        assert_eq!(number, MANY);
    });
}

#[test]
fn waits_that_are_dropped_at_any_poll_take_nothing() {
    at_every_poll(1, async |knife| {
        let tasks = Rc::new(rondel::Lock::new([nap(1), nap(2)]));
        let of_victim = Rc::clone(&tasks);
        let victim = async move {
            let mut tasks = of_victim.acquire().await;
            let waited = wait(tasks.iter_mut()).await;
            assert_eq!(waited.0.len(), 2);
        };
        knife.cut(victim).await;
        let mut tasks = tasks.acquire().await;
        for task in tasks.iter_mut() {
            timeout(SECOND * 5, task).await.unwrap().unwrap();
        }
    });
    at_every_poll(2, async |knife| {
        let completed = Rc::new(rondel::Lock::new(as_completed([nap(2), nap(1)])));
        let of_victim = Rc::clone(&completed);
        let taken = Rc::new(rondel::Lock::new(Vec::new()));
        let of_victim_too = Rc::clone(&taken);
        let victim = async move {
            while let Some(task) = of_victim.acquire().await.next().await {
                of_victim_too.acquire().await.push(task);
            }
        };
        knife.cut(victim).await;
        let mut taken = taken.acquire().await;
        let mut completed = completed.acquire().await;
        while let Some(task) = timeout(SECOND * 5, completed.next()).await.unwrap() {
            taken.push(task);
        }
        let mut values = Vec::new();
        for task in taken.drain(..) {
            values.push(task.await.unwrap());
        }
        assert_eq!(values, [1, 2]);
    });
    at_every_poll(1, async |knife| {
        let task = Rc::new(rondel::Lock::new(nap(2)));
        let of_victim = Rc::clone(&task);
        let victim = async move {
            let mut task = of_victim.acquire().await;
            let _ = shield(&mut *task).await;
        };
        let whole = knife.cut(victim).await.is_some();
        if !whole {
            let mut task = task.acquire().await;
            let result = timeout(SECOND * 5, &mut *task).await;
            assert_eq!(result.unwrap().unwrap(), 2);
        }
    });
}
