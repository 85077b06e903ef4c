//! The offsets of the `SSL *` in an `_ssl._SSLSocket` and of the `BIO *` in an `_ssl.MemoryBIO`.
//!
//! The layout of these objects is no API, so it is found once, with a connection made for this.
//! Each word of an object is a candidate. The memory that it may point to is first read by the
//! kernel ([`peek`]), and the pointer is passed to OpenSSL only if that memory looks as OpenSSL
//! must have left it:
//!
//! * a memory BIO points to OpenSSL's table of methods for memory BIOs, and holds as many bytes as
//!   Python has written;
//! * a connection points to the two BIOs that it was made with, side by side.
//!
//! After anything unexpected, Python's objects are used.

use std::ptr;
use std::sync::OnceLock;

use super::names::imports;
use super::openssl::{Bio, Functions, Ssl};
use crate::cpython::error::take_exception;
use crate::cpython::layout::{is_pointer, peek, word, words};
use crate::cpython::names::import;
use crate::cpython::{Object, Owned, Raised, Res, names};

/// OpenSSL, and where the interpreter's objects have its pointers.
pub(super) struct Library {
    pub(super) functions: Functions,
    /// `_ssl._SSLSocket` and `_ssl.MemoryBIO`, which live for ever.
    socket_class: usize,
    bio_class: usize,
    /// In bytes from the beginning of the object.
    ssl_offset: usize,
    bio_offset: usize,
}

static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();

/// The library, if it can be driven directly.
pub(super) fn library() -> Option<&'static Library> {
    // In free-threaded builds each connection has a lock, which cannot be taken from here.
    if cfg!(Py_GIL_DISABLED) {
        return None;
    }
    if let Some(found) = LIBRARY.get() {
        return found.as_ref();
    }
    let found = find().unwrap_or_else(|Raised| {
        drop(take_exception());
        None
    });
    LIBRARY.get_or_init(|| found).as_ref()
}

fn find() -> Res<Option<Library>> {
    let get = |object: &Object, name: &str| object.getattr(&*Owned::from_str(name)?);
    let module = import("_ssl")?;
    let path = get(&module, "__file__")?.to_text()?;
    let Some(functions) = Functions::of_loaded(&path) else {
        return Ok(None);
    };
    let ssl = import("ssl")?;
    let context = get(&ssl, "SSLContext")?.call(&[&*get(&ssl, "PROTOCOL_TLS_CLIENT")?])?;
    context.setattr(
        &*Owned::from_str("check_hostname")?,
        &Owned::from_bool(false),
    )?;
    let incoming = imports().memory_bio.call(&[])?;
    let outgoing = imports().memory_bio.call(&[])?;
    let object = context.call_method(&names().wrap_bio, &[&incoming, &outgoing])?;
    let socket = get(&object, "_sslobj")?;
    if !socket.class().is(&*get(&module, "_SSLSocket")?)
        || !incoming.class().is(&*get(&module, "MemoryBIO")?)
    {
        return Ok(None);
    }
    let Some(bio_offset) = find_bio(&functions, &incoming)? else {
        return Ok(None);
    };
    let pair = [word(&incoming, bio_offset), word(&outgoing, bio_offset)];
    if !is_memory_bio(&functions, pair[1]) {
        return Ok(None);
    }
    let ssl_offset = words(&socket)
        .find(|&(_, candidate)| is_connection(&functions, candidate, pair))
        .map(|(offset, _)| offset);
    Ok(ssl_offset.map(|ssl_offset| Library {
        functions,
        socket_class: socket.type_ptr().addr(),
        bio_class: incoming.class().own().into_ptr().addr(),
        ssl_offset,
        bio_offset,
    }))
}

/// Whether a word is the address of a memory BIO, which has OpenSSL's table of methods for such
/// within its first words.
fn is_memory_bio(functions: &Functions, candidate: usize) -> bool {
    // SAFETY: takes nothing.
    let methods = unsafe { (functions.bio_s_mem)() }.addr();
    is_pointer(candidate) && peek::<8>(candidate).is_some_and(|words| words.contains(&methods))
}

/// Where a `MemoryBIO`, which is empty, has its BIO.
fn find_bio(functions: &Functions, memory: &Object) -> Res<Option<usize>> {
    const SIZE: usize = 37;
    for (offset, candidate) in words(memory) {
        if !is_memory_bio(functions, candidate) {
            continue;
        }
        let bio = ptr::with_exposed_provenance_mut::<Bio>(candidate);
        // SAFETY: a live memory BIO, as was seen.
        let pending = || unsafe { (functions.bio_pending)(bio) };
        let before = pending();
        memory.call_method(&names().write, &[&*Owned::from_bytes(&[b'x'; SIZE])?])?;
        let full = pending();
        memory.call_method(&names().read, &[])?;
        if (before, full, pending()) == (0, SIZE, 0) {
            return Ok(Some(offset));
        }
    }
    Ok(None)
}

/// Whether a word is the address of the connection that has these BIOs.
fn is_connection(functions: &Functions, candidate: usize, pair: [usize; 2]) -> bool {
    if !is_pointer(candidate)
        || !peek::<64>(candidate).is_some_and(|words| words.windows(2).any(|two| two == pair))
    {
        return false;
    }
    let ssl = ptr::with_exposed_provenance::<Ssl>(candidate);
    // SAFETY: what stands there has the two BIOs side by side, as only a connection has.
    let bios = unsafe { [(functions.ssl_get_rbio)(ssl), (functions.ssl_get_wbio)(ssl)] };
    bios.map(|bio| bio.addr()) == pair
}

impl Library {
    /// The pointers of an `_ssl._SSLSocket` and its two `MemoryBIO`, if the objects are of these
    /// classes.
    pub(super) fn pointers(
        &self,
        socket: &Object,
        incoming: &Object,
        outgoing: &Object,
    ) -> Option<(*mut Ssl, *mut Bio, *mut Bio)> {
        let known = socket.type_ptr().addr() == self.socket_class
            && incoming.type_ptr().addr() == self.bio_class
            && outgoing.type_ptr().addr() == self.bio_class;
        if !known {
            return None;
        }
        let ssl = ptr::with_exposed_provenance_mut::<Ssl>(word(socket, self.ssl_offset));
        let bio = |memory| word(memory, self.bio_offset);
        // SAFETY: in objects of these classes the pointers stand there, and are good while the
        // objects live.
        let bios = unsafe {
            [
                (self.functions.ssl_get_rbio)(ssl),
                (self.functions.ssl_get_wbio)(ssl),
            ]
        };
        let same = bios.map(|bio| bio.addr()) == [bio(incoming), bio(outgoing)];
        same.then_some((ssl, bios[0], bios[1]))
    }
}
