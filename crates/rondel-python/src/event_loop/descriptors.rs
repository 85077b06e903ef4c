//! `add_reader`, `add_writer` and their removal.

use std::os::fd::RawFd;

use pyo3::ffi;

use crate::cpython::error::{
    attribute_error, overflow_error, raise_os_error, runtime_error, take_exception, type_error,
    value_error,
};
use crate::cpython::method::{Args, Method, method};
use crate::cpython::{Object, Owned, Res, names};
use crate::handle;
use crate::loop_core::LoopCore;
use crate::loop_core::check_closed;
use crate::loop_core::item::Source;

#[derive(Clone, Copy)]
enum Side {
    Read,
    Write,
}

fn is_int(object: &Object) -> bool {
    // SAFETY: a live object.
    unsafe { ffi::PyLong_Check(object.as_ptr()) != 0 }
}

/// A descriptor's number, valid or not: from an `int` or an object with `fileno()`, as in
/// `selectors`. Numbers that are too large saturate.
fn number(object: &Object) -> Res<isize> {
    if is_int(object) {
        return object.to_count();
    }
    let given = object
        .getattr(&names().fileno)
        .and_then(|fileno| fileno.call(&[]))
        // SAFETY: a live object.
        .and_then(|fd| unsafe { Owned::steal(ffi::PyNumber_Long(fd.as_ptr())) })
        .and_then(|fd| fd.to_count());
    // SAFETY: the GIL is held; the classes are built-in, and an exception is set if `given` is an
    // error.
    let refused = given.is_err()
        && unsafe {
            [
                ffi::PyExc_AttributeError,
                ffi::PyExc_TypeError,
                ffi::PyExc_ValueError,
            ]
            .into_iter()
            .any(|class| ffi::PyErr_ExceptionMatches(class) != 0)
        };
    if !refused {
        return given;
    }
    drop(take_exception());
    value_error(&format!(
        "Invalid file object: {}",
        object.repr()?.to_text()?
    ))
}

/// Converts to a descriptor. `None` if the number is too large for one.
fn valid(number: isize) -> Res<Option<RawFd>> {
    match number < 0 {
        true => value_error(&format!("Invalid file descriptor: {number}")),
        false => Ok(RawFd::try_from(number).ok()),
    }
}

fn add(this: &Object, args: Args<'_>, side: Side, function: &str, is_public: bool) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    let (mut fd, mut callback, mut context) = (None, None, None);
    for (name, value) in args.named() {
        match name.to_text()?.as_str() {
            "fd" => fd = Some(value),
            "callback" => callback = Some(value),
            // From 3.15 on asyncio's own transports pass a context to the private methods.
            "context" if cfg!(Py_3_15) && !is_public => context = Some(value),
            other => {
                return type_error(&format!(
                    "{function}() got an unexpected keyword argument '{other}'"
                ));
            }
        }
    }
    let mut positional = args.positional().iter();
    let fd = fd.or_else(|| positional.next().copied());
    let callback = callback.or_else(|| positional.next().copied());
    let (Some(file), Some(callback)) = (fd, callback) else {
        let missing = if fd.is_none() {
            "'fd' and 'callback'"
        } else {
            "'callback'"
        };
        return type_error(&format!(
            "{function}() missing required positional arguments: {missing}"
        ));
    };
    let fd = number(file)?;
    if is_public {
        refuse_transports(this, file, fd)?;
    }
    check_closed(core)?;
    let fd = valid(fd)?;
    let rest = positional.as_slice();
    let handle = handle::new_handle(
        this,
        callback,
        rest,
        context.filter(|context| !context.is_none()),
    )?;
    if core.is_debug() {
        handle::note_origin(&handle)?;
    }
    let Some(fd) = fd else {
        return overflow_error("Python int too large to convert to C int");
    };
    let source = Source::Callback(handle.clone().into_owned());
    let before = match side {
        Side::Read => core.engine().add_reader(fd, source),
        Side::Write => core.engine().add_writer(fd, source),
    };
    match before {
        Ok(before) => cancel(before)?,
        Err(error) => {
            check_selector(core)?;
            return raise_os_error(&error);
        }
    };
    if is_public && !is_int(file) {
        core.files.note(fd, file);
    }
    Ok(match is_public {
        true => Owned::none(),
        false => handle.into_owned(),
    })
}

fn remove(this: &Object, file: &Object, side: Side, is_public: bool) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    let mut fd = number(file)?;
    if is_public {
        if fd < 0
            && !is_int(file)
            && let Some(before) = core.files.number_of(file)
        {
            fd = before as isize;
        }
        refuse_transports(this, file, fd)?;
    }
    if core.is_closed() {
        return Ok(Owned::from_bool(false));
    }
    let Some(fd) = valid(fd)? else {
        return Ok(Owned::from_bool(false));
    };
    let engine = core.engine();
    let before = match side {
        Side::Read => engine.remove_reader(fd),
        Side::Write => engine.remove_writer(fd),
    };
    if engine.with_sources(fd, |reader, writer| reader.or(writer).is_none()) {
        core.files.forget(fd);
    }
    Ok(Owned::from_bool(cancel(before)?))
}

/// Handles a program that has reopened a closed loop by setting `_closed`: the selector stays
/// closed.
#[cold]
fn check_selector(core: &LoopCore) -> Res<()> {
    let selector = core.object().getattr(&*Owned::from_str("_selector")?)?;
    match selector.is_none() {
        true if cfg!(Py_3_13) => attribute_error("'NoneType' object has no attribute 'get_map'"),
        true => attribute_error("'NoneType' object has no attribute 'get_key'"),
        false => Ok(()),
    }
}

