//! `StreamWriter`: the sending half of a connection.
//!
//! Writing queues; what is written in one step of a task leaves together, at the latest when the
//! step is over. All methods take `&self`, so that tasks may share a writer.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::task::{Context, Poll};

use super::connection::Connection;
use super::pipe::PipeSink;
use crate::time::yield_now;

/// Writes to a connection, in asyncio's ways. Comes in a pair with a
/// [`StreamReader`](crate::StreamReader), or alone, if it writes to a
/// [pipe](crate::open_write_pipe).
///
/// Dropping it ends its direction, once everything that was written is sent: the peer reads the end
/// of the stream, and what it sends can still be read. When the reader is gone, too, the connection
/// is closed. For a peer that takes nothing, see [`Builder::linger`](crate::Builder::linger).
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let server = rondel::start_server(async |mut reader: rondel::StreamReader, writer| {
///         let all = reader.read_to_end().await?;
///         writer.write(format!("{} bytes", all.len()));
///         writer.drain().await
///     }, ("127.0.0.1", 0)).await?;
///
///     let (mut reader, writer) = rondel::open_connection(server.addresses()[0]).await?;
///     writer.write(b"some ");
///     writer.writelines(["more ", "text"]);
///     writer.drain().await?;
///     writer.write_eof()?;
///     assert_eq!(reader.read_to_end().await?, b"14 bytes");
///     writer.close();
///     writer.wait_closed().await
/// })?
/// # }
/// ```
pub struct StreamWriter {
    target: Target,
}

/// Where the bytes go.
enum Target {
    Socket(Rc<Connection>),
    Pipe(Rc<PipeSink>),
}

impl StreamWriter {
    pub(super) fn new(connection: Rc<Connection>) -> Self {
        Self {
            target: Target::Socket(connection),
        }
    }

    pub(super) fn of_pipe(pipe: Rc<PipeSink>) -> Self {
        Self {
            target: Target::Pipe(pipe),
        }
    }

    /// The connection, unless it is a pipe.
    pub(super) fn connection(&self) -> io::Result<&Rc<Connection>> {
        match &self.target {
            Target::Socket(connection) => Ok(connection),
            Target::Pipe(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    #[inline]
    fn write_bytes(&self, bytes: &[u8]) {
        match &self.target {
            Target::Socket(connection) => connection.write(bytes),
            Target::Pipe(pipe) => pipe.write(bytes),
        }
    }

    /// Writes bytes. They are copied; [`drain`](Self::drain) waits if too many are on the way. A
    /// write is atomic: as it does not wait, it can't be cancelled, and what tasks that share the
    /// writer write does not mix.
    ///
    /// After the connection is lost nothing happens, but a warning on standard error after a few
    /// times.
    ///
    /// # Panics
    /// After [`write_eof`](Self::write_eof).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     use std::io::Read;
    ///
    ///     let (ours, mut theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     let (_reader, writer) = rondel::from_std(ours)?;
    ///     writer.write("hello");
    ///     writer.flushed().await?;
    ///     let mut memory = [0; 5];
    ///     theirs.read_exact(&mut memory)?;
    ///     assert_eq!(&memory, b"hello");
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn write(&self, data: impl AsRef<[u8]>) {
        self.write_bytes(data.as_ref());
    }

    /// Writes several pieces, which leave together.
    ///
    /// # Panics
    /// As [`write`](Self::write).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     let (_reader, writer) = rondel::from_std(ours)?;
    ///     writer.writelines(["one\n", "two\n"]);
    ///     writer.drain().await?;
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn writelines<D: AsRef<[u8]>>(&self, pieces: impl IntoIterator<Item = D>) {
        for piece in pieces {
            self.write_bytes(piece.as_ref());
        }
    }

    /// As [`writelines`](Self::writelines), of slices as `std::io::Write::write_vectored` takes
    /// them. All of it is written.
    ///
    /// # Panics
    /// As [`write`](Self::write).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     use std::io::IoSlice;
    ///
    ///     let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     let (_reader, writer) = rondel::from_std(ours)?;
    ///     writer.write_vectored(&[IoSlice::new(b"head"), IoSlice::new(b"body")]);
    ///     writer.drain().await?;
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn write_vectored(&self, pieces: &[io::IoSlice<'_>]) {
        for piece in pieces {
            self.write_bytes(piece);
        }
    }

    /// As [`write`](Self::write), for bytes that are the program's to give: they are not copied if
    /// there are many.
    ///
    /// # Panics
    /// As [`write`](Self::write).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let server = rondel::start_server(async |_, writer| {
    ///         writer.write_owned(vec![7; 1_000_000]);
    ///     }, ("127.0.0.1", 0)).await?;
    ///     let (mut reader, _writer) = rondel::open_connection(server.addresses()[0]).await?;
    ///     assert_eq!(reader.read_to_end().await?, vec![7; 1_000_000]);
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn write_owned(&self, data: Vec<u8>) {
        match &self.target {
            Target::Socket(connection) => connection.write_owned(data),
            Target::Pipe(pipe) => pipe.write(&data),
        }
    }

    /// Writes a lot, piece by piece, and waits whenever the peer does not keep up: no more than the
    /// buffer's limit is held. Everything is written when it is ready. Dropped before, it has
    /// written a part, and nothing says which: use [`write`](Self::write), which is atomic, and
    /// [`drain`](Self::drain) where that matters.
    ///
    /// # Errors
    /// As [`drain`](Self::drain).
    ///
    /// # Panics
    /// As [`write`](Self::write).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     let (_reader, writer) = rondel::from_std(ours)?;
    ///     writer.write_all(b"hello").await?;
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn write_all(&self, data: &[u8]) -> io::Result<()> {
        const PIECE: usize = 64 * 1024;
        for piece in data.chunks(PIECE) {
            self.write_bytes(piece);
            self.drain().await?;
        }
        Ok(())
    }

    /// Sends what was written, and waits until it is appropriate to write more: that is at once as
    /// long as the connection takes it, and when less than a quarter of the buffer's limit is left,
    /// if it does not. Now and then it lets other tasks run first. Dropped before it is ready, it
    /// takes back nothing: what was written leaves all the same.
    ///
    /// # Errors
    /// What has broken the connection; `ConnectionReset` if it is closed.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     let (_reader, writer) = rondel::from_std(ours)?;
    ///     for number in 0..10 {
    ///         writer.write(format!("{number}\n"));
    ///         writer.drain().await?; // not faster than the peer reads
    ///     }
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn drain(&self) -> io::Result<()> {
        let connection = match &self.target {
            Target::Socket(connection) => connection,
            Target::Pipe(pipe) => return pipe.drain().await,
        };
        if connection.flush_and_go_on() {
            if !connection.has_sent() {
                yield_now().await;
            }
            return Ok(());
        }
        if connection.is_closing() {
            connection.check()?;
            // As asyncio: so that a loop that writes and drains lets the connection end.
            yield_now().await;
        }
        poll_fn(|context| match connection.must_drain(context) {
            Ok(false) => Poll::Ready(Ok(())),
            Ok(true) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        })
        .await
    }

    /// Waits until everything that was written is sent: with the kernel, which goes on by itself,
    /// also when the program ends. [`drain`](Self::drain) waits only until it is appropriate to
    /// write more. Dropping the future changes nothing.
    ///
    /// # Errors
    /// What has broken the connection.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # use rondel::StreamReader;
    /// rondel::run(async {
    ///     let server = rondel::start_server(async |mut reader: StreamReader, _| {
    ///         reader.read_to_end().await.map(|_| ())
    ///     }, ("127.0.0.1", 0)).await?;
    ///     let (_reader, writer) = rondel::open_connection(server.addresses()[0]).await?;
    ///     writer.write(vec![0; 10_000_000]);
    ///     writer.flushed().await?;
    ///     assert_eq!(writer.write_buffer_size(), 0);
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn flushed(&self) -> io::Result<()> {
        let connection = match &self.target {
            Target::Socket(connection) => connection,
            Target::Pipe(pipe) => return pipe.flushed().await,
        };
        poll_fn(|context| match connection.is_unsent(context) {
            Ok(true) => Poll::Pending,
            Ok(false) => connection.ready(Ok(()), context),
            Err(error) => connection.ready(Err(error), context),
        })
        .await
    }

    /// Ends this side of the connection, after what was written. The peer can go on writing. A pipe
    /// is closed.
    ///
    /// # Errors
    /// What `shutdown` fails with.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     use std::io::Read;
    ///
    ///     let (ours, mut theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     let (_reader, writer) = rondel::from_std(ours)?;
    ///     writer.write("that was all");
    ///     writer.write_eof()?;
    ///     writer.flushed().await?;
    ///     let mut all = String::new();
    ///     theirs.read_to_string(&mut all)?;
    ///     assert_eq!(all, "that was all");
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn write_eof(&self) -> io::Result<()> {
        match &self.target {
            Target::Socket(connection) => connection.write_eof(),
            Target::Pipe(pipe) => {
                pipe.close();
                Ok(())
            }
        }
    }

    /// Closes the connection, both directions, after what was written is sent. Nothing is received
    /// any more; what was can be read.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     let (_reader, writer) = rondel::from_std(ours)?;
    ///     writer.write("goodbye");
    ///     writer.close();
    ///     writer.wait_closed().await?;
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn close(&self) {
        match &self.target {
            Target::Socket(connection) => connection.close(),
            Target::Pipe(pipe) => pipe.close(),
        }
    }

    /// Closes the connection at once; what was not sent is lost.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     let (_reader, writer) = rondel::from_std(ours)?;
    ///     writer.write(vec![0; 10_000_000]);
    ///     writer.abort(); // what is not sent by now never is
    ///     assert!(writer.is_closing());
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn abort(&self) {
        match &self.target {
            Target::Socket(connection) => connection.abort(),
            Target::Pipe(pipe) => pipe.abort(),
        }
    }

    /// Whether the connection is closed, or about to be.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     let (_reader, writer) = rondel::from_std(ours)?;
    ///     assert!(!writer.is_closing());
    ///     writer.close();
    ///     assert!(writer.is_closing());
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn is_closing(&self) -> bool {
        match &self.target {
            Target::Socket(connection) => connection.is_closing(),
            Target::Pipe(pipe) => pipe.is_closing(),
        }
    }

    /// Waits until the connection is closed, which somebody has to ask for: [`close`](Self::close).
    /// Dropping the future changes nothing.
    ///
    /// # Errors
    /// What has broken the connection.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     let (_reader, writer) = rondel::from_std(ours)?;
    ///     writer.close();
    ///     writer.wait_closed().await?;
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn wait_closed(&self) -> io::Result<()> {
        let connection = match &self.target {
            Target::Socket(connection) => connection,
            Target::Pipe(pipe) => return pipe.closed().await,
        };
        poll_fn(|context| match connection.is_closed(context) {
            Ok(true) => Poll::Ready(Ok(())),
            Ok(false) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        })
        .await
    }

    /// `get_extra_info("peername")`: the other end's address. `None` for Unix sockets.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let server = rondel::start_server(async |_, _| (), ("127.0.0.1", 0)).await?;
    ///     let (_reader, writer) = rondel::open_connection(server.addresses()[0]).await?;
    ///     assert_eq!(writer.peername(), Some(server.addresses()[0]));
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn peername(&self) -> Option<SocketAddr> {
        self.peer_addr().ok()
    }

    /// `get_extra_info("sockname")`: this end's address. `None` for Unix sockets and closed ones.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let server = rondel::start_server(async |_, _| (), ("127.0.0.1", 0)).await?;
    ///     let (_reader, writer) = rondel::open_connection(server.addresses()[0]).await?;
    ///     assert!(writer.sockname().is_some());
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn sockname(&self) -> Option<SocketAddr> {
        self.local_addr().ok()
    }

    /// `get_extra_info("socket")`: lends the socket, e.g. to set an option. `None` once it is
    /// closed.
    ///
    /// # Panics
    /// If `f` itself uses the connection.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let server = rondel::start_server(async |_, _| (), ("127.0.0.1", 0)).await?;
    ///     let (_reader, writer) = rondel::open_connection(server.addresses()[0]).await?;
    ///     let copy = writer.with_socket(|socket| socket.try_clone_to_owned());
    ///     assert!(copy.is_some_and(|copy| copy.is_ok()));
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn with_socket<R>(&self, f: impl FnOnce(BorrowedFd<'_>) -> R) -> Option<R> {
        match &self.target {
            Target::Socket(connection) => connection.with_socket(|socket| f(socket.as_fd())),
            Target::Pipe(pipe) => pipe.with_fd(|fd| f(fd.as_fd())),
        }
    }

    /// The other end's address.
    ///
    /// # Errors
    /// `Unsupported` for a socket that has no host and port, as a Unix socket.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let server = rondel::start_server(async |_, _| (), ("127.0.0.1", 0)).await?;
    ///     let (_reader, writer) = rondel::open_connection(server.addresses()[0]).await?;
    ///     assert_eq!(writer.peer_addr()?, server.addresses()[0]);
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.connection()?.peer_addr()
    }

    /// This end's address.
    ///
    /// # Errors
    /// As [`peer_addr`](Self::peer_addr); `NotConnected` if the connection is closed.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let server = rondel::start_server(async |_, _| (), ("127.0.0.1", 0)).await?;
    ///     let (_reader, writer) = rondel::open_connection(server.addresses()[0]).await?;
    ///     assert!(writer.local_addr()?.ip().is_loopback());
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.connection()?.local_addr()
    }

    /// `get_extra_info("ssl_object")`: lends the session, to ask for the protocol that was agreed
    /// on (ALPN), the peer's certificates and the like. `None` if the connection is not encrypted.
    ///
    /// # Panics
    /// If `f` itself uses the connection.
    #[cfg(feature = "rustls")]
    pub fn with_session<R>(&self, f: impl FnOnce(&rustls::Connection) -> R) -> Option<R> {
        self.connection().ok()?.with_session(f)
    }

    /// How many bytes are written but not sent.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     let (_reader, writer) = rondel::from_std(ours)?;
    ///     writer.write(vec![0; 10_000_000]);
    ///     assert!(writer.write_buffer_size() > 1_000_000, "more than the kernel takes");
    ///     writer.abort();
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn write_buffer_size(&self) -> usize {
        match &self.target {
            Target::Socket(connection) => connection.write_buffer_size(),
            Target::Pipe(pipe) => pipe.len(),
        }
    }

    /// Sets between which numbers of unsent bytes [`drain`](Self::drain) waits: from more than
    /// `high` on, until at most `low`. To begin with: 64 KiB and 16 KiB.
    ///
    /// # Errors
    /// `InvalidInput` if `high < low`.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     let (_reader, writer) = rondel::from_std(ours)?;
    ///     // `drain` waits from 1 MiB on, until it is 256 KiB.
    ///     writer.set_write_buffer_limits(1 << 20, 1 << 18)?;
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn set_write_buffer_limits(&self, high: usize, low: usize) -> io::Result<()> {
        match &self.target {
            Target::Socket(connection) => connection.set_write_buffer_limits(high, low),
            Target::Pipe(pipe) => pipe.set_limits(high, low),
        }
    }
}

/// One poll of each operation, for the traits of others.
#[allow(dead_code, reason = "without features nobody asks")]
impl StreamWriter {
    /// The most that one write takes, in bytes, so that a peer that does not keep up is noticed.
    const MAX_PIECE: usize = 64 * 1024;

    /// Writes as much as is appropriate; waits while the peer does not keep up.
    pub(crate) fn poll_write_some(
        &self,
        context: &Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let piece = &data[..data.len().min(Self::MAX_PIECE)];
        let may_write = match &self.target {
            Target::Socket(connection) => match connection.must_drain(context) {
                Ok(false) if connection.eof_written() => Err(io::ErrorKind::BrokenPipe.into()),
                Ok(false) => Ok(true),
                Ok(true) => Ok(false),
                Err(error) => Err(error),
            },
            Target::Pipe(pipe) => match pipe.poll_room(context) {
                Poll::Ready(Ok(())) => Ok(true),
                Poll::Ready(Err(error)) => Err(error),
                Poll::Pending => Ok(false),
            },
        };
        match may_write {
            Ok(true) => {}
            Ok(false) => return Poll::Pending,
            Err(error) => return Poll::Ready(Err(error)),
        }
        if let Target::Socket(connection) = &self.target
            && connection.ready((), context).is_pending()
        {
            return Poll::Pending;
        }
        self.write_bytes(piece);
        Poll::Ready(Ok(piece.len()))
    }

    /// Writes pieces in their order, as many as is appropriate, the last one perhaps in part.
    pub(crate) fn poll_write_pieces(
        &self,
        context: &Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut written = 0;
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            match self.poll_write_some(context, piece) {
                Poll::Ready(Ok(count)) => {
                    written += count;
                    if count < piece.len() {
                        break;
                    }
                }
                Poll::Ready(Err(_)) | Poll::Pending if written > 0 => break,
                other => return other,
            }
        }
        Poll::Ready(Ok(written))
    }

    /// Hands what was written to the kernel, as far as it takes it; the loop goes on with the rest.
    pub(crate) fn poll_flush_all(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        match &self.target {
            Target::Socket(connection) => {
                connection.flush_and_go_on();
                Poll::Ready(connection.must_drain(context).map(drop))
            }
            Target::Pipe(pipe) => pipe.poll_sent(context),
        }
    }

    /// Ends this side; once more is no failure, nor is it that the peer has done so first.
    pub(crate) fn shut_down(&self) -> io::Result<()> {
        match self.write_eof() {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        match &self.target {
            Target::Socket(connection) => connection.writer_dropped(),
            Target::Pipe(pipe) => pipe.close(),
        }
    }
}

impl fmt::Debug for StreamWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamWriter")
            .field("peername", &self.peername())
            .field("closing", &self.is_closing())
            .finish_non_exhaustive()
    }
}
