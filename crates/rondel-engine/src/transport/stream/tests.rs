//! Tests of stream transports, over pairs of connected sockets.

use super::*;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

type Tested = Stream<UnixStream, Vec<u8>>;

fn pair() -> (Tested, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (Stream::new(ours), theirs)
}

/// Writes until the send buffer is full.
fn block(stream: &mut Tested) -> usize {
    let mut written = 0;
    loop {
        written += 100_000;
        assert_eq!(stream.write(vec![b'x'; 100_000]), Written::FlushNow);
        if let Sent::Watch = stream.flush() {
            return written;
        }
    }
}

fn read_exactly(peer: &mut UnixStream, count: usize) {
    peer.read_exact(&mut vec![0; count]).unwrap();
}

#[test]
fn small_writes_of_one_step_leave_together() {
    let (mut stream, mut peer) = pair();
    assert_eq!(stream.write(b"a".to_vec()), Written::FlushLater);
    assert_eq!(stream.write(b"b".to_vec()), Written::Queued);
    assert!(stream.is_dirty());
    assert!(matches!(stream.flush(), Sent::All));
    assert!(!stream.is_dirty());
    assert!(matches!(stream.flush(), Sent::Nothing));
    let mut got = [0; 10];
    assert_eq!(peer.read(&mut got).unwrap(), 2);
    assert_eq!(&got[..2], b"ab");
}

#[test]
fn an_early_flush_sends_all_and_is_the_last() {
    let (mut stream, mut peer) = pair();
    stream.write(b"a".to_vec());
    stream.flush_early();
    read_exactly(&mut peer, 1);
    assert!(!stream.is_dirty());
    assert_eq!(stream.write(b"b".to_vec()), Written::FlushLater);
    assert!(matches!(stream.flush(), Sent::All));
}

#[test]
fn the_flush_that_is_due_tells_what_an_early_one_has_seen() {
    let (mut stream, peer) = pair();
    for _ in 0..16 {
        stream.write(vec![b'x'; 60_000]);
    }
    stream.flush_early();
    assert!(stream.is_dirty() && !stream.is_blocked() && !stream.queue().is_empty());
    assert!(matches!(stream.flush(), Sent::Watch));

    let (mut stream, other) = pair();
    drop(other);
    stream.write(b"a".to_vec());
    stream.flush_early();
    stream.flush_early();
    assert!(stream.is_dirty() && stream.has_failed() && stream.offers().is_none());
    match stream.flush() {
        Sent::Failed(error) => assert_eq!(error.kind(), io::ErrorKind::BrokenPipe),
        other => panic!("{other:?}"),
    }
    drop(peer);
}

#[test]
fn without_high_water_each_write_is_sent_at_once() {
    let (mut stream, _peer) = pair();
    stream.flow.set_limits(Some(0), None).unwrap();
    assert_eq!(stream.write(b"a".to_vec()), Written::FlushNow);
}

#[test]
fn a_blocked_stream_pauses_drains_and_goes_on() {
    let (mut stream, mut peer) = pair();
    let mut written = block(&mut stream);
    assert!(stream.is_blocked());
    while !stream.flow.pauses_at(stream.queue().len()) {
        assert_eq!(stream.write(vec![b'x'; 1000]), Written::Waiting);
        written += 1000;
    }
    assert!(stream.drained().is_none());
    read_exactly(&mut peer, written - stream.queue().len());
    let left = stream.queue().len();
    assert!(matches!(stream.flush(), Sent::All));
    assert!(stream.flow.resumes_at(stream.queue().len()));
    assert!(matches!(stream.drained(), Some(Drained::Open)));
    assert!(!stream.is_blocked());
    read_exactly(&mut peer, left);
    assert_eq!(stream.write(b"a".to_vec()), Written::FlushLater);
}

#[test]
fn eof_follows_what_was_written() {
    let (mut stream, mut peer) = pair();
    let written = block(&mut stream);
    stream.write_eof().unwrap();
    assert!(stream.eof_written());
    read_exactly(&mut peer, written - stream.queue().len());
    let left = stream.queue().len();
    assert!(matches!(stream.flush(), Sent::All));
    assert!(matches!(stream.drained(), Some(Drained::Eof(Ok(())))));
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), left);
}

#[test]
fn close_lets_what_was_written_go_first() {
    let (mut stream, mut peer) = pair();
    let written = block(&mut stream);
    assert_eq!(stream.close(), Close::WhenDrained);
    assert_eq!(stream.close(), Close::Already);
    assert_eq!(stream.conn_lost(), 0);
    assert!(!stream.intake.is_reading() && !stream.intake.resume() && !stream.intake.pause());
    read_exactly(&mut peer, written - stream.queue().len());
    assert!(matches!(stream.flush(), Sent::All));
    assert!(matches!(stream.drained(), Some(Drained::Close)));
}

#[test]
fn writes_to_a_lost_connection_are_counted_and_warned_of() {
    let (mut stream, _peer) = pair();
    assert_eq!(stream.close(), Close::Now);
    let warnings: Vec<_> = (0..6).map(|_| stream.write(b"x".to_vec())).collect();
    let expected = [false, false, false, false, true, true].map(|warn| Written::Lost { warn });
    assert_eq!(warnings, expected);
    assert!(stream.queue().is_empty());
    assert!(stream.force_close().is_none());
    assert!(stream.take_socket().is_some() && stream.socket().is_none());
}

#[test]
fn force_close_drops_what_waits() {
    let (mut stream, _peer) = pair();
    block(&mut stream);
    let dropped = stream.force_close().unwrap();
    assert!(!dropped.is_empty());
    assert!(stream.queue().is_empty() && stream.is_closing() && !stream.is_blocked());
    assert_eq!(stream.close(), Close::Already);
    assert!(matches!(stream.flush(), Sent::Nothing));
}

#[test]
fn reading_sees_data_then_nothing_then_the_end() {
    let (mut stream, mut peer) = pair();
    let mut room = [MaybeUninit::uninit(); 16];
    assert!(matches!(stream.recv(&mut room), Received::Blocked));
    peer.write_all(b"abc").unwrap();
    assert!(matches!(stream.recv(&mut room), Received::Data(3)));
    drop(peer);
    assert!(matches!(stream.recv(&mut room), Received::Eof));
}

#[test]
fn a_reset_by_the_peer_is_an_error_of_reading_and_of_writing() {
    use std::net::{TcpListener, TcpStream};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    socket2::SockRef::from(&peer)
        .set_linger(Some(std::time::Duration::ZERO))
        .unwrap();
    drop(peer);
    let mut stream: Stream<TcpStream, Vec<u8>> = Stream::new(client);
    let mut room = [MaybeUninit::uninit(); 16];
    let Received::Failed(error) = stream.recv(&mut room) else {
        panic!("the connection was reset")
    };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    stream.write(b"x".to_vec());
    let Sent::Failed(error) = stream.flush() else {
        panic!("the connection was reset")
    };
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn a_failure_shows_before_anything_is_sent() {
    let (mut stream, mut peer) = pair();
    peer.write_all(b"x").unwrap();
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(!stream.has_failed(), "the peer can still read");
    drop(peer);
    assert!(stream.has_failed());
    assert!(stream.take_socket().is_some() && !stream.has_failed());
}

#[test]
fn pausing_and_resuming_are_edges() {
    let (mut stream, _peer) = pair();
    assert!(!stream.intake.resume());
    assert!(stream.intake.pause());
    assert!(!stream.intake.pause() && !stream.intake.is_reading());
    assert!(stream.intake.resume() && stream.intake.is_reading());
}
