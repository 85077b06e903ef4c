//! Who waits for something that happens on the loop's thread.
//!
//! Nearly always a task of the same loop: then this is a plain local reference, and waking is a
//! push onto the ready ring. Otherwise (an adapter between the task and us that brings its own
//! waker) it is a clone of that, boxed, so that every task and every timer is a word smaller.

use std::rc::Rc;
use std::task::{Context, Waker};

use super::completions::Member;
use super::header::{CANCEL, TaskRef};
use super::waker;
use crate::calls::Call;
use crate::runtime::{self, Item};

/// A task or a waker that is to be woken. Lives on the loop's thread.
pub(crate) enum Waiter {
    Task(TaskRef),
    Foreign(Box<Waker>),
    /// One of many that somebody waits for.
    Member(Rc<Member>),
    /// A function that is to be called.
    Call(Rc<Call>),
}

impl Waiter {
    /// Whoever polls with `context`.
    #[inline]
    pub(crate) fn new(context: &Context<'_>) -> Self {
        match waker::local_task(context.waker()) {
            // SAFETY: the waker keeps the header alive, and this is its loop's thread.
            Some(header) => Self::Task(unsafe { TaskRef::borrow_raw(header) }),
            None => Self::foreign(context),
        }
    }

    /// Whoever polls with `context`, through its waker: for what may be woken by another loop than
    /// its own.
    pub(crate) fn foreign(context: &Context<'_>) -> Self {
        Self::Foreign(Box::new(context.waker().clone()))
    }

    /// Whether this is whoever polls with `context`.
    #[inline]
    pub(crate) fn is(&self, context: &Context<'_>) -> bool {
        match self {
            Self::Task(task) => waker::local_task(context.waker()) == Some(task.as_ptr()),
            Self::Foreign(waker) => waker.will_wake(context.waker()),
            Self::Member(_) | Self::Call(_) => false,
        }
    }

    /// Whether it is a task that was cancelled, and whose future will be dropped in its next step.
    #[inline]
    pub(crate) fn is_cancelled(&self) -> bool {
        match self {
            Self::Task(task) => task.header().state.get() & CANCEL != 0,
            Self::Foreign(_) | Self::Member(_) | Self::Call(_) => false,
        }
    }

    /// Wakes it. A foreign waker's code may do anything: no borrow may be held.
    #[inline]
    pub(crate) fn wake(self) {
        match self {
            Self::Task(task) => task.header().wake(),
            Self::Foreign(waker) => waker.wake(),
            Self::Member(member) => member.ended(),
            Self::Call(call) => {
                let item = Item::Call(call);
                runtime::with_current(|runtime| runtime.event_loop.call_soon(item));
            }
        }
    }

    /// Turns the wake into an item for the ready ring, without running any foreign code.
    #[inline(always)]
    pub(crate) fn into_item(self) -> Option<Item> {
        match self {
            Self::Task(task) => task.into_queued().map(Item::Task),
            Self::Foreign(waker) => Some(Item::Wake(waker)),
            Self::Member(member) => {
                member.ended();
                None
            }
            Self::Call(call) => Some(Item::Call(call)),
        }
    }
}
