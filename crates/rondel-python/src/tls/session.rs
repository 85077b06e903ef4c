//! A connection's encryption and decryption.
//!
//! The handshake is always Python's (`SSLObject.do_handshake`), so that callbacks, checks and
//! exceptions are the interpreter's own. Data is encrypted and decrypted either by OpenSSL directly
//! ([`Direct`]) or by Python's objects. After any result of OpenSSL but "done", "later" and "the
//! peer has ended", the call is repeated by the Python object, which raises the exception.

use std::mem::MaybeUninit;
use std::ptr;

use super::channel::{self, Channel};
use super::locate::library;
use super::names::imports;
use super::openssl::{Bio, Functions, MAX_INT, RECEIVED_SHUTDOWN, Ssl, WANT_READ, ZERO_RETURN};
use super::protocol::Tls;
use crate::cpython::error::{no_memory, raised_matches, take_exception};
use crate::cpython::{Object, Owned, Raised, Res, names};
use crate::kernel_calls::unpreceded;
use crate::transport::chunk::Chunk;
use crate::transport::unsent::Unsent;

/// A connection's pointers.
#[derive(Clone, Copy)]
pub(super) struct Direct {
    functions: &'static Functions,
    ssl: *mut Ssl,
    incoming: *mut Bio,
    outgoing: *mut Bio,
    /// The channel of the BIOs that replace the two after the handshake.
    channel: Option<*const Channel>,
}

/// The result of a read or a write that did not raise.
pub(super) enum Got {
    /// So many bytes, at least one.
    Bytes(usize),
    /// More has to come from the peer first.
    Later,
    /// The peer has said that it sends no more.
    End,
}

/// OpenSSL has failed; the Python object knows the exception.
struct Failed;

impl Direct {
    /// The pointers behind these objects, if OpenSSL can be driven directly and nothing that the
    /// program has set up wants to hear of every record.
    pub(super) fn of(
        context: &Object,
        socket: &Object,
        incoming: &Object,
        outgoing: &Object,
    ) -> Res<Option<Self>> {
        // For tests: the other way.
        if std::env::var_os("RONDEL_TLS").is_some_and(|way| way == "python-objects") {
            return Ok(None);
        }
        let Some(library) = library() else {
            return Ok(None);
        };
        for observer in [&names().msg_callback, &names().keylog_filename] {
            // An exception in one of these is kept in Python's object and raised by its methods.
            match context.getattr_optional(observer)? {
                Some(value) if !value.is_none() => return Ok(None),
                _ => {}
            }
        }
        let pointers = library.pointers(socket, incoming, outgoing);
        Ok(pointers.map(|(ssl, incoming, outgoing)| Self {
            functions: &library.functions,
            ssl,
            incoming,
            outgoing,
            channel: None,
        }))
    }

    /// The same connection, with BIOs of ours. Once the handshake is over.
    pub(super) fn with_channel(self) -> Self {
        let channel = match self.channel {
            Some(_) => self.channel,
            // SAFETY: live pointers of one connection.
            None => unsafe {
                channel::install(self.functions, self.ssl, self.incoming, self.outgoing)
            },
        };
        Self { channel, ..self }
    }

    #[inline]
    fn channel(&self) -> Option<&Channel> {
        // SAFETY: the connection holds the BIOs, and they the channel.
        self.channel.map(|channel| unsafe { &*channel })
    }

    #[inline]
    fn pending_in(&self) -> usize {
        match self.channel() {
            Some(channel) => channel.pending_in(),
            // SAFETY: a live memory BIO.
            None => unsafe { (self.functions.bio_pending)(self.incoming) },
        }
    }

    #[inline]
    fn pending_out(&self) -> usize {
        match self.channel() {
            Some(channel) => channel.pending_out(),
            // SAFETY: a live memory BIO.
            None => unsafe { (self.functions.bio_pending)(self.outgoing) },
        }
    }

