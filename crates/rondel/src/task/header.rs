//! What every task has, whatever its future: references, state, links, the function table.
//!
//! A task is one allocation: this header, then the future, whose place the output takes
//! (`cell.rs`). Who may touch which field:
//!
//! * **Any thread**: `refs`, `sent`, `inbox`, `vtable`. The first two are atomic, the others never
//!   change.
//! * **The loop's thread alone**: everything else. [`TaskRef`], `Task` and the ready ring's items
//!   are `!Send`, and wakers look at the fields only after [`Header::is_local`] has found that they
//!   are on that thread.
//!
//! # References
//! Most references are held on the loop's thread: by the list of all tasks, the ready ring, the
//! `Task` handle, whoever waits for the task. They are counted in `local`, without atomics, and
//! hold **one** share of `refs` together. Wakers that were cloned hold one share each, as they may
//! go anywhere. So a task that is spawned, run, joined and freed by its own thread costs no atomic
//! read-modify-write at all.
//!
//! Why freeing is sound on any thread: while a future or an output is in the cell there is a local
//! reference (the list of all tasks holds one until the future is gone, the handle holds one until
//! the output is). When the last local reference goes, what is left in the cell is plain memory.
//!
//! The inbox's count is not taken for each task either: the first waker that is cloned takes it on
//! the task's behalf ([`SHARED`]). Before that all wakers are borrowed from a step, and the loop
//! outlives its steps.

use std::cell::{Cell, UnsafeCell};
use std::panic::Location;
use std::ptr::NonNull;
use std::sync::Arc;

use super::extra::Extra;
use super::waiter::Waiter;
use crate::context::Context;
use crate::primitives::{AtomicBool, AtomicUsize, Ordering, fence};
use crate::runtime::{self, Item, LoopInbox, Remote};

/// The bit of `refs` that says that the task owns a reference to its loop's inbox.
const SHARED: usize = 1;
/// One reference in `refs`.
const REF: usize = 2;

/// The task is in the ready ring.
pub(super) const QUEUED: u8 = 1;
/// The future is gone; the output is there, or has been.
pub(super) const COMPLETE: u8 = 2;
/// The next step drops the future.
pub(super) const CANCEL: u8 = 4;
/// There is a `Task` handle that wants the output.
pub(super) const HANDLE: u8 = 8;
/// The loop stops when this task is complete.
pub(super) const MAIN: u8 = 16;
/// Created while an odd sweep at the end of the loop was going on; see `end.rs`.
pub(super) const ODD: u8 = 32;
/// It has a context.
pub(super) const CONTEXT: u8 = 64;
/// It has a span of the crate `tracing`.
#[cfg(feature = "tracing")]
const SPAN: u8 = 128;

/// What differs from one type of future to another.
pub(super) struct TaskVTable {
    /// Polls the future. `true`: the output is in place.
    pub(super) poll: unsafe fn(NonNull<Header>) -> bool,
    /// Drops the future; the output is `CancelledError`, or the panic of a destructor.
    pub(super) cancel: unsafe fn(NonNull<Header>),
    /// Drops the output; reports it if it is a panic.
    pub(super) drop_output: unsafe fn(NonNull<Header>),
    /// Where the output is; null if it was taken.
    pub(super) output: unsafe fn(NonNull<Header>) -> *const (),
    /// Frees the memory.
    pub(super) free: unsafe fn(NonNull<Header>),
}

/// The part of a task that does not depend on its future.
pub(crate) struct Header {
    /// Shares of ownership times [`REF`], and [`SHARED`].
    refs: AtomicUsize,
    /// Set while a wake from another thread is in the inbox.
    sent: AtomicBool,
    /// The way to the loop from other threads; owned if [`SHARED`] is set.
    inbox: *const LoopInbox,
    pub(super) vtable: &'static TaskVTable,
    /// References on the loop's thread.
    local: Cell<u32>,
    /// `QUEUED`, `COMPLETE`, …
    pub(super) state: Cell<u8>,
    /// How often it was asked to be cancelled, less what was taken back.
    pub(super) cancelling: Cell<u16>,
    /// Neighbours in the list of all tasks.
    pub(super) previous: Cell<Option<NonNull<Header>>>,
    pub(super) next: Cell<Option<NonNull<Header>>>,
    /// Who awaits the handle.
    joiner: UnsafeCell<Option<Waiter>>,
    /// What few tasks have.
    pub(super) extra: Cell<Option<Box<Extra>>>,
}

