//! The inbox: a queue through which other threads send to the loop.
//!
//! It is a locked queue with a closed flag, and two atomic flags. An item sent to a closed loop is
//! dropped by the sender. The loop takes what is there once a turn, up to a limit: senders may be
//! faster than the loop, and timers and descriptors must not wait for all of it. The loop is woken
//! by a write to its eventfd only if it sleeps or is about to, and only by the first sender: the
//! loop sets `parked` before it checks the mail for the last time, and the thread that wakes it
//! swaps it back. Either the sender sees `parked`, or the loop sees the mail; `tests/inbox_loom.rs`
//! checks every interleaving.
//!
//! While it holds the lock the sender only grows the queue; it runs no other code. So an
//! interpreter's signal handler, which runs between two instructions of the program, may send.

use std::collections::VecDeque;

use crate::sync::{AtomicBool, Mutex, MutexGuard, Ordering};

/// Ends the loop's wait. Called by other threads.
pub trait WakeUp {
    /// Makes the current or next wait of the loop return at once.
    fn wake(&self);
}

/// A multi-producer queue that one event loop empties.
pub struct Inbox<T, W> {
    mail: Mutex<Mail<T>>,
    /// Set while `mail` may hold something: lets the loop check without taking the lock.
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
    /// An empty inbox; `wake` wakes its loop.
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

    /// Sends an item from any thread, and wakes the loop if it waits. If the inbox is closed the
    /// item is dropped.
    pub fn send(&self, item: T) {
        self.post(item);
        self.wake();
    }

    /// As [`send`](Self::send), without waking the loop: the caller calls [`wake`](Self::wake)
    /// later. Returns how many items wait now, so that a sender can yield to the loop if there are
    /// many.
    pub fn post(&self, item: T) -> usize {
        let mail = self.lock();
        if mail.closed {
            drop(mail); // unlock first: the item's destructor may run any code
            return 0;
        }
        self.deposit(mail, item)
    }

    /// As [`post`](Self::post), but fallible if memory runs out.
    ///
    /// # Errors
    /// The item, if there is no memory for it.
    pub fn try_post(&self, item: T) -> Result<usize, T> {
        let mut mail = self.lock();
        if mail.closed {
            drop(mail); // unlock first: the item's destructor may run any code
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

    /// Drops all items sent from now on. Items already inside stay until they are taken.
    pub fn close(&self) {
        self.lock().closed = true;
    }

    /// Wakes the loop if it waits; may be called from any thread.
    pub fn wake(&self) {
        if self.parked.swap(false, Ordering::AcqRel) {
            self.wake.wake();
        }
    }

    /// Whether something has arrived. Only for the loop's thread.
    #[inline]
    pub fn has_mail(&self) -> bool {
        self.has_mail.load(Ordering::Acquire)
    }

    /// The number of waiting items.
    pub fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Whether no items wait.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes at most `most` items, in order of arrival.
    pub fn take(&self, most: usize) -> VecDeque<T> {
        // The flag is cleared first: mail that arrives in between is taken now, and the loop only
        // checks once more.
        self.has_mail.store(false, Ordering::Relaxed);
        let mut mail = self.lock();
        if mail.items.len() <= most {
            return std::mem::take(&mut mail.items);
        }
        self.has_mail.store(true, Ordering::Relaxed); // only the loop's own thread reads it
        mail.items.drain(..most).collect()
    }

    /// Announces a wait. If it returns `false` there is mail, and the loop must not block.
    #[must_use]
    pub fn prepare_to_park(&self) -> bool {
        // A read-modify-write, not a store: either it precedes the sender's swap in `wake`, which
        // then sees it, or it reads the value of that swap and so synchronises with everything the
        // sender did before.
        self.parked.swap(true, Ordering::AcqRel);
        if self.has_mail.load(Ordering::Acquire) {
            self.unpark();
            return false;
        }
        true
    }

    /// Ends a wait.
    pub fn unpark(&self) {
        // Not a plain store either: it would hide a sender's last write from the next wait.
        self.parked.swap(false, Ordering::Acquire);
    }

    fn lock(&self) -> MutexGuard<'_, Mail<T>> {
        // Only the queue's allocation can panic while the lock is held, and it leaves the contents
        // intact.
        self.mail
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
