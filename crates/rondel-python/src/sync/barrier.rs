//! `Barrier`: a number of tasks wait for one another.
//!
//! It *fills* until as many tasks wait as there are parties, then *drains* until the last one has
//! left, and fills again. `reset()` makes the waiting tasks fail; `abort()` makes all present and
//! future ones fail. All of this happens under a condition: each task holds its lock while it
//! accesses the barrier.

use std::cell::Cell;

use pyo3::ffi;

use super::acquire::acquire;
use super::condition::{self, Condition};
use super::count::{Count, compare};
use super::lock;
use super::names::sync_imports;
use super::primitive::{Bound, Primitive, describe, native_type, new_instance, plain};
use crate::awaitable::{
    self, Next, Steps, awaitable_class, init_type as init_awaitable, iterator_of, make,
};
use crate::cpython::collected::Collected;
use crate::cpython::error::{raise, restore, take_exception};
use crate::cpython::method::{Args, Method, attribute, method};
use crate::cpython::names;
use crate::cpython::python_class::make_class;
use crate::cpython::{
    Class, Fields, Native, NativeClass, NativeSlot, Object, Owned, Raised, Res, Slot, none,
};

/// The state of a barrier. The order is that of `barrier_states`.
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
#[derive(Default)]
pub(super) struct Barrier {
    bound: Bound,
    /// The condition `_cond`, whose lock protects the barrier.
    cond: Slot,
    parties: Count,
    /// How many tasks are in the barrier.
    count: Cell<i64>,
    state: Cell<State>,
    /// The state attribute set by a program, if it is not a `_BarrierState`.
    other: Slot,
}

static CLASS: Class = Class::new();

// SAFETY: the fields lie behind the object header; `tp_new` initializes them.
unsafe impl Fields for Barrier {}

// SAFETY: the class derives from the native class, which is sized for these fields.
unsafe impl NativeClass for Barrier {
    fn class() -> &'static Class {
        &CLASS
    }
}

// SAFETY: every owned object is shown to the visitor.
unsafe impl Collected for Barrier {
    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(&self.bound.event_loop);
        see(&self.cond);
        see(self.parties.slot());
        see(&self.other);
    }
}

impl Primitive for Barrier {
    fn bound(&self) -> &Bound {
        &self.bound
    }

    fn init(this: &Native<Self>, args: Args<'_>) -> Res<()> {
        let [parties] = args.parse("Barrier.__init__", ["parties"], 1, 1)?;
        let parties = parties.unwrap_or(none());
        if compare(parties, &*Owned::from_i64(1)?, ffi::Py_LT)? {
            // asyncio's own raises: the text differs between releases.
            return sync_imports().stock_barrier.call(&[parties]).map(drop);
        }
        this.cond.set(new_instance::<Condition>()?.into_owned());
        this.parties.set(parties);
        this.state.set(State::Filling);
        this.count.set(0);
        Ok(())
    }

    fn repr(this: &Native<Self>) -> Res<Owned> {
        let state = match STATES.get(this.state.get() as usize) {
            Some((_, word)) => (*word).to_owned(),
            None => {
                let other = this.other.or_none();
                let value = other.getattr(&*Owned::from_str("value")?)?;
                value.str()?.to_text()?
            }
        };
        if this.state.get() == State::Broken {
            return describe(this.object(), &state);
        }
        let parties = this.parties.get()?.repr()?.to_text()?;
        let waiting = this.waiting();
        describe(
            this.object(),
            &format!("{state}, waiters:{waiting}/{parties}"),
        )
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
        match plain::<Condition>(&cond) {
            Some(condition)
                if condition::plain_lock(&cond).is_some_and(|lock| lock::is_locked(&lock)) =>
            {
                condition.wake_all()
            }
            _ => cond.call_method(&names().notify_all, &[]).map(drop),
        }
    }

    /// A task leaves. The last one to leave wakes the tasks that wait to enter.
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
        condition::release(&self.cond.or_none())
    }

    fn acquire(&self) -> Res<Next> {
        let cond = self.cond.or_none();
        Ok(Next::Await(match condition::plain_lock(&cond) {
            Some(lock) => acquire(&*lock, true)?,
            None => iterator_of(&*cond.call_method(&names().acquire, &[])?)?,
        }))
    }

    fn wait_for_change(&self) -> Res<Next> {
        let cond = self.cond.or_none();
        let wait = match (plain::<Condition>(&cond), condition::plain_lock(&cond)) {
            (Some(condition), Some(_)) => condition::wait(condition)?,
            _ => cond.call_method(&names().wait, &[])?,
        };
        Ok(Next::Await(iterator_of(&wait)?))
    }
}

// ---- wait, reset, abort ----

awaitable_class!(VISIT, 64);

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
    /// Acquiring the lock.
    Locking,
    /// Waiting to enter: the barrier is draining or resetting.
    Blocked,
    /// In the barrier, waiting until it is full.
    Inside,
}

/// The state of one `wait()`, `async with`, `reset()` or `abort()` call.
struct Visit {
    barrier: NativeSlot<Barrier>,
    /// The index of this task in the barrier, from 0.
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
        let Some(barrier) = self.barrier.cloned() else {
            return Ok(Next::Return(Owned::none()));
        };
        let this: &Barrier = &barrier;
        if self.stage.get() == Stage::Begin {
            self.stage.set(Stage::Locking);
            return this.acquire();
        }
        let awaited = awaited.unwrap_or(Err(Raised)).map(drop);
        if self.stage.get() == Stage::Locking {
            awaited?; // the lock is not held, so it need not be released
            return self.holding_lock(this, Ok(()));
        }
        self.holding_lock(this, awaited)
    }

    fn release(&self) {
        self.barrier.clear();
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(self.barrier.slot());
    }

    fn class() -> &'static awaitable::Class {
        &VISIT
    }
}

