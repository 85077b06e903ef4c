//! Each function that waits is cancelled at every poll, among others that wait before it and behind
//! it: nothing is lost.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use rondel::{
    Barrier, BoundedSemaphore, Condition, Event, LifoQueue, Lock, PriorityQueue, Queue, Semaphore,
    create_task, timeout,
};

use super::cut::at_every_poll;
use super::{Log, SECOND, turns};

#[test]
fn lock_acquire() {
    at_every_poll(1, async |knife| {
        let lock = Rc::new(Lock::new(()));
        let log = Log::default();
        let held = lock.acquire().await;
        let user = async |lock: Rc<Lock>, log: Log, name: &'static str| {
            let _guard = lock.acquire().await;
            turns(2).await;
            log.add(name);
        };
        let before = create_task(user(Rc::clone(&lock), log.clone(), "before"));
        let victim = user(Rc::clone(&lock), log.clone(), "victim");
        let victim = create_task(async move { knife.cut(victim).await.is_some() });
        turns(1).await;
        let behind = create_task(user(Rc::clone(&lock), log.clone(), "behind"));
        turns(2).await;
        drop(held);
        for task in [before, behind] {
            let in_time = timeout(SECOND, task).await;
            in_time.expect("a wake-up was lost").unwrap();
        }
        let whole = victim.await.unwrap();
        assert!(!lock.locked() && lock.try_acquire().is_some());
        let expected: &[_] = if whole {
            &["before", "victim", "behind"]
        } else {
            &["before", "behind"]
        };
        assert_eq!(log.take(), expected);
    });
}

#[test]
fn event_wait() {
    at_every_poll(1, async |knife| {
        let event = Rc::new(Event::new());
        let wait = async |event: Rc<Event>| event.wait().await;
        let before = create_task(wait(Rc::clone(&event)));
        let victim = wait(Rc::clone(&event));
        let victim = create_task(async move { knife.cut(victim).await });
        let behind = create_task(wait(Rc::clone(&event)));
        turns(3).await;
        event.set();
        event.clear();
        for task in [before, behind] {
            timeout(SECOND, task).await.unwrap().unwrap();
        }
        victim.await.unwrap();
    });
}

#[test]
fn condition_wait() {
    // By number of notifications; each goes to one that is there.
    for by_predicate in [false, true] {
        at_every_poll(1, async move |knife| {
            let condition = Rc::new(Condition::new(0));
            let served = Rc::new(Cell::new(0));
            let wait = |condition: Rc<Condition<i32>>, served: Rc<Cell<i32>>| async move {
                let guard = condition.acquire().await;
                let mut guard = match by_predicate {
                    true => guard.wait_for(|value| *value > 0).await,
                    false => guard.wait().await,
                };
                *guard -= 1;
                served.set(served.get() + 1);
            };
            let victim = wait(Rc::clone(&condition), Rc::clone(&served));
            let victim = create_task(async move { knife.cut(victim).await.is_some() });
            turns(1).await;
            let others = [0; 2]
                .map(|_| create_task(wait(Rc::clone(&condition), Rc::clone(&served))))
                .map(Some);
            turns(4).await;
            // Two notifications while the lock is held, so that who was notified has to wait for
            // it.
            let mut guard = condition.acquire().await;
            *guard += 2;
            guard.notify(1);
            guard.notify(1);
            turns(3).await;
            drop(guard);
            turns(20).await;
            assert_eq!(served.get(), 2, "a notification was lost");
            let mut guard = condition.acquire().await;
            *guard += 2;
            guard.notify_all();
            drop(guard);
            for other in others.into_iter().flatten() {
                timeout(SECOND, other).await.unwrap().unwrap();
            }
            let whole = victim.await.unwrap();
            assert_eq!(*condition.acquire().await, if whole { 1 } else { 2 });
        });
    }
}

#[test]
fn condition_acquire() {
    at_every_poll(1, async |knife| {
        let condition = Rc::new(Condition::new(0));
        let guard = condition.acquire().await;
        let take = async |condition: Rc<Condition<i32>>| *condition.acquire().await += 1;
        let victim = take(Rc::clone(&condition));
        let victim = create_task(async move { knife.cut(victim).await });
        turns(1).await;
        let behind = create_task(take(Rc::clone(&condition)));
        turns(2).await;
        drop(guard);
        timeout(SECOND, behind).await.unwrap().unwrap();
        victim.await.unwrap();
        assert!(!condition.locked());
    });
}

#[test]
fn semaphore_acquire() {
    at_every_poll(1, async |knife| {
        let semaphore = Rc::new(Semaphore::new(2));
        let use_it = async |semaphore: Rc<Semaphore>| {
            let _permit = semaphore.acquire_owned().await;
            turns(2).await;
        };
        let held = [semaphore.try_acquire(), semaphore.try_acquire()];
        let victim = use_it(Rc::clone(&semaphore));
        let victim = create_task(async move { knife.cut(victim).await });
        turns(1).await;
        let others: Vec<_> = (0..3)
            .map(|_| create_task(use_it(Rc::clone(&semaphore))))
            .collect();
        turns(2).await;
        drop(held);
        timeout(SECOND, rondel::gather(others))
            .await
            .expect("a permit was lost")
            .unwrap();
        victim.await.unwrap();
        assert_eq!(semaphore.available(), 2);
        assert!(!semaphore.locked());
    });
}

