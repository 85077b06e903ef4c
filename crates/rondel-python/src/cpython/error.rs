//! Python exceptions: raising, taking, and what becomes of a Rust panic.

use std::any::Any;
use std::ffi::CString;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use pyo3::ffi;

use super::{Object, Owned};

/// A Python exception is set on this thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Raised;

/// The result of whatever may raise.
pub(crate) type Res<T> = Result<T, Raised>;

/// The built-in exception classes that are raised from here.
#[derive(Clone, Copy)]
pub(crate) enum Builtin {
    Assertion,
    Attribute,
    BlockingIo,
    BrokenPipe,
    Buffer,
    Connection,
    ConnectionReset,
    Exception,
    Import,
    Interrupted,
    NotImplemented,
    Os,
    Overflow,
    ResourceWarning,
    Runtime,
    StopAsyncIteration,
    Type,
    Value,
}

impl Builtin {
    /// The class.
    pub(crate) fn class(self) -> &'static Object {
        // SAFETY: built-in exception classes live as long as the interpreter.
        unsafe {
            Object::from_ptr(match self {
                Self::Assertion => ffi::PyExc_AssertionError,
                Self::Attribute => ffi::PyExc_AttributeError,
                Self::BlockingIo => ffi::PyExc_BlockingIOError,
                Self::BrokenPipe => ffi::PyExc_BrokenPipeError,
                Self::Buffer => ffi::PyExc_BufferError,
                Self::Connection => ffi::PyExc_ConnectionError,
                Self::ConnectionReset => ffi::PyExc_ConnectionResetError,
                Self::Exception => ffi::PyExc_Exception,
                Self::Import => ffi::PyExc_ImportError,
                Self::Interrupted => ffi::PyExc_InterruptedError,
                Self::NotImplemented => ffi::PyExc_NotImplementedError,
                Self::Os => ffi::PyExc_OSError,
                Self::Overflow => ffi::PyExc_OverflowError,
                Self::ResourceWarning => ffi::PyExc_ResourceWarning,
                Self::Runtime => ffi::PyExc_RuntimeError,
                Self::StopAsyncIteration => ffi::PyExc_StopAsyncIteration,
                Self::Type => ffi::PyExc_TypeError,
                Self::Value => ffi::PyExc_ValueError,
            })
        }
    }

    /// An instance that is not raised yet.
    pub(crate) fn instance(self, message: &str) -> Res<Owned> {
        self.class().call(&[&*Owned::from_str(message)?])
    }
}

/// Raises `class(message)`.
#[cold]
pub(crate) fn raise<T>(class: &Object, message: &str) -> Res<T> {
    let message = CString::new(message.replace('\0', "\\0")).unwrap_or_default();
    // SAFETY: a live class and a NUL-terminated text.
    unsafe { ffi::PyErr_SetString(class.as_ptr(), message.as_ptr()) };
    Err(Raised)
}

/// Raises `class` without arguments.
#[cold]
pub(crate) fn raise_bare<T>(class: &Object) -> Res<T> {
    // SAFETY: a live class.
    unsafe { ffi::PyErr_SetNone(class.as_ptr()) };
    Err(Raised)
}

#[cold]
pub(crate) fn type_error<T>(message: &str) -> Res<T> {
    raise(Builtin::Type.class(), message)
}

/// What asyncio raises for `del object.attribute`.
#[cold]
pub(crate) fn not_deletable<T>(object: &Object, attribute: &str) -> Res<T> {
    let text = match cfg!(Py_3_14) {
        false => "cannot delete attribute".to_owned(),
        true => {
            let class = object.class().getattr(&*Owned::from_str("__qualname__")?)?;
            let module = object.class().getattr(&*Owned::from_str("__module__")?)?;
            let (module, class) = (module.to_text()?, class.to_text()?);
            format!("attribute '{attribute}' of '{module}.{class}' objects cannot be deleted")
        }
    };
    raise(Builtin::Attribute.class(), &text)
}

#[cold]
pub(crate) fn value_error<T>(message: &str) -> Res<T> {
    raise(Builtin::Value.class(), message)
}

#[cold]
pub(crate) fn overflow_error<T>(message: &str) -> Res<T> {
    raise(Builtin::Overflow.class(), message)
}

#[cold]
pub(crate) fn runtime_error<T>(message: &str) -> Res<T> {
    raise(Builtin::Runtime.class(), message)
}

#[cold]
pub(crate) fn attribute_error<T>(message: &str) -> Res<T> {
    raise(Builtin::Attribute.class(), message)
}

