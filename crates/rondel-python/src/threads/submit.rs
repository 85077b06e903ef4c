//! `run_in_executor`: checks the executor and queues the job.
//!
//! The loop's default executor is `rondel._executor.LoopExecutor`, made at the first call, as
//! asyncio makes a `ThreadPoolExecutor`. If user code has set its own executor or changed
//! `ThreadPoolExecutor`, asyncio's own method submits the calls.

use std::sync::Arc;

use super::job::{Call, new_job};
use super::queue::{self, Shared};
use crate::cpython::error::runtime_error;
use crate::cpython::names::{Table, import, import_from};
use crate::cpython::{Object, Owned, Res, names};
use crate::loop_core::LoopCore;

/// Objects that each call needs.
struct Stock {
    /// `concurrent.futures.thread`, whose `_shutdown` says that the interpreter is finalizing.
    /// asyncio also imports it at the first call, which fails during finalization.
    module: Owned,
    class: Owned,
    submit: Owned,
    /// Whether `class` and `submit` are the module's own: user code had not replaced them before.
    are_own: bool,
}

static STOCK: Table<Stock> = Table::new();

fn find() -> Res<Stock> {
    let get = |object: &Object, name: &str| object.getattr(&*Owned::from_str(name)?);
    let module = import("concurrent.futures.thread")?;
    let class = module.getattr(&names().thread_pool_executor)?;
    let submit = class.getattr(&names().submit)?;
    let dict = get(&module, "__dict__")?;
    let defined_here = submit
        .getattr_optional(&*Owned::from_str("__globals__")?)?
        .is_some_and(|globals| globals.is(&dict));
    let home = get(&class, "__module__")?;
    let are_own = defined_here && home.equals(&*get(&module, "__name__")?)?;
    Ok(Stock {
        are_own,
        submit,
        class,
        module,
    })
}

/// Whether `ThreadPoolExecutor` is unchanged. Tracing tools replace it or its `submit` to follow
/// calls into threads.
fn is_untouched(stock: &Stock) -> Res<bool> {
    let names = names();
    let class = stock.module.getattr(&names.thread_pool_executor)?;
    Ok(stock.are_own
        && stock.class.getattr(&names.submit)?.is(&stock.submit)
        && class.is(&stock.class))
}

/// Runs a call in the loop's default executor. `None` if that is not a `LoopExecutor`.
pub(crate) fn submit_to_default(event_loop: &Object, call: Call<'_>) -> Res<Option<Owned>> {
    let stock = STOCK.get_or_fill(find)?;
    let names = names();
    if !is_untouched(stock)? {
        return Ok(None);
    }
    if event_loop
        .getattr(&names.executor_shutdown_called)?
        .is_true()?
    {
        return runtime_error("Executor shutdown has been called");
    }
    let mut executor = event_loop.getattr(&names.default_executor)?;
    if executor.is_none() {
        let class = import_from("rondel._executor", "LoopExecutor")?;
        let kw_prefix = Owned::tuple(&[&*Owned::from_str("thread_name_prefix")?])?;
        executor = class.call_with(&[&*Owned::from_str("asyncio")?], Some(&kw_prefix))?;
        event_loop.setattr(&names.default_executor, &executor)?;
    }
    let Some(queue) = executor.getattr_optional(&names.work_queue)? else {
        return Ok(None);
    };
    let Some(shared) = queue::shared(&queue) else {
        return Ok(None);
    };
    let (job, future) = new_job(event_loop, call)?;
    // With the GIL, no other thread can run between the check and the offer.
    if cfg!(not(Py_GIL_DISABLED))
        && !executor.getattr(&names.shutdown_attr)?.is_true()?
        && !stock.module.getattr(&names.shutdown_attr)?.is_true()?
        && queue::offer(shared, job.object())
    {
        LoopCore::of_loop(event_loop).notify_later(Arc::<Shared>::clone(shared));
    } else {
        executor.call_method(&names.submit_item, &[job.object()])?;
    }
    Ok(Some(future.into_owned()))
}
