//! Objects of the standard library that timeouts use, besides those of `cpython/names.rs`.

use crate::cpython::names::{import_from, imported};
use crate::cpython::{Owned, Res, names, stock_code};

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
        states: [Owned; 5] = states()?.unwrap_or([(); 5].map(|()| Owned::none())),
        /// Whether this version tells of a timeout in exceptions that are no cancellation (3.13
        /// on).
        inserts_timeout_error: bool = stock()?
            .getattr_optional(&names().insert_timeout_error)?
            .is_some(),
        /// Whether the stock `Timeout` is the one that is made here, which remembers how many
        /// cancellations there were when it was entered; early patch releases of 3.11 had another.
        /// What asyncio's own methods do with the state has to be known, too.
        is_known: bool = states()?.is_some() && stock_code::look(cfg!(Py_3_12), || {
            let code = stock_code::code("asyncio.timeouts", "Timeout", "__aenter__")?;
            stock_code::mentions(&code, "co_names", "'_cancelling'")
        })?,
    }
}

fn stock() -> Res<Owned> {
    import_from("asyncio.timeouts", "Timeout")
}

/// `None` if it is not the class that is known.
fn states() -> Res<Option<[Owned; 5]>> {
    let names = ["CREATED", "ENTERED", "EXPIRING", "EXPIRED", "EXITED"];
    stock_code::stock_members("asyncio.timeouts", "_State", names)
}

/// Fills the table. Once, at import, after those of `cpython/names.rs`.
pub(super) fn init() -> Res<()> {
    Imports::fill()
}
