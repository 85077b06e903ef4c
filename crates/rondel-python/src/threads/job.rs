//! One call in a thread: what is called, and the future that its outcome goes to.
//!
//! A job is made in the loop's thread and waits in a [`queue`](super::queue). A worker runs it and
//! puts it, the outcome in it, into the loop's inbox; from the ready ring it comes to [`deliver`].
//! A job whose future is cancelled before it runs is not run. For what `ThreadPoolExecutor` does
//! with the items of its queue a job has `future`, which is the job itself, with `cancel()` and
//! `set_exception()`.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::Arc;

use rondel_engine::event_loop::inbox::Inbox;
use rondel_engine::reactor::Wake;

use crate::cpython::call::call;
use crate::cpython::collected::{Collected, slots};
use crate::cpython::error::{is_exit, restore, take_exception};
use crate::cpython::method::{Args, attribute, method};
use crate::cpython::names::{Table, import};
use crate::cpython::types::{TypeBuilder, allocate};
use crate::cpython::{
    Class, Fields, Native, NativeClass, Object, Owned, OwnedNative, Raised, Res, Slot, context,
    names,
};
use crate::future;
use crate::loop_core::LoopCore;
use crate::loop_core::item::{Exit, Item, Kind, Remote};

pub(super) type Mailbox = Arc<Inbox<Remote, Wake>>;

/// How a call ended. All zero, before it has, is as good as any: there is no outcome then.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Outcome {
    Returned = 0,
    Raised,
    /// The executor was shut down, and drops what is queued.
    Cancelled,
}

#[repr(C)]
pub(super) struct Job {
    future: Slot,
    function: Slot,
    /// A tuple.
    args: Slot,
    /// A dict, or nothing.
    kwargs: Slot,
    /// What to run in; nothing for the thread's own context.
    context: Slot,
    /// The result, or the exception.
    outcome: Slot,
    kind: Cell<Outcome>,
}

// SAFETY: the fields stand behind the header; zeroed ones are valid.
unsafe impl Fields for Job {}

// SAFETY: it shows all that it holds.
unsafe impl Collected for Job {
    slots!(future, function, args, kwargs, context, outcome);
}

static CLASS: Class = Class::new();

// SAFETY: the class is made for these fields, and can't be subclassed.
unsafe impl NativeClass for Job {
    fn class() -> &'static Class {
        &CLASS
    }
}

/// asyncio's translation of `concurrent.futures` exceptions into its own.
static CONVERT: Table<Option<Owned>> = Table::new();

/// A call to be made.
pub(crate) struct Call<'a> {
    pub(crate) function: &'a Object,
    pub(crate) args: Owned,
    pub(crate) kwargs: Option<Owned>,
    pub(crate) context: Option<Owned>,
}

/// A job and the future, of a loop of ours, that it will complete.
pub(super) fn new_job(event_loop: &Object, call: Call<'_>) -> Res<(OwnedNative<Job>, Owned)> {
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

/// Runs a job, in a worker's thread. Gives the inbox whose loop is to be woken once this thread
/// releases the GIL.
pub(super) fn run(job: &Native<Job>) -> Option<Mailbox> {
    let wanted = |future: &Object| !future::fields(future).is_done();
    // Kept to the end: releasing them may run code of the program's, which is no part of the call.
    let held = [&job.function, &job.args, &job.kwargs, &job.context].map(Slot::take);
    let [Some(function), Some(args), kwargs, context] = &held else {
        return None; // run or cancelled before
    };
    if !job.future.get().is_some_and(wanted) {
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

/// Sends the outcome to the loop, unless that is closed. Its wait is not ended: that is for the
/// caller to do.
fn post(job: &Native<Job>, kind: Outcome, outcome: Owned) -> Option<Mailbox> {
    job.outcome.set(outcome);
    job.kind.set(kind);
    let event_loop = job
        .future
        .get()
        .and_then(|future| future::fields(future).event_loop().map(Object::own))?;
    let core = LoopCore::of(&event_loop)?;
    if core.is_closed() {
        return None;
    }
    // As in `call_soon_threadsafe`: while nobody runs the loop, the ring is where the collector
    // sees it.
    if cfg!(not(Py_GIL_DISABLED)) && !core.is_running() {
        core.push_surely(Kind::Job, job.object().own());
        return None;
    }
    let inbox = core.engine().inbox();
    inbox.post(Remote(Item::new(Kind::Job, job.object().own())));
    Some(Arc::clone(inbox))
}

/// A job that is back: its future gets the outcome, unless it was cancelled meanwhile.
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
    if future::fields(&future).is_done() {
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

/// What can't be put into the future, as a `StopIteration` in some versions, is an error of a
/// callback in asyncio.
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

// ---- what `ThreadPoolExecutor` does with the items of its queue ----

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
