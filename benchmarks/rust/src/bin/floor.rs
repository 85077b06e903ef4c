//! The floor: the kernel's cost of echoing. Level-triggered epoll, one `recv`, one `send` and one
//! thread: no tasks, no timers, no buffers, and only as much flow control as loses no bytes.
//!
//! `bench-floor echo` prints `{"port": N}` and serves 127.0.0.1 until it is killed.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::ExitCode;

use rondel_bench::epoll::{Epoll, READABLE, WRITABLE};
use rondel_bench::options::Options;

/// The most bytes per `recv`, as in the streams of the other servers.
const RECEIVE: usize = 64 * 1024;

struct Connection {
    stream: TcpStream,
    /// Bytes that did not fit into the send buffer. Nothing is read until they are sent.
    unsent: Vec<u8>,
}

fn main() -> ExitCode {
    let served = Options::from_command_line(&[])
        .and_then(|options| match options.mode.as_str() {
            "echo" => Ok(()),
            mode => Err(format!("unknown mode {mode}")),
        })
        .and_then(|()| serve().map_err(|error| error.to_string()));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.listen(4096)?;
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    println!("{{\"port\": {}}}", listener.local_addr()?.port());

    let listening = listener.as_raw_fd();
    let mut epoll = Epoll::new(1024)?;
    epoll.add(listening, READABLE, listening as u64)?;
    let mut by_fd: Vec<Option<Connection>> = Vec::new();
    let mut buffer = vec![0; RECEIVE];
    loop {
        for index in 0..epoll.wait(None)? {
            let (key, _) = epoll.event(index);
            let key = key as usize;
            if key == listening as usize {
                accept(&listener, &epoll, &mut by_fd)?;
                continue;
            }
            let Some(connection) = by_fd.get_mut(key).and_then(Option::as_mut) else {
                continue;
            };
            if !echo(connection, &epoll, &mut buffer) {
                by_fd[key] = None;
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    epoll: &Epoll,
    by_fd: &mut Vec<Option<Connection>>,
) -> io::Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let fd = stream.as_raw_fd();
        epoll.add(fd, READABLE, fd as u64)?;
        let slot = fd as usize;
        if by_fd.len() <= slot {
            by_fd.resize_with(slot + 1, || None);
        }
        by_fd[slot] = Some(Connection {
            stream,
            unsent: Vec::new(),
        });
    }
}

/// Handles one readiness event of a connection; false when the connection is finished.
fn echo(connection: &mut Connection, epoll: &Epoll, buffer: &mut [u8]) -> bool {
    if !connection.unsent.is_empty() {
        return resume(connection, epoll).is_ok();
    }
    let received = match connection.stream.read(buffer) {
        Ok(0) => return false,
        Ok(received) => &buffer[..received],
        Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
    };
    match connection.stream.write(received) {
        Ok(sent) if sent == received.len() => true,
        Ok(sent) => hold_back(connection, epoll, &received[sent..]).is_ok(),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            hold_back(connection, epoll, received).is_ok()
        }
        Err(_) => false,
    }
}

fn hold_back(connection: &mut Connection, epoll: &Epoll, rest: &[u8]) -> io::Result<()> {
    connection.unsent.extend_from_slice(rest);
    let fd = connection.stream.as_raw_fd();
    epoll.modify(fd, WRITABLE, fd as u64)
}

fn resume(connection: &mut Connection, epoll: &Epoll) -> io::Result<()> {
    let sent = match connection.stream.write(&connection.unsent) {
        Ok(sent) => sent,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
        Err(error) => return Err(error),
    };
    connection.unsent.drain(..sent);
    if connection.unsent.is_empty() {
        let fd = connection.stream.as_raw_fd();
        epoll.modify(fd, READABLE, fd as u64)?;
    }
    Ok(())
}
