//! The send queue of a turn: the transports written to in the running turn, and when their data is
//! sent.
//!
//! Consecutive sends cost less than sends with Python code in between: the kernel's code and data
//! stay in the CPU's caches, and a peer on the same machine is still awake when the next message
//! arrives. So a transport that is written to adds itself to a list ([`TurnWrites::note`]), and all
//! of them send at the end of the turn ([`TurnWrites::flush`]).
//!
//! asyncio sends at once. Programs see no difference, because:
//! - data is sent in the order in which it was written, also across transports. A write to a
//!   transport that is not the last of the list sends everything first
//!   ([`TurnWrites::may_follow`]), and so does everything else that reaches the kernel;
//! - long steps do not delay data. When a step is over ([`TurnWrites::after_step`]) and the
//!   kernel's clock has ticked, everything is sent. While a step blocks or computes, the monitor
//!   sends *early* ([`TurnWrites::send_early`]), and later writes of that step are sent at once;
//! - before a Python function makes a system call or ends the process, everything is sent early
//!   (`kernel_calls.rs`).
//!
//! An early send runs no Python code. Its result (the send buffer is full, the connection has
//! failed) is reported at the end of the turn.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ptr::{self, NonNull};

use pyo3::ffi;
use rondel_engine::event_loop::clock::coarse_now;
use rondel_engine::transport::send_batch::{self, SendBatch};

use crate::cpython::native::{Native, NativeClass};
use crate::cpython::{Object, Owned};
use crate::monitor::Watch;

/// When this many transports were written to, everything is sent before the end of the turn.
const MAX_WRITTEN: usize = 64;
/// The same for this many bytes in total. More would be evicted from the CPU's caches before the
/// kernel reads them, and the C library would return their memory to the kernel after each turn,
/// only to fault it in again, page by page. A much lower limit costs more, too: peers would answer
/// one by one, with a poll for each.
const MAX_WRITTEN_LEN: usize = 256 * 1024;

/// Flushes several instances of a class with one system call.
pub(crate) type FlushTogether = fn(&[Owned], &RefCell<SendBatch>);

/// A class whose instances send their writes at the end of the turn: transports, and TLS.
pub(crate) trait Sends: NativeClass {
    /// Flushes several instances with one system call, if the class supports that.
    const TOGETHER: Option<FlushTogether> = None;

    /// Sends the writes of the turn. An exception of the last step may be set.
    fn flush(this: &Native<Self>);

    /// Sends the writes so far, without running Python code. [`flush`](Self::flush) reports the
    /// result.
    fn flush_early(this: &Native<Self>);

    /// How many bytes wait to be sent; 0 if there are always few.
    fn waiting_len(this: &Native<Self>) -> usize;
}

/// The vtable of such a class.
struct Ways {
    together: Option<FlushTogether>,
    flush: unsafe fn(&Object),
    flush_early: unsafe fn(&Object),
    waiting_len: unsafe fn(&Object) -> usize,
}

/// Gives each class its vtable.
trait HasWays: Sends {
    const WAYS: &'static Ways = &Ways {
        together: Self::TOGETHER,
        // SAFETY: guaranteed by the caller: `Written` pairs the vtable with an object of its class.
        flush: |object| Self::flush(unsafe { object.known() }),
        // SAFETY: as above.
        flush_early: |object| Self::flush_early(unsafe { object.known() }),
        // SAFETY: as above.
        waiting_len: |object| Self::waiting_len(unsafe { object.known() }),
    };
}

impl<T: Sends> HasWays for T {}

/// An object that was written to, and its class's vtable.
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
        // SAFETY: the vtable is that of the object's class.
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

/// The unsent writes of one loop's turn.
pub(crate) struct TurnWrites {
    /// Transports that were written to, in the order of their first write.
    transports: RefCell<VecDeque<Written>>,
    /// Whether the list is not empty.
    any: Cell<bool>,
    /// Whether some may be of a class without [`Sends::TOGETHER`].
    mixed: Cell<bool>,
    /// The last transport of the list; only compared.
    last: Cell<*mut ffi::PyObject>,
    /// The coarse clock when the first of them was written to, in nanoseconds.
    since: Cell<u64>,
    /// How many transports were counted so far, and how many bytes they have to send.
    len: Cell<(usize, usize)>,
    /// The running step has lasted too long: its writes are sent at once.
    late: Cell<bool>,
    /// Sends on several sockets with one system call.
    batch: RefCell<SendBatch>,
    /// Armed while unsent writes exist.
    watch: Watch,
}

impl TurnWrites {
    /// # Safety
    /// The loop's core must store this at `place` and drop it with the GIL held.
    pub(crate) unsafe fn new(place: NonNull<Self>) -> Self {
        unsafe fn act(writes: NonNull<()>, overdue: bool) {
            // SAFETY: `writes` owns the watch, so it is alive.
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
            // SAFETY: guaranteed by the caller.
            watch: unsafe { Watch::new(place.cast(), act) },
        }
    }

    /// Adds a transport to the list. Returns false if it must send at once, after all others.
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

    /// Whether more data of this transport, which is on the list, may wait too: it was the last to
    /// write, and the step has not lasted too long. Otherwise everything must be sent first.
    #[inline]
    pub(crate) fn may_follow(&self, transport: &Object) -> bool {
        ptr::eq(self.last.get(), transport.as_ptr()) && !self.late.get()
    }

    /// Must be called after each step. Its writes wait for those of the following steps, unless it
    /// took long or much waits. Returns whether something was sent.
    #[inline]
    pub(crate) fn after_step(&self) -> bool {
        let over = self.any.get()
            && (self.much_is_written() || self.late.get() || coarse_now() != self.since.get());
        if over {
            self.flush_all();
        }
        over
    }

    /// Whether one of the limits is reached.
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

    /// Whether unsent writes exist.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.any.get()
    }

    /// Sends all unsent writes. Returns whether there were any.
    #[inline]
    pub(crate) fn flush(&self) -> bool {
        let any = self.any.get();
        if any {
            self.flush_all();
        }
        any
    }

    /// Removes a transport from the list if it is the only one; the caller flushes it. Returns
    /// whether it was removed.
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

    /// Resets the state when the list is empty.
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

    /// Sends all unsent writes without running Python code. The result is reported at the end of
    /// the turn.
    #[cold]
    pub(crate) fn send_early(&self) {
        // If it is borrowed, a flush is already in progress.
        let Ok(transports) = self.transports.try_borrow() else {
            return;
        };
        for transport in transports.iter() {
            transport.flush_early();
        }
        self.watch.disarm();
    }

    /// Sets whether the loop's next steps run in the main thread.
    pub(crate) fn of_main_thread(&self, is: bool) {
        self.watch.of_main_thread(is);
    }

    /// Closes the ring, if there is one.
    pub(crate) fn forget_ring(&self) {
        self.batch.borrow_mut().forget_ring();
    }

    /// For garbage collector traversal.
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

/// How many transports at the front can be flushed with one call: those of the same class as the
/// first.
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

/// Uses `io_uring` unless the environment variable `RONDEL_IO_URING` is `0`.
fn new_batch() -> SendBatch {
    match std::env::var_os("RONDEL_IO_URING").is_some_and(|way| way == "0") {
        true => SendBatch::without_ring(),
        false => SendBatch::new(),
    }
}
