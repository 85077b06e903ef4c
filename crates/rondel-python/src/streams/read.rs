//! `read`, `readexactly`, `readuntil`, `readline`: the awaitables that take bytes out of a
//! `StreamReader`.
//!
//! The engine decides what a read does next (`rondel_engine::read_buffer`): take bytes, wait for a
//! future, or raise one of asyncio's exceptions. Nothing is taken before the result is certain, so
//! that a cancelled read loses nothing.

mod unfit;

use std::cell::Cell;

use rondel_engine::read_buffer::{self, Overrun, Search, Step, overlong_line};

use super::reader::{self, Reader};
use crate::awaitable::{Class, Next, Steps, awaitable_class, iterator_of, make};
use crate::cpython::error::{
    Builtin, raise_instance, raise_object, runtime_error, take_exception, value_error,
};
use crate::cpython::method::{Args, Method, method};
use crate::cpython::names::import;
use crate::cpython::native::{Native, NativeSlot};
use crate::cpython::object::{tuple_item, tuple_len};
use crate::cpython::{Object, Owned, Raised, Res, Slot, names, none};
use crate::transport::chunk::Chunk;
use crate::transport::loop_calls::create_future;
use crate::transport::names::imports;

awaitable_class!(CLASS, 256);

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    /// `read(n)`.
    Some = 0,
    /// `read(-1)`.
    All,
    Exactly,
    Until,
    Line,
    /// `__anext__`.
    NextLine,
    /// `_wait_for_data`.
    Wait,
    /// Arguments of unexpected types: see `unfit.rs`.
    Unfit,
    UnfitExactly,
    UnfitUntil,
}

/// One read.
pub(super) struct Read {
    reader: NativeSlot<Reader>,
    /// The future that it waits on.
    waiter: Slot,
    /// The separator, or a tuple of them sorted by length; for `_wait_for_data` the name of its
    /// caller; for `read(-1)` the list of blocks; an argument of an unexpected type.
    extra: Slot,
    n: Cell<isize>,
    search: Cell<Search>,
    kind: Cell<Kind>,
}

impl Steps for Read {
    fn name(&self) -> &'static str {
        match self.kind.get() {
            Kind::Some | Kind::All | Kind::Unfit => "StreamReader.read",
            Kind::Exactly | Kind::UnfitExactly => "StreamReader.readexactly",
            Kind::Until | Kind::UnfitUntil => "StreamReader.readuntil",
            Kind::Line => "StreamReader.readline",
            Kind::NextLine => "StreamReader.__anext__",
            Kind::Wait => "StreamReader._wait_for_data",
        }
    }

    #[inline]
    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Next> {
        let Some(reader) = self.reader.cloned() else {
            return runtime_error("cannot reuse already awaited coroutine");
        };
        let this = &*reader;
        let woken = awaited.is_some();
        self.leave_waiter(this);
        if let Some(result) = awaited {
            result?;
        }
        match self.kind.get() {
            Kind::Some => self.some(this, woken),
            Kind::All => self.all(this, woken),
            Kind::Exactly => self.exactly(this, woken),
            Kind::Until | Kind::Line | Kind::NextLine => self.until(this, woken),
            Kind::Wait if woken => Ok(Next::Return(Owned::none())),
            Kind::Wait => {
                let name = self.extra.or_none().str()?.to_text()?;
                self.wait(this, &name)
            }
            Kind::Unfit => self.unfit(this, woken),
            Kind::UnfitExactly => self.unfit_exactly(this, woken),
            Kind::UnfitUntil => self.unfit_until(this),
        }
    }

    fn release(&self) {
        if let Some(reader) = self.reader.cloned() {
            self.reader.slot().clear();
            self.leave_waiter(&reader);
        }
        self.extra.clear();
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(self.reader.slot());
        see(&self.waiter);
        see(&self.extra);
    }

    fn class() -> &'static Class {
        &CLASS
    }
}

impl Read {
    /// This read waits no more.
    #[inline]
    fn leave_waiter(&self, reader: &Reader) {
        if let Some(waiter) = self.waiter.take()
            && reader.waiter.holds(&waiter)
        {
            reader.waiter.clear();
        }
    }

    /// Waits until something is fed.
    #[inline]
    fn wait(&self, reader: &Reader, function: &str) -> Res<Next> {
        if !reader.waiter.is_empty() {
            return runtime_error(&format!(
                "{function}() called while another coroutine is already waiting for incoming data"
            ));
        }
        if reader.eof.get() {
            return reader::assertion_error("_wait_for_data after EOF");
        }
        // A paused transport would never feed anything.
        reader.resume()?;
        let waiter = create_future(&reader.event_loop.or_none())?;
        let iterator = iterator_of(&waiter)?;
        reader.waiter.set(waiter.clone());
        self.waiter.set(waiter);
        Ok(Next::Await(iterator))
    }

    /// The result: the first `n` bytes.
    #[inline]
    fn take(reader: &Reader, n: usize) -> Res<Next> {
        let taken = reader.take(n)?;
        reader.maybe_resume()?;
        Ok(Next::Return(taken))
    }

