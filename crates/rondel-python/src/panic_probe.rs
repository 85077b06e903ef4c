//! Panics on purpose, for `tests/robustness/test_panics.py`. Only built with the feature
//! `panic-probe`.
//!
//! There is no known panic to test with, so these simulate one: one in a function called from
//! Python, one in the loop itself, with no Python frame between it and `run_forever`.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::cpython::method::{function, method};
use crate::cpython::{Object, Owned, Res};

static ARMED: AtomicBool = AtomicBool::new(false);

/// `_rondel._panic(text)`
fn panic_now(_: &Object, text: &Object) -> Res<Owned> {
    panic!("{}", text.to_text()?);
}

/// `_rondel._panic_in_next_step()`
fn arm(_: &Object) -> Res<Owned> {
    ARMED.store(true, Ordering::Relaxed);
    Ok(Owned::none())
}

/// Called by the loop before each item.
pub(crate) fn fire() {
    if ARMED.swap(false, Ordering::Relaxed) {
        panic!("in a step");
    }
}

/// The functions that the module exports, by name.
pub(crate) fn functions() -> Res<[(&'static str, Owned); 2]> {
    Ok([
        (
            "_panic",
            function(method!(onearg c"_panic" panic_now, c"Panics with a text."))?,
        ),
        (
            "_panic_in_next_step",
            function(
                method!(noargs c"_panic_in_next_step" arm, c"Has the loop panic at its next step."),
            )?,
        ),
    ])
}
