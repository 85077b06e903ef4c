//! Without a loop, so that they run under Miri.

use super::*;
use std::mem;

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Waits until it is opened, and counts how often it was polled.
#[derive(Default)]
struct Gate {
    open: Cell<bool>,
    polls: Cell<u32>,
    waker: RefCell<Option<Waker>>,
}

impl Gate {
    async fn pass(&self) {
        poll_fn(|context| {
            self.polls.set(self.polls.get() + 1);
            if self.open.get() {
                return Poll::Ready(());
            }
            self.waker.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    fn open(&self) {
        self.open.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

struct Dropped<'a>(&'a Cell<u32>);
impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn children_borrow_and_only_those_that_were_woken_are_polled() {
    let gates = [0; 3].map(|_| Gate::default());
    let mut scope = pin!(task_scope(async |scope| {
        let tasks: Vec<_> = gates
            .iter()
            .enumerate()
            .map(|(number, gate)| {
                scope.create_plain_task(async move {
                    gate.pass().await;
                    number
                })
            })
            .collect();
        let mut sum = 0;
        for task in tasks {
            sum += task.await;
        }
        Ok::<_, ()>(sum)
    }));
    let polls = || gates.each_ref().map(|gate| gate.polls.get());
    for _ in 0..3 {
        assert!(poll(scope.as_mut()).is_pending());
    }
    assert_eq!(polls(), [1, 1, 1]);
    gates[1].open();
    assert!(poll(scope.as_mut()).is_pending());
    assert_eq!(polls(), [1, 2, 1]);
    gates[2].open();
    gates[0].open();
    let sum = (0..4).find_map(|_| match poll(scope.as_mut()) {
        Poll::Ready(sum) => Some(sum.unwrap()),
        Poll::Pending => None,
    });
    assert_eq!((sum, polls()), (Some(3), [2, 2, 2]));
}

#[test]
fn a_scope_that_is_dropped_or_forgotten_lets_its_children_rest() {
    let dropped = Cell::new(0);
    let gate = Gate::default();
    let begin = || {
        let mut scope = Box::pin(task_scope(async |scope| {
            let inner = scope.clone();
            scope.create_plain_task(async {
                // A circle: child, scope, child.
                let _inner = inner;
                let _dropped = Dropped(&dropped);
                gate.pass().await;
            });
            Ok::<(), ()>(())
        }));
        assert!((0..3).all(|_| poll(scope.as_mut()).is_pending()));
        scope
    };
    drop(begin());
    assert_eq!(dropped.get(), 1);
    mem::forget(begin());
    // Its waker is still there, and wakes nobody.
    gate.open();
    assert_eq!((dropped.get(), gate.polls.get()), (1, 2));
}

#[test]
fn a_failure_drops_all_others_where_they_are() {
    let dropped = Cell::new(0);
    let gate = Gate::default();
    let mut scope = pin!(task_scope(async |scope| {
        let _of_body = Dropped(&dropped);
        for _ in 0..2 {
            scope.create_plain_task(async {
                let _dropped = Dropped(&dropped);
                gate.pass().await;
            });
        }
        scope.create_task(async { Err::<(), _>("no luck") });
        gate.pass().await;
        Ok(())
    }));
    let failed = loop {
        if let Poll::Ready(result) = poll(scope.as_mut()) {
            break result.unwrap_err();
        }
    };
    assert!(matches!(
        failed.exceptions[..],
        [TaskFailure::Error("no luck")]
    ));
    assert_eq!(dropped.get(), 3);
}

#[test]
fn panics_of_children_and_of_their_destructors_are_failures() {
    struct Panics;
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("in a destructor");
        }
    }
    let mut scope = pin!(task_scope(async |scope| {
        scope.create_plain_task(async {
            let _panics = Panics;
            std::future::pending::<()>().await;
        });
        scope.create_plain_task(async { panic!("in a child") });
        std::future::pending::<Result<(), ()>>().await
    }));
    let failed = loop {
        if let Poll::Ready(result) = poll(scope.as_mut()) {
            break result.unwrap_err();
        }
    };
    let messages: Vec<_> = failed
        .exceptions
        .iter()
        .map(|failure| match failure {
            TaskFailure::Panic(panic) => panic.message(),
            TaskFailure::Error(()) => "",
        })
        .collect();
    assert_eq!(messages, ["in a child", "in a destructor"]);
}

#[test]
fn children_may_be_woken_by_other_threads() {
    let gate = Mutex::new((false, None::<Waker>));
    let mut scope = pin!(task_scope(async |scope| {
        scope.create_plain_task(poll_fn(|context| {
            let mut gate = gate.lock().unwrap();
            gate.1 = Some(context.waker().clone());
            match gate.0 {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        }));
        Ok::<(), ()>(())
    }));
    assert!((0..2).all(|_| poll(scope.as_mut()).is_pending()));
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut gate = gate.lock().unwrap();
            gate.0 = true;
            let waker = gate.1.take().unwrap();
            drop(gate);
            waker.wake();
        });
    });
    assert!(poll(scope.as_mut()).is_ready());
}
