//! `to_thread`: a call in a thread of the loop's default executor, in a copy of the context.

use crate::awaitable::{
    Class, Next, Steps, awaitable_class, init_type as init_awaitable, iterator_of, make,
};
use crate::cpython::error::{runtime_error, type_error};
use crate::cpython::method::{self, Args, method};
use crate::cpython::names::{Table, import};
use crate::cpython::{Object, Owned, Res, Slot, context, names, none};
use crate::loop_core::LoopCore;
use crate::loop_core::running_loop::running_loop;

use super::job::Call;
use super::submit::submit_to_default;

awaitable_class!(CLASS, 64);

/// `functools.partial`.
static PARTIAL: Table<Owned> = Table::new();

/// One `to_thread()` call.
struct ToThread {
    function: Slot,
    /// A tuple.
    args: Slot,
    /// A dict, or empty.
    kwargs: Slot,
}

impl Steps for ToThread {
    fn name(&self) -> &'static str {
        "to_thread"
    }

    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Next> {
        match awaited {
            Some(result) => Ok(Next::Return(result?)),
            None => self.begin(),
        }
    }

    fn release(&self) {
        self.function.clear();
        self.args.clear();
        self.kwargs.clear();
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(&self.function);
        see(&self.args);
        see(&self.kwargs);
    }

    fn class() -> &'static Class {
        &CLASS
    }
}

impl ToThread {
    fn begin(&self) -> Res<Next> {
        let event_loop = running_loop()?;
        if event_loop.is_none() {
            return runtime_error("no running event loop");
        }
        let (function, args) = (self.function.or_none(), self.args.or_none());
        let kwargs = self.kwargs.take();
        let context = context::copy_current()?;
        if let Some(core) = LoopCore::of(&event_loop)
            && core.runs_in_executor_directly()
            && !core.is_closed()
        {
            let call = Call {
                function: &function,
                args: args.clone(),
                kwargs: kwargs.clone(),
                context: Some(context.clone()),
            };
            if let Some(future) = submit_to_default(&event_loop, call)? {
                return Ok(Next::Await(future));
            }
        }
        let call = partial(&context, &function, &args, kwargs.as_deref())?;
        let future = event_loop.call_method(&names().run_in_executor, &[none(), &call])?;
        Ok(Next::Await(iterator_of(&future)?))
    }
}

/// `partial(context.run, function, *args, **kwargs)`.
#[cold]
fn partial(
    context: &Object,
    function: &Object,
    args: &Object,
    kwargs: Option<&Object>,
) -> Res<Owned> {
    let run = context.getattr(&*Owned::from_str("run")?)?;
    let items = crate::cpython::object::tuple_len(args);
    let mut all: Vec<&Object> = vec![&run, function];
    all.extend((0..items).map(|index| crate::cpython::object::tuple_item(args, index)));
    let all = Owned::tuple(&all)?;
    // SAFETY: a live callable, a tuple, and a dict or null.
    unsafe {
        Owned::steal(pyo3::ffi::PyObject_Call(
            PARTIAL.get().as_ptr(),
            all.as_ptr(),
            kwargs.map_or(std::ptr::null_mut(), Object::as_ptr),
        ))
    }
}

/// `to_thread(func, /, *args, **kwargs)`.
fn to_thread(_: &Object, args: Args<'_>) -> Res<Owned> {
    let [function, rest @ ..] = args.positional() else {
        return type_error("to_thread() missing 1 required positional argument: 'func'");
    };
    let positional = Owned::tuple(rest)?;
    let keywords = if args.has_named() {
        let dict = Owned::dict()?;
        for (name, value) in args.named() {
            dict.set(name, value)?;
        }
        Some(dict)
    } else {
        None
    };
    make::<ToThread>(|this| {
        this.function.set((*function).own());
        this.args.set(positional);
        drop(this.kwargs.replace(keywords));
    })
}

/// Makes the function `to_thread`.
pub(super) fn init() -> Res<Owned> {
    PARTIAL.fill(import("functools")?.getattr(&*Owned::from_str("partial")?)?);
    init_awaitable::<ToThread>(c"rondel._rondel.ToThread")?;
    method::function(
        method!(fast c"to_thread(func, /, *args, **kwargs)" to_thread,
        c"Calls func in a thread, in a copy of the current context, and returns its result."),
    )
}