impl Header {
    /// A header with one local reference, which the caller turns into a [`TaskRef`].
    pub(super) fn new(vtable: &'static TaskVTable, inbox: *const LoopInbox, state: u8) -> Self {
        Self {
            refs: AtomicUsize::new(REF),
            sent: AtomicBool::new(false),
            inbox,
            vtable,
            local: Cell::new(1),
            state: Cell::new(state),
            cancelling: Cell::new(0),
            previous: Cell::new(None),
            next: Cell::new(None),
            joiner: UnsafeCell::new(None),
            extra: Cell::new(None),
        }
    }

    /// Whether this thread runs the task's loop right now.
    #[inline]
    pub(super) fn is_local(&self) -> bool {
        runtime::try_current(|runtime| runtime.inbox_ptr() == self.inbox).unwrap_or(false)
    }

    /// Adds a share of ownership, on behalf of a waker that is being cloned.
    #[inline]
    pub(super) fn retain(&self) {
        // Relaxed: whoever clones has a share, or a step's borrow of one.
        let before = self.refs.fetch_add(REF, Ordering::Relaxed);
        if before & SHARED == 0 {
            self.share_inbox();
        }
        // As `Arc`: from here on to where it wraps there is room for every thread that may be
        // adding, too.
        if before > usize::MAX / 2 {
            std::process::abort();
        }
    }

    /// Counts one more reference on the loop's thread.
    #[inline]
    fn retain_local(&self) {
        let count = self.local.get().wrapping_add(1);
        self.local.set(count);
        // As `Rc`: a count that wraps, by handles that were leaked, would free a task that is in
        // use.
        if count == 0 {
            std::process::abort();
        }
    }

    #[cold]
    fn share_inbox(&self) {
        // SAFETY: the pointer came from the loop's `Arc`, and the loop lives: without SHARED, the
        // waker that is being cloned is borrowed from a step.
        unsafe { Arc::increment_strong_count(self.inbox) };
        if self.refs.fetch_or(SHARED, Ordering::Relaxed) & SHARED != 0 {
            // SAFETY: gives back the count just taken: another clone was faster.
            unsafe { Arc::decrement_strong_count(self.inbox) };
        }
    }

    /// Gives up one share of ownership.
    ///
    /// # Safety
    /// The caller owns that share and never uses `this` again.
    #[inline]
    pub(super) unsafe fn release(this: NonNull<Self>) {
        // SAFETY: the caller's share keeps the header alive up to the subtraction.
        let refs = unsafe { &this.as_ref().refs };
        // The only share there is can't become more meanwhile, so no read-modify-write is needed.
        if refs.load(Ordering::Acquire) & !SHARED != REF {
            if refs.fetch_sub(REF, Ordering::Release) & !SHARED != REF {
                return;
            }
            fence(Ordering::Acquire);
        }
        // SAFETY: that was the last share.
        unsafe { Self::free(this) };
    }

    /// # Safety
    /// There is no reference left but the caller's.
    unsafe fn free(this: NonNull<Self>) {
        // SAFETY: nobody else has it.
        let header = unsafe { this.as_ref() };
        let inbox = (header.refs.load(Ordering::Relaxed) & SHARED != 0).then_some(header.inbox);
        // SAFETY: the table was made for this cell.
        unsafe { (header.vtable.free)(this) };
        if let Some(inbox) = inbox {
            // SAFETY: SHARED says that the task owned this count.
            unsafe { Arc::decrement_strong_count(inbox) };
        }
    }

    /// Wakes the task from wherever the caller is.
    #[inline]
    pub(super) fn wake(&self) {
        if self.is_local() {
            self.schedule();
        } else {
            self.send();
        }
    }

