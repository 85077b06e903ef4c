//! Files to sockets, by the kernel: `sendfile`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use super::StreamWriter;
use crate::blocking::spawn_blocking;
use crate::descriptor::{AsyncFd, Side};

/// The most that one call is asked to send, in bytes, so that others get their turn.
const PIECE: u64 = 1 << 20;
/// As much is read at a time where the kernel can't do it by itself.
const READ: u64 = 256 * 1024;

impl StreamWriter {
    /// Sends a part of a file, behind what was written: from `offset` on, `count` bytes, or all
    /// that follow. Gives how many bytes that were, which is less if the file ends. asyncio's
    /// `loop.sendfile`. The kernel copies them by itself where it can; over an encrypted
    /// connection, or to a pipe, a thread reads them.
    ///
    /// Nothing else should be written meanwhile. Dropped before it is ready, it has sent a part,
    /// and nothing says which.
    ///
    /// # Errors
    /// What reading the file fails with; what has broken the connection.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let program = std::env::current_exe()?;
    ///     let length = program.metadata()?.len();
    ///     let server = rondel::start_server(async move |_, writer: rondel::StreamWriter| {
    ///         writer.write("head ");
    ///         writer.sendfile(&std::fs::File::open(&program)?, 0, None).await.map(|_| ())
    ///     }, ("127.0.0.1", 0)).await?;
    ///     let (mut reader, _writer) = rondel::open_connection(server.addresses()[0]).await?;
    ///     assert_eq!(reader.readexactly(5).await?, b"head ");
    ///     assert_eq!(reader.read_to_end().await?.len() as u64, length);
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn sendfile(&self, file: &File, offset: u64, count: Option<u64>) -> io::Result<u64> {
        self.flushed().await?;
        let count = count.unwrap_or(u64::MAX);
        let plain = self
            .connection()
            .is_ok_and(|connection| !connection.is_secured());
        if plain {
            let socket = self.with_socket(|socket| socket.try_clone_to_owned());
            let socket = socket.ok_or_else(|| {
                io::Error::new(io::ErrorKind::ConnectionReset, "Connection lost")
            })??;
            // Its own number, so that waiting for it is not the connection's.
            let socket = AsyncFd::new(socket);
            match by_kernel(&socket, file, offset, count).await {
                Err(error) if is_unsupported(&error) => {}
                sent => return sent,
            }
        }
        self.by_thread(file, offset, count).await
    }

    async fn by_thread(&self, file: &File, offset: u64, count: u64) -> io::Result<u64> {
        let mut sent = 0;
        while sent < count {
            let (file, at) = (file.try_clone()?, offset + sent);
            let size = usize::try_from(READ.min(count - sent)).unwrap_or(usize::MAX);
            let piece = spawn_blocking(move || {
                let mut memory = vec![0; size];
                let read = file.read_at(&mut memory, at)?;
                memory.truncate(read);
                Ok::<_, io::Error>(memory)
            });
            let piece = piece.await??;
            if piece.is_empty() {
                break;
            }
            sent += piece.len() as u64;
            self.write_owned(piece);
            self.drain().await?;
        }
        Ok(sent)
    }
}

/// The file, or what it is sent to, is nothing that `sendfile` is for. Told before anything was
/// sent.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP)
    )
}

async fn by_kernel(
    socket: &AsyncFd<std::os::fd::OwnedFd>,
    file: &File,
    offset: u64,
    count: u64,
) -> io::Result<u64> {
    let mut sent = 0;
    while sent < count {
        let mut at = libc::off_t::try_from(offset + sent)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let size = usize::try_from(PIECE.min(count - sent)).unwrap_or(usize::MAX);
        let piece = socket.with(Side::Writing, |socket| {
            // SAFETY: both are open; the kernel writes to the offset alone.
            let sent = unsafe {
                let (to, from) = (socket.as_fd().as_raw_fd(), file.as_raw_fd());
                libc::sendfile(to, from, &raw mut at, size)
            };
            u64::try_from(sent).map_err(|_| io::Error::last_os_error())
        });
        match piece.await? {
            0 => break,
            more => sent += more,
        }
    }
    Ok(sent)
}
