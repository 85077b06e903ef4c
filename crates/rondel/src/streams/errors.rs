//! Why a read has no result, under asyncio's names.

use std::error::Error;
use std::fmt;
use std::io;

use rondel_engine::read_buffer::Overrun;

/// The stream has ended before a read was satisfied.
///
/// ```
/// let error = rondel::IncompleteReadError { partial: b"abc".to_vec(), expected: Some(5) };
/// assert_eq!(error.to_string(), "3 bytes read on a total of 5 expected bytes");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IncompleteReadError {
    /// What had come.
    pub partial: Vec<u8>,
    /// How many bytes were asked for, if a number was.
    pub expected: Option<usize>,
}

impl fmt::Display for IncompleteReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read = self.partial.len();
        match self.expected {
            Some(expected) => write!(
                f,
                "{read} bytes read on a total of {expected} expected bytes"
            ),
            None => write!(
                f,
                "{read} bytes read on a total of undefined expected bytes"
            ),
        }
    }
}

impl Error for IncompleteReadError {}

/// A line or record is longer than the reader's limit. It is still in the buffer, to be read
/// otherwise.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let server = rondel::start_server(async |_, writer| {
///         writer.write("much longer than ten\n");
///     }, ("127.0.0.1", 0)).await?;
///
///     let address = server.addresses()[0];
///     let (mut reader, _writer) = rondel::open_connection_with_limit(address, 10).await?;
///     let Err(rondel::ReadError::LimitOverrun(overrun)) = reader.readuntil(b"\n").await else {
///         panic!("20 bytes are more than 10");
///     };
///     assert_eq!(overrun.consumed, 20);
///     assert_eq!(reader.readexactly(overrun.consumed).await?, b"much longer than ten");
///     Ok(())
/// })?
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LimitOverrunError {
    /// Bytes in front of the separator, or that are known to be free of one.
    pub consumed: usize,
    overrun: Overrun,
}

impl fmt::Display for LimitOverrunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.overrun.fmt(f)
    }
}

impl Error for LimitOverrunError {}

impl From<Overrun> for LimitOverrunError {
    fn from(overrun: Overrun) -> Self {
        Self {
            consumed: overrun.consumed,
            overrun,
        }
    }
}

/// Why `readexactly` or `readuntil` has no result. Turns into an [`io::Error`] by `?`.
///
/// ```
/// use rondel::ReadError;
///
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let server = rondel::start_server(async |_, writer| writer.write("abc"), ("127.0.0.1", 0)).await?;
///     let (mut reader, _writer) = rondel::open_connection(server.addresses()[0]).await?;
///     match reader.readexactly(5).await {
///         Err(ReadError::Incomplete(error)) => assert_eq!(error.partial, b"abc"),
///         other => panic!("{other:?}"),
///     }
///     Ok(())
/// })?
/// # }
/// ```
#[derive(Debug)]
pub enum ReadError {
    /// The stream has ended too early.
    Incomplete(IncompleteReadError),
    /// No separator within the limit.
    LimitOverrun(LimitOverrunError),
    /// The connection has failed.
    Io(io::Error),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Incomplete(error) => error.fmt(f),
            Self::LimitOverrun(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl Error for ReadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Incomplete(error) => Some(error),
            Self::LimitOverrun(error) => Some(error),
            Self::Io(error) => Some(error),
        }
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Incomplete(error) => Self::new(io::ErrorKind::UnexpectedEof, error),
            ReadError::LimitOverrun(error) => Self::new(io::ErrorKind::InvalidData, error),
            ReadError::Io(error) => error,
        }
    }
}
