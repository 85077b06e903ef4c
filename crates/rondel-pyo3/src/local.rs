//! The guest of a Python event loop: one for each loop that has awaited something of ours.
//!
//! The loop watches the guest's descriptor and calls a [`Turn`]. It alone holds that object, so
//! that the guest ends when the loop lets go of its readers: its tasks are dropped then, on their
//! thread. The way back from the guest to the loop is a weak reference.

use std::cell::{Cell, RefCell};
use std::os::fd::AsRawFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Waker;

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCFunction, PyDict, PyWeakrefReference};
use rondel::Guest;

use crate::wakeup::{Mail, Mailbox, Wakeup};

thread_local! {
    /// The guests of this thread's loops, by the loop's address.
    static GUESTS: RefCell<Vec<(usize, Weak<Local>)>> = const { RefCell::new(Vec::new()) };
}

/// The guest of one loop, and what it has to tell the loop.
pub(crate) struct Local {
    guest: Guest,
    /// The loop, without keeping it alive.
    event_loop: Py<PyWeakrefReference>,
    /// The loop's own reader of the guest's descriptor.
    turn: RefCell<Option<Py<PyWeakrefReference>>>,
    /// What wakers have woken.
    pub(crate) mailbox: Arc<Mailbox>,
    /// The loop's futures that awaitables of ours wait for, by the awaitables' numbers.
    waiting: RefCell<Vec<Slot>>,
    /// The first free number; a free slot has the next one.
    free: Cell<usize>,
    /// Numbers and wakers of awaitables that have ended, for the next ones.
    spare: RefCell<Vec<WakeParts>>,
    /// How many calls of `enter` and `turn` are going on within each other.
    depth: Cell<u32>,
}

/// What an awaitable is woken by.
pub(crate) struct WakeParts {
    pub(crate) number: usize,
    pub(crate) wakeup: Arc<Wakeup>,
    pub(crate) waker: Waker,
}

/// How many references to a [`Wakeup`] there are if nobody has a waker of it.
pub(crate) const OWN_WAKERS: usize = 2;

/// How many of them are kept.
const MAX_SPARE: usize = 64;

impl Local {
    /// The guest of the loop that runs in this thread.
    ///
    /// # Errors
    /// `RuntimeError` if none does; what making the guest or watching its descriptor raises.
    pub(crate) fn current(py: Python<'_>) -> PyResult<Rc<Self>> {
        let event_loop = running_loop(py)?;
        let address = event_loop.as_ptr() as usize;
        let known = GUESTS.with_borrow(|guests| {
            let entry = guests.iter().find(|(other, _)| *other == address)?;
            entry.1.upgrade()
        });
        // A loop that is gone may have left its address to this one.
        if let Some(local) = known
            && local.event_loop(py).is_some_and(|own| own.is(&event_loop))
        {
            return Ok(local);
        }
        Self::start(&event_loop)
    }

    /// Makes a guest for a loop.
    #[cold]
    fn start(event_loop: &Bound<'_, PyAny>) -> PyResult<Rc<Self>> {
        let py = event_loop.py();
        watch_forks(py)?;
        let guest = Guest::new()?;
        let fd = guest.as_raw_fd();
        let mailbox = Arc::new(Mailbox::new(guest.waker()));
        let local = Rc::new(Self {
            guest,
            event_loop: PyWeakrefReference::new(event_loop)?.unbind(),
            turn: RefCell::new(None),
            mailbox,
            waiting: RefCell::default(),
            free: Cell::new(NONE),
            spare: RefCell::default(),
            depth: Cell::new(0),
        });
        let turn = Bound::new(py, Turn(Rc::clone(&local)))?;
        *local.turn.borrow_mut() = Some(PyWeakrefReference::new(&turn)?.unbind());
        let weak = Rc::downgrade(&local);
        local.guest.on_ready(move || {
            if let Some(local) = weak.upgrade() {
                Python::attach(|py| local.call_soon(py));
            }
        });
        event_loop.call_method1(intern!(py, "add_reader"), (fd, turn))?;
        let address = event_loop.as_ptr() as usize;
        GUESTS.with_borrow_mut(|guests| {
            guests.retain(|(other, local)| *other != address && local.strong_count() > 0);
            guests.push((address, Rc::downgrade(&local)));
        });
        Ok(local)
    }

