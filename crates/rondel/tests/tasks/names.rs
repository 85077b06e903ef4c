//! Names, all tasks, requests to be cancelled and their being taken back.

use std::future::pending;

use rondel::{all_tasks, build_task, create_task, current_task, yield_now};

use super::{turns, virtually};

#[test]
fn tasks_have_names_and_those_without_are_numbered() {
    virtually(async {
        let named = build_task().name("reader").create(pending::<()>());
        let (first, second) = (create_task(pending::<()>()), create_task(pending::<()>()));
        assert_eq!(named.name(), "reader");
        assert_eq!(second.name(), "Task-1");
        assert_eq!(first.name(), "Task-2");
        assert_eq!(second.name(), "Task-1");
        named.set_name("writer");
        assert_eq!(named.cancel_handle().name(), "writer");
        let task = create_task(async {
            let me = current_task().unwrap();
            me.set_name("myself");
            me.name()
        });
        let handle = task.cancel_handle();
        assert_eq!(task.await.unwrap(), "myself");
        assert_eq!(handle.name(), "myself", "it stays when the task is done");
    });
}

#[test]
fn a_name_may_be_asked_for_without_a_loop() {
    let handle = virtually(async { create_task(async {}).cancel_handle() });
    assert_eq!(handle.name(), "Task");
}

#[test]
fn all_tasks_are_those_that_are_not_done_oldest_first() {
    virtually(async {
        let me = current_task().unwrap();
        let tasks = [0; 3].map(|_| create_task(pending::<()>()));
        create_task(async {}).detach();
        assert_eq!(all_tasks().len(), 5);
        yield_now().await;
        tasks[1].cancel();
        yield_now().await;
        let all = all_tasks();
        assert_eq!(all.len(), 3);
        assert!(all[0].is(&me));
        assert!(all[1].is(&tasks[0].cancel_handle()) && all[2].is(&tasks[2].cancel_handle()));
    });
}

#[test]
fn a_request_can_be_taken_back_until_the_future_is_dropped() {
    virtually(async {
        let task = create_task(async {
            turns(2).await;
            "went on"
        });
        assert!(task.cancel() && task.cancel());
        assert_eq!(task.cancelling(), 2);
        assert_eq!(task.uncancel(), 1);
        assert_eq!(task.uncancel(), 0);
        assert_eq!(task.uncancel(), 0);
        assert_eq!(task.await.unwrap(), "went on");

        let task = create_task(pending::<()>());
        task.cancel();
        yield_now().await;
        assert_eq!((task.uncancel(), task.done()), (0, true));
        assert!(task.await.unwrap_err().is_cancelled());
    });
}

#[test]
fn a_waiter_that_was_passed_over_while_it_was_cancelled_is_served_after_that() {
    virtually(async {
        let semaphore = std::rc::Rc::new(rondel::Semaphore::new(0));
        let queue = std::rc::Rc::new(rondel::Queue::new(0));
        let (of_task, its_queue) = (semaphore.clone(), queue.clone());
        let permit = create_task(async move { of_task.acquire().await.forget() });
        let item = create_task(async move { its_queue.get().await });
        yield_now().await;
        permit.cancel();
        item.cancel();
        semaphore.release();
        queue.put_nowait(1).unwrap();
        permit.uncancel();
        item.uncancel();
        turns(3).await;
        assert!(permit.done() && item.done());
        assert_eq!(item.await.unwrap(), Ok(1));
    });
}