    /// Errors that others left in the thread's error queue would be taken for those of the next
    /// call.
    #[inline]
    fn forget_errors(&self) {
        // SAFETY: takes nothing.
        unsafe {
            if (self.functions.err_peek)() != 0 {
                (self.functions.err_clear)();
            }
        }
    }

    #[inline]
    fn outcome(&self, done: i32, count: usize) -> Result<Got, Failed> {
        if done > 0 {
            return Ok(Got::Bytes(count));
        }
        // SAFETY: a live connection, and what its last call returned.
        unsafe {
            match (self.functions.ssl_get_error)(self.ssl, done) {
                WANT_READ => Ok(Got::Later),
                ZERO_RETURN if (self.functions.ssl_get_shutdown)(self.ssl) == RECEIVED_SHUTDOWN => {
                    Ok(Got::End)
                }
                _ => Err(Failed),
            }
        }
    }

    #[inline]
    fn read(&self, room: &mut [MaybeUninit<u8>]) -> Result<Got, Failed> {
        self.forget_errors();
        let mut count = 0;
        // SAFETY: a live connection, and memory of that size.
        let done = unsafe {
            (self.functions.ssl_read)(self.ssl, room.as_mut_ptr().cast(), room.len(), &mut count)
        };
        self.outcome(done, count)
    }

    #[inline]
    fn write(&self, bytes: &[u8]) -> Result<Got, Failed> {
        self.forget_errors();
        let mut count = 0;
        // SAFETY: a live connection, and memory of that size.
        let done = unsafe {
            (self.functions.ssl_write)(self.ssl, bytes.as_ptr().cast(), bytes.len(), &mut count)
        };
        self.outcome(done, count)
    }

    /// An upper bound of how many bytes of the program's can be read without more from the peer.
    #[inline]
    fn readable(&self) -> usize {
        // SAFETY: a live connection.
        let read = unsafe { (self.functions.ssl_pending)(self.ssl) }.max(0) as usize;
        self.pending_in() + read
    }
}

/// What the program is to get, and how it ended.
pub(crate) struct Drained {
    pub(super) chunk: Option<Chunk>,
    pub(super) end: Stop,
}

/// Why reading stopped.
pub(crate) enum Stop {
    /// The chunk is full.
    Full,
    Later,
    End,
    /// An exception, not raised.
    Failed(Owned),
}

impl Tls {
    /// Adds what has come from the peer.
    pub(super) fn feed(&self, bytes: &[u8]) -> Res<()> {
        if let Some(direct) = self.direct() {
            let fed = match direct.channel() {
                Some(channel) => channel.keep(bytes),
                None => bytes.chunks(MAX_INT).all(|part| {
                    let (data, len) = (part.as_ptr().cast(), part.len());
                    // SAFETY: a live memory BIO, which takes everything, and memory of that size.
                    let count =
                        unsafe { (direct.functions.bio_write)(direct.incoming, data, len as i32) };
                    count as usize == len
                }),
            };
            return match fed {
                true => Ok(()),
                false => no_memory(),
            };
        }
        let bytes = Owned::from_bytes(bytes)?;
        self.incoming
            .or_none()
            .call_method(&names().write, &[&bytes])
            .map(drop)
    }

    fn pending(&self, memory: &Object) -> Res<usize> {
        Ok(memory.getattr(&names().pending)?.to_isize()?.max(0) as usize)
    }

    /// How many encrypted bytes wait to be read.
    #[inline]
    pub(super) fn pending_in(&self) -> Res<usize> {
        match self.direct() {
            Some(direct) => Ok(direct.pending_in()),
            None => self.pending(&self.incoming.or_none()),
        }
    }

    /// How many encrypted bytes wait to be sent.
    #[inline]
    pub(super) fn pending_out(&self) -> Res<usize> {
        match self.direct() {
            Some(direct) => Ok(direct.pending_out()),
            None => self.pending(&self.outgoing.or_none()),
        }
    }

