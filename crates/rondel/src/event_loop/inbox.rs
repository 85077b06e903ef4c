//! The inbox: how other threads get something onto the loop.
//!
//! A locked vector and two flags, and a third that ends it: what is sent to a loop that is closed is dropped by
//! the sender. Senders push; the loop takes the whole vector once a turn. The loop is woken
//! by a write to its eventfd only if it sleeps or is about to, and only by the first sender: `parked` is set by
//! the loop before it looks at the mail for the last time, and swapped back by whoever wakes it. Either the
//! sender sees `parked`, or the loop sees the mail; `tests/inbox_loom.rs` checks every interleaving.
//!
//! Nothing is allocated or run by the sender while the lock is held but the vector's growth, so sending from a
//! signal handler of an interpreter (which runs between two instructions of the program) is safe.

use crate::sync::{AtomicBool, Mutex, Ordering};

/// Ends the loop's wait. Called by other threads.
pub trait WakeUp {
    /// Makes the current or next wait of the loop return at once.
    fn wake(&self);
}

/// A queue that many threads fill and one event loop empties.
pub struct Inbox<T, W> {
    mail: Mutex<Mail<T>>,
    /// Set while `mail` may hold something: lets the loop look without taking the lock.
    has_mail: AtomicBool,
    /// Set while the loop waits, or is about to.
    parked: AtomicBool,
    wake: W,
}

struct Mail<T> {
    items: Vec<T>,
    closed: bool,
}

impl<T, W: WakeUp> Inbox<T, W> {
    /// An empty inbox, whose loop is woken by `wake`.
    pub fn new(wake: W) -> Self {
        Self {
            mail: Mutex::new(Mail {
                items: Vec::new(),
                closed: false,
            }),
            has_mail: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            wake,
        }
    }

    /// Sends an item; wakes the loop if it waits. From any thread. If the inbox is closed the item is dropped.
    pub fn send(&self, item: T) {
        self.post(item);
        self.wake();
    }

    /// As [`send`](Self::send), for who calls [`wake`](Self::wake) itself a little later: a loop that waits goes on waiting.
    pub fn post(&self, item: T) {
        let mut mail = self.lock();
        if mail.closed {
            drop(mail); // first the lock: the item's destructor may be anything
            return;
        }
        mail.items.push(item);
        drop(mail);
        self.has_mail.store(true, Ordering::Release);
    }

    /// Refuses all that is sent from now on. What is in stays until it is taken.
    pub fn close(&self) {
        self.lock().closed = true;
    }

    /// Wakes the loop if it waits. From any thread.
    pub fn wake(&self) {
        if self.parked.swap(false, Ordering::AcqRel) {
            self.wake.wake();
        }
    }

    /// Whether something has come in. Only for the loop's thread.
    #[inline]
    pub fn has_mail(&self) -> bool {
        self.has_mail.load(Ordering::Acquire)
    }

    /// Takes all that has come in, in the order in which it did.
    pub fn take(&self) -> Vec<T> {
        // The flag is cleared first: mail that arrives in between is taken now and looked for once more.
        self.has_mail.store(false, Ordering::Relaxed);
        std::mem::take(&mut self.lock().items)
    }

    /// Announces a wait. If it answers `false` there is mail, and the loop must not block.
    #[must_use]
    pub fn prepare_to_park(&self) -> bool {
        // A read-modify-write, not a store: it either comes before the sender's own in `wake`, which then sees it,
        // or it reads what that one has written, and with it everything that the sender did before.
        self.parked.swap(true, Ordering::AcqRel);
        if self.has_mail.load(Ordering::Acquire) {
            self.unpark();
            return false;
        }
        true
    }

    /// Ends a wait.
    pub fn unpark(&self) {
        // Again no plain store: it would hide what a sender has just written there from the next wait.
        self.parked.swap(false, Ordering::Acquire);
    }

    #[cfg(not(loom))]
    fn lock(&self) -> std::sync::MutexGuard<'_, Mail<T>> {
        // A panic while the lock was held can only be the vector's allocation: its contents are whole.
        self.mail
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    #[cfg(loom)]
    fn lock(&self) -> loom::sync::MutexGuard<'_, Mail<T>> {
        self.mail
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
