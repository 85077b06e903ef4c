//! Cancel safety: what a future has taken that is dropped before it is ready. One generated test
//! for each function, which drops it at every one of its polls.

use std::fs::File;
use std::future::{Future, poll_fn};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::process::{Command, Stdio};
use std::task::Poll;
use std::time::Duration;

use rondel::{
    AsyncFd, DatagramEndpoint, ServerOptions, StreamReader, StreamWriter, create_datagram_endpoint,
    create_subprocess_exec, from_std, listen, open_connection, open_read_pipe, open_write_pipe,
    run, sleep, timeout, yield_now,
};

const AGES: Duration = Duration::from_secs(20);

fn test(main: impl AsyncFnOnce() -> io::Result<()>) {
    run(async { timeout(AGES, main()).await.expect("the test hangs") })
        .unwrap()
        .unwrap();
}

/// Polls a future so many times, and drops it if it is not ready then.
async fn at_most<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        left = match left.checked_sub(1) {
            Some(left) => left,
            None => return Poll::Ready(None),
        };
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            // Not to wait for what will not come.
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    })
    .await
}

fn connected() -> io::Result<(StreamReader, StreamWriter, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let (reader, writer) = from_std(ours)?;
    Ok((reader, writer, theirs))
}

/// A reader, what keeps its other half open, and the peer's writing side.
type Reading = (StreamReader, Option<StreamWriter>, Box<dyn Write>);

fn reading_a_socket() -> io::Result<Reading> {
    let (reader, writer, peer) = connected()?;
    Ok((reader, Some(writer), Box::new(peer)))
}

fn reading_a_pipe() -> io::Result<Reading> {
    let (read, write) = io::pipe()?;
    Ok((open_read_pipe(read)?, None, Box::new(write)))
}

/// A writer, what keeps its other half open, and the peer's reading side.
type Writing = (StreamWriter, Option<StreamReader>, Box<dyn Read + Send>);

fn writing_a_socket() -> io::Result<Writing> {
    let (reader, writer, peer) = connected()?;
    Ok((writer, Some(reader), Box::new(peer)))
}

fn writing_a_pipe() -> io::Result<Writing> {
    let (read, write) = io::pipe()?;
    Ok((open_write_pipe(write)?, None, Box::new(read)))
}

// Reading: a byte comes, the read is begun and dropped, and so on. In the end all bytes have been
// given out, once.

const STREAM: &[u8] = b"0123456789|line\n|the rest of it";

/// Reads the whole stream by a function that is dropped after so many polls, each time when a byte
/// more has come.
async fn read_all(
    ends: fn() -> io::Result<Reading>,
    polls: usize,
    piece: impl AsyncFn(&mut StreamReader) -> io::Result<Vec<u8>>,
) -> io::Result<Vec<Vec<u8>>> {
    let (mut reader, _writer, mut peer) = ends()?;
    let mut pieces = Vec::new();
    for index in 0..STREAM.len() {
        peer.write_all(&STREAM[index..=index])?;
        while let Some(piece) = at_most(polls, piece(&mut reader)).await {
            pieces.push(piece?);
        }
    }
    drop(peer);
    loop {
        let Some(piece) = at_most(polls, piece(&mut reader)).await else {
            // What it needs to see the end is that the reactor is asked.
            yield_now().await;
            continue;
        };
        match piece {
            Ok(piece) if piece.is_empty() => break,
            Ok(piece) => pieces.push(piece),
            // Ended too early for it: then the rest is in the error.
            Err(error) => {
                let inner = error.into_inner().and_then(|it| it.downcast().ok());
                let incomplete: Box<rondel::IncompleteReadError> = inner.expect("incomplete");
                pieces.push(incomplete.partial);
                break;
            }
        }
    }
    Ok(pieces)
}

macro_rules! reads {
    ($($name:ident: |$reader:ident| $read:expr;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn dropped_at_every_poll_loses_nothing() {
                test(async || {
                    let read = async |$reader: &mut StreamReader| -> io::Result<Vec<u8>> { $read };
                    for ends in [reading_a_socket, reading_a_pipe] {
                        for polls in [1000, 1, 2, 3, 4, 5] {
                            let all = read_all(ends, polls, read).await?.concat();
                            assert_eq!(all, STREAM);
                        }
                    }
                    Ok(())
                });
            }
        }
    )*};
}