    /// Calls `send`, which must run no Python code, with the encrypted bytes that wait, and drops
    /// them. `None`: they are only available as an object, by
    /// [`take_outgoing`](Self::take_outgoing).
    #[inline]
    pub(super) fn with_outgoing<R>(&self, send: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let direct = self.direct()?;
        if let Some(channel) = direct.channel() {
            return Some(channel.with_out(send));
        }
        // SAFETY: a live memory BIO, which nobody touches until it is emptied.
        unsafe {
            let result = send(direct.functions.content(direct.outgoing));
            direct.functions.reset(direct.outgoing);
            Some(result)
        }
    }

    /// The encrypted bytes that wait to be sent.
    pub(super) fn take_outgoing(&self) -> Res<Owned> {
        match self.with_outgoing(Owned::from_bytes) {
            Some(bytes) => bytes,
            None => self.outgoing.or_none().call_method(&names().read, &[]),
        }
    }

    /// Decrypts `bytes` and what came before. `None`: they were only added to the input, as OpenSSL
    /// is not called directly.
    pub(super) fn drain_received(&self, bytes: &[u8]) -> Res<Option<Drained>> {
        let direct = self.direct();
        let Some(channel) = direct.as_ref().and_then(Direct::channel) else {
            self.feed(bytes)?;
            return Ok(None);
        };
        match channel.lending(bytes, || self.drain()) {
            Some(drained) => drained.map(Some),
            None => no_memory(),
        }
    }

    /// Decrypts into `room`.
    pub(super) fn read_into(&self, room: &mut [MaybeUninit<u8>]) -> Res<Got> {
        if let Some(direct) = self.direct()
            && let Ok(got) = direct.read(room)
        {
            return Ok(got);
        }
        self.read_by_object(room)
    }

    /// As [`read_into`](Self::read_into), by `SSLObject.read`: OpenSSL's queue of errors is as its
    /// last call left it.
    fn read_by_object(&self, room: &mut [MaybeUninit<u8>]) -> Res<Got> {
        Ok(match self.read_object(room.len())? {
            Read::Bytes(chunk) => {
                let bytes = chunk.as_ref();
                // SAFETY: as many as there was room for, at most, and from an object of its own.
                unsafe {
                    let len = bytes.len().min(room.len());
                    ptr::copy_nonoverlapping(bytes.as_ptr(), room.as_mut_ptr().cast(), len);
                    Got::Bytes(len)
                }
            }
            Read::Later => Got::Later,
            Read::End => Got::End,
        })
    }

    /// `SSLObject.read(len)`.
    fn read_object(&self, len: usize) -> Res<Read> {
        let len = Owned::from_u64(len as u64)?;
        match self.call_object(&names().read, &len) {
            Ok(data) => {
                let chunk = Chunk::of_buffer(&data)?;
                Ok(match chunk.as_ref().is_empty() {
                    true => Read::End,
                    false => Read::Bytes(chunk),
                })
            }
            Err(Raised) if raised_matches(&imports().again) => {
                drop(take_exception());
                Ok(Read::Later)
            }
            Err(Raised) => Err(Raised),
        }
    }

    /// Reads what there is, into one object.
    pub(super) fn drain(&self) -> Res<Drained> {
        /// The largest record, with what a peer's OpenSSL adds to it.
        const RECORD: usize = 17 * 1024;
        let Some(direct) = self.direct() else {
            return self.drain_objects();
        };
        let readable = direct.readable();
        let mut end = Stop::Full;
        let mut fill = |room: &mut [MaybeUninit<u8>]| {
            let (count, stop) = self.fill(direct, room);
            end = stop;
            count
        };
        let chunk = if readable <= RECORD {
            super::scratch::with(|scratch| {
                let count = fill(scratch);
                // SAFETY: so many bytes were written there.
                let bytes = unsafe { std::slice::from_raw_parts(scratch.as_ptr().cast(), count) };
                match count {
                    0 => Ok(None),
                    _ => Chunk::copy(bytes).map(Some),
                }
            })?
        } else {
            Chunk::fill(readable, |room| match fill(room) {
                0 => Err(()),
                count => Ok(count),
            })?
            .ok()
        };
        Ok(Drained { chunk, end })
    }

