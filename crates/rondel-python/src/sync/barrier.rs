//! `Barrier`: a number of tasks wait for one another.
//!
//! It *fills* until as many tasks wait as there are parties; then it *drains* until the last one has left, and fills
//! again. `reset()` sends those away that wait, `abort()` everybody for ever. All of this happens under a condition,
//! whose lock each task holds while it looks at the barrier.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use super::count::{Count, compare};
use super::names::{sync_imports, sync_names};
use super::primitive::{self, Bound, Primitive, describe, native_type};
use super::{condition, lock};
use crate::awaitable::{Class, Next, Steps, init_type as init_awaitable, iterator_of, make};
use crate::cpython::error::{raise, restore, take_exception};
use crate::cpython::freelist::free_list;
use crate::cpython::method::{Args, Method, attribute, method};
use crate::cpython::python_class::make_class;
use crate::cpython::types::visit;
use crate::cpython::{Object, Owned, Raised, Res, Slot, none};

/// What a barrier does. The order is that of `barrier_states`.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(usize)]
enum State {
    #[default]
    Filling = 0,
    Draining,
    Resetting,
    Broken,
    /// A program has set the attribute to something else.
    Other,
}

const STATES: [(State, &str); 4] = [
    (State::Filling, "filling"),
    (State::Draining, "draining"),
    (State::Resetting, "resetting"),
    (State::Broken, "broken"),
];

/// A barrier's fields.
#[repr(C)]
#[derive(Default)]
pub(super) struct Barrier {
    bound: Bound,
    /// The condition that all of it happens under.
    cond: Slot,
    parties: Count,
    /// How many tasks are in the barrier.
    count: Cell<i64>,
    state: Cell<State>,
    /// What a program has set as the state, if that is none.
    other: Slot,
}

static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

#[inline]
fn fields(barrier: &Object) -> &Barrier {
    primitive::fields(barrier)
}

// SAFETY: `repr(C)`, with a `Bound` first.
unsafe impl Primitive for Barrier {
    fn traverse(&self, visit: ffi::visitproc, arg: *mut c_void) -> c_int {
        visit!(visit, arg, self.cond, self.parties.slot(), self.other);
        0
    }

    fn clear(&self) {
        self.cond.clear();
        self.parties.slot().clear();
        self.other.clear();
    }

    fn init(object: &Object, args: Args<'_>) -> Res<()> {
        let [parties] = args.parse("Barrier.__init__", ["parties"], 1, 1)?;
        let parties = parties.unwrap_or(none());
        if compare(parties, &*Owned::from_i64(1)?, ffi::Py_LT)? {
            // The text differs between releases.
            return sync_imports().stock.barrier.call(&[parties]).map(drop);
        }
        let this = fields(object);
        this.cond.set(condition::new()?);
        this.parties.set(parties);
        this.state.set(State::Filling);
        this.count.set(0);
        Ok(())
    }

    fn repr(object: &Object) -> Res<Owned> {
        let this = fields(object);
        let state = match STATES.get(this.state.get() as usize) {
            Some((_, word)) => (*word).to_owned(),
            None => {
                let other = this.other.or_none();
                let value = other.getattr(&*Owned::from_str("value")?)?;
                value.str()?.to_text()?
            }
        };
        if this.state.get() == State::Broken {
            return describe(object, &state);
        }
        let parties = this.parties.get()?.repr()?.to_text()?;
        let waiting = this.waiting();
        describe(object, &format!("{state}, waiters:{waiting}/{parties}"))
    }
}

impl Barrier {
    fn waiting(&self) -> i64 {
        match self.state.get() {
            State::Filling => self.count.get(),
            _ => 0,
        }
    }

    fn notify_all(&self) -> Res<()> {
        let cond = self.cond.or_none();
        if condition::plain_lock(&cond).is_some_and(|lock| lock::is_locked(&lock)) {
            return condition::wake_all(&cond);
        }
        cond.call_method(&sync_names().notify_all, &[]).map(drop)
    }

    /// A task leaves. The last one to do so lets those in that wait for that.
    fn leave(&self) -> Res<()> {
        self.count.set(self.count.get() - 1);
        if self.count.get() != 0 {
            return Ok(());
        }
        if matches!(self.state.get(), State::Resetting | State::Draining) {
            self.state.set(State::Filling);
        }
        self.notify_all()
    }

    fn release(&self) -> Res<()> {
        let cond = self.cond.or_none();
        match condition::plain_lock(&cond) {
            Some(lock) => lock::release(&lock),
            None => cond.call_method(&sync_names().release, &[]).map(drop),
        }
    }

    fn acquire(&self) -> Res<Next> {
        let cond = self.cond.or_none();
        Ok(Next::Await(match condition::plain_lock(&cond) {
            Some(lock) => lock::acquire(&lock, true)?,
            None => iterator_of(&*cond.call_method(&sync_names().acquire, &[])?)?,
        }))
    }

    fn wait_for_change(&self) -> Res<Next> {
        let cond = self.cond.or_none();
        let wait = match condition::plain_lock(&cond) {
            Some(_) => condition::wait(&cond)?,
            None => cond.call_method(&sync_names().wait, &[])?,
        };
        Ok(Next::Await(iterator_of(&wait)?))
    }
}

