//! From the socket to the program: encrypted bytes are received into shared memory, and decrypted
//! straight into a `bytes` object, the protocol's buffer or the stream's reader.

use rondel_engine::transport::recv_size::{MAX_RECV, Received};

use super::protocol::{
    APP_READING_PAUSED, BUFFERED, DIRTY, READING_PAUSED, State, Tls, call, fail,
};
use super::session::{Drained, Got, Stop};
use super::{scratch, writing};
use crate::cpython::error::os_error;
use crate::cpython::method::{Method, method};
use crate::cpython::native::{Native, NativeClass};
use crate::cpython::{Object, Owned, Raised, Res, names};
use crate::transport::chunk::{Chunk, with_writable_buffer};
use crate::transport::loop_calls::take_unless_exit;
use crate::transport::reading::{buffer_updated_failed, eof, read_failed, receive_into};
use crate::transport::receiver::{self, Receiver};
use crate::transport::socket::{self, Socket};

/// The receiver for a TLS protocol, which receives into the shared memory itself.
pub(super) static RECEIVER: Receiver = Receiver {
    accepts: Tls::is_exact,
    receive: Some(read_socket),
    ..receiver::METHODS
};

/// The result of one receive.
enum Fed {
    /// Bytes: whether there may be more, and what was decrypted of them, if that was possible at
    /// once.
    Bytes(bool, Option<Drained>),
    /// No bytes.
    Other(Received),
}

/// The socket can be read.
fn read_socket(socket: &Native<Socket>) -> Res<()> {
    let protocol = socket.protocol();
    let Some(this) = protocol.exact::<Tls>() else {
        return Ok(());
    };
    let mut brought_len = 0;
    loop {
        let exception = match receive(this, socket, &mut brought_len) {
            Ok(Fed::Bytes(more, drained)) => {
                if let Err(Raised) = received(this, drained) {
                    return buffer_updated_failed(socket);
                }
                if !more || brought_len >= MAX_RECV || !socket.goes_on(&RECEIVER) {
                    return Ok(());
                }
                continue;
            }
            Ok(Fed::Other(Received::Eof)) => return eof(socket),
            Ok(Fed::Other(Received::Failed(error))) => os_error(&error)?,
            Ok(Fed::Other(_)) => return Ok(()),
            Err(Raised) => take_unless_exit()?,
        };
        return read_failed(socket, &exception);
    }
}

/// Receives once, and decrypts what comes or keeps it. [`received`] goes on from there.
fn receive(this: &Tls, socket: &Socket, brought_len: &mut usize) -> Res<Fed> {
    scratch::with_received(|room| match receive_into(socket, room) {
        Received::Data(len) => {
            *brought_len += len;
            // SAFETY: the kernel has written `len` bytes there.
            let bytes = unsafe { std::slice::from_raw_parts(room.as_ptr().cast(), len) };
            let drained =
                if this.state.get() == State::Wrapped && !this.has(APP_READING_PAUSED | BUFFERED) {
                    this.drain_received(bytes)?
                } else {
                    this.feed(bytes)?;
                    None
                };
            Ok(Fed::Bytes(len == room.len(), drained))
        }
        other => Ok(Fed::Other(other)),
    })
}

/// Something was received: `drained` of it was decrypted, if that could be done.
#[inline]
fn received(this: &Native<Tls>, drained: Option<Drained>) -> Res<()> {
    let Some(drained) = drained else {
        return fed(this);
    };
    match read_on(this, drained).and_then(|()| after_reading(this)) {
        Ok(()) => Ok(()),
        Err(Raised) => fail(this),
    }
}

/// Something was added to what is to be decrypted.
#[inline]
fn fed(this: &Native<Tls>) -> Res<()> {
    let method = match this.state.get() {
        State::Wrapped => return do_read(this).map(drop),
        State::DoHandshake => &names().do_handshake,
        State::Flushing => &names().do_flush,
        State::Shutdown => &names().do_shutdown,
        State::Unwrapped => return Ok(()),
    };
    call(this, method)
}

/// asyncio's `_do_read`.
#[inline]
fn do_read(this: &Native<Tls>) -> Res<Owned> {
    match this.state.get() {
        State::Wrapped => {}
        // The shutdown follows: what was written is sent before it.
        State::Flushing => writing::flush_if_dirty(this)?,
        _ => return Ok(Owned::none()),
    }
    if let Err(Raised) = read(this) {
        fail(this)?;
    }
    Ok(Owned::none())
}

fn read(this: &Native<Tls>) -> Res<()> {
    if this.has(APP_READING_PAUSED) {
        return control_reading(this);
    }
    match this.has(BUFFERED) {
        true => read_into_buffer(this)?,
        false => read_chunks(this)?,
    }
    after_reading(this)
}

fn after_reading(this: &Native<Tls>) -> Res<()> {
    // What the program has just written is sent at the end of the turn.
    if !this.has(DIRTY) {
        writing::encrypt_and_send(this)?;
    }
    control_reading(this)
}

fn read_chunks(this: &Native<Tls>) -> Res<()> {
    let drained = this.drain()?;
    read_on(this, drained)
}

/// Passes on what was decrypted, and what else there is.
#[inline]
fn read_on(this: &Native<Tls>, mut drained: Drained) -> Res<()> {
    loop {
        if let Some(chunk) = drained.chunk {
            deliver(this, chunk)?;
        }
        match drained.end {
            Stop::Later => return Ok(()),
            Stop::End => return ended(this),
            Stop::Failed(exception) => return Err(crate::cpython::error::restore(exception)),
            Stop::Full => {}
        }
        let goes_on = matches!(this.state.get(), State::Wrapped | State::Flushing);
        if this.has(APP_READING_PAUSED | BUFFERED) || !goes_on {
            return Ok(());
        }
        drained = this.drain()?;
    }
}

