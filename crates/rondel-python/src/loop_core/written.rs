//! What the running turn has written.
//!
//! Sends that follow each other closely cost less than sends between which Python code runs: the kernel's code and data stay in the
//! processor's caches, and a peer on the same machine is still awake when the next message comes. So a transport that is written to notes
//! that with its loop ([`TurnWrites::note`]), and what all of them wrote leaves when the turn is over ([`TurnWrites::flush`]).
//!
//! No program is to tell the difference to asyncio, which sends at once:
//! - what is written leaves in the order in which it was written, also across transports: who writes to one that is not the last of the
//!   list sends all before ([`TurnWrites::may_follow`]), and so does everything that reaches the kernel at once;
//! - a step that lasts is no reason to wait: when it is over ([`TurnWrites::after_step`]) and the kernel's clock has ticked, all is
//!   sent; while it blocks or computes the monitor sends *early* ([`TurnWrites::send_early`]), and what it writes after that goes at once;
//! - before a function of Python's that reaches the kernel, or ends the process, all is sent early (`kernel_calls.rs`).
//!
//! To send early is only that: no Python code runs. What comes of it (the kernel takes no more, the connection has failed) is told when
//! the turn is over.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ptr::{self, NonNull};

use pyo3::ffi;
use rondel_engine::event_loop::clock::coarse_now;
use rondel_engine::transport::send_batch::{self, SendBatch};

use crate::cpython::native::{Native, NativeClass};
use crate::cpython::{Object, Owned};
use crate::monitor::Watch;

/// So many transports that were written to are not kept waiting for the end of the turn.
const MAX_WRITTEN: usize = 64;
/// Nor are so many bytes, of all of them together. More would fall out of the processor's caches before the kernel reads them, and the
/// C library would give their memory back to the kernel after each turn, to take it anew, page by page, in the next one. Much less
/// costs more, too: peers that answer one by one have the reactor asked for each.
const MAX_WRITTEN_LEN: usize = 256 * 1024;

/// A class whose instances send what was written to them when the turn is over: a transport, or what stands between one and the
/// program.
pub(crate) trait Sends: NativeClass {
    /// Sends for several of the class at once, if that can be done.
    const TOGETHER: Option<fn(&[Owned], &RefCell<SendBatch>)> = None;

    /// Sends what was written in the turn that is over, the last step of which may have ended with an exception.
    fn flush(this: &Native<Self>);

    /// Sends what was written in the running turn. Runs no Python code: what comes of it is told by [`flush`](Self::flush).
    fn flush_early(this: &Native<Self>);

    /// How many bytes wait to be sent; 0 where that is of no account.
    fn waiting_len(this: &Native<Self>) -> usize;
}

/// The same, for an object that is of such a class.
struct Ways {
    together: Option<fn(&[Owned], &RefCell<SendBatch>)>,
    flush: unsafe fn(&Object),
    flush_early: unsafe fn(&Object),
    waiting_len: unsafe fn(&Object) -> usize,
}

/// Where the ways of each class are.
trait HasWays: Sends {
    const WAYS: &'static Ways = &Ways {
        together: Self::TOGETHER,
        // SAFETY: guaranteed by whoever calls these: `Written` has made them for an object of the class.
        flush: |object| Self::flush(unsafe { object.known() }),
        // SAFETY: as above.
        flush_early: |object| Self::flush_early(unsafe { object.known() }),
        // SAFETY: as above.
        waiting_len: |object| Self::waiting_len(unsafe { object.known() }),
    };
}

impl<T: Sends> HasWays for T {}

/// An object that was written to, with the ways of its class.
struct Written {
    object: Owned,
    ways: &'static Ways,
}

impl Written {
    #[inline]
    fn new<T: Sends>(object: &Native<T>) -> Self {
        Self {
            object: object.own().into_owned(),
            ways: T::WAYS,
        }
    }

    #[inline]
    fn flush(&self) {
        // SAFETY: the ways are those of the object's class.
        unsafe { (self.ways.flush)(&self.object) };
    }

    fn flush_early(&self) {
        // SAFETY: as above.
        unsafe { (self.ways.flush_early)(&self.object) };
    }

    #[inline]
    fn waiting_len(&self) -> usize {
        // SAFETY: as above.
        unsafe { (self.ways.waiting_len)(&self.object) }
    }
}

/// What one loop's turn has written.
pub(crate) struct TurnWrites {
    /// Transports that were written to, in the order of their first write.
    transports: RefCell<VecDeque<Written>>,
    /// Whether there are any.
    any: Cell<bool>,
    /// Whether there may be any that is not flushed together with others.
    mixed: Cell<bool>,
    /// The last one; only to be compared.
    last: Cell<*mut ffi::PyObject>,
    /// The coarse clock's reading when the first of them was written to.
    since: Cell<u64>,
    /// How many of them were looked at, and how many bytes these had to send.
    len: Cell<(usize, usize)>,
    /// The running step has lasted too long, so that it sends at once.
    late: Cell<bool>,
    /// Sends for several of them.
    batch: RefCell<SendBatch>,
    /// Armed while something may wait.
    watch: Watch,
}

impl TurnWrites {
    /// # Safety
    /// The loop's core will hold this, at that place, and drop it with the interpreter attached.
    pub(crate) unsafe fn new(place: NonNull<Self>) -> Self {
        unsafe fn act(writes: NonNull<()>, overdue: bool) {
            // SAFETY: the watch's owner, which lives: it holds the watch.
            let writes = unsafe { writes.cast::<TurnWrites>().as_ref() };
            if overdue {
                writes.late.set(true);
            }
            writes.send_early();
        }
        Self {
            transports: RefCell::default(),
            any: Cell::new(false),
            mixed: Cell::new(false),
            last: Cell::new(ptr::null_mut()),
            since: Cell::new(0),
            len: Cell::default(),
            late: Cell::new(false),
            batch: RefCell::new(new_batch()),
            // SAFETY: by the caller's word.
            watch: unsafe { Watch::new(place.cast(), act) },
        }
    }