    /// Puts the task into the ready ring, unless it is there or complete. Only on the loop's
    /// thread.
    #[inline]
    pub(super) fn schedule(&self) {
        if let Some(task) = self.queue() {
            runtime::with_current(|runtime| runtime.event_loop.call_soon(Item::Task(task)));
        }
    }

    /// Marks the task as queued; `None` if it need not be. Only on the loop's thread.
    #[inline]
    pub(super) fn queue(&self) -> Option<TaskRef> {
        let state = self.state.get();
        if state & (QUEUED | COMPLETE) != 0 {
            return None;
        }
        self.state.set(state | QUEUED);
        self.retain_local();
        Some(TaskRef(NonNull::from(self)))
    }

    /// Sends a wake through the inbox, unless one is under way.
    fn send(&self) {
        if self.sent.swap(true, Ordering::AcqRel) {
            return;
        }
        self.retain();
        // SAFETY: the waker in use is a clone, then SHARED keeps the inbox alive, or borrowed from
        // a step, then the loop does.
        let inbox = unsafe { &*self.inbox };
        inbox.send(Remote::Wake(SentWake(NonNull::from(self))));
    }

    pub(super) fn is_complete(&self) -> bool {
        self.state.get() & COMPLETE != 0
    }

    pub(super) fn set(&self, bits: u8) {
        self.state.set(self.state.get() | bits);
    }

    pub(super) fn clear(&self, bits: u8) {
        self.state.set(self.state.get() & !bits);
    }

    /// Applies `f` to what few tasks have; it is made if it is not there. Only on the loop's
    /// thread.
    pub(super) fn with_extra<R>(&self, f: impl FnOnce(&mut Extra) -> R) -> R {
        let mut extra = self.extra.take().unwrap_or_default();
        let result = f(&mut extra);
        self.extra.set(Some(extra));
        result
    }

    /// Replaces who is woken when the task is complete. Only on the loop's thread.
    pub(super) fn set_joiner(&self, waiter: Option<Waiter>) -> Option<Waiter> {
        // SAFETY: only this function and `joined_by` touch the field, on one thread, and neither
        // runs foreign code while the reference lives.
        std::mem::replace(unsafe { &mut *self.joiner.get() }, waiter)
    }

    /// Whether the joiner is the one that `context` stands for.
    pub(super) fn joined_by(&self, context: &std::task::Context<'_>) -> bool {
        // SAFETY: as in `set_joiner`.
        unsafe { &*self.joiner.get() }
            .as_ref()
            .is_some_and(|waiter| waiter.is(context))
    }
}

/// A reference to a task, held and dropped on its loop's thread.
pub(crate) struct TaskRef(NonNull<Header>);

impl TaskRef {
    /// # Safety
    /// The caller gives up one local reference to a live header, on the loop's thread.
    pub(super) unsafe fn from_raw(header: NonNull<Header>) -> Self {
        Self(header)
    }

    /// Another local reference to the task behind `header`.
    ///
    /// # Safety
    /// The header is alive and this is its loop's thread.
    pub(super) unsafe fn borrow_raw(header: NonNull<Header>) -> Self {
        // SAFETY: the caller's promise.
        unsafe { header.as_ref() }.retain_local();
        Self(header)
    }

    /// Marks the task as queued and becomes the ring's reference; `None` if it is queued already,
    /// or complete.
    #[inline(always)]
    pub(super) fn into_queued(self) -> Option<Self> {
        let state = self.header().state.get();
        if state & (QUEUED | COMPLETE) != 0 {
            return None;
        }
        self.header().state.set(state | QUEUED);
        Some(self)
    }

    /// Applies `f`, which must not run foreign code, to the task's context.
    pub(crate) fn with_context<R>(&self, f: impl FnOnce(&mut Context) -> R) -> R {
        let header = self.header();
        if header.state.get() & (CONTEXT | COMPLETE) == CONTEXT {
            return header.with_extra(|extra| f(&mut extra.context));
        }
        let mut context = Context::default();
        let result = f(&mut context);
        // What a task's destructors set when it is complete is nobody's.
        if !context.is_empty() && !header.is_complete() {
            header.set(CONTEXT);
            header.with_extra(|extra| extra.context = context);
        }
        result
    }

