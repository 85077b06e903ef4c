//! Sockets that listen, and their names.
//!
//! A TCP socket is bound with asyncio's options. A Unix socket has a name in the file system, which
//! is removed with it, or an abstract one, which goes by itself.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::ServerOptions;

/// A socket that listens on a TCP address.
pub(super) fn bind(address: SocketAddr, options: &ServerOptions) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        None,
    )?;
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // So that a dual-stack default does not take the IPv4 address that is bound beside it.
        socket.set_only_v6(true)?;
    }
    let bound = socket.bind(&address.into());
    bound
        .and_then(|()| socket.listen(options.backlog))
        .map_err(|error| {
            let code = error.raw_os_error().unwrap_or(0);
            let text = error.to_string().to_lowercase();
            let text = text.split(" (os error").next().unwrap_or_default();
            io::Error::new(
                error.kind(),
                format!(
                    "[Errno {code}] error while attempting to bind on address ('{}', {}): {text}",
                    address.ip(),
                    address.port(),
                ),
            )
        })?;
    Ok(socket)
}

/// A socket that listens on a Unix address, and what is to be removed with it.
pub(super) fn bind_unix(
    path: &Path,
    options: &ServerOptions,
) -> io::Result<(Socket, Option<UnixPath>)> {
    if path.as_os_str().is_empty() {
        // The kernel would choose a name, which nobody could know.
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path of a Unix server is empty",
        ));
    }
    let address = SockAddr::unix(path)?;
    let is_abstract = path.as_os_str().as_bytes().starts_with(&[0]);
    if !is_abstract
        && path
            .symlink_metadata()
            .is_ok_and(|found| found.file_type().is_socket())
    {
        // If it can't be removed, `bind` says what there is to say.
        let _ = std::fs::remove_file(path);
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.bind(&address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => io::Error::new(
            error.kind(),
            format!("Address '{}' is already in use", path.display()),
        ),
        _ => error,
    })?;
    let unlink = if is_abstract {
        None
    } else {
        let file = path.symlink_metadata()?;
        Some(UnixPath {
            path: path.to_owned(),
            inode: (file.dev(), file.ino()),
        })
    };
    socket.listen(options.backlog)?;
    Ok((socket, unlink))
}

/// A socket that somebody else has made, to be used by a loop.
pub(super) fn adopted(socket: OwnedFd) -> io::Result<OwnedFd> {
    let known = SockRef::from(&socket);
    known.set_nonblocking(true)?;
    if known.r#type()? != Type::STREAM {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "A Stream Socket was expected",
        ));
    }
    Ok(socket)
}

/// A Unix socket's place in the file system.
pub(super) struct UnixPath {
    path: PathBuf,
    inode: (u64, u64),
}

impl UnixPath {
    pub(super) fn remove(self) {
        let file = self.path.symlink_metadata();
        // Somebody else's by now, if it is another file.
        if file.is_ok_and(|file| (file.dev(), file.ino()) == self.inode) {
            let _ = std::fs::remove_file(self.path);
        }
    }
}