// ---- wait, reset, abort ----

free_list!(FREE, 64);
static VISIT: Class = Class::new(
    // SAFETY: called by the type's `tp_dealloc` only, with a dead and empty instance.
    |object| FREE.with(|list| unsafe { list.keep(object) }),
    |class| FREE.with(|list| list.revive(class, false)),
);

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Purpose {
    Wait = 0,
    Enter,
    Reset,
    Abort,
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    Begin = 0,
    /// The lock is being taken.
    Locking,
    /// The barrier drains or is reset: nobody may enter.
    Blocked,
    /// In the barrier, until it is full.
    Inside,
}

/// One `wait()`, `async with`, `reset()` or `abort()`.
struct Visit {
    barrier: Slot,
    /// The number of this task in the barrier.
    index: Cell<i64>,
    purpose: Cell<Purpose>,
    stage: Cell<Stage>,
}

impl Steps for Visit {
    fn name(&self) -> &'static str {
        match self.purpose.get() {
            Purpose::Wait => "Barrier.wait",
            Purpose::Enter => "Barrier.__aenter__",
            Purpose::Reset => "Barrier.reset",
            Purpose::Abort => "Barrier.abort",
        }
    }

    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Next> {
        let barrier = self.barrier.or_none();
        let this = fields(&barrier);
        if self.stage.get() == Stage::Begin {
            self.stage.set(Stage::Locking);
            return this.acquire();
        }
        let awaited = awaited.unwrap_or(Err(Raised)).map(drop);
        if self.stage.get() == Stage::Locking {
            awaited?; // without the lock there is nothing to give back
            return self.holding_lock(this, Ok(()));
        }
        self.holding_lock(this, awaited)
    }

    fn release(&self) {
        self.barrier.clear();
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(&self.barrier);
    }

    fn class() -> &'static Class {
        &VISIT
    }
}

impl Visit {
    /// Goes on with the lock held. However it ends, the task leaves the barrier and gives the lock back.
    fn holding_lock(&self, this: &Barrier, awaited: Res<()>) -> Res<Next> {
        let result = awaited.and_then(|()| match self.purpose.get() {
            Purpose::Wait | Purpose::Enter => self.look(this),
            Purpose::Reset => reset(this),
            Purpose::Abort => {
                this.state.set(State::Broken);
                this.notify_all()?;
                Ok(Next::Return(Owned::none()))
            }
        });
        if let Ok(Next::Await(_)) = result {
            return result;
        }
        let result = result.map_err(|Raised| take_exception());
        let inside = self.stage.get() == Stage::Inside;
        let left = if inside { this.leave() } else { Ok(()) };
        let left = left.map_err(|Raised| take_exception());
        this.release()?;
        match (result, left) {
            (_, Err(error)) | (Err(error), _) => Err(restore(error)),
            (Ok(next), Ok(())) => Ok(next),
        }
    }

    /// Waits until the task may enter, then until it may go.
    fn look(&self, this: &Barrier) -> Res<Next> {
        if self.stage.get() != Stage::Inside {
            match this.state.get() {
                State::Draining | State::Resetting => {
                    self.stage.set(Stage::Blocked);
                    return this.wait_for_change();
                }
                State::Broken => return broken("Barrier aborted"),
                State::Filling | State::Other => {}
            }
            self.stage.set(Stage::Inside);
            let index = this.count.get();
            self.index.set(index);
            this.count.set(index + 1);
            if this.parties.get()?.equals(&*Owned::from_i64(index + 1)?)? {
                this.state.set(State::Draining);
                this.notify_all()?;
                return self.index();
            }
        }
        match this.state.get() {
            State::Filling => this.wait_for_change(),
            State::Draining | State::Other => self.index(),
            State::Broken | State::Resetting => broken("Abort or reset of barrier"),
        }
    }

    fn index(&self) -> Res<Next> {
        Ok(Next::Return(Owned::from_i64(self.index.get())?))
    }
}

fn reset(this: &Barrier) -> Res<Next> {
    this.state.set(if this.count.get() > 0 {
        State::Resetting
    } else {
        State::Filling
    });
    this.notify_all()?;
    Ok(Next::Return(Owned::none()))
}

fn broken<T>(text: &str) -> Res<T> {
    raise(&sync_imports().broken_barrier_error, text)
}

fn visit(barrier: &Object, purpose: Purpose) -> Res<Owned> {
    make::<Visit>(|visit| {
        visit.barrier.set(barrier.own());
        visit.purpose.set(purpose);
        visit.stage.set(Stage::Begin);
    })
}

// ---- async with ----

static LEAVE: Class = Class::new(|_| false, |_| None);

/// `__aexit__`, or `__aenter__` of a subclass, which awaits its `wait()`.
struct Edge {
    barrier: Slot,
    entering: Cell<bool>,
}

