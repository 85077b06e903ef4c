//! The inbox: how other threads get something onto the loop.
//!
//! A locked queue and two flags, and a third that ends it: what is sent to a loop that is closed is
//! dropped by the sender. Senders push; the loop takes what is there once a turn, or a part of it
//! if it is very much: senders may be faster than the loop, and timers and descriptors are not to
//! wait for all of it. The loop is woken by a write to its eventfd only if it sleeps or is about
//! to, and only by the first sender: `parked` is set by the loop before it looks at the mail for
//! the last time, and swapped back by whoever wakes it. Either the sender sees `parked`, or the
//! loop sees the mail; `tests/inbox_loom.rs` checks every interleaving.
//!
//! Nothing is allocated or run by the sender while the lock is held but the queue's growth, so
//! sending from a signal handler of an interpreter (which runs between two instructions of the
//! program) is safe.

use std::collections::VecDeque;

use crate::sync::{AtomicBool, Mutex, MutexGuard, Ordering};

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
    items: VecDeque<T>,
    closed: bool,
}

impl<T, W: WakeUp> Inbox<T, W> {
    /// An empty inbox, whose loop is woken by `wake`.
    pub fn new(wake: W) -> Self {
        Self {
            mail: Mutex::new(Mail {
                items: VecDeque::new(),
                closed: false,
            }),
            has_mail: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            wake,
        }
    }

    /// Sends an item; wakes the loop if it waits. From any thread. If the inbox is closed the item
    /// is dropped.
    pub fn send(&self, item: T) {
        self.post(item);
        self.wake();
    }

    /// As [`send`](Self::send), for who calls [`wake`](Self::wake) itself a little later: a loop
    /// that waits goes on waiting. Gives how many items wait now: a sender that sees many may let
    /// the loop come to them.
    pub fn post(&self, item: T) -> usize {
        let mail = self.lock();
        if mail.closed {
            drop(mail); // first the lock: the item's destructor may be anything
            return 0;
        }
        self.deposit(mail, item)
    }

    /// As [`post`](Self::post), for a sender that has a way to say that there is no memory.
    ///
    /// # Errors
    /// The item, if there is none for one more.
    pub fn try_post(&self, item: T) -> Result<usize, T> {
        let mut mail = self.lock();
        if mail.closed {
            drop(mail); // first the lock: the item's destructor may be anything
            return Ok(0);
        }
        if mail.items.try_reserve(1).is_err() {
            drop(mail);
            return Err(item);
        }
        Ok(self.deposit(mail, item))
    }

    fn deposit(&self, mut mail: MutexGuard<'_, Mail<T>>, item: T) -> usize {
        mail.items.push_back(item);
        let waiting = mail.items.len();
        drop(mail);
        self.has_mail.store(true, Ordering::Release);
        waiting
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

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes what has come in, in the order in which it did, but no more than `most` items.
    pub fn take(&self, most: usize) -> VecDeque<T> {
        // The flag is cleared first: mail that arrives in between is taken now and looked for once
        // more.
        self.has_mail.store(false, Ordering::Relaxed);
        let mut mail = self.lock();
        if mail.items.len() <= most {
            return std::mem::take(&mut mail.items);
        }
        self.has_mail.store(true, Ordering::Relaxed); // only the loop's own thread has to see it
        mail.items.drain(..most).collect()
    }

    /// Announces a wait. If it answers `false` there is mail, and the loop must not block.
    #[must_use]
    pub fn prepare_to_park(&self) -> bool {
        // A read-modify-write, not a store: it either comes before the sender's own in `wake`,
        // which then sees it, or it reads what that one has written, and with it everything that
        // the sender did before.
        self.parked.swap(true, Ordering::AcqRel);
        if self.has_mail.load(Ordering::Acquire) {
            self.unpark();
            return false;
        }
        true
    }

    /// Ends a wait.
    pub fn unpark(&self) {
        // Again no plain store: it would hide what a sender has just written there from the next
        // wait.
        self.parked.swap(false, Ordering::Acquire);
    }

    fn lock(&self) -> MutexGuard<'_, Mail<T>> {
        // A panic while the lock was held can only be the vector's allocation: its contents are
        // whole.
        self.mail
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