reads! {
    read: |reader| Ok(reader.read(3).await?.to_vec());
    read_into: |reader| {
        let mut memory = [0; 3];
        let count = reader.read_into(&mut memory).await?;
        Ok(memory[..count].to_vec())
    };
    read_buf: |reader| {
        let mut memory = Vec::new();
        reader.read_buf(&mut memory).await?;
        Ok(memory)
    };
    fill_buf: |reader| {
        let found = reader.fill_buf().await?.first().copied();
        if found.is_some() {
            reader.consume(1);
        }
        Ok(found.into_iter().collect())
    };
    read_to_end: |reader| Ok(reader.read_to_end().await?.to_vec());
    readline: |reader| Ok(reader.readline().await?.to_vec());
    readexactly: |reader| Ok(reader.readexactly(7).await?.to_vec());
    readuntil: |reader| Ok(reader.readuntil(b"e|").await?.to_vec());
    readuntil_any: |reader| Ok(reader.readuntil_any(&[b"|", b"\n"]).await?.to_vec());
}

#[test]
fn a_descriptor_s_read_that_is_dropped_takes_nothing() {
    test(async || {
        for polls in 1..6 {
            let (ours, mut theirs) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            let ours = AsyncFd::new(ours);
            let mut got = Vec::new();
            for index in 0..STREAM.len() {
                let mut memory = [0; 2];
                let mut read = async || ours.read_with(|mut it| it.read(&mut memory)).await;
                assert!(at_most(polls, read()).await.is_none());
                theirs.write_all(&STREAM[index..=index])?;
                let Some(count) = at_most(polls, read()).await else {
                    panic!("it was there at the first poll")
                };
                got.extend_from_slice(&memory[..count?]);
            }
            assert_eq!(got, STREAM);
        }
        Ok(())
    });
}

// Writing: what was written before a wait that is dropped leaves, once, whole and in order.

/// Records that are large enough to fill the kernel's buffers after some, each of one byte value.
const RECORD: usize = 50_000;
const RECORDS: u8 = 40;

async fn write_records(
    ends: fn() -> io::Result<Writing>,
    polls: usize,
    wait: impl AsyncFn(&StreamWriter) -> io::Result<()>,
) -> io::Result<()> {
    let (writer, _reader, mut peer) = ends()?;
    let receiver = std::thread::spawn(move || {
        let mut all = Vec::new();
        peer.read_to_end(&mut all).map(|_| all)
    });
    for record in 0..RECORDS {
        writer.write(vec![record; RECORD]);
        if let Some(waited) = at_most(polls, wait(&writer)).await {
            waited?;
        }
    }
    writer.flushed().await?;
    writer.write_eof()?;
    let received = receiver.join().unwrap()?;
    let sent: Vec<u8> = (0..RECORDS)
        .flat_map(|record| vec![record; RECORD])
        .collect();
    assert!(received == sent, "with {polls} polls");
    Ok(())
}

macro_rules! waits {
    ($($name:ident: |$writer:ident| $wait:expr;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn dropped_at_every_poll_takes_no_write_back() {
                test(async || {
                    for polls in 1..6 {
                        let wait = async |$writer: &StreamWriter| -> io::Result<()> { $wait };
                        for ends in [writing_a_socket, writing_a_pipe] {
                            write_records(ends, polls, wait).await?;
                        }
                    }
                    Ok(())
                });
            }
        }
    )*};
}

waits! {
    drain: |writer| writer.drain().await;
    flushed: |writer| writer.flushed().await;
    wait_closed: |writer| writer.wait_closed().await;
}

/// A file that has no name.
fn file_with(content: &[u8]) -> io::Result<File> {
    // SAFETY: a name that ends; the descriptor is nobody else's.
    let mut file = unsafe {
        let fd = libc::memfd_create(c"cancellation".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0);
        File::from_raw_fd(fd)
    };
    file.write_all(content)?;
    Ok(file)
}