/// An instance of the `OSError` subclass for an `io::Error`, not raised yet. The only place that
/// maps Rust's errors to Python's.
pub(crate) fn os_error(error: &io::Error) -> Res<Owned> {
    let class = Builtin::Os.class();
    match error.raw_os_error() {
        Some(number) => {
            // `OSError.__new__` chooses the subclass by the number; the text is what `os.strerror`
            // gives.
            // SAFETY: strerror gives a NUL-terminated text, copied at once, with the GIL held.
            let text = unsafe {
                Owned::steal(ffi::PyUnicode_DecodeLocale(
                    libc::strerror(number),
                    c"surrogateescape".as_ptr(),
                ))?
            };
            class.call(&[&*Owned::from_i64(number.into())?, &*text])
        }
        None => class.call(&[&*Owned::from_str(&error.to_string())?]),
    }
}

/// Raises the `OSError` for an `io::Error`.
#[cold]
pub(crate) fn raise_os_error<T>(error: &io::Error) -> Res<T> {
    if error.kind() == io::ErrorKind::OutOfMemory && error.raw_os_error().is_none() {
        return no_memory();
    }
    raise_instance(os_error(error)?)
}

/// Raises `MemoryError`: an allocation of ours has failed.
#[cold]
pub(crate) fn no_memory<T>() -> Res<T> {
    // SAFETY: the GIL is held. The instance is one that the interpreter keeps for this.
    unsafe { ffi::PyErr_NoMemory() };
    Err(Raised)
}

/// Raises an exception instance.
#[cold]
pub(crate) fn raise_instance<T>(exception: Owned) -> Res<T> {
    // SAFETY: live objects; the class is that of the instance.
    unsafe { ffi::PyErr_SetObject(exception.class().as_ptr(), exception.as_ptr()) };
    Err(Raised)
}

/// `raise object`, of whatever a program has given.
#[cold]
pub(crate) fn raise_object<T>(object: Owned) -> Res<T> {
    // SAFETY: live objects.
    let exception = unsafe {
        match ffi::PyExceptionClass_Check(object.as_ptr()) != 0 {
            true => object.call(&[])?,
            false => object,
        }
    };
    // SAFETY: a live object.
    if unsafe { ffi::PyExceptionInstance_Check(exception.as_ptr()) } == 0 {
        return type_error("exceptions must derive from BaseException");
    }
    raise_instance(exception)
}

