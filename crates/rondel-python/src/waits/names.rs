//! Library objects that the functions of this folder use, besides those of `cpython/names.rs`, and
//! differences between the patch releases of one version. Filled once, at import, before
//! `install()` replaces anything.

use crate::cpython::names::{import, import_optional, imported};
use crate::cpython::stock_code::{self, code_of, get};
use crate::cpython::{Object, Owned, Res};

imported! {
    pub(super) fn waits_imports() -> Imports {
        isfuture: "asyncio.futures" "isfuture",
        isawaitable: "inspect" "isawaitable",
        ensure_future: "asyncio.tasks" "ensure_future",
        current_task: "asyncio.tasks" "current_task",
        release_waiter: "asyncio.tasks" "_release_waiter",
        first_completed: "asyncio.tasks" "FIRST_COMPLETED",
        first_exception: "asyncio.tasks" "FIRST_EXCEPTION",
        all_completed: "asyncio.tasks" "ALL_COMPLETED",
        // asyncio's own functions, for arguments that are not native.
        stock_gather: "asyncio.tasks" "gather",
        stock_shield: "asyncio.tasks" "shield",
        stock_as_completed: "asyncio.tasks" "as_completed",
    } and {
        /// `(future_add_to_awaited_by, future_discard_from_awaited_by)`, from 3.14 on.
        awaited_by: Option<(Owned, Owned)> = import_optional("asyncio.futures", "future_add_to_awaited_by")?
            .zip(import_optional("asyncio.futures", "future_discard_from_awaited_by")?),
        /// The callback that reports a shielded future's exception once nobody waits for it; only
        /// some releases have it.
        log_on_exception: Option<Owned> = import_optional("asyncio.tasks", "_log_on_exception")?,
        quirks: Quirks = stock_code::look(Quirks::newest(), || Quirks::new(&*import("asyncio.tasks")?))?,
    }
}

/// Behaviour of the running patch release that differs between patch releases.
#[derive(Clone, Copy)]
pub(super) struct Quirks {
    /// `wait` unlinks all its futures from its task when it ends, not only those that are done.
    pub(super) wait_unlinks_at_end: bool,
    /// `gather` unlinks all children when it fails.
    pub(super) gather_unlinks_at_failure: bool,
    /// `as_completed` links its futures to the task.
    pub(super) as_completed_links: bool,
    /// A cancelled wait of `as_completed` does not count as one that gave out a future.
    pub(super) as_completed_gives_back: bool,
    /// `shield` marks the inner exception as retrieved even if the outer future was cancelled.
    pub(super) shield_retrieves: bool,
    /// `shield` unlinks the inner future as soon as the outer one is done.
    pub(super) shield_unlinks_with_outer: bool,
}

/// The names that a code object uses, in the order of their first use.
fn names_in(code: &Object) -> Res<Vec<String>> {
    let used = get(code, "co_names")?;
    let free = get(code, "co_freevars")?;
    let mut all = Vec::new();
    for tuple in [&used, &free] {
        for index in 0..crate::cpython::object::tuple_len(tuple) {
            all.push(crate::cpython::object::tuple_item(tuple, index).to_text()?);
        }
    }
    Ok(all)
}

/// The names that a function's code uses, or those of the nested function named `inner`.
fn names_of(function: &Object, inner: Option<&str>) -> Res<Vec<String>> {
    let code = code_of(function)?;
    let Some(inner) = inner else {
        return names_in(&code);
    };
    let constants = get(&code, "co_consts")?;
    for index in 0..crate::cpython::object::tuple_len(&constants) {
        let constant = crate::cpython::object::tuple_item(&constants, index);
        let name = constant.getattr_optional(&*Owned::from_str("co_name")?)?;
        if let Some(name) = name
            && name.to_text()? == inner
        {
            return names_in(constant);
        }
    }
    Ok(Vec::new())
}

impl Quirks {
    /// Those of the newest release of this version.
    fn newest() -> Self {
        Self {
            wait_unlinks_at_end: cfg!(Py_3_14),
            gather_unlinks_at_failure: cfg!(Py_3_14),
            as_completed_links: cfg!(Py_3_14),
            as_completed_gives_back: cfg!(Py_3_14),
            shield_retrieves: !cfg!(Py_3_14),
            shield_unlinks_with_outer: cfg!(Py_3_14),
        }
    }

    fn new(tasks: &Object) -> Res<Self> {
        const ADD: &str = "future_add_to_awaited_by";
        const DISCARD: &str = "future_discard_from_awaited_by";
        let has = |names: &[String], name: &str| names.iter().any(|known| known == name);
        let wait = names_of(&*get(tasks, "_wait")?, None)?;
        let shield = get(tasks, "shield")?;
        let shield_inner = names_of(&shield, Some("_inner_done_callback"))?;
        let shield_outer = names_of(&shield, Some("_outer_done_callback"))?;
        let place = |name: &str| shield_inner.iter().position(|known| known == name);
        let completed = tasks.getattr_optional(&*Owned::from_str("_AsCompletedIterator")?)?;
        let (mut links, mut gives_back) = (false, false);
        if let Some(completed) = completed {
            links = has(&names_of(&*get(&completed, "__init__")?, None)?, ADD);
            gives_back = has(
                &names_of(&*get(&completed, "_wait_for_one")?, None)?,
                "_todo_left",
            );
        }
        let unlinks_all = Owned::from_str("_discard_awaited_by")?;
        Ok(Self {
            wait_unlinks_at_end: has(&wait, DISCARD),
            gather_unlinks_at_failure: tasks.getattr_optional(&unlinks_all)?.is_some(),
            as_completed_links: links,
            as_completed_gives_back: gives_back,
            // Releases that retrieve the exception ask for it before they cancel anything.
            shield_retrieves: place("exception") < place("cancel"),
            shield_unlinks_with_outer: has(&shield_outer, DISCARD),
        })
    }
}

/// Fills the table. Called once, at import, after `cpython/names.rs` has filled its own.
pub(super) fn init() -> Res<()> {
    Imports::fill()
}
