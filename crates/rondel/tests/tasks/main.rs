//! Tasks and timers: what the tests of the modules below share.

mod calls;
mod cancellation;
mod contexts;
#[path = "../sync/cut.rs"]
mod cut;
mod eager;
mod end_of_run;
mod futures;
mod gathering;
mod many;
mod names;
mod order;
mod panics;
mod runs;
mod scopes;
mod waits;

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use rondel::Builder;

const SECOND: Duration = Duration::from_secs(1);

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

    /// Logs when it is dropped.
    fn on_drop(&self, what: &str) -> impl Drop + use<> {
        struct OnDrop(Log, String);
        impl Drop for OnDrop {
            fn drop(&mut self) {
                self.0.add(format!("drop {}", self.1));
            }
        }
        OnDrop(self.clone(), what.to_owned())
    }
}

fn virtually<F: Future>(main: F) -> F::Output {
    Builder::new().virtual_clock().run(main).unwrap()
}

async fn turns(number: usize) {
    for _ in 0..number {
        rondel::yield_now().await;
    }
}
