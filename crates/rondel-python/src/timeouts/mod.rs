//! `timeout`, `timeout_at`, `Timeout` and `wait_for`: what cancels a task that takes too long.
//!
//! A `Timeout` is a timer of the loop that cancels the task which entered it, and the account of
//! whose cancellation it was. On loops of ours it is set without a Python call; on others, and
//! where `time`, `call_at` or `call_soon` are replaced, by the loop's own methods.
//!
//! | file | what it has |
//! |---|---|
//! | `timeout.rs` | the object: its states, its timer, what entering and leaving it do |
//! | `async_with.rs` | `async with` and the functions that make a `Timeout`; the class |
//! | `wait_for.rs` | `wait_for` from Python 3.12 on, which waits inside a `Timeout` |
//! | `wait_for_311.rs` | `wait_for` of Python 3.11, which waits for a task of its own |
//! | `names.rs` | interned names and library objects |

mod async_with;
mod names;
mod timeout;
#[cfg(Py_3_12)]
mod wait_for;
#[cfg(not(Py_3_12))]
#[path = "wait_for_311.rs"]
mod wait_for;

use crate::cpython::{Owned, Res};

/// What the module exports, by name.
pub(crate) fn init() -> Res<Vec<(&'static str, Owned)>> {
    names::init()?;
    let mut exported = async_with::init()?;
    exported.push(("wait_for", wait_for::init()?));
    Ok(exported)
}
