//! Both halves of a connection as one value, and the traits by which other crates read and write:
//! those of `futures-io`, of tokio and of hyper, each if the feature of its name is on.
//!
//! What is written this way leaves when the step is over, or with a flush; a write waits while the
//! peer does not keep up. Shutting down ends the writing side behind what was written.

use std::io;
use std::task::{Context, Poll};

use crate::streams::{StreamReader, StreamWriter};

/// A reader and a writer together: for crates that want one value which reads and writes.
///
/// With the features `futures-io`, `tokio-io` and `hyper` it has their traits, and so have the
/// halves, for their own side.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let server = rondel::start_server(async |_, writer| writer.write("hi"), ("127.0.0.1", 0)).await?;
///     let mut stream = rondel::Duplex::from(rondel::open_connection(server.addresses()[0]).await?);
///     assert_eq!(stream.reader.read_to_end().await?, b"hi");
///     Ok(())
/// })?
/// # }
/// ```
#[derive(Debug)]
pub struct Duplex {
    /// The reading half.
    pub reader: StreamReader,
    /// The writing half.
    pub writer: StreamWriter,
}

impl Duplex {
    /// Both halves as one value.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let (one, _other) = std::os::unix::net::UnixStream::pair()?;
    ///     let (reader, writer) = rondel::from_std(one)?;
    ///     let both = rondel::Duplex::new(reader, writer);
    ///     both.writer.write("hello");
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn new(reader: StreamReader, writer: StreamWriter) -> Self {
        Self { reader, writer }
    }

    /// The halves again.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let (one, _other) = std::os::unix::net::UnixStream::pair()?;
    ///     let both = rondel::Duplex::from(rondel::from_std(one)?);
    ///     let (_reader, writer) = both.into_split();
    ///     writer.write("hello");
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn into_split(self) -> (StreamReader, StreamWriter) {
        (self.reader, self.writer)
    }
}

impl From<(StreamReader, StreamWriter)> for Duplex {
    fn from((reader, writer): (StreamReader, StreamWriter)) -> Self {
        Self::new(reader, writer)
    }
}

/// One poll of each operation. Public to the crate alone: programs have the async functions, and
/// the traits of others.
#[allow(dead_code, reason = "without features nobody asks")]
impl StreamReader {
    /// Hands at most `room` bytes of what has come to `put`.
    pub(crate) fn poll_read_by(
        &mut self,
        context: &Context<'_>,
        room: usize,
        put: impl FnOnce(&[u8]),
    ) -> Poll<io::Result<usize>> {
        if room == 0 {
            return Poll::Ready(Ok(0));
        }
        self.poll_data(context, room).map_ok(|data| {
            put(data);
            data.len()
        })
    }
}

/// The reader of a half or of both: what the traits' methods are written in terms of.
#[allow(dead_code, reason = "without features nobody asks")]
pub(crate) trait HasReader {
    fn reader(&mut self) -> &mut StreamReader;
}

/// Likewise the writer.
#[allow(dead_code, reason = "without features nobody asks")]
pub(crate) trait HasWriter {
    fn writer(&self) -> &StreamWriter;
}

impl HasReader for StreamReader {
    fn reader(&mut self) -> &mut StreamReader {
        self
    }
}

impl HasReader for Duplex {
    fn reader(&mut self) -> &mut StreamReader {
        &mut self.reader
    }
}

impl HasWriter for StreamWriter {
    fn writer(&self) -> &StreamWriter {
        self
    }
}

impl HasWriter for Duplex {
    fn writer(&self) -> &StreamWriter {
        &self.writer
    }
}

/// Implements a trait for writing. The traits differ in the name of the method that ends the
/// writing side, and in further methods.
#[allow(unused_macros, reason = "without features nobody asks")]
macro_rules! impl_write {
    ($trait:ident for $class:ident; end = $end:ident; $($further:tt)*) => {
        impl $trait for $class {
            fn poll_write(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                data: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.writer().poll_write_some(context, data)
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                pieces: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                self.writer().poll_write_pieces(context, pieces)
            }

            fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.writer().poll_flush_all(context)
            }

            fn $end(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(self.writer().shut_down())
            }

            $($further)*
        }
    };
}

/// Implements a trait for reading from the buffer; futures-io's and tokio's are alike.
#[allow(unused_macros, reason = "without features nobody asks")]
macro_rules! impl_buf_read {
    ($trait:ident for $($class:ident),+) => {$(
        impl $trait for $class {
            fn poll_fill_buf(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<io::Result<&[u8]>> {
                self.get_mut().reader().poll_buffered(context)
            }

            fn consume(self: Pin<&mut Self>, count: usize) {
                StreamReader::consume(self.get_mut().reader(), count);
            }
        }
    )+};
}

#[cfg(feature = "hyper")]
pub(crate) use impl_write;

#[cfg(feature = "futures-io")]
mod for_futures_io {
    use super::{Context, Duplex, HasReader, HasWriter, Poll, StreamReader, StreamWriter, io};
    use futures_io::{AsyncBufRead, AsyncRead, AsyncWrite};
    use std::pin::Pin;

    macro_rules! impl_read {
        ($($class:ident),+) => {$(
            impl AsyncRead for $class {
                fn poll_read(
                    self: Pin<&mut Self>,
                    context: &mut Context<'_>,
                    memory: &mut [u8],
                ) -> Poll<io::Result<usize>> {
                    let room = memory.len();
                    self.get_mut().reader().poll_read_by(context, room, |data| {
                        memory[..data.len()].copy_from_slice(data);
                    })
                }
            }
        )+};
    }

    impl_read!(StreamReader, Duplex);
    impl_buf_read!(AsyncBufRead for StreamReader, Duplex);
    impl_write!(AsyncWrite for StreamWriter; end = poll_close;);
    impl_write!(AsyncWrite for Duplex; end = poll_close;);
}

#[cfg(feature = "tokio-io")]
mod for_tokio {
    use super::{Context, Duplex, HasReader, HasWriter, Poll, StreamReader, StreamWriter, io};
    use std::pin::Pin;
    use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

    macro_rules! impl_read {
        ($($class:ident),+) => {$(
            impl AsyncRead for $class {
                fn poll_read(
                    self: Pin<&mut Self>,
                    context: &mut Context<'_>,
                    memory: &mut ReadBuf<'_>,
                ) -> Poll<io::Result<()>> {
                    let room = memory.remaining();
                    self.get_mut()
                        .reader()
                        .poll_read_by(context, room, |data| memory.put_slice(data))
                        .map_ok(drop)
                }
            }
        )+};
    }

    impl_read!(StreamReader, Duplex);
    impl_buf_read!(AsyncBufRead for StreamReader, Duplex);
    impl_write!(AsyncWrite for StreamWriter; end = poll_shutdown;
        fn is_write_vectored(&self) -> bool {
            true
        }
    );
    impl_write!(AsyncWrite for Duplex; end = poll_shutdown;
        fn is_write_vectored(&self) -> bool {
            true
        }
    );
}
