//! The parts of a turn: the steps of asyncio's `_run_once` that programs call, patch or replace.
//!
//! nest_asyncio has its own `_run_once`, which uses `_ready`, `_scheduled` and `_selector`; virtual
//! clocks replace `_selector.select`. `python/rondel/_selector.py` and `_ready.py` define these
//! objects, on top of the functions here. The normal path of a callback uses none of this: the
//! engine runs the turn unless the program has replaced a part of it, which [`LoopCore`] records
//! when it happens.

use std::ops::ControlFlow;
use std::os::fd::RawFd;

use pyo3::ffi;
use rondel_engine::event_loop::clock::NANOS_PER_SEC;
use rondel_engine::reactor::Interest;

use super::item_call::handle_of;
use super::overrides::{RUN_ONCE, SELECT};
use crate::cpython::error::type_error;
use crate::cpython::frame::current_frame;
use crate::cpython::method::{Args, Method, method};
use crate::cpython::names::import;
use crate::cpython::{Object, Owned, OwnedNative, Res, imports, names};
use crate::handle::{self, Handle};
use crate::loop_core::check_closed;
use crate::loop_core::item::{Exit, Item, Kind, Source};
use crate::loop_core::{LoopCore, nanos};

/// The descriptor reported when only a wake-up of the loop has ended the wait.
const WAKE: RawFd = -1;

impl LoopCore {
    /// Polls the reactor with the program's `_selector.select`, if it has replaced it.
    pub(super) fn select_by_method(
        &self,
        until_due: Option<u64>,
    ) -> Option<ControlFlow<Exit, bool>> {
        self.note_patches();
        self.look_at_class();
        if !self.has_overridden(SELECT) {
            return None;
        }
        let select = || -> Res<bool> {
            self.leave_task();
            let timeout = match until_due {
                None => Owned::none(),
                Some(0) => Owned::from_i64(0)?,
                Some(nanos) => Owned::from_f64(self.seconds_to_first_timer(nanos)?)?,
            };
            let event_loop = self.object();
            let selector = event_loop.getattr(&names().selector)?;
            let events = selector.call_method(&names().select, &[&*timeout])?;
            event_loop.call_method(&names().process_events, &[&*events])?;
            events.is_true()
        };
        Some(match select() {
            Ok(found) => ControlFlow::Continue(found),
            Err(raised) => ControlFlow::Break(Exit::Raised(raised)),
        })
    }

    /// Computed as in asyncio: with rounding to nanoseconds, a clock that is advanced by the result
    /// could stop just before the timer.
    fn seconds_to_first_timer(&self, nanos: u64) -> Res<f64> {
        let mut first = f64::INFINITY;
        self.engine().for_each_timer(|timer| {
            let this = timer.handle();
            if !this.is_cancelled() {
                first = first.min(this.when());
            }
        });
        if !first.is_finite() || !self.is_time_overridden() {
            return Ok(nanos as f64 / NANOS_PER_SEC as f64);
        }
        let now = self.object().call_method(&names().time, &[])?.to_f64()?;
        Ok((first - now).max(0.0))
    }