fn cancel(source: Option<Source>) -> Res<bool> {
    if let Some(Source::Callback(handle)) = &source
        && let Some(handle) = handle.instance()
    {
        handle::cancel(handle)?;
    }
    Ok(source.is_some())
}

fn add_reader(this: &Object, args: Args<'_>) -> Res<Owned> {
    add(this, args, Side::Read, "add_reader", true)
}

fn add_writer(this: &Object, args: Args<'_>) -> Res<Owned> {
    add(this, args, Side::Write, "add_writer", true)
}

fn remove_reader(this: &Object, fd: &Object) -> Res<Owned> {
    remove(this, fd, Side::Read, true)
}

fn remove_writer(this: &Object, fd: &Object) -> Res<Owned> {
    remove(this, fd, Side::Write, true)
}

fn private_add_reader(this: &Object, args: Args<'_>) -> Res<Owned> {
    add(this, args, Side::Read, "_add_reader", false)
}

fn private_add_writer(this: &Object, args: Args<'_>) -> Res<Owned> {
    add(this, args, Side::Write, "_add_writer", false)
}

fn remove_reader_unchecked(this: &Object, fd: &Object) -> Res<Owned> {
    remove(this, fd, Side::Read, false)
}

fn remove_writer_unchecked(this: &Object, fd: &Object) -> Res<Owned> {
    remove(this, fd, Side::Write, false)
}

/// The watched sides, as bits of `selectors.EVENT_READ` and `EVENT_WRITE`.
fn watched(this: &Object, fd: &Object) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    let Some(fd) = valid(number(fd)?)? else {
        return Owned::from_i64(0);
    };
    let mask = core.engine().with_sources(fd, |reader, writer| {
        i64::from(reader.is_some()) | i64::from(writer.is_some()) << 1
    });
    Owned::from_i64(mask)
}

fn ensure_fd_no_transport(this: &Object, fd: &Object) -> Res<Owned> {
    refuse_transports(this, fd, number(fd)?)?;
    Ok(Owned::none())
}

/// Looks for one of asyncio's own transports in `_transports`, a `WeakValueDictionary`, unless that
/// is empty.
fn find_foreign_transport(this: &Object, fd: isize) -> Res<Option<Owned>> {
    let names = names();
    let transports = this.getattr(&names.transports)?;
    if let Some(data) = transports.getattr_optional(&names.data)? {
        // SAFETY: a live object that is checked to be a dict before its size is read.
        let is_empty = unsafe {
            ffi::PyDict_Check(data.as_ptr()) != 0 && ffi::PyDict_Size(data.as_ptr()) == 0
        };
        if is_empty {
            return Ok(None);
        }
    }
    let key = Owned::from_i64(fd as i64)?;
    let found = transports.call_method(&*Owned::from_str("get")?, &[&*key])?;
    Ok((!found.is_none()).then_some(found))
}

/// Raises `RuntimeError` if a transport that is not closing uses the descriptor.
fn refuse_transports(this: &Object, fd: &Object, number: isize) -> Res<()> {
    let core = LoopCore::of_loop(this);
    let ours = match RawFd::try_from(number) {
        Err(_) => None,
        Ok(number) => core.engine().with_sources(number, |reader, writer| {
            let transport = |source: &Source| match source {
                Source::Transport(transport) => Some(transport.clone()),
                Source::Callback(_) => None,
            };
            reader
                .and_then(transport)
                .or_else(|| writer.and_then(transport))
        }),
    };
    let found = match ours {
        Some(transport) => Some(transport),
        None => find_foreign_transport(this, number)?,
    };
    if let Some(transport) = found {
        let closing = transport.call_method(&*Owned::from_str("is_closing")?, &[])?;
        if !closing.is_true()? {
            return runtime_error(&format!(
                "File descriptor {} is used by transport {}",
                fd.repr()?.to_text()?,
                transport.repr()?.to_text()?
            ));
        }
    }
    Ok(())
}

pub(super) fn methods() -> Vec<Method> {
    vec![
        method!(fast c"add_reader(fd, callback, *args)" add_reader, c"Calls a callback whenever a descriptor is readable."),
        method!(fast c"add_writer(fd, callback, *args)" add_writer, c"Calls a callback whenever a descriptor is writable."),
        method!(named c"remove_reader" ("fd") remove_reader, c"Stops watching a descriptor for reading. Returns whether it was watched."),
        method!(named c"remove_writer" ("fd") remove_writer, c"Stops watching a descriptor for writing. Returns whether it was watched."),
        method!(fast c"_add_reader" private_add_reader, c"add_reader without a look for transports."),
        method!(fast c"_add_writer" private_add_writer, c"add_writer without a look for transports."),
        method!(onearg c"_remove_reader" remove_reader_unchecked, c"remove_reader without a look for transports."),
        method!(onearg c"_remove_writer" remove_writer_unchecked, c"remove_writer without a look for transports."),
        method!(onearg c"_watched" watched, c"The sides of a descriptor that are watched: 1 read, 2 write."),
        method!(onearg c"_ensure_fd_no_transport" ensure_fd_no_transport,
            c"Raises RuntimeError if a transport has the descriptor."),
    ]
}
