//! `StreamReader`: the receiving half of a connection.
//!
//! What a read makes of the bytes is `read_buffer.rs`'s; where they come from is `connection.rs`'s.
//! A read gives a slice of the reader's own buffer: nothing is copied or allocated for it. The
//! bytes leave the buffer when the next read begins.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::chunk::Chunk;
use super::connection::Connection;
use super::errors::{IncompleteReadError, ReadError};
use super::pipe::PipeSource;
use rondel_engine::read_buffer::{self, ReadBuffer, Search, Step};

/// Reads from a connection, in asyncio's ways. Comes in a pair with a
/// [`StreamWriter`](crate::StreamWriter), or alone, if it reads from a
/// [pipe](crate::open_read_pipe).
///
/// A read that is dropped before it is ready (cancelled, timed out) has taken nothing from the
/// stream.
///
/// If the connection fails, also when something is written, reads give first what has arrived, and
/// then the error, each time. A read that finds less than it needs leaves it in the buffer:
/// [`read`](Self::read) gives it. Reads that never have to wait let other tasks run now and then.
///
/// Dropping the reader while there is a writer leaves the connection open; what comes is not
/// received any more.
///
/// ```
/// # use rondel::{open_connection, start_server};
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let server = start_server(async |_, writer| {
///         writer.write(b"one\ntwo\n12345rest");
///     }, ("127.0.0.1", 0)).await?;
///
///     let (mut reader, _writer) = open_connection(server.addresses()[0]).await?;
///     assert_eq!(reader.readline().await?, b"one\n");
///     assert_eq!(reader.readuntil(b"\n").await?, b"two\n");
///     assert_eq!(reader.readexactly(5).await?, b"12345");
///     assert_eq!(reader.read_to_end().await?, b"rest");
///     assert!(reader.at_eof());
///     Ok(())
/// })?
/// # }
/// ```
pub struct StreamReader {
    source: Origin,
    buffer: ReadBuffer<Chunk>,
    /// Bytes at the buffer's front that the last read has given out.
    given: usize,
}

/// Where the bytes come from.
enum Origin {
    Socket(Rc<Connection>),
    Pipe(Box<PipeSource>),
}

impl Origin {
    #[inline]
    fn limit(&self) -> usize {
        match self {
            Self::Socket(connection) => connection.limit(),
            Self::Pipe(_) => PipeSource::LIMIT,
        }
    }

    #[inline]
    fn is_eof(&self) -> bool {
        match self {
            Self::Socket(connection) => connection.is_eof(),
            Self::Pipe(pipe) => pipe.is_eof(),
        }
    }

    /// Whether the buffer has everything that has come.
    #[inline]
    fn has_arrived(&self) -> bool {
        match self {
            Self::Socket(connection) => connection.has_arrived(),
            Self::Pipe(_) => false,
        }
    }

    #[inline]
    fn fill(&self, buffer: &mut ReadBuffer<Chunk>, context: &Context<'_>) -> io::Result<bool> {
        match self {
            Self::Socket(connection) => connection.fill(buffer, context),
            Self::Pipe(pipe) => pipe.fill(buffer, context),
        }
    }

    #[inline(always)]
    fn ready<T>(&self, result: T, context: &Context<'_>) -> Poll<T> {
        match self {
            Self::Socket(connection) => connection.ready(result, context),
            // Has had its price when it was read.
            Self::Pipe(_) => Poll::Ready(result),
        }
    }
}

impl StreamReader {
    pub(super) fn of_pipe(pipe: PipeSource) -> Self {
        Self {
            source: Origin::Pipe(Box::new(pipe)),
            buffer: ReadBuffer::new(),
            given: 0,
        }
    }

    pub(super) fn new(connection: Rc<Connection>) -> Self {
        Self {
            source: Origin::Socket(connection),
            buffer: ReadBuffer::new(),
            given: 0,
        }
    }

    /// The connection, unless it is a pipe.
    pub(super) fn connection(&self) -> io::Result<&Rc<Connection>> {
        match &self.source {
            Origin::Socket(connection) => Ok(connection),
            Origin::Pipe(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Waits for the end of the stream, with everything that comes before it left in the buffer.
    pub(crate) async fn buffer_to_end(&mut self) -> io::Result<()> {
        self.begin();
        self.step(|_, eof| if eof { Step::Incomplete } else { Step::Wait })
            .await?;
        Ok(())
    }

    #[cfg(feature = "rustls")]
    pub(super) fn buffer_mut(&mut self) -> &mut ReadBuffer<Chunk> {
        &mut self.buffer
    }

    /// Takes what has come into the buffer and was not given out.
    pub(crate) fn take_buffered(&mut self) -> Vec<u8> {
        self.begin();
        let all = self.buffer.as_slice().to_vec();
        self.buffer.discard(all.len());
        all
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
    ///     let (reader, _writer) = rondel::open_connection(server.addresses()[0]).await?;
    ///     assert_eq!(reader.peer_addr()?, server.addresses()[0]);
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
    ///     let (reader, _writer) = rondel::open_connection(server.addresses()[0]).await?;
    ///     assert!(reader.local_addr()?.ip().is_loopback());
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.connection()?.local_addr()
    }

    /// Reads up to `n` bytes: waits until there is at least one, then takes what there is. Empty at
    /// the end of the stream, and for `n == 0`.
    ///
    /// # Errors
    /// What has broken the connection, `ECONNRESET` above all.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let echo = rondel::start_server(async |mut reader: rondel::StreamReader, writer| {
    ///         let data = reader.read(100).await?;
    ///         writer.write(data);
    ///         writer.drain().await
    ///     }, ("127.0.0.1", 0)).await?;
    ///
    ///     let (mut reader, writer) = rondel::open_connection(echo.addresses()[0]).await?;
    ///     writer.write(b"hello");
    ///     assert_eq!(reader.read(100).await?, b"hello");
    ///     assert_eq!(reader.read(100).await?, b"");
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn read(&mut self, n: usize) -> io::Result<&[u8]> {
        self.begin();
        if n == 0 {
            return Ok(&[]);
        }
        let this = &mut *self;
        poll_fn(|context| this.poll_some(context)).await?;
        let bytes = self.buffer.as_slice();
        let given = bytes.get(..n).unwrap_or(bytes);
        self.given = given.len();
        Ok(given)
    }

    /// As [`read`](Self::read), into the program's own memory, as much as there is room for. Gives
    /// how many bytes that are; none at the end of the stream, or if there is no room. Dropped
    /// before it is ready, it has taken nothing.
    ///
    /// # Errors
    /// What has broken the connection.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let server = rondel::start_server(async |_, writer| writer.write("hello"), ("127.0.0.1", 0)).await?;
    ///     let (mut reader, _writer) = rondel::open_connection(server.addresses()[0]).await?;
    ///     let mut memory = [0; 4];
    ///     assert_eq!(reader.read_into(&mut memory).await?, 4);
    ///     assert_eq!(&memory, b"hell");
    ///     assert_eq!(reader.read_into(&mut memory).await?, 1);
    ///     assert_eq!(reader.read_into(&mut memory).await?, 0);
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn read_into(&mut self, memory: &mut [u8]) -> io::Result<usize> {
        let data = self.read(memory.len()).await?;
        memory[..data.len()].copy_from_slice(data);
        Ok(data.len())
    }

    /// As [`read`](Self::read), to the end of a vector, as much as it has spare capacity for; if it
    /// has none, it is given some. Gives how many bytes that are; none at the end of the stream.
    /// Dropped before it is ready, it has taken nothing.
    ///
    /// # Errors
    /// What has broken the connection.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let server = rondel::start_server(async |_, writer| writer.write("hello"), ("127.0.0.1", 0)).await?;
    ///     let (mut reader, _writer) = rondel::open_connection(server.addresses()[0]).await?;
    ///     let mut message = Vec::new();
    ///     while reader.read_buf(&mut message).await? > 0 {}
    ///     assert_eq!(message, b"hello");
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn read_buf(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        const MORE: usize = 4096;
        let room = match buffer.capacity() - buffer.len() {
            0 => MORE,
            room => room,
        };
        let data = self.read(room).await?;
        buffer.extend_from_slice(data);
        Ok(data.len())
    }

    /// What has arrived, without taking it: waits until there is something, and gives all of it.
    /// Empty at the end of the stream. What was used is then [consumed](Self::consume). As
    /// `BufRead` has it.
    ///
    /// # Errors
    /// What has broken the connection.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let server = rondel::start_server(async |_, writer| writer.write("hello"), ("127.0.0.1", 0)).await?;
    ///     let (mut reader, _writer) = rondel::open_connection(server.addresses()[0]).await?;
    ///     assert_eq!(reader.fill_buf().await?, b"hello");
    ///     reader.consume(1);
    ///     assert_eq!(reader.read(100).await?, b"ello");
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.begin();
        let this = &mut *self;
        poll_fn(|context| this.poll_some(context)).await?;
        Ok(self.buffer.as_slice())
    }

    /// One poll of [`read`](Self::read).
    #[allow(dead_code, reason = "for the traits of others")]
    pub(crate) fn poll_data(&mut self, context: &Context<'_>, n: usize) -> Poll<io::Result<&[u8]>> {
        self.begin();
        match self.poll_some(context) {
            Poll::Ready(Ok(())) => {
                let count = self.buffer.len().min(n);
                Poll::Ready(Ok(self.give(count)))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// One poll of [`fill_buf`](Self::fill_buf).
    #[allow(dead_code, reason = "for the traits of others")]
    pub(crate) fn poll_buffered(&mut self, context: &Context<'_>) -> Poll<io::Result<&[u8]>> {
        self.begin();
        match self.poll_some(context) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(self.buffer.as_slice())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Takes `n` bytes of what [`fill_buf`](Self::fill_buf) has given.
    ///
    /// # Panics
    /// If there are not so many.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     use std::io::Write;
    ///
    ///     let (ours, mut theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     let (mut reader, _writer) = rondel::from_std(ours)?;
    ///     theirs.write_all(b"hello")?;
    ///     assert_eq!(reader.fill_buf().await?, b"hello");
    ///     reader.consume(2);
    ///     assert_eq!(reader.fill_buf().await?, b"llo");
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn consume(&mut self, n: usize) {
        self.begin();
        assert!(n <= self.buffer.len(), "more is consumed than there is");
        self.buffer.discard(n);
    }

    /// Reads until the end of the stream: asyncio's `read()` without a number. Dropped before it is
    /// ready, it has taken nothing.
    ///
    /// # Errors
    /// What has broken the connection.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     use std::io::Write;
    ///
    ///     let (ours, mut theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     let (mut reader, _writer) = rondel::from_std(ours)?;
    ///     theirs.write_all(b"all of it")?;
    ///     drop(theirs);
    ///     assert_eq!(reader.read_to_end().await?, b"all of it");
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn read_to_end(&mut self) -> io::Result<&[u8]> {
        self.begin();
        self.step(|_, eof| if eof { Step::Incomplete } else { Step::Wait })
            .await?;
        let all = self.buffer.len();
        Ok(self.give(all))
    }

    /// Reads a line with its `\n`. At the end of the stream: what is left, without one, or nothing.
    /// Dropped before it is ready, it has taken nothing: the part of the line that has come is
    /// there for the next read.
    ///
    /// # Errors
    /// `InvalidData` if the line is longer than the limit; it is thrown away then, as asyncio does.
    /// What has broken the connection.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     use std::io::Write;
    ///
    ///     let (ours, mut theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     let (mut reader, _writer) = rondel::from_std(ours)?;
    ///     theirs.write_all(b"one\ntwo")?;
    ///     drop(theirs);
    ///     assert_eq!(reader.readline().await?, b"one\n");
    ///     assert_eq!(reader.readline().await?, b"two");
    ///     assert_eq!(reader.readline().await?, b"");
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn readline(&mut self) -> io::Result<&[u8]> {
        const NEWLINE: &[u8] = b"\n";
        self.begin();
        let limit = self.source.limit();
        let mut search = Search::default();
        match self
            .step(|bytes, eof| search.one(bytes, eof, NEWLINE, limit))
            .await?
        {
            Step::Take(n) => Ok(self.give(n)),
            Step::Overrun(overrun) => {
                let line = read_buffer::overlong_line(self.buffer.as_slice(), NEWLINE, overrun);
                self.buffer.discard(line);
                Err(io::Error::new(io::ErrorKind::InvalidData, overrun))
            }
            Step::Incomplete | Step::Wait => {
                let rest = self.buffer.len();
                Ok(self.give(rest))
            }
        }
    }

    /// Reads exactly `n` bytes. Dropped before it is ready, it has taken nothing.
    ///
    /// # Errors
    /// [`ReadError::Incomplete`], with what there was, if the stream ends before; the stream is at
    /// its end then.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     use std::io::Write;
    ///
    ///     let (ours, mut theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     let (mut reader, _writer) = rondel::from_std(ours)?;
    ///     theirs.write_all(&[0, 5])?;
    ///     theirs.write_all(b"hello")?;
    ///     let length = reader.readexactly(2).await?.try_into().unwrap();
    ///     let length = u16::from_be_bytes(length);
    ///     assert_eq!(reader.readexactly(length.into()).await?, b"hello");
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn readexactly(&mut self, n: usize) -> Result<&[u8], ReadError> {
        self.begin();
        match self
            .step(|bytes, eof| read_buffer::read_exactly(bytes.len(), eof, n))
            .await?
        {
            Step::Take(n) => Ok(self.give(n)),
            _ => Err(self.incomplete(Some(n))),
        }
    }

    /// Reads until `separator` has come, and gives it with what is before it. Dropped before it is
    /// ready, it has taken nothing.
    ///
    /// # Errors
    /// [`ReadError::Incomplete`] if the stream ends before, [`ReadError::LimitOverrun`] if more
    /// than the limit comes without it; what came is left in the buffer then.
    ///
    /// # Panics
    /// If the separator is empty.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     use std::io::Write;
    ///
    ///     let (ours, mut theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     let (mut reader, _writer) = rondel::from_std(ours)?;
    ///     theirs.write_all(b"head\r\n\r\nbody")?;
    ///     assert_eq!(reader.readuntil(b"\r\n\r\n").await?, b"head\r\n\r\n");
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn readuntil(&mut self, separator: &[u8]) -> Result<&[u8], ReadError> {
        assert!(
            !separator.is_empty(),
            "Separator should be at least one-byte string"
        );
        self.begin();
        let limit = self.source.limit();
        let mut search = Search::default();
        match self
            .step(|bytes, eof| search.one(bytes, eof, separator, limit))
            .await?
        {
            Step::Take(n) => Ok(self.give(n)),
            Step::Overrun(overrun) => Err(ReadError::LimitOverrun(overrun.into())),
            Step::Incomplete | Step::Wait => Err(self.incomplete(None)),
        }
    }

    /// As [`readuntil`](Self::readuntil), until any of several separators has come: of those that
    /// match first, the shortest.
    ///
    /// # Errors
    /// As [`readuntil`](Self::readuntil).
    ///
    /// # Panics
    /// If there is no separator, or one of them is empty.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let server = rondel::start_server(async |_, writer| writer.write("a;b\n"), ("127.0.0.1", 0)).await?;
    ///     let (mut reader, _writer) = rondel::open_connection(server.addresses()[0]).await?;
    ///     assert_eq!(reader.readuntil_any(&[b";", b"\n"]).await?, b"a;");
    ///     assert_eq!(reader.readuntil_any(&[b";", b"\n"]).await?, b"b\n");
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn readuntil_any(&mut self, separators: &[&[u8]]) -> Result<&[u8], ReadError> {
        assert!(
            separators.iter().all(|separator| !separator.is_empty()) && !separators.is_empty(),
            "Separator should contain at least one element, of at least one byte"
        );
        self.begin();
        let limit = self.source.limit();
        let mut search = Search::default();
        match self
            .step(|bytes, eof| search.any(bytes, eof, separators, limit))
            .await?
        {
            Step::Take(n) => Ok(self.give(n)),
            Step::Overrun(overrun) => Err(ReadError::LimitOverrun(overrun.into())),
            Step::Incomplete | Step::Wait => Err(self.incomplete(None)),
        }
    }

    /// Whether the stream has ended and everything is read.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ///     let (mut reader, _writer) = rondel::from_std(ours)?;
    ///     assert!(!reader.at_eof());
    ///     drop(theirs);
    ///     assert_eq!(reader.read(1).await?, b"");
    ///     assert!(reader.at_eof());
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn at_eof(&self) -> bool {
        self.source.is_eof() && self.buffer.len() == self.given && !self.source.has_arrived()
    }

    /// Takes away what the last read has given out.
    #[inline]
    fn begin(&mut self) {
        let given = std::mem::take(&mut self.given);
        if given > 0 {
            self.buffer.discard(given);
        }
    }

    fn give(&mut self, n: usize) -> &[u8] {
        self.given = n;
        &self.buffer.as_slice()[..n]
    }

    #[cold]
    fn incomplete(&mut self, expected: Option<usize>) -> ReadError {
        let partial = self.buffer.as_slice().to_vec();
        self.buffer.discard(partial.len());
        ReadError::Incomplete(IncompleteReadError { partial, expected })
    }

    /// Asks what to do with the bytes there are, and waits for more as long as the answer is to
    /// wait.
    async fn step(&mut self, mut ask: impl FnMut(&[u8], bool) -> Step) -> io::Result<Step> {
        let this = &mut *self;
        poll_fn(|context| this.poll_step(context, &mut ask)).await
    }

    /// Waits until there is something, or the end of the stream: what `read_buffer::read` asks for.
    #[inline]
    fn poll_some(&mut self, context: &Context<'_>) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() {
            match self.source.fill(&mut self.buffer, context) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(error) => return self.failed(error, context),
            }
        }
        self.source.ready(Ok(()), context)
    }

    #[inline]
    fn poll_step(
        &mut self,
        context: &Context<'_>,
        ask: &mut impl FnMut(&[u8], bool) -> Step,
    ) -> Poll<io::Result<Step>> {
        loop {
            let eof = self.source.is_eof() && !self.source.has_arrived();
            match ask(self.buffer.as_slice(), eof) {
                Step::Wait => {}
                step => return self.source.ready(Ok(step), context),
            }
            match self.source.fill(&mut self.buffer, context) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(error) => return self.failed(error, context),
            }
        }
    }

    /// A failure, which each read reports again, has its price like everything that does not wait.
    #[cold]
    fn failed<T>(&self, error: io::Error, context: &Context<'_>) -> Poll<io::Result<T>> {
        self.source.ready(Err(error), context)
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        if let Origin::Socket(connection) = &self.source {
            connection.reader_dropped();
        }
    }
}

impl fmt::Debug for StreamReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamReader")
            .field("buffered", &(self.buffer.len() - self.given))
            .field("eof", &self.source.is_eof())
            .finish_non_exhaustive()
    }
}
