//! Native code behind Python functions.
//!
//! What asyncio writes in Python is a Python function: it has `__code__` and `__defaults__`, and
//! `inspect`, `mock`, frameworks and tracers check whether it is a coroutine function. So a native
//! method or function is presented as a Python function, too. `python/rondel/_functions.py` creates
//! it: with the names, parameters and flags of asyncio's code, and bytecode that calls a
//! [`NativeCode`], which is a constant of that code. The bytecode is always correct, but slow. From
//! 3.12 on a function may have its own vectorcall, which calls the C function directly (3.11 uses
//! it only for calls from C: `function_311.rs`).
//!
//! Changes to the function take effect: unless it finds the code and the defaults that the function
//! was made with, the vectorcall runs the bytecode (for the defaults of keywords: `kwdefaults.rs`).
//! An object of a foreign class goes to the method's own type check.

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use pyo3::ffi;

use super::collected::{Collected, slots};
use super::direct_call;
use super::error::type_error;
use super::kwdefaults;
use super::method::{Args, FastFn, Method, NoArgsFn, function, method};
use super::native::Fields;
use super::special;
use super::types::{TypeBuilder, allocate};
use super::{Object, Owned, Res, Slot};

/// What a function calls. It holds everything that the function of a method needs.
#[repr(C)]
struct NativeCode {
    vectorcall: Cell<Option<ffi::vectorcallfunc>>,
    /// The method descriptor or built-in function.
    target: Slot,
    /// The code and the defaults of the function, to be compared only.
    code: Cell<*const ffi::PyObject>,
    defaults: Cell<*const ffi::PyObject>,
    /// The class that most objects are of, and the one that all must be of.
    class: Cell<*mut ffi::PyTypeObject>,
    owner: Cell<*mut ffi::PyTypeObject>,
    definition: Cell<*const ffi::PyMethodDef>,
    /// The definition's function, where it takes a vector of arguments or no more than one.
    fast: Cell<Option<FastFn>>,
    one: Cell<Option<NoArgsFn>>,
}

// SAFETY: the fields stand behind the header; zeroed ones are valid.
unsafe impl Fields for NativeCode {}

// SAFETY: it shows all that it holds.
unsafe impl Collected for NativeCode {
    slots!(target);
}

static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
/// The vectorcall that every function has at first: the one that runs bytecode.
static RUN_BYTECODE: AtomicUsize = AtomicUsize::new(0);

/// Where a code object has its constants.
const CONSTANTS: usize = size_of::<ffi::PyVarObject>();

/// What the bytecode calls.
unsafe extern "C" fn call_target(
    native: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: usize,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a live instance, which holds what is called, and a call's arguments, passed on as
    // they are.
    unsafe {
        match NativeCode::of(Object::from_ptr(native)).target.get() {
            Some(target) => ffi::PyObject_Vectorcall(target.as_ptr(), args, nargs, kwnames),
            None => ffi::PyErr_NoMemory(),
        }
    }
}

/// The native code of a function, if that has the code and the defaults that it was made with.
#[inline(always)]
unsafe fn code_of<'a>(callable: *mut ffi::PyObject) -> Option<&'a NativeCode> {
    // SAFETY: a live function; `attach` has proved where its code has the constants, a tuple. The
    // last of them is what it is made with, and lives as long as the code.
    unsafe {
        let function = callable.cast::<ffi::PyFunctionObject>();
        let code = (*function).func_code;
        let constants = *code.byte_add(CONSTANTS).cast::<*mut ffi::PyObject>();
        let len = ffi::Py_SIZE(constants);
        if len == 0 {
            return None;
        }
        let last = ffi::PyTuple_GET_ITEM(constants, len - 1);
        if !ptr::eq(ffi::Py_TYPE(last), CLASS.load(Ordering::Relaxed)) {
            return None;
        }
        let native = NativeCode::of(Object::from_ptr(last));
        let is_itself = ptr::eq(native.code.get(), code)
            && ptr::eq(native.defaults.get(), (*function).func_defaults);
        is_itself.then_some(native)
    }
}

/// Calls a method's function where the direct call does not apply: with an instance of a subclass,
/// or by its bytecode.
///
/// # Safety
/// A live function that [`attach`] was called with, and a call's arguments.
#[inline(never)]
pub(super) unsafe extern "C" fn call_otherwise(
    callable: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: usize,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: guaranteed by the caller; the definition's flags say what its function takes.
    unsafe {
        let count = ffi::PyVectorcall_NARGS(nargs);
        if let Some(native) = code_of(callable)
            && count > 0
            && ffi::PyType_IsSubtype(ffi::Py_TYPE(*args), native.owner.get()) != 0
        {
            let plain = kwnames.is_null();
            match (native.fast.get(), native.one.get()) {
                (Some(call), _) => return call(*args, args.add(1), count - 1, kwnames),
                (None, Some(call)) if plain && count == 1 && native.takes_none() => {
                    return call(*args, ptr::null_mut());
                }
                (None, Some(call)) if plain && count == 2 && !native.takes_none() => {
                    return call(*args, *args.add(1));
                }
                _ => {}
            }
        }
        run_bytecode(callable, args, nargs, kwnames)
    }
}

