//! `_rondel.probes()`: which probes of the interpreter have succeeded.
//!
//! A failed probe selects a slower fallback and has no other visible effect. So a test checks the
//! result (`docs/new-cpython.md`).

use crate::cpython::method::{function, method};
use crate::cpython::{Object, Owned, Res, context, dispatch, kwdefaults, stock_code};
use crate::{loop_core, task, tls};

fn probes(_: &Object) -> Res<Owned> {
    let found = Owned::dict()?;
    let put = |name, is_found| found.set_item(name, &Owned::from_bool(is_found));
    put(c"context", context::is_found())?;
    put(c"dispatch", dispatch::is_taught())?;
    put(c"kwdefaults", kwdefaults::is_told())?;
    put(c"running_loop", loop_core::running_loop::is_known())?;
    put(c"current_task", loop_core::current_task::is_known())?;
    put(c"all_tasks", task::all_tasks::is_known())?;
    put(c"stock_code", stock_code::is_found())?;
    put(c"tls", tls::is_direct())?;
    #[cfg(Py_3_14)]
    {
        put(c"instance_dict", crate::cpython::instance_dict::is_found())?;
        put(c"asyncio_part", crate::future::asyncio_part::is_found())?;
        put(c"thread_list", crate::future::thread_list::is_found())?;
    }
    Ok(found)
}

/// The function that the module exports.
pub(crate) fn init() -> Res<Owned> {
    function(
        method!(noargs c"probes" probes, c"Which probes of the interpreter have found what they look for."),
    )
}
