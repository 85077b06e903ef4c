//! `add_reader`, `add_writer` and their removal.

use std::os::fd::RawFd;

use super::core::LoopCore;
use super::host::Source;
use super::running::check_closed;
use crate::cpython::error::{Raised, raise_os_error, runtime_error, type_error, value_error};
use crate::cpython::method::{Args, Method, method};
use crate::cpython::{Object, Owned, Res};
use crate::handle;

#[derive(Clone, Copy)]
enum Side {
    Read,
    Write,
}

/// A descriptor's number: an `int`, or what has `fileno()`, as `selectors` takes them.
fn descriptor(object: &Object) -> Res<RawFd> {
    let fd = match object.to_isize() {
        Ok(fd) => fd,
        Err(Raised) => {
            drop(crate::cpython::error::take_exception());
            let fileno = object
                .getattr_optional(&*Owned::from_str("fileno")?)?
                .map(|fileno| fileno.call(&[]).and_then(|fd| fd.to_isize()));
            match fileno {
                Some(Ok(fd)) => fd,
                _ => {
                    // SAFETY: attached; whatever `fileno` raised is replaced, as selectors does.
                    unsafe { pyo3::ffi::PyErr_Clear() };
                    return value_error(&format!(
                        "Invalid file object: {}",
                        object.repr()?.to_text()?
                    ));
                }
            }
        }
    };
    match RawFd::try_from(fd) {
        Ok(number) if number >= 0 => Ok(number),
        _ => value_error(&format!("Invalid file descriptor: {fd}")),
    }
}

fn add(this: &Object, args: Args<'_>, side: Side, function: &str) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    let (mut fd, mut callback, mut context) = (None, None, None);
    for (name, value) in args.named() {
        match name.to_text()?.as_str() {
            "fd" => fd = Some(value),
            "callback" => callback = Some(value),
            // asyncio's own transports give theirs from 3.15 on, by the private methods.
            "context" if cfg!(Py_3_15) && function.starts_with('_') => context = Some(value),
            other => {
                return type_error(&format!(
                    "{function}() got an unexpected keyword argument '{other}'"
                ));
            }
        }
    }
    let mut positional = args.positional().iter().copied();
    let fd = fd.or_else(|| positional.next());
    let callback = callback.or_else(|| positional.next());
    let (Some(fd), Some(callback)) = (fd, callback) else {
        let missing = if fd.is_none() {
            "'fd' and 'callback'"
        } else {
            "'callback'"
        };
        return type_error(&format!(
            "{function}() missing required positional arguments: {missing}"
        ));
    };
    let rest: Vec<&Object> = positional.collect();
    check_closed(core)?;
    let handle = handle::new_handle(
        this,
        callback,
        &rest,
        context.filter(|context| !context.is_none()),
    )?;
    if core.is_debug() {
        handle::note_origin(&handle)?;
    }
    let fd = descriptor(fd)?;
    let source = Source::Callback(handle.clone());
    let before = match side {
        Side::Read => core.engine().add_reader(fd, source),
        Side::Write => core.engine().add_writer(fd, source),
    };
    match before {
        Ok(before) => {
            cancel(before)?;
            Ok(handle)
        }
        Err(error) => raise_os_error(&error),
    }
}

fn remove(this: &Object, fd: &Object, side: Side) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    if core.is_closed() {
        return Ok(Owned::from_bool(false));
    }
    let fd = descriptor(fd)?;
    let before = match side {
        Side::Read => core.engine().remove_reader(fd),
        Side::Write => core.engine().remove_writer(fd),
    };
    Ok(Owned::from_bool(cancel(before)?))
}

fn cancel(source: Option<Source>) -> Res<bool> {
    if let Some(Source::Callback(handle)) = &source {
        handle::cancel(handle)?;
    }
    Ok(source.is_some())
}

fn private_add_reader(this: &Object, args: Args<'_>) -> Res<Owned> {
    add(this, args, Side::Read, "_add_reader")
}

fn private_add_writer(this: &Object, args: Args<'_>) -> Res<Owned> {
    add(this, args, Side::Write, "_add_writer")
}

fn remove_reader_unchecked(this: &Object, fd: &Object) -> Res<Owned> {
    remove(this, fd, Side::Read)
}

fn remove_writer_unchecked(this: &Object, fd: &Object) -> Res<Owned> {
    remove(this, fd, Side::Write)
}

/// What is watched, in the bits of `selectors.EVENT_READ` and `EVENT_WRITE`.
fn watched(this: &Object, fd: &Object) -> Res<Owned> {
    let core = LoopCore::of_loop(this);
    let number = descriptor(fd)?;
    let mask = core.engine().with_sources(number, |reader, writer| {
        i64::from(reader.is_some()) | i64::from(writer.is_some()) << 1
    });
    Owned::from_i64(mask)
}

/// A descriptor that a transport has must be left alone.
fn ensure_fd_no_transport(this: &Object, fd: &Object) -> Res<Owned> {
    let number = descriptor(fd)?;
    let core = LoopCore::of_loop(this);
    let ours = core.engine().with_sources(number, |reader, writer| {
        [reader, writer]
            .into_iter()
            .flatten()
            .find_map(|source| match source {
                Source::Transport(transport) => Some(transport.clone()),
                Source::Callback(_) => None,
            })
    });
    // Transports that are still asyncio's own are in this dictionary.
    let theirs = match ours {
        Some(_) => None,
        None => {
            let transports = this.getattr(&*Owned::from_str("_transports")?)?;
            let found = transports.call_method(
                &*Owned::from_str("get")?,
                &[&*Owned::from_i64(number.into())?],
            )?;
            (!found.is_none()).then_some(found)
        }
    };
    if let Some(transport) = ours.or(theirs) {
        let closing = transport.call_method(&*Owned::from_str("is_closing")?, &[])?;
        if !closing.is_true()? {
            return runtime_error(&format!(
                "File descriptor {} is used by transport {}",
                fd.repr()?.to_text()?,
                transport.repr()?.to_text()?
            ));
        }
    }
    Ok(Owned::none())
}

pub(super) fn methods() -> Vec<Method> {
    vec![
        method!(fast c"_add_reader" private_add_reader, c"add_reader without a look for transports."),
        method!(fast c"_add_writer" private_add_writer, c"add_writer without a look for transports."),
        method!(onearg c"_remove_reader" remove_reader_unchecked, c"remove_reader without a look for transports."),
        method!(onearg c"_remove_writer" remove_writer_unchecked, c"remove_writer without a look for transports."),
        method!(onearg c"_watched" watched, c"The sides of a descriptor that are watched: 1 read, 2 write."),
        method!(onearg c"_ensure_fd_no_transport" ensure_fd_no_transport,
            c"Raises RuntimeError if a transport has the descriptor."),
    ]
}