/// Calls a function as the interpreter calls any.
///
/// # Safety
/// A live function that [`attach`] was called with, and a call's arguments.
#[cold]
#[inline(never)]
unsafe fn run_bytecode(
    callable: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: usize,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: `attach` has filled it with a function's own vectorcall; the call's arguments are
    // passed on as they are.
    unsafe {
        let run: ffi::vectorcallfunc = std::mem::transmute(RUN_BYTECODE.load(Ordering::Relaxed));
        run(callable, args, nargs, kwnames)
    }
}

unsafe extern "C" fn call_function_fast(
    callable: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    nargs: usize,
    kwnames: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a live function, which holds its code, and a call's arguments; functions of the
    // module ignore what they are bound to.
    unsafe {
        if let Some(native) = code_of(callable) {
            let call: FastFn = (*native.definition.get())
                .ml_meth
                .PyCFunctionFastWithKeywords;
            let count = ffi::PyVectorcall_NARGS(nargs);
            return call(native.class.get().cast(), args, count, kwnames);
        }
        run_bytecode(callable, args, nargs, kwnames)
    }
}

/// The layout of `PyMethodDescrObject`, as far as it is read here: `Include/cpython/descrobject.h`.
#[repr(C)]
struct MethodDescriptor {
    ob_base: ffi::PyObject,
    class: *mut ffi::PyTypeObject,
    name: *mut ffi::PyObject,
    qualname: *mut ffi::PyObject,
    definition: *mut ffi::PyMethodDef,
}

/// `native_code(target, cls=None)`: what the bytecode of a function calls. `cls` is the class that
/// most objects are of.
fn native_code(_: &Object, args: Args<'_>) -> Res<Owned> {
    let [target, class] = args.parse("native_code", ["target", "cls"], 2, 1)?;
    let Some(target) = target else {
        return type_error("native_code() needs a target");
    };
    let target = &*special::stood_for(target).unwrap_or_else(|| target.own());
    // SAFETY: all-zero fields are valid.
    let object = unsafe { allocate(CLASS.load(Ordering::Relaxed))? };
    let native = NativeCode::of(&object);
    native.vectorcall.set(Some(call_target));
    native.target.set(target.own());
    // SAFETY: an object is read as what it exactly is; its definition lives as long as it does, its
    // class forever.
    unsafe {
        if ptr::eq(target.type_ptr(), &raw const ffi::PyMethodDescr_Type) {
            let descriptor = target.as_ptr().cast::<MethodDescriptor>();
            native.define((*descriptor).definition);
            native.owner.set((*descriptor).class);
            native
                .class
                .set(match class.filter(|class| class.is_type()) {
                    Some(class) => class.as_type_ptr(),
                    None => (*descriptor).class,
                });
        } else if ffi::PyCFunction_CheckExact(target.as_ptr()) != 0 {
            let builtin = target.as_ptr().cast::<ffi::PyCFunctionObject>();
            native.define((*builtin).m_ml);
            native.class.set((*builtin).m_self.cast());
        }
    }
    Ok(object)
}

impl NativeCode {
    /// Notes what is called by what definition, of the target, which it lives as long as.
    unsafe fn define(&self, definition: *const ffi::PyMethodDef) {
        self.definition.set(definition);
        // SAFETY: guaranteed by the caller; the flags say what the function is.
        unsafe {
            match (*definition).ml_flags & !ffi::METH_COEXIST {
                ffi::METH_NOARGS | ffi::METH_O => {
                    self.one.set(Some((*definition).ml_meth.PyCFunction));
                }
                flags if flags == ffi::METH_FASTCALL | ffi::METH_KEYWORDS => {
                    let call = (*definition).ml_meth.PyCFunctionFastWithKeywords;
                    self.fast.set(Some(call));
                }
                _ => {}
            }
        }
    }

    /// Whether it takes no argument, rather than one, where it does not take a vector.
    fn takes_none(&self) -> bool {
        // SAFETY: null, or the definition of the target, which is alive.
        unsafe { self.definition.get().as_ref() }
            .is_some_and(|definition| definition.ml_flags & ffi::METH_NOARGS != 0)
    }

    /// The vectorcall of its `method!`, if no other function has it.
    fn take_direct_call(&self, function: &ffi::PyFunctionObject) -> Option<ffi::vectorcallfunc> {
        let (class, module) = match self.owner.get().is_null() {
            true => (ptr::null_mut(), self.class.get().cast()),
            false => (self.class.get(), ptr::null_mut()),
        };
        direct_call::take(self.definition.get(), function, class, module)
    }

    /// How a function is called without its bytecode, if it can be.
    fn direct_call(&self) -> Option<ffi::vectorcallfunc> {
        match (self.fast.get(), self.one.get()) {
            (None, None) => None,
            _ if !self.owner.get().is_null() => Some(call_otherwise),
            (Some(_), _) => Some(call_function_fast),
            _ => None,
        }
    }
}

