//! Who comes when: first come, first served, in asyncio's turns.

use std::rc::Rc;

use rondel::{Condition, Event, Lock, Queue, Semaphore, create_task, current_task, yield_now};

use super::{Log, turns, virtually};

#[test]
fn a_lock_is_fair_to_who_waits_when_it_is_released_and_wanted_at_once() {
    let log = Log::default();
    virtually(async {
        let lock = Rc::new(Lock::new(()));
        let tasks: Vec<_> = ["a", "b"]
            .map(|name| {
                let (lock, log) = (Rc::clone(&lock), log.clone());
                create_task(async move {
                    for _ in 0..3 {
                        let _guard = lock.acquire().await;
                        log.add(name);
                        yield_now().await;
                    }
                })
            })
            .into();
        rondel::gather(tasks).await.unwrap();
    });
    assert_eq!(log.take().concat(), "ababab");
}

#[test]
fn who_is_cancelled_but_not_gone_yet_holds_nobody_up() {
    virtually(async {
        let lock = Rc::new(Lock::new(()));
        let held = lock.acquire().await;
        let of_task = Rc::clone(&lock);
        let waiting = create_task(async move { drop(of_task.acquire().await) });
        turns(1).await;
        waiting.cancel();
        drop(held);
        // As in asyncio: it was woken before anybody knew.
        assert!(lock.try_acquire().is_none());
        turns(1).await;
        let held = lock.try_acquire().unwrap();
        let of_task = Rc::clone(&lock);
        let waiting = create_task(async move { drop(of_task.acquire().await) });
        turns(1).await;
        drop(held);
        waiting.await.unwrap();

        let semaphore = Rc::new(Semaphore::new(0));
        let tasks = [0; 2].map(|_| {
            let semaphore = Rc::clone(&semaphore);
            create_task(async move { semaphore.acquire().await.forget() })
        });
        turns(1).await;
        tasks[0].cancel();
        semaphore.release();
        turns(1).await;
        assert!(
            tasks[1].done(),
            "the permit went to the cancelled one first"
        );
    });
}

#[test]
fn a_permit_goes_to_who_waits_and_not_to_a_newcomer() {
    virtually(async {
        let semaphore = Rc::new(Semaphore::new(1));
        let held = semaphore.acquire().await;
        let of_task = Rc::clone(&semaphore);
        let waiting = create_task(async move { of_task.acquire().await.forget() });
        turns(1).await;
        drop(held);
        assert!(semaphore.locked() && semaphore.try_acquire().is_none());
        waiting.await.unwrap();
        // Two at once, and each wakes one.
        let waiting = [0; 2].map(|_| {
            let semaphore = Rc::clone(&semaphore);
            create_task(async move { semaphore.acquire().await.forget() })
        });
        turns(1).await;
        semaphore.release();
        semaphore.release();
        turns(1).await;
        assert!(waiting.iter().all(rondel::Task::done));
    });
}

#[test]
fn a_future_does_nothing_before_it_is_polled() {
    virtually(async {
        let lock = Lock::new(());
        let first = lock.acquire();
        let second = lock.acquire();
        drop(second.await);
        drop(first.await);
        let semaphore = Semaphore::new(1);
        drop((semaphore.acquire(), semaphore.acquire()));
        assert_eq!(semaphore.available(), 1);
    });
}

#[test]
fn a_condition_wakes_as_many_as_it_is_told_to_in_order() {
    let log = Log::default();
    virtually(async {
        let condition = Rc::new(Condition::new(()));
        for name in ["a", "b", "c", "d"] {
            let (condition, log) = (Rc::clone(&condition), log.clone());
            create_task(async move {
                let _guard = condition.acquire().await.wait().await;
                log.add(name);
                turns(1).await;
            })
            .detach();
        }
        turns(1).await;
        condition.acquire().await.notify(2);
        turns(8).await;
        log.add("|");
        condition.acquire().await.notify_all();
        turns(8).await;
    });
    assert_eq!(log.take().concat(), "ab|cd");
}

#[test]
fn an_event_that_is_set_and_cleared_lets_all_go_that_waited() {
    virtually(async {
        let event = Rc::new(Event::new());
        let wait = || {
            let event = Rc::clone(&event);
            create_task(async move { event.wait().await })
        };
        let tasks = [wait(), wait()];
        turns(1).await;
        event.set();
        event.clear();
        let late = wait();
        turns(2).await;
        assert!(tasks.iter().all(rondel::Task::done) && !late.done());
    });
}

#[test]
fn a_queue_serves_getters_in_order_and_each_item_wakes_one() {
    let log = Log::default();
    virtually(async {
        let queue = Rc::new(Queue::new(0));
        for name in ["a", "b", "c"] {
            let (queue, log) = (Rc::clone(&queue), log.clone());
            create_task(async move {
                let item: i32 = queue.get().await.unwrap();
                log.add(format!("{name}{item}"));
            })
            .detach();
        }
        turns(1).await;
        (1..=3).for_each(|item| queue.put_nowait(item).unwrap());
        turns(1).await;
    });
    assert_eq!(log.take(), ["a1", "b2", "c3"]);
}

#[test]
fn what_never_has_to_wait_gives_way_all_the_same() {
    let log = Log::default();
    virtually(async {
        let queue = Rc::new(Queue::new(0));
        let lock = Lock::new(());
        let (other, of_other) = (create_task(turns(1)), log.clone());
        create_task(async move {
            let _ = other.await;
            of_other.add("the other task has run");
        })
        .detach();
        for item in 0..1000 {
            queue.put(item).await.unwrap();
            queue.get().await.unwrap();
            drop(lock.acquire().await);
        }
        log.add("done");
    });
    assert_eq!(log.take(), ["the other task has run", "done"]);
}

#[test]
fn a_task_may_cancel_itself_while_it_has_the_lock() {
    virtually(async {
        let lock = Rc::new(Lock::new(()));
        let of_task = Rc::clone(&lock);
        let task = create_task(async move {
            let _guard = of_task.acquire().await;
            current_task().unwrap().cancel();
            yield_now().await;
        });
        assert!(task.await.unwrap_err().is_cancelled());
        assert!(!lock.locked());
    });
}
