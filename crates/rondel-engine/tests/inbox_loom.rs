//! Checks every interleaving of the inbox and its wake-up with loom: `RUSTFLAGS="--cfg loom" cargo
//! test -p rondel-engine --test inbox_loom --release`.
//!
//! The loop's side is written as in `event_loop/turn.rs`. A lost wake-up shows as a deadlock: the
//! loop waits for a condition that is never set.
#![cfg(loom)]

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use rondel_engine::event_loop::inbox::{Inbox, WakeUp};

/// Models an eventfd: a wake-up before the wait is not lost.
#[derive(Clone)]
struct Event(Arc<(Mutex<usize>, Condvar)>);

impl Event {
    fn new() -> Self {
        Self(Arc::new((Mutex::new(0), Condvar::new())))
    }

    fn wait(&self) {
        let mut count = self.0.0.lock().unwrap();
        while *count == 0 {
            count = self.0.1.wait(count).unwrap();
        }
        *count = 0;
    }
}

impl WakeUp for Event {
    fn wake(&self) {
        *self.0.0.lock().unwrap() += 1;
        self.0.1.notify_one();
    }
}

/// Runs turns of an otherwise idle loop until `expected` items have arrived.
fn receive(inbox: &Inbox<usize, Event>, event: &Event, expected: usize) -> Vec<usize> {
    let mut received = Vec::new();
    while received.len() < expected {
        if inbox.prepare_to_park() {
            event.wait();
            inbox.unpark();
        }
        if inbox.has_mail() {
            received.extend(inbox.take(usize::MAX));
        }
    }
    received
}

#[test]
fn no_wake_is_lost_with_one_sender() {
    loom::model(|| {
        let event = Event::new();
        let inbox = Arc::new(Inbox::new(event.clone()));
        let sender = Arc::clone(&inbox);
        let thread = thread::spawn(move || {
            sender.send(1);
            sender.send(2);
        });
        assert_eq!(receive(&inbox, &event, 2), [1, 2]);
        thread.join().unwrap();
    });
}

#[test]
fn no_wake_is_lost_with_two_senders() {
    // Three threads have too many interleavings: check those with up to two preemptions, which
    // reveal most bugs.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let event = Event::new();
        let inbox = Arc::new(Inbox::new(event.clone()));
        let threads: Vec<_> = [1, 2]
            .map(|item| {
                let inbox = Arc::clone(&inbox);
                thread::spawn(move || inbox.send(item))
            })
            .into();
        let mut received = receive(&inbox, &event, 2);
        received.sort_unstable();
        assert_eq!(received, [1, 2]);
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_bare_wake_ends_a_wait() {
    loom::model(|| {
        let event = Event::new();
        let inbox: Arc<Inbox<usize, Event>> = Arc::new(Inbox::new(event.clone()));
        let flag = Arc::new(AtomicUsize::new(0));
        let (sender, raised) = (Arc::clone(&inbox), Arc::clone(&flag));
        let thread = thread::spawn(move || {
            raised.store(1, Ordering::SeqCst);
            sender.wake();
        });
        // As in a host with its own flag, e.g. to stop: it checks the flag after it has announced
        // the wait.
        while flag.load(Ordering::SeqCst) == 0 {
            if inbox.prepare_to_park() {
                if flag.load(Ordering::SeqCst) == 0 {
                    event.wait();
                }
                inbox.unpark();
            }
        }
        thread.join().unwrap();
    });
}

#[test]
fn nothing_stays_behind_in_a_closed_inbox() {
    /// Counts its live instances.
    struct Item(Arc<AtomicUsize>);
    impl Drop for Item {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    loom::model(|| {
        let alive = Arc::new(AtomicUsize::new(1));
        let item = Item(Arc::clone(&alive));
        let inbox = Arc::new(Inbox::new(Event::new()));
        let sender = Arc::clone(&inbox);
        let thread = thread::spawn(move || sender.send(item));
        inbox.close();
        drop(inbox.take(usize::MAX));
        thread.join().unwrap();
        assert_eq!(alive.load(Ordering::SeqCst), 0);
        assert!(inbox.take(usize::MAX).is_empty());
    });
}
