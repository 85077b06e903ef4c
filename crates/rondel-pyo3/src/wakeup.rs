//! The way from a waker, on any thread, to the Python future that a task waits for.
//!
//! A waker holds no Python object, so that it may be used and dropped anywhere. It puts the number
//! of its awaitable into the loop's mailbox. If the loop's thread is not about to look there, the
//! guest's descriptor is made readable. The loop's thread takes the numbers out, and completes the
//! futures.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

/// What is sent to the loop's thread.
pub(crate) enum Mail {
    /// The awaitable with this number is to go on.
    Woken(usize),
    /// Something of the loop's thread was let go of elsewhere, and is to be dropped there.
    Garbage(Garbage),
}

/// A value that belongs to the loop's thread. Others only carry it.
pub(crate) struct Garbage(#[expect(dead_code, reason = "it is dropped")] Box<dyn Any>);

// SAFETY: it comes from the loop's thread and is dropped there; in between nobody touches it. A
// mailbox that is closed leaks it.
unsafe impl Send for Garbage {}

/// What the wakers of one loop have woken.
pub(crate) struct Mailbox {
    state: Mutex<State>,
    /// Makes the guest's descriptor readable.
    ring: Waker,
}

#[derive(Default)]
struct State {
    mail: VecDeque<Mail>,
    /// The loop's thread will look here by itself.
    attended: bool,
    closed: bool,
}

impl Mailbox {
    pub(crate) fn new(ring: Waker) -> Self {
        Self {
            state: Mutex::default(),
            ring,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held but an allocation, which leaves the queue whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, mail: Mail) {
        let mut state = self.lock();
        if state.closed {
            drop(state);
            if let Mail::Garbage(garbage) = mail {
                std::mem::forget(garbage);
            }
            return;
        }
        let ring = state.mail.is_empty() && !state.attended;
        state.mail.push_back(mail);
        drop(state);
        if ring {
            self.ring.wake_by_ref();
        }
    }

    /// The loop's thread begins something at whose end it will look here.
    pub(crate) fn attend(&self) {
        self.lock().attended = true;
    }

    /// Takes out what came first. After `None` nobody looks here any more, until the next
    /// [`attend`](Self::attend) or ring.
    pub(crate) fn take(&self) -> Option<Mail> {
        let mut state = self.lock();
        let mail = state.mail.pop_front();
        state.attended = mail.is_some();
        mail
    }

    /// Sends something to be dropped in the loop's thread. The caller only carries it.
    ///
    /// # Safety
    /// `garbage` was made in the loop's thread.
    pub(crate) unsafe fn send_garbage(&self, garbage: Box<dyn Any>) {
        self.send(Mail::Garbage(Garbage(garbage)));
    }

    /// Takes nothing from now on.
    pub(crate) fn close(&self) -> VecDeque<Mail> {
        let mut state = self.lock();
        state.closed = true;
        std::mem::take(&mut state.mail)
    }
}

/// What an awaitable's wakers share.
pub(crate) struct Wakeup {
    mailbox: Arc<Mailbox>,
    /// The awaitable's number in its loop.
    number: usize,
    /// Somebody has woken it since it was polled last.
    woken: AtomicBool,
}

impl Wakeup {
    pub(crate) fn new(mailbox: Arc<Mailbox>, number: usize) -> Self {
        Self {
            mailbox,
            number,
            woken: AtomicBool::new(false),
        }
    }

    /// It is about to be polled.
    pub(crate) fn reset(&self) {
        self.woken.store(false, Ordering::Release);
    }

    pub(crate) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }
}

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.mailbox.send(Mail::Woken(self.number));
        }
    }
}