    /// The loop, if it is still there.
    pub(crate) fn event_loop<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.event_loop.bind(py).upgrade()
    }

    /// Has the loop come to the guest's turn soon: something is ready. Where the loop does not take
    /// it, as it is closed, there is nobody to run it.
    fn call_soon(&self, py: Python<'_>) {
        let turn = self.turn.borrow();
        let turn = turn.as_ref().and_then(|turn| turn.bind(py).upgrade());
        if let (Some(event_loop), Some(turn)) = (self.event_loop(py), turn) {
            let _ = event_loop.call_method1(intern!(py, "call_soon"), (turn,));
        }
    }

    /// Calls `f` with the guest as the running loop of Rust code.
    pub(crate) fn enter<R>(&self, py: Python<'_>, f: impl FnOnce() -> R) -> R {
        let inside = Inside::new(self, py);
        let result = self.guest.enter(f);
        drop(inside);
        result
    }

    fn turn(&self, py: Python<'_>) -> PyResult<()> {
        let inside = Inside::new(self, py);
        let result = self.guest.turn();
        drop(inside);
        Ok(result?)
    }

    /// Completes the futures of what was woken.
    fn deliver(&self, py: Python<'_>) {
        while let Some(mail) = self.mailbox.take() {
            match mail {
                Mail::Woken(number) => {
                    if let Some(future) = self.take_future(number)
                        && let Err(error) = complete(future.bind(py))
                    {
                        error.write_unraisable(py, None);
                    }
                }
                Mail::Garbage(garbage) => self.guest.enter(|| drop(garbage)),
            }
        }
    }

    // ---- numbers of awaitables ----

    /// A number for an awaitable, with its waker.
    pub(crate) fn take_wake_parts(&self) -> WakeParts {
        if let Some(spare) = self.spare.borrow_mut().pop() {
            return spare;
        }
        let number = self.take_number();
        let wakeup = Arc::new(Wakeup::new(Arc::clone(&self.mailbox), number));
        WakeParts {
            number,
            waker: Waker::from(Arc::clone(&wakeup)),
            wakeup,
        }
    }

    /// An awaitable has ended. Should a waker of its still be about, it wakes the number's next
    /// owner in vain.
    pub(crate) fn give_wake_parts_back(&self, parts: Option<WakeParts>) {
        let Some(parts) = parts else { return };
        drop(self.take_future(parts.number));
        let mut spare = self.spare.borrow_mut();
        // A waker that somebody has kept does not know of the next owner's state.
        if spare.len() < MAX_SPARE && Arc::strong_count(&parts.wakeup) == OWN_WAKERS {
            spare.push(parts);
        } else {
            drop(spare);
            self.give_number_back(parts.number);
        }
    }

    /// A number for an awaitable.
    fn take_number(&self) -> usize {
        let mut waiting = self.waiting.borrow_mut();
        let number = self.free.get();
        match waiting.get(number) {
            Some(Slot::Free(next)) => self.free.set(*next),
            _ => {
                waiting.push(Slot::Taken(None));
                return waiting.len() - 1;
            }
        }
        waiting[number] = Slot::Taken(None);
        number
    }

    fn give_number_back(&self, number: usize) {
        let before = std::mem::replace(
            &mut self.waiting.borrow_mut()[number],
            Slot::Free(self.free.replace(number)),
        );
        drop(before);
    }

    /// The awaitable with this number waits for a future of the loop.
    pub(crate) fn wait_for(&self, number: usize, future: Py<PyAny>) {
        let before = std::mem::replace(
            &mut self.waiting.borrow_mut()[number],
            Slot::Taken(Some(future)),
        );
        drop(before);
    }

    /// The future that the awaitable with this number waits for.
    pub(crate) fn take_future(&self, number: usize) -> Option<Py<PyAny>> {
        match self.waiting.borrow_mut().get_mut(number) {
            Some(Slot::Taken(future)) => future.take(),
            _ => None,
        }
    }
}

/// No number.
const NONE: usize = usize::MAX;

/// What belongs to a number.
enum Slot {
    /// Nobody's; the next free one.
    Free(usize),
    /// An awaitable's, with the future that it waits for.
    Taken(Option<Py<PyAny>>),
}

/// `if not future.done(): future.set_result(None)`.
fn complete(future: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = future.py();
    // Cancelled with its task, most likely.
    if !future.call_method0(intern!(py, "done"))?.is_truthy()? {
        future.call_method1(intern!(py, "set_result"), (py.None(),))?;
    }
    Ok(())
}

/// The loop's thread is in Rust code of the guest. At the end it delivers what was woken, also when
/// a panic passes through.
struct Inside<'a, 'py> {
    local: &'a Local,
    py: Python<'py>,
}

impl<'a, 'py> Inside<'a, 'py> {
    fn new(local: &'a Local, py: Python<'py>) -> Self {
        if local.depth.replace(local.depth.get() + 1) == 0 {
            local.mailbox.attend();
        }
        Self { local, py }
    }
}

impl Drop for Inside<'_, '_> {
    fn drop(&mut self) {
        let depth = self.local.depth.get() - 1;
        self.local.depth.set(depth);
        if depth == 0 {
            self.local.deliver(self.py);
        }
    }
}

/// In the child of a fork the guests of this thread are the parent's: their descriptors are shared
/// with it, and closing a connection would end the parent's. They are left as they are, for good; a
/// loop that runs in the child gets a guest of its own.
fn watch_forks(py: Python<'_>) -> PyResult<()> {
    static WATCHED: PyOnceLock<()> = PyOnceLock::new();
    WATCHED.get_or_try_init(py, || {
        let forked = PyCFunction::new_closure(py, None, None, |_, _| {
            let guests = GUESTS.with_borrow_mut(std::mem::take);
            for local in guests.iter().filter_map(|(_, local)| local.upgrade()) {
                std::mem::forget(local);
            }
        })?;
        let options = PyDict::new(py);
        options.set_item("after_in_child", forked)?;
        py.import("os")?
            .call_method("register_at_fork", (), Some(&options))?;
        PyResult::Ok(())
    })?;
    Ok(())
}

impl Drop for Local {
    fn drop(&mut self) {
        let mail = self.mailbox.close();
        self.guest.enter(|| drop(mail));
    }
}

/// The loop's reader of a guest's descriptor.
#[pyclass(unsendable, weakref, frozen, module = "rondel_pyo3")]
struct Turn(Rc<Local>);

#[pymethods]
impl Turn {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        self.0.turn(py)
    }

    fn __repr__(&self) -> String {
        format!("<turn of {:?}>", self.0.guest)
    }
}

/// The loop that runs in this thread.
///
/// # Errors
/// `RuntimeError` if none does.
pub(crate) fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    get_running_loop(py)?.ok_or_else(|| PyRuntimeError::new_err("no running event loop"))
}

/// The loop that runs in this thread, if one does.
pub(crate) fn get_running_loop(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let event_loop = GET.import(py, "asyncio", "_get_running_loop")?.call0()?;
    Ok((!event_loop.is_none()).then_some(event_loop))
}
