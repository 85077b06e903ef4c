//! Objects of the standard library that timeouts use, besides those of `cpython/names.rs`.

use crate::cpython::names::{import_from, imported, mentions};
use crate::cpython::{Owned, Res, names};

imported! {
    pub(super) fn timeout_imports() -> Imports {
        timeout: "asyncio.timeouts" "Timeout",
        timeout_function: "asyncio.timeouts" "timeout",
        timeout_at: "asyncio.timeouts" "timeout_at",
        wait_for: "asyncio.tasks" "wait_for",
        timeout_error: "builtins" "TimeoutError",
        exception_group: "builtins" "ExceptionGroup",
    } and {
        /// The members of `asyncio.timeouts._State`, in the order of
        /// [`State`](super::timeout::State).
        states: [Owned; 5] = states()?,
        /// Whether this version tells of a timeout in exceptions that are no cancellation (3.13
        /// on).
        inserts_timeout_error: bool = stock()?
            .getattr_optional(&names().insert_timeout_error)?
            .is_some(),
        /// Whether the stock `Timeout` is the one that is made here, which remembers how many
        /// cancellations there were when it was entered; early patch releases of 3.11 had another.
        is_known: bool = mentions(&*stock()?, "__aenter__", "co_names", "'_cancelling'")?,
    }
}

fn stock() -> Res<Owned> {
    import_from("asyncio.timeouts", "Timeout")
}

fn states() -> Res<[Owned; 5]> {
    let states = import_from("asyncio.timeouts", "_State")?;
    let get = |name: &str| states.getattr(&*Owned::from_str(name)?);
    Ok([
        get("CREATED")?,
        get("ENTERED")?,
        get("EXPIRING")?,
        get("EXPIRED")?,
        get("EXITED")?,
    ])
}

/// Fills the table. Once, at import, after those of `cpython/names.rs`.
pub(super) fn init() -> Res<()> {
    Imports::fill()
}
