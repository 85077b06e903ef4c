//! Files, by threads that may block: the standard library's `std::fs`, to be awaited.
//!
//! The kernel has no readiness for files: a read of one blocks the thread until the disk has
//! answered. So each call here runs in the pool of [`spawn_blocking`].
//! Names, arguments and errors are those of `std::fs`; [`File`] differs where a dropped future
//! would lose data otherwise.
//!
//! # What a dropped future has done
//! A call that no thread has begun when its future is dropped never happens. One that a thread has
//! begun happens to its end, as it can't be stopped. For what only looks ([`read`], [`metadata`],
//! [`read_dir`], …) this makes no difference. What changes something ([`write()`], [`rename`],
//! [`remove_file`], …) is done as a whole, or not at all, and nothing says which.
//!
//! A [`File`] promises more: its reads take nothing if they are dropped, and its writes are done.
//!
//! ```
//! # fn main() -> std::io::Result<()> {
//! rondel::run(async {
//!     let path = std::env::temp_dir().join(format!("rondel-fs-{}", std::process::id()));
//!     rondel::fs::write(&path, "hello").await?;
//!     assert_eq!(rondel::fs::read_to_string(&path).await?, "hello");
//!     rondel::fs::remove_file(&path).await
//! })?
//! # }
//! ```

mod directory;
mod file;

use std::fs::{Metadata, Permissions};
use std::io;
use std::path::{Path, PathBuf};

pub use directory::{ReadDir, read_dir};
pub use file::File;

use crate::blocking::spawn_blocking;

/// Runs a call in the pool.
async fn in_pool<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(call).await.map_err(io::Error::other)?
}

