//! `gather`: makes a future of each argument, and the future that watches them (`gathering.rs`).
//!
//! This file handles coroutines, native awaitables, native futures and native tasks on a Rondel
//! loop. If any other argument is passed, or no such loop runs, asyncio's own function is called.

use std::collections::BTreeMap;
use std::ptr;

use super::awaited_by::{current_task, link};
use super::gathering::{self, Gathering, child_was_done};
use super::names::waits_imports;
use crate::cpython::method::{Args, function, method};
use crate::cpython::{Native, Object, Owned, OwnedNative, Res, imports, names};
use crate::future::{self, Future};
use crate::loop_core::LoopCore;
use crate::loop_core::running_loop::running_loop;
use crate::{awaitable, task};

/// `gather(*coros_or_futures, return_exceptions=False)`.
fn gather(_: &Object, args: Args<'_>) -> Res<Owned> {
    let return_exceptions = match args.only_keyword("gather", &names().return_exceptions)? {
        Some(value) => value.is_true()?,
        None => false,
    };
    let event_loop = running_loop()?;
    let passed = args.positional();
    let native = !passed.is_empty()
        && LoopCore::of(&event_loop).is_some_and(LoopCore::makes_tasks_directly)
        && passed.iter().all(|arg| can_take(arg, &event_loop));
    if !native {
        return waits_imports().stock_gather.call_all(args);
    }
    let outer = gathering::new(&event_loop)?;
    outer.return_exceptions.set(return_exceptions);
    drop(outer.task.replace(current_task(&event_loop)?));
    let places = first_places(passed);
    outer.count.set(match &places {
        None => passed.len(),
        Some(places) => places
            .iter()
            .enumerate()
            .filter(|(n, first)| n == *first)
            .count(),
    });
    match start(&outer, &event_loop, passed, places.as_deref()) {
        Ok(()) => Ok(outer.into_owned()),
        Err(raised) => {
            // The children that were made keep running, and their results are ignored.
            let error = crate::cpython::error::take_exception();
            let _ = raised;
            future::cancel(outer.as_future(), None)?;
            Err(crate::cpython::error::restore(error))
        }
    }
}

/// Whether the argument is a native future or task of this loop, or can be made a task.
#[inline]
fn can_take(arg: &Object, event_loop: &Object) -> bool {
    if ptr::eq(arg.type_ptr(), imports().coroutine_type.as_type_ptr()) {
        return true;
    }
    if let Some(arg) = arg.exact::<Future>() {
        return arg.event_loop().is_some_and(|other| other.is(event_loop));
    }
    awaitable::is_awaitable(arg)
}

/// Makes futures of the arguments and watches them.
fn start(
    outer: &Native<Gathering>,
    event_loop: &Object,
    args: &[&Object],
    places: Option<&[usize]>,
) -> Res<()> {
    let task = outer.task.cloned();
    let mut done = Vec::<OwnedNative<Future>>::new();
    let mut made = Vec::new();
    let children = Owned::list_of(args.len(), |index| {
        let arg = args[index];
        let first = places.map_or(index, |places| places[index]);
        if first != index {
            return Ok(made_at(&made, first).own());
        }
        let child = match arg.exact::<Future>() {
            Some(future) => future.own(),
            None => {
                let child = task::new_task(event_loop, arg, None, None, false)?;
                task::keep_quiet(&child);
                child.into_future()
            }
        };
        if places.is_some() {
            made.push((index, child.object().own()));
        }
        if cfg!(Py_3_12) && child.is_done() {
            done.push(child.clone());
        } else {
            link(child.object(), task.as_deref())?;
            future::add_waiter(&child, outer)?;
        }
        Ok(child.into_owned())
    })?;
    outer.children.set(children);
    for child in done {
        child_was_done(outer, &child)?;
    }
    Ok(())
}

/// The child made of the argument at index `place`, which precedes the current argument.
fn made_at(made: &[(usize, Owned)], place: usize) -> &Object {
    let found = made.binary_search_by_key(&place, |(index, _)| *index);
    let index = found.unwrap_or_else(|index| index.min(made.len() - 1));
    &made[index].1
}

/// If an argument is passed more than once: the index of the first occurrence of each argument.
fn first_places(args: &[&Object]) -> Option<Vec<usize>> {
    // An object with one reference cannot occur twice. (From 3.14 on the interpreter passes
    // borrowed references, so the count says nothing.)
    let may_repeat = |arg: &Object| cfg!(Py_3_14) || arg.refcount() > 1;
    if args.iter().filter(|arg| may_repeat(arg)).nth(1).is_none() || !repeats(args) {
        return None;
    }
    let mut first = BTreeMap::new(); // a `HashMap` would ask the kernel for random bytes
    let places = args.iter().enumerate();
    Some(
        places
            .map(|(index, arg)| *first.entry(arg.as_ptr()).or_insert(index))
            .collect(),
    )
}

/// Whether any object occurs twice.
fn repeats(args: &[&Object]) -> bool {
    if args.len() <= 12 {
        return (1..args.len()).any(|n| args[..n].iter().any(|other| other.is(args[n])));
    }
    // A hash table with open addressing, at most half full.
    let mask = (args.len() * 2).next_power_of_two() - 1;
    let mut table: Vec<*mut pyo3::ffi::PyObject> = vec![ptr::null_mut(); mask + 1];
    args.iter().any(|arg| {
        let address = arg.as_ptr();
        let mut place = (address.addr() >> 4).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32 & mask;
        while !table[place].is_null() {
            if table[place] == address {
                return true;
            }
            place = (place + 1) & mask;
        }
        table[place] = address;
        false
    })
}

/// Makes the function.
pub(super) fn init() -> Res<Owned> {
    function(
        method!(fast c"gather(*coros_or_futures, return_exceptions=False)" gather,
        c"Returns a future of the results of all awaitables."),
    )
}