/// Takes the exception that is set, with its traceback in place. Must only be called when one is.
pub(crate) fn take_exception() -> Owned {
    // SAFETY: the C API hands over references; null is replaced by a real exception below.
    unsafe {
        #[cfg(Py_3_12)]
        let exception = ffi::PyErr_GetRaisedException();
        #[cfg(not(Py_3_12))]
        let exception = {
            let (mut class, mut value, mut traceback) =
                (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
            ffi::PyErr_Fetch(&mut class, &mut value, &mut traceback);
            ffi::PyErr_NormalizeException(&mut class, &mut value, &mut traceback);
            if !traceback.is_null() {
                ffi::PyException_SetTraceback(value, traceback);
                ffi::Py_DECREF(traceback);
            }
            ffi::Py_XDECREF(class);
            value
        };
        if exception.is_null() {
            // An error return without an exception is a bug of some extension: report it as CPython
            // does.
            ffi::PyErr_SetString(
                ffi::PyExc_SystemError,
                c"error return without exception set".as_ptr(),
            );
            return take_exception();
        }
        Owned::steal_unchecked(exception)
    }
}

/// Sets an exception again that was taken, its traceback untouched.
pub(crate) fn restore(exception: Owned) -> Raised {
    // SAFETY: the reference is handed over.
    unsafe {
        #[cfg(Py_3_12)]
        ffi::PyErr_SetRaisedException(exception.into_ptr());
        #[cfg(not(Py_3_12))]
        {
            let class = exception.class().own().into_ptr();
            let traceback = ffi::PyException_GetTraceback(exception.as_ptr());
            ffi::PyErr_Restore(class, exception.into_ptr(), traceback);
        }
    }
    Raised
}

/// Notes that an exception was raised while another one was being handled, as the interpreter does
/// for code of Python's.
pub(crate) fn chain(exception: &Object, handled: &Object) {
    if exception.is(handled) {
        return;
    }
    let context_of = |exception: &Object| {
        // SAFETY: an exception instance; null means that there is none.
        unsafe { Owned::steal(ffi::PyException_GetContext(exception.as_ptr())).ok() }
    };
    // The new link must not close a cycle. A chain that is already cyclic is detected with Floyd's
    // tortoise and hare.
    let (mut link, mut behind, mut odd) = (handled.own(), handled.own(), false);
    while let Some(next) = context_of(&link) {
        if next.is(exception) {
            // SAFETY: an exception instance.
            unsafe { ffi::PyException_SetContext(link.as_ptr(), ptr::null_mut()) };
            break;
        }
        link = next;
        if odd && let Some(next) = context_of(&behind) {
            behind = next;
        }
        if link.is(&behind) {
            break;
        }
        odd = !odd;
    }
    // SAFETY: exception instances; a reference is handed over.
    unsafe { ffi::PyException_SetContext(exception.as_ptr(), handled.own().into_ptr()) };
}

/// Whether the exception that is set is an instance of `class` (or of one of a tuple).
pub(crate) fn raised_matches(class: &Object) -> bool {
    // SAFETY: a live class.
    unsafe { ffi::PyErr_ExceptionMatches(class.as_ptr()) != 0 }
}

/// Whether an exception instance, or class, matches `class`.
pub(crate) fn exception_matches(exception: &Object, class: &Object) -> bool {
    // SAFETY: live objects.
    unsafe { ffi::PyErr_GivenExceptionMatches(exception.as_ptr(), class.as_ptr()) != 0 }
}

/// Whether an exception is one that must end the loop: `KeyboardInterrupt`, `SystemExit`.
pub(crate) fn is_exit(exception: &Object) -> bool {
    // SAFETY: built-in classes.
    let (interrupt, exit) = unsafe {
        (
            Object::from_ptr(ffi::PyExc_KeyboardInterrupt),
            Object::from_ptr(ffi::PyExc_SystemExit),
        )
    };
    exception_matches(exception, interrupt) || exception_matches(exception, exit)
}

/// Runs `cleanup` while an exception is set, which stays set unless `cleanup` raises another.
pub(crate) fn with_exception_kept(cleanup: impl FnOnce() -> Res<()>) -> Raised {
    let exception = take_exception();
    match cleanup() {
        Ok(()) => restore(exception),
        Err(Raised) => Raised,
    }
}

/// Takes the exception that is set; `KeyboardInterrupt` and `SystemExit` are passed on instead.
pub(crate) fn take_unless_exit() -> Res<Owned> {
    let exception = take_exception();
    if is_exit(&exception) {
        return Err(restore(exception));
    }
    Ok(exception)
}

/// `None` if `what` has raised. `KeyboardInterrupt` and `SystemExit` are passed on.
pub(crate) fn unless_raised<T>(what: impl FnOnce() -> Res<T>) -> Res<Option<T>> {
    match what() {
        Ok(value) => Ok(Some(value)),
        Err(Raised) => take_unless_exit().map(|_| None),
    }
}

/// Reports an exception that has nowhere to go through `sys.unraisablehook`.
pub(crate) fn write_unraisable(source: Option<&Object>) {
    // SAFETY: a live object or null.
    unsafe { ffi::PyErr_WriteUnraisable(source.map_or(ptr::null_mut(), Object::as_ptr)) };
}

/// Runs the body of a function that the interpreter calls. A panic becomes a `SystemError`, never
/// an abort.
#[inline]
pub(crate) fn guard<T>(on_error: T, body: impl FnOnce() -> Res<T>) -> T {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => value,
        Ok(Err(Raised)) => on_error,
        Err(panic) => {
            raise_panic(panic);
            on_error
        }
    }
}

/// As [`guard`], for functions that return an object.
#[inline]
pub(crate) fn guard_object(body: impl FnOnce() -> Res<Owned>) -> *mut ffi::PyObject {
    guard(ptr::null_mut(), || body().map(Owned::into_ptr))
}

/// As [`guard`], for functions that can't raise.
#[inline]
pub(crate) fn guard_quiet(body: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
        raise_panic(panic);
        write_unraisable(None);
    }
}

#[cold]
fn raise_panic(panic: Box<dyn Any + Send>) {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown cause".to_owned());
    // SAFETY: a built-in class.
    let class = unsafe { Object::from_ptr(ffi::PyExc_SystemError) };
    let _ = raise::<()>(
        class,
        &format!("rondel: internal error (a Rust panic): {text}"),
    );
}

/// Runs `what` with no exception set, and restores the one that was set before. An exception that
/// `what` raises is dropped.
pub(crate) fn quietly(what: impl FnOnce() -> Res<()>) {
    // SAFETY: the GIL is held.
    let pending = unsafe { !ffi::PyErr_Occurred().is_null() }.then(take_exception);
    if let Err(Raised) = what() {
        drop(take_exception());
    }
    if let Some(exception) = pending {
        let Raised = restore(exception);
    }
}
