//! One call in a thread: the function to call, and the future that gets the outcome.
//!
//! A job is made in the loop's thread and waits in a [`queue`](super::queue). A worker runs it and
//! posts it, with the outcome, to the loop's inbox. From there it moves to the ready ring, and
//! [`deliver`] handles it. A job whose future is cancelled before it runs is not run. For
//! `ThreadPoolExecutor`, which uses the `future` of its queue's items, a job has a `future`
//! attribute: the job itself, with `cancel()` and `set_exception()`.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::Arc;

use rondel_engine::event_loop::inbox::Inbox;
use rondel_engine::reactor::Wake;

use crate::cpython::call::call;
use crate::cpython::collected::Collected;
use crate::cpython::error::{is_exit, restore, take_exception};
use crate::cpython::method::{Args, attribute, method};
use crate::cpython::names::{Table, import};
use crate::cpython::types::{TypeBuilder, allocate};
use crate::cpython::{
    Class, Fields, Native, NativeClass, NativeSlot, Object, Owned, OwnedNative, Raised, Res, Slot,
    context, names,
};
use crate::future::{self, Future};
use crate::loop_core::LoopCore;
use crate::loop_core::item::{Exit, Item, Kind, Remote};

pub(super) type Mailbox = Arc<Inbox<Remote, Wake>>;

/// How a call ended. Zeroed memory is valid; the value means nothing while there is no outcome.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Outcome {
    Returned = 0,
    Raised,
    /// The executor was shut down and drops its queued items.
    Cancelled,
}

#[repr(C)]
pub(super) struct Job {
    future: NativeSlot<Future>,
    function: Slot,
    /// A tuple.
    args: Slot,
    /// A dict, or empty.
    kwargs: Slot,
    /// The context to run in; empty for the thread's own.
    context: Slot,
    /// The result, or the exception.
    outcome: Slot,
    kind: Cell<Outcome>,
}

// SAFETY: the fields are behind the object header; zeroed ones are valid.
unsafe impl Fields for Job {}

// SAFETY: every object reference is visited.
unsafe impl Collected for Job {
    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(self.future.slot());
        for slot in [
            &self.function,
            &self.args,
            &self.kwargs,
            &self.context,
            &self.outcome,
        ] {
            see(slot);
        }
    }
}

static CLASS: Class = Class::new();

// SAFETY: the class is made for these fields, and can't be subclassed.
unsafe impl NativeClass for Job {
    fn class() -> &'static Class {
        &CLASS
    }
}

/// asyncio's function that converts `concurrent.futures` exceptions into its own.
static CONVERT: Table<Option<Owned>> = Table::new();

/// A call to be made.
pub(crate) struct Call<'a> {
    pub(crate) function: &'a Object,
    pub(crate) args: Owned,
    pub(crate) kwargs: Option<Owned>,
    pub(crate) context: Option<Owned>,
}

/// Makes a job and the future, of a Rondel loop, that it will complete.
pub(super) fn new_job(
    event_loop: &Object,
    call: Call<'_>,
) -> Res<(OwnedNative<Job>, OwnedNative<Future>)> {
    let future = future::new_future(event_loop)?;
    // SAFETY: all-zero fields are valid.
    let job = unsafe { OwnedNative::<Job>::new(allocate(CLASS.as_ptr())?) };
    job.future.set(future.clone());
    job.function.set(call.function.own());
    job.args.set(call.args);
    drop(job.kwargs.replace(call.kwargs));
    drop(job.context.replace(call.context));
    Ok((job, future))
}

/// Runs a job in a worker thread. Returns the inbox of the loop to wake once this thread releases
/// the GIL.
pub(super) fn run(job: &Native<Job>) -> Option<Mailbox> {
    // Kept until the end: releasing them may run user code, which is not part of the call.
    let held = [&job.function, &job.args, &job.kwargs, &job.context].map(Slot::take);
    let [Some(function), Some(args), kwargs, context] = &held else {
        return None; // already run or cancelled
    };
    if job.future.get().is_none_or(|future| future.is_done()) {
        return None;
    }
    let result = match context {
        None => call(function, args, kwargs.as_deref()),
        Some(context) => context::enter(context).and_then(|()| {
            let result = call(function, args, kwargs.as_deref());
            context::exit(context).and(result)
        }),
    };
    match result {
        Ok(value) => post(job, Outcome::Returned, value),
        Err(Raised) => post(job, Outcome::Raised, take_exception()),
    }
}