    /// Where the task was created, if it is known.
    pub(crate) fn created_at(&self) -> Option<&'static Location<'static>> {
        self.header().with_extra(|extra| extra.created_at)
    }

    /// What the task is called in reports: as Python's `id()`, unique among those that are alive.
    #[cfg(feature = "tracing")]
    pub(crate) fn address(&self) -> usize {
        self.0.addr().get()
    }

    /// The task's span, if a subscriber wants one.
    #[cfg(feature = "tracing")]
    #[inline]
    pub(crate) fn span(&self) -> Option<tracing::Span> {
        if self.header().state.get() & SPAN == 0 {
            return None;
        }
        self.header().with_extra(|extra| extra.span.clone())
    }

    #[cfg(feature = "tracing")]
    pub(crate) fn set_span(&self, span: tracing::Span) {
        self.header().set(SPAN);
        self.header().with_extra(|extra| extra.span = Some(span));
    }

    #[cfg(feature = "tracing")]
    #[inline]
    pub(crate) fn take_span(&self) -> Option<tracing::Span> {
        if self.header().state.get() & SPAN == 0 {
            return None;
        }
        self.header().clear(SPAN);
        self.header().with_extra(|extra| extra.span.take())
    }

    /// Gives up the reference without dropping it.
    pub(super) fn into_raw(self) -> NonNull<Header> {
        std::mem::ManuallyDrop::new(self).0
    }

    #[inline]
    pub(super) fn header(&self) -> &Header {
        // SAFETY: a reference keeps the header alive.
        unsafe { self.0.as_ref() }
    }

    pub(super) fn as_ptr(&self) -> NonNull<Header> {
        self.0
    }
}

impl Clone for TaskRef {
    #[inline]
    fn clone(&self) -> Self {
        // SAFETY: alive, and on its thread, as `self` is.
        unsafe { Self::borrow_raw(self.0) }
    }
}

impl Drop for TaskRef {
    #[inline]
    fn drop(&mut self) {
        let local = &self.header().local;
        let left = local.get() - 1;
        local.set(left);
        if left == 0 {
            // SAFETY: the local references' common share, given up by the last of them.
            unsafe { Header::release(self.0) };
        }
    }
}

/// A wake on its way through the inbox; holds a share of the task.
pub(crate) struct SentWake(NonNull<Header>);

// SAFETY: it touches nothing but the fields that are for any thread, until `receive`, which says
// more.
unsafe impl Send for SentWake {}

impl SentWake {
    /// Turns the wake into a queued item. Only on the loop's thread.
    pub(crate) fn receive(self) -> Option<Item> {
        // SAFETY: `self` holds a share.
        let header = unsafe { self.0.as_ref() };
        // A read-modify-write, so that what any of the coalesced senders wrote before is seen by
        // the step.
        header.sent.swap(false, Ordering::AcqRel);
        header.queue().map(Item::Task)
    }
}

impl Drop for SentWake {
    fn drop(&mut self) {
        // SAFETY: the share that `send` took.
        unsafe { Header::release(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    #[test]
    fn a_count_of_references_that_would_wrap_ends_the_process() {
        const CHILD: &str = "RONDEL_TEST_COUNT_WRAPS";
        if std::env::var_os(CHILD).is_none() {
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "--nocapture"])
                .arg(std::thread::current().name().unwrap())
                .env(CHILD, "1")
                .status()
                .unwrap();
            assert_eq!(child.signal(), Some(libc::SIGABRT));
            return;
        }
        let _ = crate::run(async {
            let task = crate::create_task(std::future::pending::<()>());
            let handle = task.cancel_handle();
            // As if so many clones had been leaked.
            handle.task().header().local.set(u32::MAX - 1);
            let _last = handle.clone();
            let _one_too_many = handle.clone();
        });
    }
}