    /// Reads until `room` is full or there is no more.
    fn fill(&self, direct: Direct, room: &mut [MaybeUninit<u8>]) -> (usize, Stop) {
        let mut count = 0;
        while count < room.len() {
            match direct.read(&mut room[count..]) {
                Ok(Got::Bytes(more)) => count += more,
                Ok(Got::Later) => return (count, Stop::Later),
                Ok(Got::End) => return (count, Stop::End),
                Err(Failed) => match self.read_by_object(&mut room[count..]) {
                    Ok(Got::Bytes(more)) => count += more,
                    Ok(Got::Later) => return (count, Stop::Later),
                    Ok(Got::End) => return (count, Stop::End),
                    Err(Raised) => return (count, Stop::Failed(take_exception())),
                },
            }
            if direct.readable() == 0 {
                // Asking once more would give the same answer.
                return (count, Stop::Later);
            }
        }
        (count, Stop::Full)
    }

    /// As [`drain`](Self::drain), by Python's objects.
    fn drain_objects(&self) -> Res<Drained> {
        const MAX_SIZE: usize = 256 * 1024;
        let mut chunks: Vec<Chunk> = Vec::new();
        let end = loop {
            match self.read_object(MAX_SIZE) {
                Ok(Read::Bytes(chunk)) => chunks.push(chunk),
                Ok(Read::Later) => break Stop::Later,
                Ok(Read::End) => break Stop::End,
                Err(Raised) => break Stop::Failed(take_exception()),
            }
        };
        let chunk = match chunks.len() {
            0 | 1 => chunks.pop(),
            _ => {
                let parts: Vec<&[u8]> = chunks.iter().map(AsRef::as_ref).collect();
                Some(Chunk::copy(&parts.concat())?)
            }
        };
        Ok(Drained { chunk, end })
    }

    /// Encrypts the beginning of what is behind `offset` in a piece: says how much of it.
    pub(super) fn write_bytes(&self, piece: &Unsent, offset: usize) -> Res<Got> {
        match offset {
            0 if self.direct().is_none() => self.write_object(piece.object()),
            _ => self.write_joined(&piece.as_ref()[offset..]),
        }
    }

    /// Encrypts the beginning of `bytes`: says how much of it.
    pub(super) fn write_joined(&self, bytes: &[u8]) -> Res<Got> {
        if let Some(direct) = self.direct()
            && let Ok(got) = direct.write(bytes)
        {
            return Ok(got);
        }
        self.write_object(&*Owned::from_bytes(bytes)?)
    }

    /// As [`write_joined`](Self::write_joined), without Python code. `None`: it has failed, and the
    /// Python object knows why.
    pub(super) fn write_directly(&self, bytes: &[u8]) -> Option<Got> {
        self.direct()?.write(bytes).ok()
    }

    /// Calls a method of what reads and writes.
    fn call_object(&self, method: &Object, argument: &Object) -> Res<Owned> {
        let socket = self.socket.or_none();
        let call = || socket.call_method(method, &[argument]);
        // Its `write` would first send what other transports wrote, as it is one of the functions
        // in `kernel_calls.rs`.
        match self.direct().is_none() && socket.class().is(&imports().ssl_socket) {
            true => unpreceded(call),
            false => call(),
        }
    }

    /// `SSLObject.write(data)`.
    fn write_object(&self, data: &Object) -> Res<Got> {
        match self.call_object(&names().write, data) {
            Ok(count) => Ok(Got::Bytes(count.to_isize()?.max(0) as usize)),
            Err(Raised) if raised_matches(&imports().again) => {
                drop(take_exception());
                Ok(Got::Later)
            }
            Err(Raised) => Err(Raised),
        }
    }
}

/// What `SSLObject.read` gave.
enum Read {
    Bytes(Chunk),
    Later,
    End,
}
