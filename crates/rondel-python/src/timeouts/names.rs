//! Interned names and library objects that timeouts use, besides those of `cpython/names.rs`. Filled once, at import.

use crate::cpython::names::{Table, import, interned};
use crate::cpython::{Object, Owned, Res};

interned! {
    pub(super) struct Names {
        cancelling "cancelling",
        uncancel "uncancel",
        exceptions "exceptions",
        insert_timeout_error "_insert_timeout_error",
        on_timeout "_on_timeout",
        reschedule "reschedule",
    }
}

/// Objects of the standard library.
pub(super) struct Imports {
    pub(super) timeout: Owned,
    pub(super) timeout_function: Owned,
    pub(super) timeout_at: Owned,
    pub(super) wait_for: Owned,
    /// The members of `asyncio.timeouts._State`, in the order of [`State`](super::timeout::State).
    pub(super) states: [Owned; 5],
    pub(super) timeout_error: Owned,
    pub(super) exception_group: Owned,
    /// Whether this version tells of a timeout in exceptions that are no cancellation (3.13 on).
    pub(super) inserts_timeout_error: bool,
    /// Whether the stock `Timeout` is the one that is made here; early patch releases of 3.11 had another.
    pub(super) is_known: bool,
}

fn get(module: &Object, name: &str) -> Res<Owned> {
    module.getattr(&*Owned::from_str(name)?)
}

impl Imports {
    fn new(names: &Names) -> Res<Self> {
        let timeouts = import("asyncio.timeouts")?;
        let builtins = import("builtins")?;
        let states = get(&timeouts, "_State")?;
        let timeout = get(&timeouts, "Timeout")?;
        let insert = timeout.getattr_optional(&names.insert_timeout_error)?;
        // It remembers how many cancellations there were when it was entered.
        let enter = get(&*get(&timeout, "__aenter__")?, "__code__")?;
        let is_known = get(&enter, "co_names")?
            .repr()?
            .to_text()?
            .contains("'_cancelling'");
        Ok(Self {
            timeout_function: get(&timeouts, "timeout")?,
            timeout_at: get(&timeouts, "timeout_at")?,
            wait_for: get(&*import("asyncio.tasks")?, "wait_for")?,
            states: [
                get(&states, "CREATED")?,
                get(&states, "ENTERED")?,
                get(&states, "EXPIRING")?,
                get(&states, "EXPIRED")?,
                get(&states, "EXITED")?,
            ],
            timeout_error: get(&builtins, "TimeoutError")?,
            exception_group: get(&builtins, "ExceptionGroup")?,
            inserts_timeout_error: insert.is_some(),
            is_known,
            timeout,
        })
    }
}

static NAMES: Table<Names> = Table::new();
static IMPORTS: Table<Imports> = Table::new();

/// Fills both tables. Once, at import, after those of `cpython/names.rs`.
pub(super) fn init() -> Res<()> {
    let names = Names::new()?;
    let imports = Imports::new(&names)?;
    NAMES.fill(names);
    IMPORTS.fill(imports);
    Ok(())
}

#[inline]
pub(super) fn timeout_names() -> &'static Names {
    NAMES.get()
}

#[inline]
pub(super) fn timeout_imports() -> &'static Imports {
    IMPORTS.get()
}
