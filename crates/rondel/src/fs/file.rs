//! An open file.
//!
//! It keeps its position by itself, and reads and writes by `pread` and `pwrite`. So a read that is
//! dropped has taken nothing, whatever its thread still does: the position moves when the result is
//! there. A write belongs to the file as soon as it has begun. If its future is dropped, the next
//! call waits for it first, and is told of its failure.

use std::fmt;
use std::fs::{Metadata, OpenOptions, Permissions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::in_pool;
use crate::blocking::{BlockingTask, spawn_blocking};

/// The most that one read of [`File::read_to_end`] asks for.
const PIECE: usize = 1 << 20;

/// An open file: the standard library's, to be awaited.
///
/// What differs:
/// * Reads give bytes of their own: they come from another thread.
/// * The position is this value's. It has to be a file that can be positioned: for pipes and
///   terminals there are [`open_read_pipe`](crate::open_read_pipe) and
///   [`open_write_pipe`](crate::open_write_pipe).
/// * A read that is dropped has taken nothing. A write that is dropped after its first poll is done
///   all the same, before the next call does anything; that one tells of its failure.
///
/// ```
/// # let path = std::env::temp_dir().join(format!("rondel-file-{}", std::process::id()));
/// # rondel::run(async {
/// use std::io::SeekFrom;
///
/// let mut options = std::fs::OpenOptions::new();
/// options.read(true).write(true).create_new(true);
/// let mut file = rondel::fs::File::open_with(&options, &path).await?;
/// file.write_all("hello, world").await?;
/// file.seek(SeekFrom::Start(7)).await?;
/// assert_eq!(file.read(100).await?, b"world");
/// file.sync_all().await?;
/// # rondel::fs::remove_file(&path).await })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct File {
    file: Arc<std::fs::File>,
    position: u64,
    /// The last write, until somebody has seen how it went.
    writing: Option<BlockingTask<io::Result<()>>>,
}