/// Each function of `std::fs` that is the same here but for the pool.
macro_rules! functions {
    ($($(#[$text:meta])* $name:ident($($path:ident),+ $(; $value:ident: $type:ty)?) -> $output:ty;)+) => {$(
        $(#[$text])*
        ///
        /// # Errors
        /// As the standard library's function.
        pub async fn $name($($path: impl AsRef<Path>),+ $(, $value: $type)?) -> io::Result<$output> {
            $(let $path = $path.as_ref().to_owned();)+
            in_pool(move || std::fs::$name($(&$path),+ $(, $value)?)).await
        }
    )+};
}

functions! {
    /// A file's whole content. Dropped, it has done nothing.
    ///
    /// ```
    /// # rondel::run(async {
    /// let status = rondel::fs::read("/proc/self/status").await?;
    /// assert!(status.starts_with(b"Name:"));
    /// # Ok::<(), std::io::Error>(()) })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    read(path) -> Vec<u8>;

    /// A file's whole content, which is to be UTF-8. Dropped, it has done nothing.
    ///
    /// ```
    /// # rondel::run(async {
    /// let name = rondel::fs::read_to_string("/proc/sys/kernel/ostype").await?;
    /// assert_eq!(name, "Linux\n");
    /// # Ok::<(), std::io::Error>(()) })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    read_to_string(path) -> String;

    /// What is known of a file; a symbolic link is followed. Dropped, it has done nothing.
    ///
    /// ```
    /// # rondel::run(async {
    /// assert!(rondel::fs::metadata("/").await?.is_dir());
    /// # Ok::<(), std::io::Error>(()) })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    metadata(path) -> Metadata;

    /// What is known of a file, or of the symbolic link itself. Dropped, it has done nothing.
    ///
    /// ```
    /// # rondel::run(async {
    /// assert!(rondel::fs::symlink_metadata("/proc/self").await?.is_symlink());
    /// # Ok::<(), std::io::Error>(()) })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    symlink_metadata(path) -> Metadata;

    /// The path without symbolic links and dots. Dropped, it has done nothing.
    ///
    /// ```
    /// # rondel::run(async {
    /// let root = rondel::fs::canonicalize("/proc/..").await?;
    /// assert_eq!(root, std::path::Path::new("/"));
    /// # Ok::<(), std::io::Error>(()) })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    canonicalize(path) -> PathBuf;

    /// Where a symbolic link leads. Dropped, it has done nothing.
    ///
    /// ```
    /// # rondel::run(async {
    /// let me = rondel::fs::read_link("/proc/self").await?;
    /// assert_eq!(me.to_str(), Some(&*std::process::id().to_string()));
    /// # Ok::<(), std::io::Error>(()) })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    read_link(path) -> PathBuf;

    /// Whether there is something of that name; an error if that can't be known. Dropped, it has
    /// done nothing.
    ///
    /// ```
    /// # rondel::run(async {
    /// assert!(!rondel::fs::exists("/no/such/file").await?);
    /// # Ok::<(), std::io::Error>(()) })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    exists(path) -> bool;

    /// Copies a file's content and permissions; gives the content's size. Dropped, it has copied
    /// all, or nothing if no thread had begun.
    ///
    /// ```
    /// # let folder = std::env::temp_dir().join(format!("rondel-copy-{}", std::process::id()));
    /// # rondel::run(async {
    /// # rondel::fs::create_dir_all(&folder).await?;
    /// rondel::fs::write(folder.join("a"), "abc").await?;
    /// assert_eq!(rondel::fs::copy(folder.join("a"), folder.join("b")).await?, 3);
    /// # rondel::fs::remove_dir_all(&folder).await })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    copy(from, to) -> u64;

    /// Gives a file another name, in place of what had that before. Dropped, it is done or not.
    ///
    /// ```
    /// # let folder = std::env::temp_dir().join(format!("rondel-rename-{}", std::process::id()));
    /// # rondel::run(async {
    /// # rondel::fs::create_dir_all(&folder).await?;
    /// // Who reads "config" finds the old content or the new one, and nothing between.
    /// rondel::fs::write(folder.join("config.new"), "content").await?;
    /// rondel::fs::rename(folder.join("config.new"), folder.join("config")).await?;
    /// # rondel::fs::remove_dir_all(&folder).await })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    rename(from, to) -> ();

    /// Gives a file one more name. Dropped, it is done or not.
    ///
    /// ```
    /// # let folder = std::env::temp_dir().join(format!("rondel-link-{}", std::process::id()));
    /// # rondel::run(async {
    /// # rondel::fs::create_dir_all(&folder).await?;
    /// rondel::fs::write(folder.join("a"), "abc").await?;
    /// rondel::fs::hard_link(folder.join("a"), folder.join("b")).await?;
    /// assert_eq!(rondel::fs::read(folder.join("b")).await?, b"abc");
    /// # rondel::fs::remove_dir_all(&folder).await })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    hard_link(original, link) -> ();

    /// Removes a file. Dropped, it is done or not.
    ///
    /// ```
    /// # rondel::run(async {
    /// let error = rondel::fs::remove_file("/no/such/file").await.unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    remove_file(path) -> ();

    /// Makes a directory. Dropped, it is done or not.
    ///
    /// ```
    /// # rondel::run(async {
    /// let error = rondel::fs::create_dir("/proc").await.unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    create_dir(path) -> ();

    /// Makes a directory, and those that it is in, as far as they are not there. Dropped, it is
    /// done or not.
    ///
    /// ```
    /// # rondel::run(async {
    /// rondel::fs::create_dir_all("/proc/self").await?;
    /// # Ok::<(), std::io::Error>(()) })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    create_dir_all(path) -> ();

    /// Removes a directory that is empty. Dropped, it is done or not.
    ///
    /// ```
    /// # rondel::run(async {
    /// assert!(rondel::fs::remove_dir("/proc").await.is_err());
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    remove_dir(path) -> ();

    /// Removes a directory with all that is in it. Dropped, it is done or not.
    ///
    /// ```
    /// # let folder = std::env::temp_dir().join(format!("rondel-remove-{}", std::process::id()));
    /// # rondel::run(async {
    /// rondel::fs::create_dir_all(folder.join("within")).await?;
    /// rondel::fs::remove_dir_all(&folder).await?;
    /// assert!(!rondel::fs::exists(&folder).await?);
    /// # Ok::<(), std::io::Error>(()) })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    remove_dir_all(path) -> ();

    /// Says who may read, write and execute a file. Dropped, it is done or not.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("rondel-mode-{}", std::process::id()));
    /// # rondel::run(async {
    /// use std::{fs::Permissions, os::unix::fs::PermissionsExt};
    ///
    /// rondel::fs::write(&path, "secret").await?;
    /// rondel::fs::set_permissions(&path, Permissions::from_mode(0o600)).await?;
    /// # rondel::fs::remove_file(&path).await })??;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    set_permissions(path; permissions: Permissions) -> ();
}

/// Makes a file with that content, or replaces the content of one. Dropped, it has written all, or
/// nothing if no thread had begun. As with the standard library's function, an error may leave a
/// part: whoever needs all or nothing writes another file and [`rename`]s it.
///
/// # Errors
/// As the standard library's function.
///
/// ```
/// # let path = std::env::temp_dir().join(format!("rondel-write-{}", std::process::id()));
/// # rondel::run(async {
/// rondel::fs::write(&path, vec![0; 100]).await?;
/// assert_eq!(rondel::fs::metadata(&path).await?.len(), 100);
/// # rondel::fs::remove_file(&path).await })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub async fn write(path: impl AsRef<Path>, contents: impl Into<Vec<u8>>) -> io::Result<()> {
    let (path, contents) = (path.as_ref().to_owned(), contents.into());
    in_pool(move || std::fs::write(path, contents)).await
}

/// Makes a symbolic link that leads to `original`. Dropped, it is done or not.
///
/// # Errors
/// As the standard library's function.
///
/// ```
/// # let path = std::env::temp_dir().join(format!("rondel-symlink-{}", std::process::id()));
/// # rondel::run(async {
/// rondel::fs::symlink("/proc", &path).await?;
/// assert!(rondel::fs::metadata(&path).await?.is_dir());
/// # rondel::fs::remove_file(&path).await })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub async fn symlink(original: impl AsRef<Path>, link: impl AsRef<Path>) -> io::Result<()> {
    let (original, link) = (original.as_ref().to_owned(), link.as_ref().to_owned());
    in_pool(move || std::os::unix::fs::symlink(original, link)).await
}