    /// Runs turns with the program's `_run_once`, until `stop()` or until it is removed.
    pub(super) fn run_by_method(&self) -> Res<ControlFlow<()>> {
        while self.has_overridden(RUN_ONCE) {
            self.object().call_method(&names().run_once, &[])?;
            if self.engine().is_stopping() {
                self.engine().set_stopping(false);
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Runs one turn, whether the loop runs or not.
fn run_once(this: &Object) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    check_closed(core)?;
    core.engine().poll_next_turn();
    let result = core.engine().turn();
    core.flush_written();
    core.notify_worker();
    match result {
        Ok(()) => Ok(Owned::none()),
        Err(exit) => exit.raise(),
    }
}

fn key(core: &LoopCore, fd: RawFd) -> Res<Owned> {
    let watched = core.engine().with_sources(fd, |reader, writer| {
        let item = |source: &Source, kind| match source {
            Source::Callback(handle) => Item::new(Kind::Handle, handle.clone()),
            Source::Transport(transport) => Item::new(kind, transport.clone()),
        };
        [
            reader.map(|source| item(source, Kind::Readable)),
            writer.map(|source| item(source, Kind::Writable)),
        ]
    });
    let mut mask = 0;
    let mut handles = [Owned::none(), Owned::none()];
    for (side, item) in watched.into_iter().enumerate() {
        if let Some(item) = item {
            mask |= 1 << side;
            handles[side] = handle_of(core, item)?;
        }
    }
    let data = Owned::tuple(&[&*handles[0], &*handles[1]])?;
    let (fd, mask) = (Owned::from_i64(fd.into())?, Owned::from_i64(mask)?);
    imports().selector_key.call(&[&*fd, &*fd, &*mask, &*data])
}

/// `select()` of the loop's selector: a list of keys and event masks.
fn select(this: &Object, timeout: &Object) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    check_closed(core)?;
    core.flush_written();
    let timeout = match timeout.is_none() {
        _ if core.is_woken.get() => Some(0),
        true => None,
        false => Some(nanos(timeout.to_f64()?)),
    };
    if timeout != Some(0) {
        core.leave_task();
        core.forget_kept();
    }
    let mut found = match core.engine().select(timeout) {
        Ok(found) => found,
        Err(exit) => return exit.raise(),
    };
    // asyncio's self-pipe stays readable until `_process_events()` reads it; a program that calls
    // `select()` twice before that relies on this.
    let is_woken = core.is_woken.get() || core.engine().inbox().has_mail();
    if found.iter().any(|&(fd, _)| fd == WAKE) {
        core.is_woken.set(true);
    } else if is_woken {
        core.is_woken.set(true);
        found.push((WAKE, Interest::READABLE));
    }
    let list = Owned::list()?;
    for (fd, ready) in found {
        let mut mask = 0;
        for (side, bit) in [(Interest::READABLE, 1), (Interest::WRITABLE, 2)] {
            if ready.contains(side) {
                mask |= bit;
            }
        }
        if mask != 0 {
            list.append(&*Owned::tuple(&[
                &*key(core, fd)?,
                &*Owned::from_i64(mask)?,
            ])?)?;
        }
    }
    // In asyncio, calls from other threads are in `_ready` at this point.
    core.engine().queue_mail();
    Ok(list)
}

/// Queues the callbacks of the descriptors that `select()` has reported.
fn process_events(this: &Object, events: &Object) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    core.is_woken.set(false);
    // SAFETY: a live object; the call raises if it is not a sequence.
    let events = unsafe { Owned::steal(ffi::PySequence_Tuple(events.as_ptr()))? };
    for index in 0..crate::cpython::object::tuple_len(&events) {
        // SAFETY: a live object; the call raises if it is not a sequence.
        let event = unsafe {
            let event = crate::cpython::object::tuple_item(&events, index);
            Owned::steal(ffi::PySequence_Tuple(event.as_ptr()))?
        };
        if crate::cpython::object::tuple_len(&event) != 2 {
            return type_error("an event is a key and a mask");
        }
        let [key, mask] = [0, 1].map(|place| crate::cpython::object::tuple_item(&event, place));
        let fd = key.getattr(&names().fd)?.to_isize()?;
        let mask = mask.to_isize()?;
        let Ok(fd) = RawFd::try_from(fd) else {
            continue;
        };
        if fd == WAKE {
            continue;
        }
        let mut ready = Interest::NONE;
        if mask & 1 != 0 {
            ready |= Interest::READABLE;
        }
        if mask & 2 != 0 {
            ready |= Interest::WRITABLE;
        }
        core.engine().report(fd, ready);
    }
    core.engine().queue_mail();
    Ok(Owned::none())
}

/// The `SelectorKey` of a descriptor, or `None`.
fn selector_key(this: &Object, fd: &Object) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    match RawFd::try_from(fd.to_isize()?) {
        Ok(fd) if fd >= 0 => key(core, fd),
        _ => Ok(Owned::none()),
    }
}

fn watched_files(this: &Object) -> Res<Owned> {
    let list = Owned::list()?;
    for fd in LoopCore::of_loop(this).engine().watched() {
        list.append(&*Owned::from_i64(fd.into())?)?;
    }
    Ok(list)
}

/// Watches one side of a descriptor (1: read, 2: write) with a handle; `None` stops watching.
fn watch(this: &Object, args: Args<'_>) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    let [fd, side, handle] = args.positional() else {
        return type_error("_watch() takes a descriptor, a side and a handle");
    };
    check_closed(core)?;
    let (engine, fd, reads) = (core.engine(), fd.to_isize()?, side.to_isize()? == 1);
    let Ok(fd) = RawFd::try_from(fd) else {
        return crate::cpython::error::value_error("Invalid file descriptor");
    };
    if handle.is_none() {
        drop(match reads {
            true => engine.remove_reader(fd),
            false => engine.remove_writer(fd),
        });
        return Ok(Owned::none());
    }
    let source = Source::Callback(core.handle_for(handle)?.into_owned());
    match if reads {
        engine.add_reader(fd, source)
    } else {
        engine.add_writer(fd, source)
    } {
        Ok(before) => drop(before),
        Err(error) => return crate::cpython::error::raise_os_error(&error),
    }
    Ok(Owned::none())
}

/// The descriptor that is readable when `_select()` has something to report.
fn select_fd(this: &Object) -> Res<Owned> {
    match LoopCore::of_loop(this).engine().select_fd() {
        Ok(fd) => Owned::from_i64(fd.into()),
        Err(error) => crate::cpython::error::raise_os_error(&error),
    }
}

fn ready_len(this: &Object) -> Res<Owned> {
    Owned::from_i64(LoopCore::of_loop(this).engine().ready_len() as i64)
}

/// Takes the first ready item, as a handle; `None` if there is none.
fn take_ready(this: &Object) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    match core.engine().take_ready() {
        Some(item) => handle_of(core, item),
        None => Ok(Owned::none()),
    }
}

