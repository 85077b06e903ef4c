//! Every interleaving of what threads do with a task, by loom: `make test-loom`.
//!
//! The header is the one that programs use, in a cell that has no future. Loom runs its threads one
//! at a time on a single thread, where no runtime is current: so no waker takes itself for one on
//! the loop's thread, and the first thread of each model, which is to be the loop's, does what the
//! loop does by hand.

use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize as PlainUsize;
use std::task::Waker;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use rondel_engine::event_loop::inbox::Inbox;
use rondel_engine::reactor::Reactor;

use super::header::{Header, QUEUED, TaskRef, TaskVTable};
use super::waker;
use crate::runtime::{Item, LoopInbox, Remote};

/// A header, and something that whoever has a share may look at until the task is freed.
#[repr(C)]
struct Cell {
    header: Header,
    content: UnsafeCell<()>,
    freed: Arc<PlainUsize>,
}

static TABLE: TaskVTable = TaskVTable {
    poll: |_| unreachable!(),
    cancel: |_| unreachable!(),
    drop_output: |_| unreachable!(),
    output: |_| unreachable!(),
    free,
};

unsafe fn free(header: NonNull<Header>) {
    // SAFETY: made by `Box` in `task`, and freed once: otherwise the test has failed, or ends here.
    let cell = unsafe { Box::from_raw(header.cast::<Cell>().as_ptr()) };
    cell.content.with_mut(|_| ());
    cell.freed
        .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
}

/// Loom finds whoever is not done with it before it is freed.
fn look_at(header: NonNull<Header>) {
    // SAFETY: the caller has a share.
    let cell = unsafe { header.cast::<Cell>().as_ref() };
    cell.content.with(|_| ());
}

/// A loop's side of one task.
struct Model {
    inbox: Arc<LoopInbox>,
    freed: Arc<PlainUsize>,
    task: Option<TaskRef>,
}

impl Model {
    fn new() -> Self {
        let reactor = Reactor::<()>::new().unwrap();
        let inbox = Arc::new(Inbox::new(reactor.wake()));
        let freed = Arc::new(PlainUsize::new(0));
        let cell = Box::new(Cell {
            header: Header::new(&TABLE, Arc::as_ptr(&inbox), 0),
            content: UnsafeCell::new(()),
            freed: Arc::clone(&freed),
        });
        let header = NonNull::from(Box::leak(cell)).cast();
        // SAFETY: the header's first reference.
        let task = Some(unsafe { TaskRef::from_raw(header) });
        Self { inbox, freed, task }
    }

    fn header(&self) -> NonNull<Header> {
        self.task.as_ref().unwrap().as_ptr()
    }

    /// The waker of a step, which owns nothing.
    fn borrowed(&self) -> ManuallyDrop<Waker> {
        // SAFETY: as in `cell.rs`: it is not dropped.
        ManuallyDrop::new(unsafe { Waker::from_raw(waker::raw(self.header())) })
    }

    /// Takes what is in the inbox, and takes a step for each wake.
    fn turn(&self, mut step: impl FnMut()) {
        for remote in self.inbox.take(usize::MAX) {
            let Remote::Wake(wake) = remote else { continue };
            if let Some(Item::Task(task)) = wake.receive() {
                task.header().clear(QUEUED);
                step();
            }
        }
    }

    /// The loop is over, and so are the threads.
    fn check(mut self) {
        self.turn(|| ());
        drop(self.task.take());
        assert_eq!(self.freed.load(std::sync::atomic::Ordering::Relaxed), 1);
        assert_eq!(Arc::strong_count(&self.inbox), 1);
    }
}

/// All interleavings of three threads are too many: those with up to three preemptions, where bugs
/// show.
fn bounded(check: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(check);
}

#[test]
fn whoever_is_last_frees_the_task() {
    bounded(|| {
        let mut model = Model::new();
        let header = model.header().as_ptr() as usize;
        let threads = [(); 2].map(|()| {
            let waker = Waker::clone(&model.borrowed());
            thread::spawn(move || {
                let other = waker.clone();
                drop(waker);
                look_at(NonNull::new(header as *mut Header).unwrap());
                drop(other);
            })
        });
        look_at(model.header());
        drop(model.task.take());
        for thread in threads {
            thread.join().unwrap();
        }
        model.check();
    });
}

#[test]
fn wakers_that_are_cloned_at_once_take_one_count_of_the_inbox() {
    loom::model(|| {
        let model = Model::new();
        let lent = Arc::new(model.borrowed());
        let other = Arc::clone(&lent);
        let thread = thread::spawn(move || drop(Waker::clone(&other)));
        drop(Waker::clone(&lent));
        thread.join().unwrap();
        model.check();
    });
}

#[test]
fn a_step_that_follows_a_wake_sees_what_was_written_before_it() {
    bounded(|| {
        let model = Model::new();
        let written = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let threads = [0, 1].map(|number| {
            let (waker, written) = (Waker::clone(&model.borrowed()), Arc::clone(&written));
            thread::spawn(move || {
                written[number].store(1, Ordering::Relaxed);
                waker.wake();
            })
        });
        let mut seen = 0;
        let mut step = || seen = written.iter().map(|it| it.load(Ordering::Relaxed)).sum();
        // Both wakes may come now, one now and one later, or the second while the first is on its
        // way.
        model.turn(&mut step);
        for thread in threads {
            thread.join().unwrap();
        }
        model.turn(&mut step);
        assert_eq!(seen, 2);
        model.check();
    });
}

#[test]
fn a_wake_that_meets_the_end_of_the_loop_leaves_nothing_behind() {
    loom::model(|| {
        let mut model = Model::new();
        let waker = Waker::clone(&model.borrowed());
        let thread = thread::spawn(move || waker.wake_by_ref());
        model.inbox.close();
        drop(model.inbox.take(usize::MAX));
        drop(model.task.take());
        thread.join().unwrap();
        model.check();
    });
}
