//! The class `rondel._rondel.LoopCore`: how a loop is made, what the collector sees of it, how it dies.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering;

use pyo3::ffi;
use rondel_engine::event_loop::clock::{Clock, Jump};

use super::{calls, descriptors, item_call, run, steps};
use crate::cpython::context::Contexts;
use crate::cpython::error::{guard, guard_object, raise_os_error, type_error};
use crate::cpython::method::with_tuple_and_dict;
use crate::cpython::types::{TypeBuilder, allocate, bind_method, free, slot_fn};
use crate::cpython::{Object, Owned, Res, Slot};
use crate::kernel_calls;
use crate::loop_core::core::{BOUND, CLASS, OFFSET};
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
        // SAFETY: the object is not seen by anyone before the core is whole; should making the engine fail, the
        // zeroed object is freed without its destructor.
        unsafe {
            kernel_calls::init()?;
            let object = allocate(class)?;
            let core = object.as_ptr().byte_add(OFFSET).cast::<LoopCore>();
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
                engine: ManuallyDrop::new(engine),
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

unsafe extern "C" fn traverse(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector passes a live instance.
    let core = unsafe {
        let result = visit(ffi::Py_TYPE(object).cast(), arg);
        if result != 0 {
            return result;
        }
        LoopCore::of_loop(Object::from_ptr(object))
    };
    let mut result = 0;
    let mut see = |object: &Object| {
        if result == 0 {
            // SAFETY: the collector's own visitor, with a live object.
            result = unsafe { visit(object.as_ptr(), arg) };
        }
    };
    core.engine.for_each_ready(|item| see(item.object()));
    core.engine.for_each_timer(|timer| see(&timer.0));
    core.engine.for_each_source(|source| see(source.object()));
    core.files.for_each(&mut see);
    for slot in [&core.task_factory, &core.attributes, core.contexts.slot()] {
        if let Some(object) = slot.get() {
            see(object);
        }
    }
    core.writes.for_each(&mut see);
    result
}

unsafe extern "C" fn clear(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: the collector passes a live instance.
    let core = LoopCore::of_loop(unsafe { Object::from_ptr(object) });
    core.release();
    0
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: the interpreter passes a dead instance; the core is dropped once and not used after that.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        let core = object.byte_add(OFFSET).cast::<LoopCore>();
        (*core).release();
        (*core).tasks.orphan();
        (*core).current.end();
        ManuallyDrop::drop(&mut (*core).engine);
        (*core).notify_worker();
        // The tables that are empty by now have memory.
        ptr::drop_in_place(core);
        free(object);
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
    let class = TypeBuilder::new::<LoopCore>(c"rondel._rondel.LoopCore", None, OFFSET)
        .subclassable()
        .doc(c"The native half of rondel.EventLoop.")
        .slot(ffi::Py_tp_new, slot_fn!(new, ffi::newfunc))
        .slot(ffi::Py_tp_traverse, slot_fn!(traverse, ffi::traverseproc))
        .slot(ffi::Py_tp_clear, slot_fn!(clear, ffi::inquiry))
        .slot(ffi::Py_tp_dealloc, slot_fn!(dealloc, ffi::destructor))
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

/// `_rondel.bind_methods(cls)`: puts the hot methods into a subclass as its own.
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
