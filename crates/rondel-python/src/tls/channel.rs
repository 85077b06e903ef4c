//! A connection's BIOs: OpenSSL reads encrypted bytes from the memory they were received into, and
//! writes into the memory they are sent from. Nothing is copied in between, and an idle connection
//! keeps no buffer.
//!
//! They replace Python's `MemoryBIO` objects after the handshake. The connection owns the BIOs, and
//! these own their [`Channel`], which is valid as long as the connection.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_long, c_void};
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::openssl::{Bio, BioMethod, Functions, Ssl};
use super::scratch;

/// What a connection has received but not read, and written but not sent.
///
/// Only used, counted and freed with the GIL held. Free-threaded builds use Python's objects.
pub(super) struct Channel {
    /// The address and length of what was received last, lent while OpenSSL reads from it.
    lent: Cell<(*const u8, usize)>,
    /// What was received earlier and could not be read then, and how much of it has been read.
    kept: Cell<Vec<u8>>,
    kept_read: Cell<usize>,
    kept_len: Cell<usize>,
    /// What is to be sent.
    out: Cell<Vec<u8>>,
    out_len: Cell<usize>,
}

impl Channel {
    fn new() -> Self {
        Self {
            lent: Cell::new((ptr::null(), 0)),
            kept: Cell::default(),
            kept_read: Cell::new(0),
            kept_len: Cell::new(0),
            out: Cell::default(),
            out_len: Cell::new(0),
        }
    }

    /// How many bytes OpenSSL can read.
    #[inline]
    pub(super) fn pending_in(&self) -> usize {
        self.kept_len.get() - self.kept_read.get() + self.lent.get().1
    }

    /// How many bytes are to be sent.
    #[inline]
    pub(super) fn pending_out(&self) -> usize {
        self.out_len.get()
    }

    /// Copies bytes to be read later. Returns false without memory.
    #[must_use]
    pub(super) fn keep(&self, bytes: &[u8]) -> bool {
        let mut kept = self.kept.take();
        let read = self.kept_read.replace(0);
        kept.drain(..read);
        let room = kept.try_reserve(bytes.len()).is_ok();
        if room {
            kept.extend_from_slice(bytes);
        }
        self.kept_len.set(kept.len());
        self.kept.set(kept);
        room
    }

    /// Lets OpenSSL read `bytes` while `body` runs, which must run no Python code. What is left is
    /// copied; `None` without memory.
    #[inline]
    pub(super) fn lending<R>(&self, bytes: &[u8], body: impl FnOnce() -> R) -> Option<R> {
        debug_assert_eq!(self.lent.get().1, 0);
        self.lent.set((bytes.as_ptr(), bytes.len()));
        let result = body();
        let (_, left) = self.lent.replace((ptr::null(), 0));
        (left == 0 || self.keep(&bytes[bytes.len() - left..])).then_some(result)
    }

    /// Calls `send` with what waits to be sent, and drops it.
    #[inline]
    pub(super) fn with_out<R>(&self, send: impl FnOnce(&[u8]) -> R) -> R {
        let mut out = self.out.take();
        self.out_len.set(0);
        let result = send(&out);
        out.clear();
        scratch::give_back(out);
        result
    }

    fn read(&self, room: *mut u8, len: usize) -> usize {
        let mut kept_part = 0;
        let (read, kept_len) = (self.kept_read.get(), self.kept_len.get());
        if read < kept_len {
            kept_part = len.min(kept_len - read);
            let kept = self.kept.take();
            // SAFETY: within the vector, and OpenSSL has room for `len`.
            unsafe { ptr::copy_nonoverlapping(kept.as_ptr().add(read), room, kept_part) };
            if read + kept_part < kept_len {
                self.kept_read.set(read + kept_part);
                self.kept.set(kept);
                return kept_part;
            }
            // All of it was read: the memory goes.
            self.kept_read.set(0);
            self.kept_len.set(0);
        }
        let (data, left) = self.lent.get();
        let part = left.min(len - kept_part);
        if part > 0 {
            // SAFETY: what is lent is memory of so many bytes; OpenSSL has room for the rest of
            // `len`.
            unsafe {
                ptr::copy_nonoverlapping(data, room.add(kept_part), part);
                self.lent.set((data.add(part), left - part));
            }
        }
        kept_part + part
    }

    fn write(&self, bytes: &[u8]) -> bool {
        let mut out = self.out.take();
        if out.capacity() == 0 {
            out = scratch::spare();
        }
        let room = out.try_reserve(bytes.len()).is_ok();
        if room {
            out.extend_from_slice(bytes);
        }
        self.out_len.set(out.len());
        self.out.set(out);
        room
    }
}

// ---- what OpenSSL calls ----

/// The channel of a BIO of ours.
///
/// # Safety
/// `bio` was made by [`install`], and lives.
unsafe fn channel<'a>(bio: *mut Bio) -> Option<&'a Channel> {
    let functions = FUNCTIONS.load(Ordering::Relaxed);
    // SAFETY: filled before the first BIO was made, for ever; the BIO's data is null or a channel
    // that it holds.
    unsafe { ((*functions).bio_get_data)(bio).cast::<Channel>().as_ref() }
}