impl Visit {
    /// Continues with the lock held. However it ends, the task leaves the barrier and releases the
    /// lock.
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

    /// Waits until the task may enter, then until the barrier is full.
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

fn visit(barrier: &Native<Barrier>, purpose: Purpose) -> Res<Owned> {
    make::<Visit>(|visit| {
        visit.barrier.fill(barrier.own());
        visit.purpose.set(purpose);
        visit.stage.set(Stage::Begin);
    })
}

// ---- async with ----

static LEAVE: awaitable::Class = awaitable::Class::new(|_| false, |_| None);

/// The state of one `__aexit__()` call, or of `__aenter__()` of a subclass, which awaits its
/// `wait()`.
struct Edge {
    barrier: NativeSlot<Barrier>,
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
                let barrier = self.barrier.slot().or_none();
                let wait = barrier.call_method(&names().wait, &[])?;
                Ok(Next::Await(iterator_of(&wait)?))
            }
            None => Ok(Next::Return(Owned::none())),
        }
    }

    fn release(&self) {
        self.barrier.clear();
    }

    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot)) {
        see(self.barrier.slot());
    }

    fn class() -> &'static awaitable::Class {
        &LEAVE
    }
}

fn edge(barrier: &Native<Barrier>, entering: bool) -> Res<Owned> {
    make::<Edge>(|edge| {
        edge.barrier.fill(barrier.own());
        edge.entering.set(entering);
    })
}

fn enter(barrier: &Native<Barrier>) -> Res<Owned> {
    match plain::<Barrier>(barrier.object()) {
        Some(barrier) => visit(barrier, Purpose::Enter),
        None => edge(barrier, true),
    }
}

fn exit(barrier: &Native<Barrier>, _: Args<'_>) -> Res<Owned> {
    edge(barrier, false)
}

// ---- the class ----

fn wait_method(barrier: &Native<Barrier>) -> Res<Owned> {
    visit(barrier, Purpose::Wait)
}

fn reset_method(barrier: &Native<Barrier>) -> Res<Owned> {
    visit(barrier, Purpose::Reset)
}

fn abort_method(barrier: &Native<Barrier>) -> Res<Owned> {
    visit(barrier, Purpose::Abort)
}

fn get_parties(barrier: &Native<Barrier>) -> Res<Owned> {
    barrier.parties.get()
}

fn set_parties(barrier: &Native<Barrier>, value: Option<&Object>) -> Res<()> {
    barrier.parties.set(value.unwrap_or(none()));
    Ok(())
}

fn get_waiting(barrier: &Native<Barrier>) -> Res<Owned> {
    Owned::from_i64(barrier.waiting())
}

fn get_broken(barrier: &Native<Barrier>) -> Res<Owned> {
    Ok(Owned::from_bool(barrier.state.get() == State::Broken))
}

fn get_count(barrier: &Native<Barrier>) -> Res<Owned> {
    Owned::from_i64(barrier.count.get())
}

fn set_count(barrier: &Native<Barrier>, value: Option<&Object>) -> Res<()> {
    let count = value.unwrap_or(none()).to_isize()?;
    barrier.count.set(count as i64);
    Ok(())
}

fn get_state(barrier: &Native<Barrier>) -> Res<Owned> {
    let known = sync_imports()
        .barrier_states
        .get(barrier.state.get() as usize);
    Ok(known.map_or_else(|| barrier.other.or_none(), |state| state.own()))
}

fn set_state(barrier: &Native<Barrier>, value: Option<&Object>) -> Res<()> {
    let value = value.unwrap_or(none());
    let known = &sync_imports().barrier_states;
    match known.iter().position(|state| state.is(value)) {
        Some(index) => barrier.state.set(STATES[index].0),
        None => {
            barrier.state.set(State::Other);
            barrier.other.set(value.own());
        }
    }
    Ok(())
}

fn get_cond(barrier: &Native<Barrier>) -> Res<Owned> {
    Ok(barrier.cond.or_none())
}

fn set_cond(barrier: &Native<Barrier>, value: Option<&Object>) -> Res<()> {
    drop(barrier.cond.replace(value.map(Object::own)));
    Ok(())
}

fn methods() -> Vec<Method> {
    vec![
        method!(noargs c"wait" wait_method,
            c"Waits until as many tasks wait as there are parties. Returns the index of this task among them."),
        method!(noargs c"reset" reset_method,
            c"Returns the barrier to its initial state. Tasks that wait get BrokenBarrierError."),
        method!(noargs c"abort" abort_method,
            c"Breaks the barrier: tasks that wait get BrokenBarrierError, and so do later calls of wait() until reset()."),
        method!(noargs c"__aenter__" enter, c"wait()"),
        method!(fast c"__aexit__(*args)" exit, c"Nothing."),
    ]
}

/// Creates the class.
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
    let bases = [&*native, &*sync_imports().stock_barrier];
    let class = make_class("Barrier(parties)", doc, &bases, &methods())?;
    CLASS.set(&class);
    Ok(class)
}