    fn some(&self, reader: &Reader, woken: bool) -> Res<Next> {
        if !woken {
            check_exception(reader)?;
            if self.n.get() == 0 {
                return empty();
            }
        }
        // A read that was woken takes what there is, even nothing: asyncio does not wait twice.
        match read_buffer::read(
            reader.len(),
            reader.eof.get() || woken,
            self.n.get() as usize,
        ) {
            Step::Take(n) => Self::take(reader, n),
            _ => self.wait(reader, "read"),
        }
    }

    /// Reads blocks of `limit` bytes until one is empty.
    fn all(&self, reader: &Reader, woken: bool) -> Res<Next> {
        let blocks = match self.extra.cloned() {
            Some(blocks) => blocks,
            None => {
                let blocks = Owned::list()?;
                self.extra.set(blocks.clone());
                blocks
            }
        };
        let mut woken = woken;
        loop {
            if !woken {
                check_exception(reader)?;
            }
            match read_buffer::read(reader.len(), reader.eof.get() || woken, reader.limit()) {
                Step::Take(n) => {
                    if n > 0 {
                        blocks.append(&*reader.take(n)?)?;
                    }
                    reader.maybe_resume()?;
                    if n == 0 {
                        break;
                    }
                }
                _ => return self.wait(reader, "read"),
            }
            woken = false;
        }
        let joined = imports()
            .empty_bytes
            .call_method(&names().join, &[&blocks])?;
        Ok(Next::Return(joined))
    }

    fn exactly(&self, reader: &Reader, woken: bool) -> Res<Next> {
        let Ok(n) = usize::try_from(self.n.get()) else {
            return value_error("readexactly size can not be less than zero");
        };
        if !woken {
            check_exception(reader)?;
            if n == 0 {
                return empty();
            }
        }
        match read_buffer::read_exactly(reader.len(), reader.eof.get(), n) {
            Step::Take(n) => Self::take(reader, n),
            Step::Wait => self.wait(reader, "readexactly"),
            // The program's own number, if it does not fit into `n`.
            _ => {
                let given = self.extra.cloned();
                incomplete(reader, given.map_or_else(|| Owned::from_u64(n as u64), Ok)?)
            }
        }
    }

    fn until(&self, reader: &Reader, woken: bool) -> Res<Next> {
        let line = self.kind.get() != Kind::Until;
        if !woken {
            if !line {
                self.sort_separators()?;
            }
            check_exception(reader)?;
            if self.kind.get() == Kind::UnfitUntil {
                return self.unfit_until(reader);
            }
        }
        let (mut search, limit, eof) = (self.search.get(), reader.limit(), reader.eof.get());
        let step = match self.extra.get() {
            None => reader.with_bytes(|bytes| search.one(bytes, eof, b"\n", limit)),
            Some(one) if one.bytes().is_some() => {
                let separator = one.bytes().unwrap_or_default();
                reader.with_bytes(|bytes| search.one(bytes, eof, separator, limit))
            }
            Some(many) => {
                let many: Vec<&[u8]> = (0..tuple_len(many))
                    .filter_map(|index| tuple_item(many, index).bytes())
                    .collect();
                reader.with_bytes(|bytes| search.any(bytes, eof, &many, limit))
            }
        };
        self.search.set(search);
        match step {
            Step::Take(n) => Self::take(reader, n),
            Step::Wait => self.wait(reader, "readuntil"),
            Step::Incomplete if line => {
                let rest = reader.take(usize::MAX)?;
                if self.kind.get() == Kind::NextLine && rest.bytes().is_none_or(<[u8]>::is_empty) {
                    let stop = Builtin::StopAsyncIteration.class();
                    return raise_instance(stop.call(&[])?);
                }
                Ok(Next::Return(rest))
            }
            Step::Incomplete => incomplete(reader, Owned::none()),
            Step::Overrun(overrun) if line => {
                let overlong = reader.with_bytes(|bytes| overlong_line(bytes, b"\n", overrun));
                reader.discard(overlong)?;
                reader.maybe_resume()?;
                value_error(&overrun.to_string())
            }
            Step::Overrun(overrun) => limit_overrun(overrun),
        }
    }

    /// Checks the separators as `readuntil` does when it starts, and converts them to bytes.
    fn sort_separators(&self) -> Res<()> {
        let Some(given) = self.extra.cloned() else {
            return Ok(());
        };
        let many = given.is_tuple() && imports().many_separators;
        if !many {
            let Ok(one) = Chunk::of_buffer(&given) else {
                drop(take_exception());
                return self.unfit_separators(&given);
            };
            if one.as_ref().is_empty() {
                return value_error("Separator should be at least one-byte string");
            }
            self.extra.set(one.into_object());
            return Ok(());
        }
        let mut separators = Vec::new();
        for index in 0..tuple_len(&given) {
            match Chunk::of_buffer(tuple_item(&given, index)) {
                Ok(separator) => separators.push(separator),
                Err(Raised) => {
                    drop(take_exception());
                    return self.unfit_separators(&given);
                }
            }
        }
        separators.sort_by_key(|separator| separator.as_ref().len());
        match separators.first() {
            None => value_error("Separator should contain at least one element"),
            Some(shortest) if shortest.as_ref().is_empty() => {
                value_error("Separator should be at least one-byte string")
            }
            Some(_) => {
                let items: Vec<&Object> = separators.iter().map(Chunk::object).collect();
                self.extra.set(Owned::tuple(&items)?);
                Ok(())
            }
        }
    }
}

