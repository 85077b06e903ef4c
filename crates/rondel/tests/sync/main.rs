//! The primitives: locks, events, conditions, semaphores, barriers, queues.

mod cancelled;
mod channels;
mod cut;
mod order;
mod rules;

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn virtually<F: Future>(main: F) -> F::Output {
    rondel::Builder::new().virtual_clock().run(main).unwrap()
}

/// What happened, in order.
#[derive(Clone, Default)]
struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    fn add(&self, what: impl Into<String>) {
        self.0.borrow_mut().push(what.into());
    }

    fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

async fn turns(number: usize) {
    for _ in 0..number {
        rondel::yield_now().await;
    }
}
