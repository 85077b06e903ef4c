//! The class `rondel._rondel.LoopCore`: construction, garbage collection and deallocation of loops.

use std::cell::{Cell, RefCell};
use std::ffi::c_int;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use pyo3::ffi;
use rondel_engine::event_loop::clock::{Clock, Jump};

use super::{calls, descriptors, item_call, run, steps};
use crate::cpython::collected::{Collected, slots};
use crate::cpython::context::Contexts;
use crate::cpython::error::{guard, guard_object, raise_os_error, type_error};
use crate::cpython::method::with_tuple_and_dict;
use crate::cpython::types::{TypeBuilder, allocate, bind_method, free, slot_fn};
use crate::cpython::{Fields, Native, Object, Owned, Res, Slot};
use crate::kernel_calls;
use crate::loop_core::core::{BOUND, CLASS};
use crate::loop_core::current_task::CurrentTask;
use crate::loop_core::files::Files;
use crate::loop_core::item::{Engine, PyHost};
use crate::loop_core::task_list::TaskList;
use crate::loop_core::written::TurnWrites;
use crate::loop_core::{LoopCore, nanos};

unsafe extern "C" fn new(
    class: *mut ffi::PyTypeObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    guard_object(|| {
        // SAFETY: the slot's contract.
        let clock = unsafe {
            with_tuple_and_dict(args, kwargs, |args| {
                let [virtual_start] = args.parse("LoopCore", ["virtual_start"], 0, 0)?;
                match virtual_start.filter(|start| !start.is_none()) {
                    Some(start) => Ok(Clock::at(nanos(start.to_f64()?), Jump::Always)),
                    None => Ok(Clock::Monotonic),
                }
            })?
        };
        // SAFETY: no other code sees the object before the core is initialised; if making the
        // engine fails, the zeroed object is untracked and freed without its destructor.
        unsafe {
            kernel_calls::init()?;
            let object = allocate(class)?;
            let core = object
                .as_ptr()
                .byte_add(LoopCore::offset())
                .cast::<LoopCore>();
            let engine = match Engine::new(PyHost::new(NonNull::new_unchecked(core)), clock) {
                Ok(engine) => engine,
                Err(error) => {
                    let object = object.into_ptr();
                    ffi::PyObject_GC_UnTrack(object.cast());
                    free(object);
                    return raise_os_error(&error);
                }
            };
            core.write(LoopCore {
                engine,
                thread: Cell::new(0),
                closed: Cell::new(false),
                debug: Cell::new(false),
                watches_items: Cell::new(false),
                is_woken: Cell::new(false),
                handed_over: Cell::new(false),
                overridden: Cell::new(0),
                overridden_by_class: Cell::new(0),
                class_version: Cell::new(0),
                task_factory: Slot::default(),
                attributes: Slot::default(),
                contexts: Contexts::default(),
                waiters: RefCell::default(),
                current: CurrentTask::default(),
                tasks: TaskList::default(),
                files: Files::default(),
                writes: TurnWrites::new(NonNull::new_unchecked(&raw mut (*core).writes)),
                to_notify: Cell::new(None),
            });
            (*core).current.init(&object)?;
            (*core).note_class()?;
            Ok(object)
        }
    })
}

// SAFETY: the core follows the header and is initialised by `tp_new`.
unsafe impl Fields for LoopCore {}

// SAFETY: all references of the core are visited except `waiters`, which have no other references
// and refer only to the loop.
unsafe impl Collected for LoopCore {
    slots!(task_factory, attributes);

    fn for_each_other(&self, see: &mut dyn FnMut(&Object)) {
        self.engine.for_each_ready(|item| see(item.object()));
        self.engine.for_each_timer(|timer| see(timer.object()));
        self.engine.for_each_source(|source| see(source.object()));
        self.files.for_each(&mut *see);
        if let Some(context) = self.contexts.slot().get() {
            see(context);
        }
        self.writes.for_each(see);
    }

    fn release_others(&self) {
        self.release();
    }

    fn dies(this: &Native<Self>) {
        this.tasks.orphan();
        this.current.end();
        this.notify_worker();
    }
}

unsafe extern "C" fn setattro(
    object: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> c_int {
    guard(-1, || {
        // SAFETY: the slot's contract.
        unsafe {
            let result = ffi::PyObject_GenericSetAttr(object, name, value);
            if result == 0 {
                let (core, name) = (
                    LoopCore::of_loop(Object::from_ptr(object)),
                    Object::from_ptr(name),
                );
                core.note_override(name, !value.is_null());
                core.note_attribute(name)?;
            }
            Ok(result)
        }
    })
}

/// Makes the class.
pub(crate) fn init_type() -> Res<Owned> {
    item_call::init_type()?;
    let class = TypeBuilder::new::<LoopCore>(c"rondel._rondel.LoopCore", None, LoopCore::offset())
        .subclassable()
        .doc(c"The native half of rondel.EventLoop.")
        .slot(ffi::Py_tp_new, slot_fn!(new, ffi::newfunc))
        .collected::<LoopCore>()
        .slot(ffi::Py_tp_setattro, slot_fn!(setattro, ffi::setattrofunc))
        .methods(calls::methods())
        .methods(descriptors::methods())
        .methods(run::methods())
        .methods(steps::methods())
        .getset(run::attributes())
        .build()?;
    CLASS.store(class.clone().into_ptr().cast(), Ordering::Relaxed);
    BOUND.store(class.clone().into_ptr().cast(), Ordering::Relaxed);
    Ok(class)
}

/// `_rondel.bind_methods(cls)`: copies the hot methods into a subclass.
pub(crate) fn bind_methods(_: &Object, class: &Object) -> Res<Owned> {
    if !class.derives_from(&CLASS) {
        return type_error("bind_methods() takes a class that derives from LoopCore");
    }
    for method in &calls::methods() {
        bind_method(class, method)?;
    }
    BOUND.store(class.own().into_ptr().cast(), Ordering::Relaxed);
    Ok(Owned::none())
}