/// Sends the outcome to the loop, unless the loop is closed. Does not wake the loop: the caller
/// must do so, with the inbox that is returned.
fn post(job: &Native<Job>, kind: Outcome, outcome: Owned) -> Option<Mailbox> {
    job.outcome.set(outcome);
    job.kind.set(kind);
    let event_loop = job
        .future
        .get()
        .and_then(|future| future.event_loop().map(Object::own))?;
    let core = LoopCore::of(&event_loop)?;
    if core.is_closed() {
        return None;
    }
    // As in `call_soon_threadsafe`: while the loop does not run, the job goes to the ready ring,
    // where the collector sees it.
    if cfg!(not(Py_GIL_DISABLED)) && !core.is_running() {
        core.push_surely(Kind::Job, job.object().own());
        return None;
    }
    let inbox = core.engine().inbox();
    inbox.post(Remote(Item::new(Kind::Job, job.object().own())));
    Some(Arc::clone(inbox))
}

/// Completes the future of a job that has come back, unless the future has been cancelled.
pub(crate) fn deliver(core: &LoopCore, job: &Object) -> ControlFlow<Exit> {
    let Some(this) = job.exact::<Job>() else {
        return ControlFlow::Continue(());
    };
    match complete(this) {
        Ok(()) => ControlFlow::Continue(()),
        Err(Raised) => {
            let exception = take_exception();
            if is_exit(&exception) {
                return ControlFlow::Break(Exit::Raised(restore(exception)));
            }
            match report(core, job, &exception) {
                Ok(()) => ControlFlow::Continue(()),
                Err(raised) => ControlFlow::Break(Exit::Raised(raised)),
            }
        }
    }
}

fn complete(job: &Native<Job>) -> Res<()> {
    let (Some(future), Some(outcome)) = (job.future.take(), job.outcome.take()) else {
        return Ok(());
    };
    if future.is_done() {
        return Ok(());
    }
    match job.kind.get() {
        Outcome::Returned => future::finish(&future, outcome),
        Outcome::Raised => match CONVERT.get() {
            Some(convert) => future::fail(&future, &*convert.call(&[&outcome])?),
            None => future::fail(&future, &outcome),
        },
        Outcome::Cancelled => future::cancel(&future, None).map(drop),
    }
}

/// Reports an outcome that can't be set on the future, such as a `StopIteration` in some versions.
/// asyncio reports it as an error of a callback.
#[cold]
fn report(core: &LoopCore, job: &Object, exception: &Object) -> Res<()> {
    let details = Owned::dict()?;
    let message = format!("Exception in callback {}", job.repr()?.to_text()?);
    details.set_item(c"message", &*Owned::from_str(&message)?)?;
    details.set_item(c"exception", exception)?;
    core.object()
        .call_method(&names().call_exception_handler, &[&*details])?;
    Ok(())
}

// ---- the interface that `ThreadPoolExecutor` expects of its queue's items ----

fn get_future(job: &Object) -> Res<Owned> {
    Ok(job.own())
}

fn run_method(job: &Native<Job>, _: Args<'_>) -> Res<Owned> {
    if let Some(inbox) = run(job) {
        inbox.wake();
    }
    Ok(Owned::none())
}

fn end(job: &Native<Job>, kind: Outcome, outcome: Owned) {
    let held = [&job.function, &job.args, &job.kwargs, &job.context].map(Slot::take);
    if held[0].is_some()
        && let Some(inbox) = post(job, kind, outcome)
    {
        inbox.wake();
    }
}

fn cancel(job: &Native<Job>, _: Args<'_>) -> Res<Owned> {
    end(job, Outcome::Cancelled, Owned::none());
    Ok(Owned::from_bool(true))
}

fn set_exception(job: &Native<Job>, exception: &Object) -> Res<Owned> {
    end(job, Outcome::Raised, exception.own());
    Ok(Owned::none())
}

/// Makes the class.
pub(super) fn init_type() -> Res<()> {
    let convert = Owned::from_str("_convert_future_exc")?;
    CONVERT.fill(import("asyncio.futures")?.getattr_optional(&convert)?);
    let class = TypeBuilder::new::<Job>(c"rondel._rondel.Job", None, Job::offset())
        .not_instantiable()
        .collected::<Job>()
        .methods([
            method!(fast c"run" run_method, c"Makes the call."),
            method!(fast c"cancel" cancel, c"Cancels the future of a call that is not made."),
            method!(onearg c"set_exception" set_exception, c"Ends the future of a call that is not made."),
        ])
        .getset([attribute!(c"future" get_future)])
        .build()?;
    CLASS.set(&class);
    Ok(())
}
