//! What is in a directory, some entries at a time.

use std::collections::VecDeque;
use std::fmt;
use std::fs::DirEntry;
use std::io;
use std::path::Path;

use super::in_pool;
use crate::blocking::{BlockingTask, spawn_blocking};

/// So many entries come at a time: a trip to a thread costs more than reading one.
const BATCH: usize = 256;

type Batch = (std::fs::ReadDir, Vec<io::Result<DirEntry>>);

/// The entries of a directory, in no order, without `.` and `..`. Dropped, it has done nothing.
///
/// # Errors
/// As the standard library's function.
///
/// ```
/// # rondel::run(async {
/// let mut entries = rondel::fs::read_dir("/proc/self").await?;
/// let mut names = Vec::new();
/// while let Some(entry) = entries.next_entry().await? {
///     names.push(entry.file_name());
/// }
/// assert!(names.iter().any(|name| name == "status"));
/// # Ok::<(), std::io::Error>(()) })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub async fn read_dir(path: impl AsRef<Path>) -> io::Result<ReadDir> {
    let path = path.as_ref().to_owned();
    let (rest, entries) = in_pool(move || Ok(batch(std::fs::read_dir(path)?))).await?;
    let mut all = ReadDir {
        entries: VecDeque::new(),
        rest: Rest::Over,
    };
    all.take((rest, entries));
    Ok(all)
}

fn batch(mut directory: std::fs::ReadDir) -> Batch {
    let entries = directory.by_ref().take(BATCH).collect();
    (directory, entries)
}

/// The entries of a directory, of [`read_dir`].
///
/// ```
/// # rondel::run(async {
/// let mut entries: rondel::fs::ReadDir = rondel::fs::read_dir("/proc/self/fd").await?;
/// assert!(entries.next_entry().await?.is_some());
/// # Ok::<(), std::io::Error>(()) })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct ReadDir {
    /// What has been read.
    entries: VecDeque<io::Result<DirEntry>>,
    rest: Rest,
}

enum Rest {
    Here(std::fs::ReadDir),
    /// A thread reads more. Whoever waited for it may be gone.
    Coming(BlockingTask<Batch>),
    Over,
}

impl ReadDir {
    /// The next entry; `None` if that was all. Dropped, it has taken none.
    ///
    /// An entry is the standard library's. Its `metadata` blocks, as may its `file_type`:
    /// [`symlink_metadata`](super::symlink_metadata) of its path does not.
    ///
    /// # Errors
    /// As the standard library's iterator.
    ///
    /// ```
    /// # rondel::run(async {
    /// let mut entries = rondel::fs::read_dir("/").await?;
    /// while let Some(entry) = entries.next_entry().await? {
    ///     println!("{}", entry.path().display());
    /// }
    /// # Ok::<(), std::io::Error>(()) })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn next_entry(&mut self) -> io::Result<Option<DirEntry>> {
        loop {
            if let Some(entry) = self.entries.pop_front() {
                return entry.map(Some);
            }
            match &mut self.rest {
                Rest::Over => return Ok(None),
                Rest::Coming(more) => {
                    let more = more.await;
                    self.rest = Rest::Over;
                    self.take(more.map_err(io::Error::other)?);
                }
                Rest::Here(_) => {
                    if let Rest::Here(directory) = std::mem::replace(&mut self.rest, Rest::Over) {
                        self.rest = Rest::Coming(spawn_blocking(move || batch(directory)));
                    }
                }
            }
        }
    }

    fn take(&mut self, (directory, entries): Batch) {
        if entries.len() == BATCH {
            self.rest = Rest::Here(directory);
        }
        self.entries.extend(entries);
    }
}

impl fmt::Debug for ReadDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadDir").finish_non_exhaustive()
    }
}