/// The peer has said that it sends no more.
#[cold]
fn ended(this: &Native<Tls>) -> Res<()> {
    call(this, &names().call_eof_received)?;
    call(this, &names().start_shutdown)
}

/// Hands a chunk to the program.
#[inline]
fn deliver(this: &Tls, chunk: Chunk) -> Res<()> {
    let Some(owner) = this.app_protocol.cloned() else {
        return Ok(());
    };
    (this.receiver.get().data)(&owner, chunk)
}

/// Receives into the memory that a `BufferedProtocol` provides.
fn read_into_buffer(this: &Native<Tls>) -> Res<()> {
    let owner = this.app_protocol.or_none();
    let hint = Owned::from_u64(this.pending_in()? as u64)?;
    let buffer = owner.call_method(&names().get_buffer, &[&hint])?;
    let (count, full, end) = with_writable_buffer(&buffer, |room| {
        let mut count = 0;
        if room.is_empty() {
            // asyncio reads zero bytes then, and takes that for the end of file.
            return (0, false, Ok(true));
        }
        while count < room.len() {
            match this.read_into(&mut room[count..]) {
                Ok(Got::Bytes(more)) => count += more,
                Ok(Got::Later) => return (count, false, Ok(false)),
                Ok(Got::End) => return (count, false, Ok(true)),
                Err(Raised) => return (count, false, Err(crate::cpython::error::take_exception())),
            }
        }
        (count, true, Ok(false))
    })?;
    drop(buffer);
    if full {
        let read = this.object().getattr(&names().do_read)?;
        this.event_loop
            .or_none()
            .call_method(&names().call_soon, &[&read])?;
    }
    if count > 0 {
        let count = Owned::from_u64(count as u64)?;
        owner.call_method(&names().buffer_updated, &[&count])?;
    }
    match end {
        Ok(false) => Ok(()),
        Ok(true) => ended(this),
        Err(exception) => Err(crate::cpython::error::restore(exception)),
    }
}

/// Pauses the transport below if too much waits to be decrypted, and resumes it if little does.
#[inline]
fn control_reading(this: &Tls) -> Res<()> {
    let size = this.pending_in()?;
    let (pauses, paused) = (
        size >= this.incoming_high.bytes.get(),
        this.has(READING_PAUSED),
    );
    let change = match (pauses, paused) {
        (true, false) => true,
        (_, true) if size <= this.incoming_low.bytes.get() => false,
        _ => return Ok(()),
    };
    this.set(READING_PAUSED, change);
    let transport = this.transport.or_none();
    match (socket::plain(&transport), change) {
        (Some(socket), true) => socket::pause_reading(socket),
        (Some(socket), false) => socket::resume_reading(socket),
        (None, true) => transport.call_method(&names().pause_reading, &[]),
        (None, false) => transport.call_method(&names().resume_reading, &[]),
    }
    .map(drop)
}

fn control_reading_method(this: &Native<Tls>) -> Res<Owned> {
    control_reading(this)?;
    Ok(Owned::none())
}

/// A transport that is not ours has filled asyncio's buffer.
fn buffer_updated(this: &Native<Tls>, count: &Object) -> Res<Owned> {
    let count = count.to_isize()?.max(0) as usize;
    let view = this.object().getattr(&names().buffer_view)?;
    let bytes = crate::transport::chunk::with_buffer(&view, |bytes| {
        Owned::from_bytes(&bytes[..count.min(bytes.len())])
    })??;
    this.feed(bytes.bytes().unwrap_or_default())?;
    fed(this)?;
    Ok(Owned::none())
}

/// The program wants no bytes for now.
pub(super) fn pause_reading(this: &Native<Tls>) -> Res<Owned> {
    this.set(APP_READING_PAUSED, true);
    Ok(Owned::none())
}

/// Reading was resumed: what has come meanwhile is passed on in the next turn.
pub(super) fn resume_reading(this: &Native<Tls>) -> Res<Owned> {
    if this.has(APP_READING_PAUSED) {
        this.set(APP_READING_PAUSED, false);
        let resume = this.object().getattr(&names().fed)?;
        this.event_loop
            .or_none()
            .call_method(&names().call_soon, &[&resume])?;
    }
    Ok(Owned::none())
}

fn fed_method(this: &Native<Tls>) -> Res<Owned> {
    if this.state.get() != State::DoHandshake {
        fed(this)?;
    }
    Ok(Owned::none())
}

fn get_read_buffer_size(this: &Native<Tls>) -> Res<Owned> {
    Owned::from_u64(this.pending_in()? as u64)
}

pub(super) fn methods() -> Vec<Method> {
    vec![
        method!(noargs c"_do_read" do_read, c"Decrypts received data and passes it on."),
        method!(noargs c"_control_ssl_reading" control_reading_method, c"Pauses or resumes the transport below."),
        method!(noargs c"_get_read_buffer_size" get_read_buffer_size, c"The number of encrypted bytes that wait to be read."),
        method!(noargs c"_pause_reading" pause_reading, c"Stops passing data on until _resume_reading()."),
        method!(noargs c"_resume_reading" resume_reading, c"Passes data on again."),
        method!(noargs c"_resumed" fed_method, c"Passes on the data that was received while reading was paused."),
        method!(onearg c"buffer_updated" buffer_updated, c"A transport that is not ours has filled the buffer."),
    ]
}