#[test]
fn a_sendfile_that_is_dropped_has_sent_a_part_from_the_beginning_on() {
    test(async || {
        let content: Vec<u8> = (0..4_000_000_u32).map(|n| (n % 251) as u8).collect();
        let file = file_with(&content)?;
        for ends in [writing_a_socket, writing_a_pipe] {
            let mut ended_early = 0;
            for polls in 1..8 {
                let (writer, _reader, mut peer) = ends()?;
                let receiver = std::thread::spawn(move || {
                    let mut all = Vec::new();
                    peer.read_to_end(&mut all).map(|_| all)
                });
                let sent = at_most(polls, writer.sendfile(&file, 0, None)).await;
                ended_early += usize::from(sent.is_none());
                // The connection is as good as before.
                writer.write(b"behind it");
                writer.flushed().await?;
                writer.write_eof()?;
                let received = receiver.join().unwrap()?;
                let part = received.strip_suffix(b"behind it").expect("it is the end");
                assert!(content.starts_with(part), "with {polls} polls");
                if let Some(sent) = sent {
                    assert_eq!((sent?, part.len()), (4_000_000, 4_000_000));
                }
            }
            assert!(ended_early > 0);
        }
        Ok(())
    });
}

#[test]
fn a_descriptor_s_write_that_is_dropped_has_written_nothing() {
    test(async || {
        for polls in 1..6 {
            let (ours, mut theirs) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            let ours = AsyncFd::new(ours);
            let (mut sent, mut received) = (Vec::new(), Vec::new());
            let mut drops = 0;
            for record in 0..RECORDS {
                let data = vec![record; RECORD];
                let write = ours.write_with(|mut it| it.write(&data));
                match at_most(polls, write).await {
                    Some(count) => sent.extend_from_slice(&data[..count?]),
                    None => {
                        drops += 1;
                        let mut memory = vec![0; 3 * RECORD];
                        let count = theirs.read(&mut memory)?;
                        received.extend_from_slice(&memory[..count]);
                    }
                }
            }
            drop(ours.into_inner());
            theirs.read_to_end(&mut received)?;
            assert!(drops > 0 && received == sent, "with {polls} polls");
        }
        Ok(())
    });
}

#[test]
fn a_wait_for_a_descriptor_that_is_dropped_takes_no_readiness() {
    test(async || {
        // The first poll only begins to wait.
        for polls in 2..6 {
            let (ours, mut theirs) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            let ours = AsyncFd::new(ours);
            for _ in 0..10 {
                assert!(at_most(polls, ours.readable()).await.is_none());
                theirs.write_all(b"!")?;
                // Dropped when the reactor has told, and before.
                while at_most(polls, ours.readable()).await.is_none() {
                    yield_now().await;
                }
                ours.readable().await?;
                ours.writable().await?;
                assert_eq!(ours.read_with(|mut it| it.read(&mut [0; 9])).await?, 1);
            }
        }
        Ok(())
    });
}

// Datagrams: each is somebody's.

macro_rules! receives {
    ($($name:ident: |$socket:ident| $receive:expr;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn dropped_at_every_poll_loses_no_datagram() {
                test(async || {
                    let receive = async |$socket: &DatagramEndpoint| -> io::Result<Vec<u8>> { $receive };
                    for polls in 1..6 {
                        let local = ("127.0.0.1", 0);
                        let ours = create_datagram_endpoint(Some(local.into()), None).await?;
                        let theirs = UdpSocket::bind(local)?;
                        for number in 0..20 {
                            assert!(at_most(polls, receive(&ours)).await.is_none());
                            theirs.send_to(&[number; 3], ours.local_addr()?)?;
                            let received = at_most(polls, receive(&ours)).await;
                            assert_eq!(received.expect("it is there")?, [number; 3]);
                        }
                    }
                    Ok(())
                });
            }
        }
    )*};
}

receives! {
    recv: |socket| socket.recv().await;
    recv_from: |socket| Ok(socket.recv_from().await?.0);
    recv_from_into: |socket| {
        let mut memory = [0; 9];
        let (count, _) = socket.recv_from_into(&mut memory).await?;
        Ok(memory[..count].to_vec())
    };
}