#[inline]
fn check_exception(reader: &Reader) -> Res<()> {
    match reader.exception.cloned() {
        Some(exception) => raise_object(exception),
        None => Ok(()),
    }
}

fn empty() -> Res<Next> {
    Ok(Next::Return(imports().empty_bytes.clone()))
}

/// Raises `IncompleteReadError(partial, expected)`; what is there is taken.
fn incomplete(reader: &Reader, expected: Owned) -> Res<Next> {
    let partial = reader.take(usize::MAX)?;
    raise_instance(
        imports()
            .incomplete_read_error
            .call(&[&partial, &expected])?,
    )
}

/// Raises `LimitOverrunError(message, consumed)`; nothing is taken.
fn limit_overrun(overrun: Overrun) -> Res<Next> {
    let message = Owned::from_str(&overrun.to_string())?;
    let consumed = Owned::from_u64(overrun.consumed as u64)?;
    raise_instance(imports().limit_overrun_error.call(&[&message, &consumed])?)
}

// ---- the methods of StreamReader that return these ----

#[inline]
fn start(this: &Native<Reader>, kind: Kind, n: isize, extra: Option<Owned>) -> Res<Owned> {
    make::<Read>(|read| {
        read.reader.set(this.own());
        drop(read.extra.replace(extra));
        read.n.set(n);
        read.search.set(Search::default());
        read.kind.set(kind);
    })
}

/// The one argument of a read. Nearly always it is given by position.
#[inline]
fn argument<'a>(
    args: Args<'a>,
    function: &str,
    name: &str,
    required: usize,
) -> Res<Option<&'a Object>> {
    if let ([argument], false) = (args.positional(), args.has_named()) {
        return Ok(Some(argument));
    }
    let [argument] = args.parse(function, [name], 1, required)?;
    Ok(argument)
}

fn read(this: &Native<Reader>, args: Args<'_>) -> Res<Owned> {
    let n = match argument(args, "StreamReader.read", "n", 0)? {
        None => -1,
        Some(n) if n.is_int() => n.to_count()?,
        Some(other) => return start(this, Kind::Unfit, 0, Some(other.own())),
    };
    start(this, if n < 0 { Kind::All } else { Kind::Some }, n, None)
}

fn readexactly(this: &Native<Reader>, args: Args<'_>) -> Res<Owned> {
    let n = argument(args, "StreamReader.readexactly", "n", 1)?.unwrap_or(none());
    if !n.is_int() {
        return start(this, Kind::UnfitExactly, 0, Some(n.own()));
    }
    let count = n.to_count()?;
    let too_large = (count == isize::MAX).then(|| n.own());
    start(this, Kind::Exactly, count, too_large)
}

fn readuntil(this: &Native<Reader>, args: Args<'_>) -> Res<Owned> {
    let separator = argument(args, "StreamReader.readuntil", "separator", 0)?;
    start(this, Kind::Until, 0, separator.map(Object::own))
}

fn readline(this: &Native<Reader>) -> Res<Owned> {
    start(this, Kind::Line, 0, None)
}

/// `__anext__`, which calls an overridden `readline`.
pub(super) fn next_line(this: &Native<Reader>) -> Res<Owned> {
    if reader::plain(this.object()).is_none() {
        return import("rondel._awaiting")?
            .getattr(&*Owned::from_str("next_line")?)?
            .call(&[this.object()]);
    }
    start(this, Kind::NextLine, 0, None)
}

fn wait_for_data(this: &Native<Reader>, function: &Object) -> Res<Owned> {
    start(this, Kind::Wait, 0, Some(function.own()))
}

pub(super) fn methods() -> Vec<Method> {
    vec![
        method!(fast c"read(n=-1)" read, c"Reads up to n bytes, or all until the end."),
        method!(fast c"readexactly(n)" readexactly, c"Reads exactly n bytes, or raises IncompleteReadError."),
        method!(fast c"readuntil(separator=b'\\n')" readuntil, c"Reads up to and including a separator."),
        method!(noargs c"readline" readline, c"Reads a line with its newline, or what is left at the end."),
        method!(onearg c"_wait_for_data(func_name, /)" wait_for_data, c"Waits until data or the end is fed."),
    ]
}

/// Makes the type.
pub(super) fn init_type() -> Res<()> {
    crate::awaitable::init_type::<Read>(c"rondel._rondel.Read")
}