impl LoopCore {
    /// A Rondel handle for an object that the program has put into the loop's queues: the object
    /// itself if it is a Rondel handle, otherwise a new handle that runs it.
    pub(super) fn handle_for(&self, object: &Object) -> Res<OwnedNative<Handle>> {
        if let Some(handle) = object.exact::<Handle>() {
            return Ok(handle.own());
        }
        object.getattr(&names().run_handle)?; // raises if it is not a handle
        handle::new_for_foreign(self.object(), object)
    }
}

impl LoopCore {
    /// Schedules a timer handle that was made by the program or by asyncio's own code.
    fn schedule(&self, timer: &Object) -> Res<()> {
        let when = timer
            .call_method(&*Owned::from_str("when")?, &[])?
            .to_f64()?;
        let ours = match timer.exact::<Handle>() {
            Some(handle) => handle.own(),
            None => handle::new_timer_for_foreign(self, when, timer)?,
        };
        ours.set_scheduled(true);
        self.push_timer(when, ours)
    }
}

/// Queues a handle behind all ready items.
fn put_ready(this: &Object, handle: &Object) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    let handle = core.handle_for(handle)?;
    // It may be a timer that the program has moved here from the list `_scheduled`.
    handle.note_moved();
    core.engine()
        .call_soon(Item::new(Kind::Handle, handle.into_owned()));
    Ok(Owned::none())
}

/// Queues a handle before all ready items.
fn put_ready_first(this: &Object, handle: &Object) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    let handle = core.handle_for(handle)?;
    handle.note_moved();
    core.engine()
        .call_first(Item::new(Kind::Handle, handle.into_owned()));
    Ok(Owned::none())
}

/// The pending timer handles, as a sorted list, which is a valid heap. It is a copy: a timer that
/// the program moves from it to `_ready`, as its own `_run_once` would, is removed from the native
/// heap as well. A timer that `asyncio.BaseEventLoop.call_at` is about to push to the list is added
/// to the native heap.
pub(super) fn scheduled(this: &Object) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    let engine = core.engine();
    if let Some(timer) = timer_of_stock_call_at()? {
        core.schedule(&timer)?;
        return Owned::list_of(0, |_| Ok(Owned::none()));
    }
    engine.discard_timers(|timer| timer.handle().is_moved());
    let mut timers = Vec::new();
    engine.for_each_timer(|timer| {
        let this = timer.handle();
        if !this.is_moved() {
            timers.push((this.when(), handle::shown(this)));
        }
    });
    timers.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    Owned::list_of(timers.len(), |index| Ok(timers[index].1.clone()))
}

/// If the caller that reads `_scheduled` is asyncio's `call_at`, the timer that it has made.
fn timer_of_stock_call_at() -> Res<Option<Owned>> {
    let get = |object: &Object, name: &str| object.getattr(&*Owned::from_str(name)?);
    let Some(frame) = current_frame() else {
        return Ok(None);
    };
    let running = get(&frame, "f_code")?;
    // Checked before the import below, which fails during finalization, when the last loops are
    // closed.
    if get(&running, "co_name")?.to_text()? != "call_at" {
        return Ok(None);
    }
    let base = get(&*import("asyncio.base_events")?, "BaseEventLoop")?;
    let call_at = get(&base, "call_at")?;
    let code = call_at.getattr_optional(&*Owned::from_str("__code__")?)?;
    if !code.is_some_and(|code| code.is(&running)) {
        return Ok(None);
    }
    let locals = get(&frame, "f_locals")?;
    let timer = locals.call_method(&*Owned::from_str("get")?, &[&*Owned::from_str("timer")?])?;
    Ok((!timer.is_none()).then_some(timer))
}

/// The bits of the methods that the program has replaced.
fn overridden(this: &Object) -> Res<Owned> {
    Owned::from_i64(LoopCore::of_loop(this).overridden.get().into())
}

/// Records whether the selector and its `select` are Rondel's own or the program's.
fn selector_changed(this: &Object, is_ours: &Object) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    core.note_selector(is_ours.is_true()?);
    Ok(Owned::none())
}

pub(super) fn methods() -> Vec<Method> {
    vec![
        method!(noargs c"_run_once" run_once, c"Runs one turn."),
        method!(onearg c"_select" select, c"Waits for descriptors, and returns those that are ready."),
        method!(noargs c"_select_fd" select_fd, c"What can be read when _select() has something to report."),
        method!(onearg c"_process_events" process_events, c"Queues the events that select() has reported."),
        method!(onearg c"_selector_key" selector_key, c"A descriptor's key."),
        method!(noargs c"_watched_files" watched_files, c"The descriptors that are watched."),
        method!(fast c"_watch" watch, c"Watches one side of a descriptor with a handle."),
        method!(noargs c"_ready_len" ready_len, c"How many items are ready."),
        method!(noargs c"_take_ready" take_ready, c"Takes the first of what is ready, as a handle."),
        method!(onearg c"_put_ready" put_ready, c"Queues a handle behind what is ready."),
        method!(onearg c"_put_ready_first" put_ready_first, c"Queues a handle before what is ready."),
        method!(noargs c"_overridden" overridden, c"What the program has replaced, as bits."),
        method!(onearg c"_selector_changed" selector_changed, c"Notes whether the loop's selector is its own."),
    ]
}