impl Steps for Edge {
    fn name(&self) -> &'static str {
        if self.entering.get() {
            "Barrier.__aenter__"
        } else {
            "Barrier.__aexit__"
        }
    }

    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Next> {
        match awaited {
            Some(result) => Ok(Next::Return(result?)),
            None if self.entering.get() => {
                let barrier = self.barrier.or_none();
                let wait = barrier.call_method(&sync_names().wait, &[])?;
                Ok(Next::Await(iterator_of(&wait)?))
            }
            None => Ok(Next::Return(Owned::none())),
        }
    }

    fn release(&self) {
        self.barrier.clear();
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(&self.barrier);
    }

    fn class() -> &'static Class {
        &LEAVE
    }
}

fn edge(barrier: &Object, entering: bool) -> Res<Owned> {
    make::<Edge>(|edge| {
        edge.barrier.set(barrier.own());
        edge.entering.set(entering);
    })
}

fn enter(barrier: &Object) -> Res<Owned> {
    let plain = ptr::eq(barrier.type_ptr(), CLASS.load(Ordering::Relaxed))
        && !fields(barrier).bound.is_patched();
    if plain {
        visit(barrier, Purpose::Enter)
    } else {
        edge(barrier, true)
    }
}

fn exit(barrier: &Object, _: Args<'_>) -> Res<Owned> {
    edge(barrier, false)
}

// ---- the class ----

fn wait_method(barrier: &Object) -> Res<Owned> {
    visit(barrier, Purpose::Wait)
}

fn reset_method(barrier: &Object) -> Res<Owned> {
    visit(barrier, Purpose::Reset)
}

fn abort_method(barrier: &Object) -> Res<Owned> {
    visit(barrier, Purpose::Abort)
}

fn get_parties(barrier: &Object) -> Res<Owned> {
    fields(barrier).parties.get()
}

fn set_parties(barrier: &Object, value: Option<&Object>) -> Res<()> {
    fields(barrier).parties.set(value.unwrap_or(none()));
    Ok(())
}

fn get_waiting(barrier: &Object) -> Res<Owned> {
    Owned::from_i64(fields(barrier).waiting())
}

fn get_broken(barrier: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(
        fields(barrier).state.get() == State::Broken,
    ))
}

fn get_count(barrier: &Object) -> Res<Owned> {
    Owned::from_i64(fields(barrier).count.get())
}

fn set_count(barrier: &Object, value: Option<&Object>) -> Res<()> {
    let count = value.unwrap_or(none()).to_isize()?;
    fields(barrier).count.set(count as i64);
    Ok(())
}

fn get_state(barrier: &Object) -> Res<Owned> {
    let this = fields(barrier);
    let known = sync_imports().barrier_states.get(this.state.get() as usize);
    Ok(known.map_or_else(|| this.other.or_none(), |state| state.own()))
}

fn set_state(barrier: &Object, value: Option<&Object>) -> Res<()> {
    let value = value.unwrap_or(none());
    let known = &sync_imports().barrier_states;
    let this = fields(barrier);
    match known.iter().position(|state| state.is(value)) {
        Some(index) => this.state.set(STATES[index].0),
        None => {
            this.state.set(State::Other);
            this.other.set(value.own());
        }
    }
    Ok(())
}

fn get_cond(barrier: &Object) -> Res<Owned> {
    Ok(fields(barrier).cond.or_none())
}

fn set_cond(barrier: &Object, value: Option<&Object>) -> Res<()> {
    drop(fields(barrier).cond.replace(value.map(Object::own)));
    Ok(())
}

fn methods() -> Vec<Method> {
    vec![
        method!(noargs c"wait" wait_method,
            c"Waits until as many tasks wait as there are parties. Gives this task's number among them, from 0."),
        method!(noargs c"reset" reset_method,
            c"Makes it empty again. Those that wait get a BrokenBarrierError."),
        method!(noargs c"abort" abort_method,
            c"Breaks it: all that wait, and will, get a BrokenBarrierError."),
        method!(noargs c"__aenter__" enter, c"wait()"),
        method!(fast c"__aexit__(*args)" exit, c"Nothing."),
    ]
}

/// Makes the class.
pub(super) fn init_type() -> Res<Owned> {
    init_awaitable::<Visit>(c"rondel._rondel.BarrierVisit")?;
    init_awaitable::<Edge>(c"rondel._rondel.BarrierEdge")?;
    let native = native_type::<Barrier>(c"rondel._rondel.NativeBarrier")
        .getset([
            attribute!(c"parties" get_parties),
            attribute!(c"n_waiting" get_waiting),
            attribute!(c"broken" get_broken),
            attribute!(c"_parties" get_parties, set_parties),
            attribute!(c"_count" get_count, set_count),
            attribute!(c"_state" get_state, set_state),
            attribute!(c"_cond" get_cond, set_cond),
        ])
        .build()?;
    let doc = "Lets a number of tasks wait for one another, as asyncio.Barrier.";
    let bases = [&*native, &*sync_imports().stock.barrier];
    let class = make_class("Barrier(parties)", doc, &bases, &methods())?;
    CLASS.store(class.clone().into_ptr().cast(), Ordering::Relaxed);
    Ok(class)
}