    /// A transport has something to send when the turn ends. False: it must send at once, after all others.
    #[inline]
    pub(crate) fn note<T: Sends>(&self, transport: &Native<T>) -> bool {
        if self.late.get() {
            return false;
        }
        if !self.watch.arm() {
            return false;
        }
        self.transports
            .borrow_mut()
            .push_back(Written::new(transport));
        self.last.set(transport.as_ptr());
        if T::TOGETHER.is_none() {
            self.mixed.set(true);
        }
        if !self.any.replace(true) {
            self.since.set(coarse_now());
        }
        true
    }

    /// Whether what is written to this transport, which waits already, may wait with the rest: whether nobody wrote after it, and
    /// the step has not lasted. If not, all is to be sent first.
    #[inline]
    pub(crate) fn may_follow(&self, transport: &Object) -> bool {
        ptr::eq(self.last.get(), transport.as_ptr()) && !self.late.get()
    }

    /// A step is over. Others of the same turn may follow whose writes leave together with what it wrote, unless it took so long,
    /// or so much waits, that waiting for them would be felt. True: something was sent.
    #[inline]
    pub(crate) fn after_step(&self) -> bool {
        let over = self.any.get()
            && (self.much_is_written() || self.late.get() || coarse_now() != self.since.get());
        if over {
            self.flush_all();
        }
        over
    }

    /// Whether so much waits that it is not kept waiting any longer.
    #[inline]
    fn much_is_written(&self) -> bool {
        let transports = self.transports.borrow();
        let (seen, mut len) = self.len.get();
        if seen < transports.len() {
            let new = transports.range(seen..);
            len += new.map(Written::waiting_len).sum::<usize>();
            self.len.set((transports.len(), len));
        }
        transports.len() >= MAX_WRITTEN || len >= MAX_WRITTEN_LEN
    }

    /// Whether something was written.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.any.get()
    }

    /// Sends what was written. True: there was something.
    #[inline]
    pub(crate) fn flush(&self) -> bool {
        let any = self.any.get();
        if any {
            self.flush_all();
        }
        any
    }

    /// Takes a transport off the list that its caller is about to flush. False: it is not there, or not alone.
    #[inline]
    pub(crate) fn leave_alone(&self, transport: &Object) -> bool {
        let mut transports = self.transports.borrow_mut();
        if transports.len() != 1 || !ptr::eq(self.last.get(), transport.as_ptr()) {
            return false;
        }
        let taken = transports.pop_front();
        drop(transports);
        self.len.set((0, 0));
        self.all_sent();
        drop(taken);
        true
    }

    /// Nothing waits any more.
    #[inline]
    fn all_sent(&self) {
        self.any.set(false);
        self.late.set(false);
        self.mixed.set(false);
        self.last.set(ptr::null_mut());
        self.watch.disarm();
    }

    fn flush_all(&self) {
        self.len.set((0, 0));
        loop {
            let mut transports = self.transports.borrow_mut();
            let count =
                match transports.len() >= send_batch::MIN && self.batch.borrow_mut().has_ring() {
                    true if self.mixed.get() => together(&transports),
                    true => transports.len().min(send_batch::MAX),
                    false => 0,
                };
            if count >= send_batch::MIN
                && let Some(flush_together) = transports.front().and_then(|it| it.ways.together)
            {
                let together: Vec<Owned> = transports.drain(..count).map(|it| it.object).collect();
                drop(transports);
                flush_together(&together, &self.batch);
                continue;
            }
            let Some(transport) = transports.pop_front() else {
                self.all_sent();
                return;
            };
            drop(transports);
            transport.flush();
        }
    }

    /// Sends what was written, where nobody can be told what comes of it. Runs no Python code.
    #[cold]
    pub(crate) fn send_early(&self) {
        // Whoever has it borrowed is about to send.
        let Ok(transports) = self.transports.try_borrow() else {
            return;
        };
        for transport in transports.iter() {
            transport.flush_early();
        }
        self.watch.disarm();
    }

    /// Whose thread the loop's next steps run in.
    pub(crate) fn of_main_thread(&self, is: bool) {
        self.watch.of_main_thread(is);
    }

    /// Lets go of what the kernel keeps for sending.
    pub(crate) fn forget_ring(&self) {
        self.batch.borrow_mut().forget_ring();
    }

    /// Shows each transport, for the collector.
    pub(crate) fn for_each(&self, see: &mut dyn FnMut(&Object)) {
        if let Ok(transports) = self.transports.try_borrow() {
            transports
                .iter()
                .for_each(|transport| see(&transport.object));
        }
    }

    /// Drops the transports unsent.
    pub(crate) fn release(&self) {
        drop(self.transports.take());
        self.watch.disarm();
    }
}

/// How many of the first may be flushed by one call: those of the same class as the first.
fn together(transports: &VecDeque<Written>) -> usize {
    let Some(first) = transports.front() else {
        return 0;
    };
    if first.ways.together.is_none() {
        return 0;
    }
    let class = first.object.type_ptr();
    let same = transports
        .iter()
        .take(send_batch::MAX)
        .take_while(|it| ptr::eq(it.object.type_ptr(), class));
    same.count()
}

/// Sends of a turn go by `io_uring`, unless the environment says no.
fn new_batch() -> SendBatch {
    match std::env::var_os("RONDEL_IO_URING").is_some_and(|way| way == "0") {
        true => SendBatch::without_ring(),
        false => SendBatch::new(),
    }
}