#[test]
fn bounded_semaphore_acquire() {
    at_every_poll(1, async |knife| {
        let semaphore = Rc::new(BoundedSemaphore::new(1));
        let of_victim = Rc::clone(&semaphore);
        let held = semaphore.acquire().await;
        let victim = create_task(async move {
            let by_hand = async move {
                of_victim.acquire().await.forget();
                of_victim.release().unwrap();
            };
            knife.cut(by_hand).await
        });
        turns(2).await;
        drop(held);
        turns(1).await;
        drop(timeout(SECOND, semaphore.acquire()).await.unwrap());
        victim.await.unwrap();
        assert_eq!(semaphore.available(), 1);
    });
}

#[test]
fn barrier_wait() {
    at_every_poll(1, async |knife| {
        let barrier = Rc::new(Barrier::new(3));
        let wait = async |barrier: Rc<Barrier>| barrier.wait().await;
        let victim = wait(Rc::clone(&barrier));
        let victim = create_task(async move { knife.cut(victim).await });
        turns(1).await;
        let mut others: Vec<_> = (0..2)
            .map(|_| create_task(wait(Rc::clone(&barrier))))
            .collect();
        turns(10).await;
        // As many as are missing, if the victim is.
        others.extend((0..barrier.parties()).map(|_| create_task(wait(Rc::clone(&barrier)))));
        turns(20).await;
        let passed: Vec<_> = others.iter().filter(|task| task.done()).collect();
        assert!(passed.len() >= 2, "the barrier did not open");
        victim.await.unwrap();
        // Whatever has happened, it can be used again.
        timeout(SECOND, barrier.reset()).await.unwrap();
        turns(10).await;
        assert_eq!(barrier.n_waiting(), 0);
        let again: Vec<_> = (0..3).map(|_| wait(Rc::clone(&barrier))).collect();
        let places = timeout(SECOND, rondel::gather(again)).await.unwrap();
        let places: BTreeSet<_> = places.unwrap().into_iter().map(Result::unwrap).collect();
        assert_eq!(places, BTreeSet::from([0, 1, 2]));
    });
}

#[test]
fn barrier_reset_and_abort() {
    for abort in [false, true] {
        at_every_poll(0, async |knife| {
            let barrier = Rc::new(Barrier::new(2));
            let of_task = Rc::clone(&barrier);
            let waiting = create_task(async move { of_task.wait().await });
            turns(1).await;
            let of_task = Rc::clone(&barrier);
            let victim = async move {
                match abort {
                    true => of_task.abort().await,
                    false => of_task.reset().await,
                }
            };
            let whole = knife.cut(victim).await.is_some();
            if whole {
                assert!(timeout(SECOND, waiting).await.unwrap().unwrap().is_err());
            } else {
                assert_eq!(barrier.n_waiting(), 1);
                assert_eq!(timeout(SECOND, barrier.wait()).await, Ok(Ok(1)));
                assert_eq!(waiting.await.unwrap(), Ok(0));
            }
        });
    }
}

macro_rules! queues {
    ($($name:ident $get:ident $put:ident $join:ident),+) => { $(
        #[test]
        fn $get() {
            at_every_poll(1, async |knife| {
                let queue = Rc::new($name::new(0));
                let take = async |queue: Rc<$name<i32>>| queue.get().await.unwrap();
                let victim = take(Rc::clone(&queue));
                let victim = create_task(async move { knife.cut(victim).await });
                turns(1).await;
                let others = [0; 2].map(|_| create_task(take(Rc::clone(&queue))));
                turns(2).await;
                for item in 1..=2 {
                    queue.put_nowait(item).unwrap();
                }
                turns(10).await;
                assert!(queue.empty(), "a wake-up was lost");
                queue.put_nowait(3).unwrap();
                turns(10).await;
                // Each item is somewhere, once.
                let mut items: Vec<_> = victim.await.unwrap().into_iter().collect();
                let others = timeout(SECOND, rondel::gather(others)).await.unwrap().unwrap();
                items.extend(others.into_iter().map(Result::unwrap));
                items.extend(queue.get_nowait());
                items.sort();
                assert_eq!(items, [1, 2, 3]);
            });
        }

        #[test]
        fn $put() {
            at_every_poll(1, async |knife| {
                let queue = Rc::new($name::new(1));
                queue.put_nowait(0).unwrap();
                let put = async |queue: Rc<$name<i32>>, item| queue.put(item).await.unwrap();
                let victim = put(Rc::clone(&queue), 1);
                let victim = create_task(async move { knife.cut(victim).await.is_some() });
                turns(1).await;
                let others = [2, 3].map(|item| create_task(put(Rc::clone(&queue), item)));
                turns(2).await;
                let mut items = Vec::new();
                while let Ok(item) = timeout(SECOND, queue.get()).await {
                    items.push(item.unwrap());
                }
                timeout(SECOND, rondel::gather(others)).await.unwrap().unwrap();
                let whole = victim.await.unwrap();
                items.sort();
                let expected: &[_] = if whole { &[0, 1, 2, 3] } else { &[0, 2, 3] };
                assert_eq!(items, expected);
            });
        }

        #[test]
        fn $join() {
            at_every_poll(1, async |knife| {
                let queue = Rc::new($name::new(0));
                queue.put_nowait(0).unwrap();
                let join = async |queue: Rc<$name<i32>>| queue.join().await;
                let victim = join(Rc::clone(&queue));
                let victim = create_task(async move { knife.cut(victim).await });
                let other = create_task(join(Rc::clone(&queue)));
                turns(2).await;
                queue.get_nowait().unwrap();
                queue.task_done().unwrap();
                timeout(SECOND, other).await.unwrap().unwrap();
                victim.await.unwrap();
            });
        }
    )+ };
}

queues!(
    Queue queue_get queue_put queue_join,
    PriorityQueue priority_queue_get priority_queue_put priority_queue_join,
    LifoQueue lifo_queue_get lifo_queue_put lifo_queue_join
);
