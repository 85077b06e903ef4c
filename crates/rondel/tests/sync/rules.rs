//! What the primitives answer: errors, shutdown, values.

use std::cell::RefCell;
use std::rc::Rc;

use rondel::{
    Barrier, BoundedSemaphore, GetNowaitError, LifoQueue, Lock, PriorityQueue, PutNowaitError,
    Queue, QueueShutDown, create_task,
};

use super::{turns, virtually};

#[test]
fn errors_go_into_a_box_that_is_send_and_sync() {
    fn boxed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> String {
        error.into().to_string()
    }
    assert_eq!(boxed(QueueShutDown), "QueueShutDown");
    assert_eq!(boxed(rondel::PutError(1)), "QueueShutDown");
    assert_eq!(boxed(PutNowaitError::Full(1)), "QueueFull");
    assert_eq!(boxed(GetNowaitError::Empty), "QueueEmpty");
    assert_eq!(
        boxed(rondel::TaskDoneError),
        "task_done() called too many times"
    );
    assert_eq!(
        boxed(rondel::ReleaseError),
        "BoundedSemaphore released too many times"
    );
}

#[test]
fn a_shut_down_queue_gives_what_it_has_and_then_ends() {
    virtually(async {
        let queue = Rc::new(Queue::new(1));
        queue.put(1).await.unwrap();
        let of_task = Rc::clone(&queue);
        let putter = create_task(async move { of_task.put(2).await });
        turns(1).await;
        queue.shutdown(false);
        assert_eq!(putter.await.unwrap().unwrap_err().0, 2);
        assert_eq!(queue.put_nowait(3), Err(PutNowaitError::ShutDown(3)));
        assert_eq!(queue.get().await, Ok(1));
        assert_eq!(queue.get().await, Err(QueueShutDown));
        queue.task_done().unwrap();
        queue.join().await;
    });
}

#[test]
fn an_immediate_shutdown_drops_the_items_and_ends_join() {
    virtually(async {
        let queue = Rc::new(Queue::new(0));
        queue.put_nowait(1).unwrap();
        queue.put_nowait(2).unwrap();
        assert_eq!(queue.get_nowait(), Ok(1));
        let of_task = Rc::clone(&queue);
        let join = create_task(async move { of_task.join().await });
        turns(1).await;
        queue.shutdown(true);
        assert_eq!(queue.get_nowait(), Err(GetNowaitError::ShutDown));
        turns(2).await;
        assert!(!join.done(), "the first item is not done yet");
        queue.task_done().unwrap();
        join.await.unwrap();
        assert!(queue.task_done().is_err());
    });
}

#[test]
fn getters_that_wait_learn_of_a_shutdown() {
    virtually(async {
        let queue = Rc::new(LifoQueue::<i32>::new(0));
        let getters = [0; 3].map(|_| {
            let queue = Rc::clone(&queue);
            create_task(async move { queue.get().await })
        });
        turns(1).await;
        queue.shutdown(false);
        for getter in getters {
            assert_eq!(getter.await.unwrap(), Err(QueueShutDown));
        }
    });
}

#[test]
fn queues_give_their_items_in_their_order() {
    let items = [3, 1, 2];
    let (first_in, last_in, least) = (Queue::new(0), LifoQueue::new(0), PriorityQueue::new(0));
    for item in items {
        first_in.put_nowait(item).unwrap();
        last_in.put_nowait(item).unwrap();
        least.put_nowait(item).unwrap();
    }
    assert_eq!([0; 3].map(|_| first_in.get_nowait().unwrap()), [3, 1, 2]);
    assert_eq!([0; 3].map(|_| last_in.get_nowait().unwrap()), [2, 1, 3]);
    assert_eq!([0; 3].map(|_| least.get_nowait().unwrap()), [1, 2, 3]);
    assert!(first_in.empty() && !first_in.full() && first_in.qsize() == 0);
}

#[test]
fn equal_priorities_come_in_the_order_in_which_they_were_put() {
    #[derive(PartialEq, Eq)]
    struct Job(u8, &'static str);
    impl Ord for Job {
        fn cmp(&self, other: &Self) -> std::cmp::Ordering {
            self.0.cmp(&other.0)
        }
    }
    impl PartialOrd for Job {
        fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
            Some(self.cmp(other))
        }
    }
    let queue = PriorityQueue::new(0);
    for job in [
        Job(1, "a"),
        Job(0, "b"),
        Job(1, "c"),
        Job(0, "d"),
        Job(1, "e"),
    ] {
        queue.put_nowait(job).unwrap();
    }
    let mut order = String::new();
    while let Ok(job) = queue.get_nowait() {
        order.push_str(job.1);
    }
    assert_eq!(order, "bdace");
}

#[test]
fn an_item_whose_destructor_uses_the_queue_may_be_thrown_away() {
    struct Uses(Rc<RefCell<Option<Rc<Queue<Uses>>>>>);
    impl Drop for Uses {
        fn drop(&mut self) {
            let queue = self.0.borrow().clone();
            if let Some(queue) = queue {
                assert!(queue.empty());
                let _ = queue.task_done();
            }
        }
    }
    let shelf = Rc::new(RefCell::new(None));
    let queue = Rc::new(Queue::new(0));
    shelf.replace(Some(Rc::clone(&queue)));
    queue.put_nowait(Uses(Rc::clone(&shelf))).unwrap();
    queue.shutdown(true);
    shelf.take();
}

#[test]
fn a_permit_too_many_is_told_to_the_exception_handler() {
    let told = Rc::new(RefCell::new(Vec::new()));
    let tell = Rc::clone(&told);
    virtually(async move {
        rondel::set_exception_handler(move |context| tell.borrow_mut().push(context.to_string()));
        let semaphore = BoundedSemaphore::new(1);
        let permit = semaphore.acquire().await;
        semaphore.release().unwrap();
        drop(permit);
        assert_eq!(semaphore.available(), 1);
    });
    assert_eq!(
        *told.borrow(),
        ["Exception ignored in a SemaphorePermit: BoundedSemaphore released too many times"]
    );
}

#[test]
fn a_permit_that_is_forgotten_lets_go_of_its_semaphore() {
    let semaphore = Rc::new(rondel::Semaphore::new(1));
    virtually({
        let semaphore = Rc::clone(&semaphore);
        async move { semaphore.acquire_owned().await.forget() }
    });
    assert_eq!(
        (semaphore.available(), Rc::strong_count(&semaphore)),
        (0, 1)
    );
}

#[test]
fn a_barrier_that_is_broken_stays_so_until_it_is_reset() {
    virtually(async {
        let barrier = Rc::new(Barrier::new(2));
        barrier.abort().await;
        assert!(barrier.wait().await.is_err() && barrier.broken());
        barrier.reset().await;
        let of_task = Rc::clone(&barrier);
        let other = create_task(async move { of_task.wait().await });
        assert_eq!(barrier.wait().await, Ok(0));
        assert_eq!(other.await.unwrap(), Ok(1));
        assert!(!barrier.broken());
    });
}

#[test]
fn primitives_work_without_a_loop_where_nothing_has_to_wait() {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    let mut context = Context::from_waker(Waker::noop());
    let lock = Lock::new(1);
    let guard = pin!(lock.acquire()).poll(&mut context);
    assert!(matches!(guard, Poll::Ready(value) if *value == 1));
    let mut lock = Lock::from(String::from("a"));
    lock.get_mut().push('b');
    assert_eq!(lock.into_inner(), "ab");
}