const SHOULD_RETRY: c_int = 8;
const READ: c_int = 1;
const ALL_RETRY_FLAGS: c_int = 15;

unsafe extern "C" fn bio_read(bio: *mut Bio, room: *mut c_char, len: c_int) -> c_int {
    // SAFETY: OpenSSL passes a BIO of this method, and room for `len` bytes.
    unsafe {
        let functions = &*FUNCTIONS.load(Ordering::Relaxed);
        (functions.bio_clear_flags)(bio, ALL_RETRY_FLAGS);
        let Some(channel) = channel(bio) else {
            return -1;
        };
        match channel.read(room.cast(), len.max(0) as usize) {
            0 => {
                (functions.bio_set_flags)(bio, READ | SHOULD_RETRY);
                -1
            }
            count => count as c_int,
        }
    }
}

unsafe extern "C" fn bio_write(bio: *mut Bio, data: *const c_char, len: c_int) -> c_int {
    // SAFETY: OpenSSL passes a BIO of this method, and `len` bytes.
    unsafe {
        let functions = &*FUNCTIONS.load(Ordering::Relaxed);
        (functions.bio_clear_flags)(bio, ALL_RETRY_FLAGS);
        if data.is_null() || len <= 0 {
            return 0;
        }
        let bytes = std::slice::from_raw_parts(data.cast::<u8>(), len as usize);
        match channel(bio) {
            Some(channel) if channel.write(bytes) => len,
            _ => -1,
        }
    }
}

unsafe extern "C" fn bio_ctrl(bio: *mut Bio, command: c_int, _: c_long, _: *mut c_void) -> c_long {
    const PENDING: c_int = 10;
    const FLUSH: c_int = 11;
    const DUP: c_int = 12;
    match command {
        FLUSH | DUP => 1,
        // SAFETY: OpenSSL passes a BIO of this method.
        PENDING => unsafe { channel(bio) }.map_or(0, |channel| channel.pending_in() as c_long),
        _ => 0,
    }
}

unsafe extern "C" fn bio_destroy(bio: *mut Bio) -> c_int {
    let functions = FUNCTIONS.load(Ordering::Relaxed);
    // SAFETY: OpenSSL passes a dying BIO of this method; its data is a reference that it owns,
    // given up once.
    unsafe {
        let data = ((*functions).bio_get_data)(bio).cast::<Channel>();
        ((*functions).bio_set_data)(bio, ptr::null_mut());
        if !data.is_null() {
            drop(Rc::from_raw(data.cast_const()));
        }
    }
    1
}

static FUNCTIONS: AtomicPtr<Functions> = AtomicPtr::new(ptr::null_mut());
static METHOD: AtomicPtr<BioMethod> = AtomicPtr::new(ptr::null_mut());

/// OpenSSL's method table for these BIOs, made once.
fn method(functions: &'static Functions) -> *mut BioMethod {
    const SOURCE_SINK: c_int = 0x400;
    let made = METHOD.load(Ordering::Relaxed);
    if !made.is_null() {
        return made;
    }
    FUNCTIONS.store(ptr::from_ref(functions).cast_mut(), Ordering::Relaxed);
    // SAFETY: OpenSSL's functions as they are meant to be used; the functions above have the
    // signatures that it wants.
    unsafe {
        let index = (functions.bio_get_new_index)();
        let made = (functions.bio_meth_new)(index | SOURCE_SINK, c"rondel".as_ptr());
        if index < 0 || made.is_null() {
            return ptr::null_mut();
        }
        (functions.bio_meth_set_read)(made, bio_read);
        (functions.bio_meth_set_write)(made, bio_write);
        (functions.bio_meth_set_ctrl)(made, bio_ctrl);
        (functions.bio_meth_set_destroy)(made, bio_destroy);
        METHOD.store(made, Ordering::Relaxed);
        made
    }
}

/// Replaces a connection's two memory BIOs, and takes over their content. `None`: nothing has
/// changed.
///
/// # Safety
/// All three are live, and the connection has these two.
pub(super) unsafe fn install(
    functions: &'static Functions,
    ssl: *mut Ssl,
    incoming: *mut Bio,
    outgoing: *mut Bio,
) -> Option<*const Channel> {
    let method = method(functions);
    if method.is_null() {
        return None;
    }
    let channel = Rc::new(Channel::new());
    // SAFETY: guaranteed by the caller; each BIO gets a reference to the channel, and the
    // connection the BIOs.
    unsafe {
        if !channel.keep(functions.content(incoming)) || !channel.write(functions.content(outgoing))
        {
            return None;
        }
        let [reader, writer] = [(functions.bio_new)(method), (functions.bio_new)(method)];
        if reader.is_null() || writer.is_null() {
            for bio in [reader, writer] {
                if !bio.is_null() {
                    (functions.bio_free)(bio);
                }
            }
            return None;
        }
        for bio in [reader, writer] {
            (functions.bio_set_data)(bio, Rc::into_raw(channel.clone()).cast_mut().cast());
            (functions.bio_set_init)(bio, 1);
        }
        functions.reset(incoming);
        functions.reset(outgoing);
        (functions.ssl_set_rbio)(ssl, reader);
        (functions.ssl_set_wbio)(ssl, writer);
    }
    Some(Rc::as_ptr(&channel))
}