#[test]
fn a_datagram_is_sent_whole_or_not_at_all() {
    test(async || {
        let theirs = UdpSocket::bind("127.0.0.1:0")?;
        let address = theirs.local_addr()?;
        let ours = create_datagram_endpoint(None, Some(address.into())).await?;
        for polls in 0..4 {
            let sent = at_most(polls, ours.send(&[1; 1000])).await;
            let sent_to = at_most(polls, ours.send_to(&[2; 1000], address)).await;
            // The kernel takes it at the first poll.
            assert_eq!((sent.is_some(), sent_to.is_some()), (polls > 0, polls > 0));
        }
        theirs.set_nonblocking(true)?;
        let mut memory = [0; 2000];
        for number in [1, 2, 1, 2, 1, 2] {
            assert_eq!(theirs.recv(&mut memory)?, 1000);
            assert_eq!(memory[..1000], [number; 1000]);
        }
        assert!(theirs.recv(&mut memory).is_err());
        Ok(())
    });
}

// Children.

#[test]
fn a_communicate_that_is_dropped_at_every_poll_loses_nothing() {
    test(async || {
        let much: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        for polls in 1..6 {
            let mut command = Command::new("tee");
            command.arg("/dev/stderr").stdin(Stdio::piped());
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = create_subprocess_exec(&mut command).await?;
            let mut input = &much[..];
            let (output, errors) = loop {
                match at_most(polls, child.communicate(input)).await {
                    Some(result) => break result?,
                    // Not in vain: the child is to have its time, too.
                    None => sleep(Duration::from_micros(200)).await,
                }
                input = &[];
            };
            assert!(output == much && errors == much, "with {polls} polls");
            assert_eq!(child.returncode(), Some(0));
        }
        Ok(())
    });
}

#[test]
fn a_wait_for_a_child_that_is_dropped_at_every_poll_finds_its_end_later() {
    test(async || {
        for polls in 1..6 {
            let mut child = create_subprocess_exec(&mut Command::new("true")).await?;
            while at_most(polls, child.wait()).await.is_none() {
                sleep(Duration::from_micros(200)).await;
            }
            assert_eq!(child.returncode(), Some(0));
            assert!(child.wait().await?.success());
        }
        Ok(())
    });
}

#[test]
fn writes_of_tasks_that_share_a_writer_do_not_mix() {
    test(async || {
        let (_reader, writer, mut peer) = connected()?;
        let receiver = std::thread::spawn(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).map(|_| all)
        });
        let writer = std::rc::Rc::new(writer);
        let tasks: Vec<_> = (0..RECORDS)
            .map(|record| {
                let writer = std::rc::Rc::clone(&writer);
                rondel::create_task(async move {
                    for _ in 0..3 {
                        writer.write(vec![record; RECORD]);
                        // Given up at once, or later, or not at all.
                        at_most(usize::from(record % 4) + 1, writer.drain()).await;
                        yield_now().await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.map_err(io::Error::other)?;
        }
        writer.flushed().await?;
        drop(writer);
        drop(_reader);
        let received = receiver.join().unwrap()?;
        assert_eq!(received.len(), usize::from(RECORDS) * 3 * RECORD);
        for record in received.chunks(RECORD) {
            assert!(record.iter().all(|byte| *byte == record[0]));
        }
        Ok(())
    });
}

// Connections: what is accepted or connected is somebody's, or closed.

#[test]
fn an_accept_that_is_dropped_loses_no_connection() {
    test(async || {
        let listener = listen(("127.0.0.1", 0), ServerOptions::default()).await?;
        for polls in 1..6 {
            assert!(at_most(polls, listener.accept()).await.is_none());
            let client = TcpStream::connect(listener.local_addr()?)?;
            let (reader, _writer) = loop {
                match at_most(polls, listener.accept()).await {
                    Some(accepted) => break accepted?,
                    None => yield_now().await,
                }
            };
            assert_eq!(reader.peer_addr()?, client.local_addr()?);
        }
        Ok(())
    });
}

#[test]
fn a_connect_that_is_dropped_is_closed() {
    test(async || {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        for polls in 1..6 {
            let connecting = open_connection(listener.local_addr()?);
            drop(at_most(polls, connecting).await);
            sleep(Duration::from_millis(1)).await;
            // The kernel has connected it, perhaps; nobody has it.
            if let Ok((mut peer, _)) = listener.accept() {
                peer.set_nonblocking(false)?;
                assert_eq!(peer.read(&mut [0; 10])?, 0);
            }
        }
        Ok(())
    });
}
