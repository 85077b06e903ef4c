//! A connection whose bytes are encrypted.
//!
//! rustls works on bytes that it is given. This stands between the socket and the connection's
//! buffers: what is received is decrypted into them, and what is written waits, as plain text,
//! until the step is over, and is encrypted then, in as few records as can be. Readers, writers,
//! flow control and the ways a connection ends know nothing of it.
//!
//! The end of an encrypted stream is a message of its own (`close_notify`). A connection that just
//! ends was cut off, by whomever: reads say so, after what has arrived.

use std::io;
use std::mem;
use std::rc::Rc;
use std::task::{Context, Poll};

use rustls::Connection as Session;

use super::{ARRIVED, Chunk, Connection, EOF, LOST, SECURED, warn};
use rondel_engine::read_buffer::ReadBuffer;
use rondel_engine::transport::stream::{FLUSH_AT_ONCE, Written};

/// The session of an encrypted connection.
pub(super) struct Secured {
    session: Session,
    /// Written and not encrypted.
    plain: Vec<u8>,
    /// The socket has ended before the session.
    truncated: bool,
}

impl Connection {
    /// From now on what goes over the socket is encrypted. What has arrived, and `early`, which was
    /// read before that, belong to the handshake: text that somebody has slipped in before it is
    /// not taken for the peer's.
    pub(crate) fn secure(
        self: &Rc<Self>,
        mut session: Session,
        early: &[u8],
        buffer: &mut ReadBuffer<Chunk>,
    ) -> io::Result<()> {
        if self.is(SECURED) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the connection is encrypted already",
            ));
        }
        self.check()?;
        // What was written before leaves as it is.
        self.flush();
        // What waits for the peer is bounded by the connection's flow control.
        session.set_buffer_limit(None);
        *self.secured.borrow_mut() = Some(Box::new(Secured {
            session,
            plain: Vec::new(),
            truncated: false,
        }));
        self.note(SECURED, true);
        if self.is(EOF) {
            self.note(EOF, false);
            self.end_of_secured();
        }
        let arrived = self.arrived.take();
        self.note(ARRIVED, false);
        for early in [early, arrived.as_slice()] {
            self.receive_secured(early, buffer);
        }
        self.check()
    }

    /// One poll of the handshake. Application data that comes with its last message goes into
    /// `buffer`.
    pub(crate) fn poll_handshake(
        self: &Rc<Self>,
        buffer: &mut ReadBuffer<Chunk>,
        context: &Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            self.flush();
            let state = self.with_session(|session| session.is_handshaking());
            match state {
                Some(true) => {}
                Some(false) => return self.ready(self.check(), context),
                None => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            }
            match self.fill(buffer, context) {
                Ok(true)
                    if self.is(EOF)
                        && self.with_session(|it| it.is_handshaking()) == Some(true) =>
                {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the connection was closed during the handshake",
                    )));
                }
                Ok(true) => {}
                // What has come may ask for an answer, or have been the last message.
                Ok(false) => {
                    let waits = |it: &Session| it.is_handshaking() && !it.wants_write();
                    if self.with_session(waits) == Some(true) {
                        return Poll::Pending;
                    }
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Applies `f` to the session, if there is one.
    pub(crate) fn with_session<R>(&self, f: impl FnOnce(&Session) -> R) -> Option<R> {
        self.secured.borrow().as_ref().map(|it| f(&it.session))
    }

    /// Decrypts what was received. `true`: there is something to read, or the end.
    pub(super) fn receive_secured(
        self: &Rc<Self>,
        bytes: impl AsRef<[u8]>,
        buffer: &mut ReadBuffer<Chunk>,
    ) -> bool {
        let before = buffer.len();
        let mut secured = self.secured.borrow_mut();
        let Some(it) = secured.as_mut() else {
            return false;
        };
        match it.decrypt(bytes.as_ref(), buffer) {
            Ok(ended) => {
                let answers = it.session.wants_write();
                drop(secured);
                if answers {
                    self.leave_later();
                }
                if ended {
                    self.note(EOF, true);
                    drop(self.runtime.event_loop.remove_reader(self.fd));
                }
                ended || buffer.len() > before
            }
            Err(error) => {
                drop(secured);
                // The peer is told why, if it still listens.
                self.encrypt();
                let _ = self.stream.borrow_mut().flush();
                self.fail(error);
                buffer.len() > before
            }
        }
    }

    /// The socket has ended. `true`: as the session has.
    pub(super) fn end_of_secured(&self) -> bool {
        if let Some(secured) = self.secured.borrow_mut().as_mut() {
            secured.truncated = !self.is(EOF);
        }
        self.is(EOF)
    }

    /// Fails if the socket has ended and the session has not.
    pub(super) fn check_truncated(&self) -> io::Result<()> {
        match &*self.secured.borrow() {
            Some(secured) if secured.truncated => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "peer closed connection without sending TLS close_notify",
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn write_secured(self: &Rc<Self>, bytes: &[u8]) {
        let _ = self.check_loop();
        if self.is(LOST) {
            // As without encryption: it is counted, and warned of.
            let lost = self.stream.borrow_mut().write(Chunk::copy_of(&[]));
            return self.after_write(lost);
        }
        let mut secured = self.secured.borrow_mut();
        let Some(it) = secured.as_mut() else { return };
        it.plain.extend_from_slice(bytes);
        let much = it.plain.len() > FLUSH_AT_ONCE;
        drop(secured);
        match much {
            true => self.flush(),
            false => self.leave_later(),
        }
    }

    /// Has it flushed when the step is over.
    fn leave_later(self: &Rc<Self>) {
        if !self.listed.replace(true) {
            self.runtime.outbox.list(Rc::clone(self));
        }
    }

    /// Encrypts what was written, and what the session has to say by itself, into the queue.
    pub(super) fn encrypt(&self) {
        let mut secured = self.secured.borrow_mut();
        let Some(it) = secured.as_mut() else { return };
        let encrypted = it.encrypt();
        drop(secured);
        if encrypted.is_empty() {
            return;
        }
        let mut stream = self.stream.borrow_mut();
        match stream.write(Chunk::of(encrypted)) {
            Written::Waiting => {
                let waiting = stream.queue().len();
                stream.flow.pauses_at(waiting);
            }
            Written::Lost { warn: true } => warn("socket.send() raised exception."),
            // Who encrypts flushes.
            Written::Lost { warn: false }
            | Written::Queued
            | Written::FlushLater
            | Written::FlushNow => {}
        }
    }

    pub(super) fn has_unencrypted(&self) -> bool {
        let secured = self.secured.borrow();
        let secured = secured.as_ref();
        secured.is_some_and(|it| !it.plain.is_empty() || it.session.wants_write())
    }

    pub(super) fn unencrypted(&self) -> usize {
        self.secured
            .borrow()
            .as_ref()
            .map_or(0, |it| it.plain.len())
    }

    /// Ends this side of the session, behind what was written.
    pub(super) fn notify_of_end(&self) {
        if !self.is(LOST) {
            self.encrypt();
            if let Some(secured) = self.secured.borrow_mut().as_mut() {
                secured.session.send_close_notify();
            }
        }
    }
}

impl Secured {
    /// `true`: the peer has ended its side.
    fn decrypt(&mut self, mut bytes: &[u8], buffer: &mut ReadBuffer<Chunk>) -> io::Result<bool> {
        loop {
            // Behind the end of the session nothing is taken.
            if !bytes.is_empty() && self.session.read_tls(&mut bytes)? == 0 {
                return Ok(true);
            }
            let state = self
                .session
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let plain = state.plaintext_bytes_to_read();
            if plain > 0 {
                let mut memory = vec![0; plain];
                io::Read::read_exact(&mut self.session.reader(), &mut memory)?;
                buffer.feed(Chunk::of(memory));
            }
            if bytes.is_empty() || state.peer_has_closed() {
                return Ok(state.peer_has_closed());
            }
        }
    }

    fn encrypt(&mut self) -> Vec<u8> {
        // Until the handshake is over it would wait in the session, without having been counted.
        if !self.plain.is_empty() && !self.session.is_handshaking() {
            let plain = mem::take(&mut self.plain);
            // Without a limit it takes everything.
            let _ = io::Write::write_all(&mut self.session.writer(), &plain);
            self.plain = plain;
            self.plain.clear();
            self.plain.shrink_to(FLUSH_AT_ONCE);
        }
        let mut encrypted = Vec::new();
        while self.session.wants_write() {
            if self.session.write_tls(&mut encrypted).is_err() {
                break;
            }
        }
        encrypted
    }
}