/// `attach(function, native)`: makes calls of the function go directly to its native code, where
/// the interpreter allows that.
fn attach(_: &Object, args: Args<'_>) -> Res<Owned> {
    let [function, native] = args.parse("attach", ["function", "native"], 2, 2)?;
    let (Some(function), Some(native)) = (function, native) else {
        return type_error("attach() needs a function and its native code");
    };
    let fits = ptr::eq(function.type_ptr(), &raw const ffi::PyFunction_Type)
        && ptr::eq(native.type_ptr(), CLASS.load(Ordering::Relaxed));
    if !fits {
        return type_error("attach() needs a function and its native code");
    }
    set_vectorcall(function, native)?;
    Ok(Owned::none())
}

fn set_vectorcall(function: &Object, native: &Object) -> Res<()> {
    let fields = NativeCode::of(native);
    let Some(call) = fields.direct_call() else {
        return Ok(());
    };
    let object = function.as_ptr().cast::<ffi::PyFunctionObject>();
    // SAFETY: a live function. That its code has the constants where they are looked for is proved
    // by the interpreter's answer.
    unsafe {
        let code = Object::from_ptr((*object).func_code);
        let constants = code.getattr(&*Owned::from_str("co_consts")?)?;
        let found = *code
            .as_ptr()
            .byte_add(CONSTANTS)
            .cast::<*mut ffi::PyObject>();
        let len = ffi::PyTuple_Size(constants.as_ptr());
        let Some(run) = (*object).vectorcall else {
            return Ok(());
        };
        if !ptr::eq(found, constants.as_ptr())
            || len < 1
            || !ptr::eq(ffi::PyTuple_GET_ITEM(found, len - 1), native.as_ptr())
        {
            return Ok(());
        }
        RUN_BYTECODE.store(run as usize, Ordering::Relaxed);
        fields.code.set(code.as_ptr());
        fields.defaults.set((*object).func_defaults);
        let call = fields.take_direct_call(&*object).unwrap_or(call);
        kwdefaults::set_way(object, call);
        kwdefaults::note(function, call, run)?;
    }
    Ok(())
}

/// `put(cls, name, function)`: replaces a native method of a class with a function. Slots keep
/// their C functions.
fn put(_: &Object, args: Args<'_>) -> Res<Owned> {
    let [class, name, function] = args.parse("put", ["cls", "name", "function"], 3, 3)?;
    let (Some(class), Some(name), Some(function)) = (class, name, function) else {
        return type_error("put() needs a class, a name and a function");
    };
    if !class.is_type() {
        return type_error("put() needs a class");
    }
    let text = name.to_text()?;
    if !text.starts_with("__") {
        class.setattr(name, function)?;
        return Ok(Owned::none());
    }
    // SAFETY: a live heap type's own dict; the interpreter is told that the type has changed.
    unsafe {
        let namespace = namespace_of(class.as_type_ptr())?;
        let stands = Object::from_nullable(ffi::PyDict_GetItemWithError(
            namespace.as_ptr(),
            name.as_ptr(),
        ));
        if !stands.is_some_and(|stands| special::show_as(stands, function)) {
            super::object::check(ffi::PyDict_SetItem(
                namespace.as_ptr(),
                name.as_ptr(),
                function.as_ptr(),
            ))?;
            ffi::PyType_Modified(class.as_type_ptr());
        }
    }
    Ok(Owned::none())
}

/// A type's own dict.
///
/// # Safety
/// A live type.
pub(super) unsafe fn namespace_of(class: *mut ffi::PyTypeObject) -> Res<Owned> {
    // SAFETY: guaranteed by the caller.
    unsafe {
        #[cfg(Py_3_12)]
        return Owned::steal(ffi::PyType_GetDict(class));
        #[cfg(not(Py_3_12))]
        return Ok(Object::from_ptr((*class).tp_dict).own());
    }
}

/// The functions by which the package makes functions of native methods.
pub(crate) fn init() -> Res<Vec<(&'static str, Owned)>> {
    let offset = size_of::<ffi::PyObject>();
    let class = TypeBuilder::new::<NativeCode>(c"rondel._rondel.NativeCode", None, offset)
        .not_instantiable()
        .collected::<NativeCode>()
        .vectorcall(offset)
        .build()?;
    kwdefaults::init(&class)?;
    CLASS.store(class.into_ptr().cast(), Ordering::Relaxed);
    let make = |method: Method| function(method);
    #[cfg(not(Py_3_12))]
    super::function_311::init()?;
    Ok(vec![
        #[cfg(not(Py_3_12))]
        (
            "stand_in",
            make(
                method!(onearg c"stand_in" super::function_311::stand_in, c"What stands for a function."),
            )?,
        ),
        (
            "native_code",
            make(
                method!(fast c"native_code(target, cls=None)" native_code, c"What a function's bytecode calls."),
            )?,
        ),
        (
            "attach",
            make(
                method!(fast c"attach(function, native)" attach, c"Has a function call its native code at once."),
            )?,
        ),
        (
            "put",
            make(
                method!(fast c"put(cls, name, function)" put, c"Puts a function into a class in the place of its own native method."),
            )?,
        ),
    ])
}
