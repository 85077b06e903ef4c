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
    pub fn new(reader: StreamReader, writer: StreamWriter) -> Self {
        Self { reader, writer }
    }

    /// The halves again.
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
    /// Reads into `memory` what has come, by `put`.
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

#[cfg(feature = "futures-io")]
mod for_futures_io {
    use super::{Context, Duplex, Poll, StreamReader, StreamWriter, io};
    use futures_io::{AsyncBufRead, AsyncRead, AsyncWrite};
    use std::pin::Pin;

    impl AsyncRead for StreamReader {
        fn poll_read(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            memory: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            let room = memory.len();
            self.get_mut().poll_read_by(context, room, |data| {
                memory[..data.len()].copy_from_slice(data);
            })
        }
    }

    impl AsyncBufRead for StreamReader {
        fn poll_fill_buf(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<&[u8]>> {
            self.get_mut().poll_buffered(context)
        }

        fn consume(self: Pin<&mut Self>, count: usize) {
            self.get_mut().consume(count);
        }
    }

    impl AsyncWrite for StreamWriter {
        fn poll_write(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            data: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_some(context, data)
        }

        fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.poll_flush_all(context)
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(self.shut_down())
        }
    }

    impl AsyncRead for Duplex {
        fn poll_read(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            memory: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.get_mut().reader).poll_read(context, memory)
        }
    }

    impl AsyncBufRead for Duplex {
        fn poll_fill_buf(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<&[u8]>> {
            self.get_mut().reader.poll_buffered(context)
        }

        fn consume(self: Pin<&mut Self>, count: usize) {
            self.get_mut().reader.consume(count);
        }
    }

    impl AsyncWrite for Duplex {
        fn poll_write(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            data: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.writer.poll_write_some(context, data)
        }

        fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.writer.poll_flush_all(context)
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(self.writer.shut_down())
        }
    }
}

#[cfg(feature = "tokio-io")]
mod for_tokio {
    use super::{Context, Duplex, Poll, StreamReader, StreamWriter, io};
    use std::pin::Pin;
    use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

    impl AsyncRead for StreamReader {
        fn poll_read(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            memory: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let room = memory.remaining();
            self.get_mut()
                .poll_read_by(context, room, |data| memory.put_slice(data))
                .map_ok(drop)
        }
    }

    impl AsyncBufRead for StreamReader {
        fn poll_fill_buf(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<&[u8]>> {
            self.get_mut().poll_buffered(context)
        }

        fn consume(self: Pin<&mut Self>, count: usize) {
            StreamReader::consume(self.get_mut(), count);
        }
    }

    impl AsyncWrite for StreamWriter {
        fn poll_write(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            data: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_some(context, data)
        }

        fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.poll_flush_all(context)
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(self.shut_down())
        }
    }

    impl AsyncRead for Duplex {
        fn poll_read(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            memory: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.get_mut().reader).poll_read(context, memory)
        }
    }

    impl AsyncBufRead for Duplex {
        fn poll_fill_buf(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<&[u8]>> {
            self.get_mut().reader.poll_buffered(context)
        }

        fn consume(self: Pin<&mut Self>, count: usize) {
            self.get_mut().reader.consume(count);
        }
    }

    impl AsyncWrite for Duplex {
        fn poll_write(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            data: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.writer.poll_write_some(context, data)
        }

        fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.writer.poll_flush_all(context)
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(self.writer.shut_down())
        }
    }
}