impl File {
    /// Opens a file for reading. Dropped, it has done nothing.
    ///
    /// # Errors
    /// As the standard library's function.
    ///
    /// ```
    /// # rondel::run(async {
    /// let mut file = rondel::fs::File::open("/proc/self/status").await?;
    /// assert_eq!(file.read(5).await?, b"Name:");
    /// # Ok::<(), std::io::Error>(()) })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::open_with(OpenOptions::new().read(true), path).await
    }

    /// Opens a file for writing; makes it, or empties it. Dropped, that is done or not.
    ///
    /// # Errors
    /// As the standard library's function.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("rondel-create-{}", std::process::id()));
    /// # rondel::run(async {
    /// let mut file = rondel::fs::File::create(&path).await?;
    /// file.write_all("a line\n").await?;
    /// # rondel::fs::remove_file(&path).await })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        Self::open_with(options.write(true).create(true).truncate(true), path).await
    }

    /// Opens a file as the standard library's options say. Dropped, that is done or not.
    ///
    /// With `append`, all writes go to the file's end, wherever the position is.
    ///
    /// # Errors
    /// As the standard library's function.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("rondel-append-{}", std::process::id()));
    /// # rondel::run(async {
    /// use std::fs::OpenOptions;
    ///
    /// let mut log = OpenOptions::new();
    /// log.append(true).create(true);
    /// for line in ["one\n", "two\n"] {
    ///     rondel::fs::File::open_with(&log, &path).await?.write_all(line).await?;
    /// }
    /// assert_eq!(rondel::fs::read(&path).await?, b"one\ntwo\n");
    /// # rondel::fs::remove_file(&path).await })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn open_with(options: &OpenOptions, path: impl AsRef<Path>) -> io::Result<Self> {
        let (options, path) = (options.clone(), path.as_ref().to_owned());
        let file = in_pool(move || options.open(path)).await?;
        Ok(Self::at(file, 0))
    }

    /// A file of the standard library's, with its position. Dropped, the file is closed or will be.
    ///
    /// # Errors
    /// If it has no position.
    ///
    /// ```
    /// # rondel::run(async {
    /// let file = std::fs::File::open("/proc/self/status")?;
    /// let mut file = rondel::fs::File::from_std(file).await?;
    /// assert_eq!(file.read(4).await?, b"Name");
    /// # Ok::<(), std::io::Error>(()) })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn from_std(mut file: std::fs::File) -> io::Result<Self> {
        in_pool(move || {
            let position = file.stream_position()?;
            Ok(Self::at(file, position))
        })
        .await
    }

    fn at(file: std::fs::File, position: u64) -> Self {
        Self {
            file: Arc::new(file),
            position,
            writing: None,
        }
    }

    /// A file of the standard library's again, at the same position.
    ///
    /// # Errors
    /// Of the last write, if its future was dropped; or if the file can't be positioned.
    ///
    /// ```
    /// # rondel::run(async {
    /// use std::io::Read;
    ///
    /// let mut file = rondel::fs::File::open("/proc/self/status").await?;
    /// file.read(2).await?;
    /// let mut rest = [0; 2];
    /// file.into_std().await?.read_exact(&mut rest)?;
    /// assert_eq!(&rest, b"me");
    /// # Ok::<(), std::io::Error>(()) })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn into_std(mut self) -> io::Result<std::fs::File> {
        self.settle().await?;
        let position = self.position;
        self.call(move |mut file| file.seek(SeekFrom::Start(position)))
            .await?;
        // A thread whose read nobody wanted may still have it.
        self.file.try_clone()
    }

    /// Waits for a write whose future was dropped.
    async fn settle(&mut self) -> io::Result<()> {
        let Some(writing) = &mut self.writing else {
            return Ok(());
        };
        let written = writing.await;
        self.writing = None;
        written.map_err(io::Error::other)?
    }

    /// Runs a call with the file in the pool.
    async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&std::fs::File) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let file = Arc::clone(&self.file);
        in_pool(move || call(&file)).await
    }

    /// The next bytes, up to `n` of them; none at the end of the file. Dropped, it has taken
    /// nothing.
    ///
    /// # Errors
    /// As the standard library's function, or of a write whose future was dropped.
    ///
    /// ```
    /// # rondel::run(async {
    /// let mut file = rondel::fs::File::open("/proc/sys/kernel/ostype").await?;
    /// assert_eq!(file.read(3).await?, b"Lin");
    /// assert_eq!(file.read(100).await?, b"ux\n");
    /// assert_eq!(file.read(100).await?, b"");
    /// # Ok::<(), std::io::Error>(()) })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn read(&mut self, n: usize) -> io::Result<Vec<u8>> {
        self.settle().await?;
        let data = self.read_at(n, self.position).await?;
        self.position += data.len() as u64;
        Ok(data)
    }

    /// Bytes from `offset` on, up to `n` of them; the position stays. Dropped, it has done nothing.
    ///
    /// # Errors
    /// As the standard library's function.
    ///
    /// ```
    /// # rondel::run(async {
    /// let file = rondel::fs::File::open("/proc/sys/kernel/ostype").await?;
    /// let both = rondel::gather_scoped([file.read_at(3, 0), file.read_at(2, 3)]).await;
    /// let both: Result<Vec<_>, _> = both.into_iter().collect();
    /// assert_eq!(both?, [b"Lin".as_slice(), b"ux"]);
    /// # Ok::<(), std::io::Error>(()) })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn read_at(&self, n: usize, offset: u64) -> io::Result<Vec<u8>> {
        self.call(move |file| {
            let mut data = vec![0; n.min(PIECE)];
            let read = retry(|| file.read_at(&mut data, offset))?;
            data.truncate(read);
            Ok(data)
        })
        .await
    }

    /// Everything from the position to the end of the file. Dropped, it has taken nothing.
    ///
    /// # Errors
    /// As the standard library's function, or of a write whose future was dropped.
    ///
    /// ```
    /// # rondel::run(async {
    /// let mut file = rondel::fs::File::open("/proc/sys/kernel/ostype").await?;
    /// assert_eq!(file.read_to_end().await?, b"Linux\n");
    /// # Ok::<(), std::io::Error>(()) })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        self.settle().await?;
        let position = self.position;
        let read = self.call(move |file| {
            let left = file.metadata()?.len().saturating_sub(position);
            // Files of /proc have no size.
            let mut piece =
                usize::try_from(left).map_or(PIECE, |left| (left + 1).clamp(4096, PIECE));
            let mut data = Vec::new();
            loop {
                let have = data.len();
                data.resize(have + piece, 0);
                let read = retry(|| file.read_at(&mut data[have..], position + have as u64))?;
                data.truncate(have + read);
                if read == 0 {
                    return Ok(data);
                }
                piece = PIECE;
            }
        });
        let data = read.await?;
        self.position += data.len() as u64;
        Ok(data)
    }

    /// Writes all of `data`. Dropped after its first poll, it is done all the same: the next call
    /// waits for that, and tells of a failure. The position moves at once.
    ///
    /// # Errors
    /// As the standard library's function, or of an earlier write whose future was dropped; then
    /// nothing of this one is written.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("rondel-all-{}", std::process::id()));
    /// # rondel::run(async {
    /// let mut file = rondel::fs::File::create(&path).await?;
    /// file.write_all("one, ").await?;
    /// file.write_all(b"two".as_slice()).await?;
    /// assert_eq!(rondel::fs::read(&path).await?, b"one, two");
    /// # rondel::fs::remove_file(&path).await })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn write_all(&mut self, data: impl Into<Vec<u8>>) -> io::Result<()> {
        self.settle().await?;
        let (file, data, position) = (Arc::clone(&self.file), data.into(), self.position);
        self.position += data.len() as u64;
        let write = move || file.write_all_at(&data, position);
        self.writing = Some(spawn_blocking(write));
        self.settle().await
    }

    /// Moves the position; gives the new one. Dropped, it has not moved.
    ///
    /// # Errors
    /// If that would be before the beginning, or too far; or of a write whose future was dropped.
    ///
    /// ```
    /// # rondel::run(async {
    /// use std::io::SeekFrom;
    ///
    /// let mut file = rondel::fs::File::open("/proc/sys/kernel/ostype").await?;
    /// file.seek(SeekFrom::Start(3)).await?;
    /// assert_eq!(file.seek(SeekFrom::Current(-1)).await?, 2);
    /// assert_eq!(file.read(100).await?, b"nux\n");
    /// # Ok::<(), std::io::Error>(()) })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.settle().await?;
        self.position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            // The kernel's position is nobody's.
            SeekFrom::End(_) => Some(self.call(move |mut file| file.seek(to)).await?),
        }
        .ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }

    /// Waits until data and metadata are on the disk. Dropped, that is done or not.
    ///
    /// # Errors
    /// As the standard library's function, or of a write whose future was dropped.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("rondel-sync-{}", std::process::id()));
    /// # rondel::run(async {
    /// let mut file = rondel::fs::File::create(&path).await?;
    /// file.write_all("to be kept").await?;
    /// file.sync_all().await?;
    /// # rondel::fs::remove_file(&path).await })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn sync_all(&mut self) -> io::Result<()> {
        self.settle().await?;
        self.call(std::fs::File::sync_all).await
    }

    /// Waits until the data are on the disk, and the metadata that reading them needs. Dropped,
    /// that is done or not.
    ///
    /// # Errors
    /// As [`sync_all`](Self::sync_all).
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("rondel-data-{}", std::process::id()));
    /// # rondel::run(async {
    /// let mut file = rondel::fs::File::create(&path).await?;
    /// file.write_all("to be kept").await?;
    /// file.sync_data().await?;
    /// # rondel::fs::remove_file(&path).await })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn sync_data(&mut self) -> io::Result<()> {
        self.settle().await?;
        self.call(std::fs::File::sync_data).await
    }

    /// Cuts the file, or fills it up with zeros. The position stays. Dropped, that is done or not.
    ///
    /// # Errors
    /// As the standard library's function, or of a write whose future was dropped.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("rondel-len-{}", std::process::id()));
    /// # rondel::run(async {
    /// let mut file = rondel::fs::File::create(&path).await?;
    /// file.set_len(100).await?;
    /// assert_eq!(file.metadata().await?.len(), 100);
    /// # rondel::fs::remove_file(&path).await })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn set_len(&mut self, size: u64) -> io::Result<()> {
        self.settle().await?;
        self.call(move |file| file.set_len(size)).await
    }

    /// What is known of the file. Dropped, it has done nothing.
    ///
    /// # Errors
    /// As the standard library's function, or of a write whose future was dropped.
    ///
    /// ```
    /// # rondel::run(async {
    /// let mut file = rondel::fs::File::open("/proc/self/status").await?;
    /// assert!(file.metadata().await?.is_file());
    /// # Ok::<(), std::io::Error>(()) })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn metadata(&mut self) -> io::Result<Metadata> {
        self.settle().await?;
        self.call(std::fs::File::metadata).await
    }

    /// Says who may read, write and execute the file. Dropped, that is done or not.
    ///
    /// # Errors
    /// As the standard library's function.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("rondel-may-{}", std::process::id()));
    /// # rondel::run(async {
    /// use std::{fs::Permissions, os::unix::fs::PermissionsExt};
    ///
    /// let file = rondel::fs::File::create(&path).await?;
    /// file.set_permissions(Permissions::from_mode(0o600)).await?;
    /// # rondel::fs::remove_file(&path).await })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn set_permissions(&self, permissions: Permissions) -> io::Result<()> {
        self.call(move |file| file.set_permissions(permissions))
            .await
    }
}

/// A signal is no failure.
fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for File {
    /// A write that has begun is done: nobody takes it back.
    fn drop(&mut self) {
        if let Some(writing) = self.writing.take() {
            writing.detach();
        }
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File")
            .field("file", &self.file)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}
