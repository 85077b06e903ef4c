//! The ways a connection ends, and what is still read and sent then.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use rondel::{
    Builder, Server, StreamReader, StreamWriter, open_connection, open_unix_connection, run, sleep,
    spawn_blocking, start_server, timeout, yield_now,
};

const LOCAL: (&str, u16) = ("127.0.0.1", 0);
/// Long enough for anything that happens at all. A test that needs it has failed.
const AGES: Duration = Duration::from_secs(20);
/// More than the kernel takes for a peer that does not read.
const MUCH: usize = 24 << 20;

/// Runs a test; what hangs fails.
fn test(main: impl AsyncFnOnce() -> io::Result<()>) {
    run(within_ages(main())).unwrap().unwrap();
}

async fn within_ages<T>(main: impl Future<Output = T>) -> T {
    timeout(AGES, main).await.expect("the test hangs")
}

/// A connection whose other end is a plain blocking socket.
async fn connected() -> io::Result<(StreamReader, StreamWriter, TcpStream)> {
    let listener = TcpListener::bind(LOCAL)?;
    let (reader, writer) = open_connection(listener.local_addr()?).await?;
    let (peer, _) = listener.accept()?;
    Ok((reader, writer, peer))
}

/// Lets the connection be reset instead of closed.
fn reset(peer: TcpStream) {
    socket2::SockRef::from(&peer)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(peer);
}

/// Reads everything in another thread.
fn count(mut peer: TcpStream) -> thread::JoinHandle<io::Result<usize>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        peer.read_to_end(&mut all).map(|_| all.len())
    })
}

// What has arrived is read first

#[test]
fn an_answer_that_came_before_a_failed_write_can_be_read() {
    const ANSWER: &[u8] = b"HTTP/1.1 413 Too Large\r\n\r\n";
    test(async || {
        let (mut reader, writer, mut peer) = connected().await?;
        let served = thread::spawn(move || {
            let _ = peer.read(&mut [0; 1000]).unwrap();
            peer.write_all(ANSWER).unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            // With unread bytes: what is written to it from now on is answered by a reset.
            thread::sleep(Duration::from_millis(20));
        });
        let error = loop {
            writer.write([0; 65536]);
            if let Err(error) = writer.drain().await {
                break error;
            }
        };
        let gone = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
        assert!(gone.contains(&error.kind()), "{error}");
        assert_eq!(reader.read_to_end().await?, ANSWER);
        assert!(reader.at_eof());
        assert!(gone.contains(&writer.wait_closed().await.unwrap_err().kind()));
        served.join().unwrap();
        Ok(())
    });
}

#[test]
fn what_waits_in_the_kernel_when_a_write_fails_can_be_read() {
    test(async || {
        let path = std::env::temp_dir().join(format!("rondel-rest-{}.sock", std::process::id()));
        let listener = UnixListener::bind(&path)?;
        for stops_reading_only in [false, true] {
            let (mut reader, writer) = open_unix_connection(&path).await?;
            let (mut peer, _) = listener.accept()?;
            peer.write_all(&[b'x'; 100_000])?;
            let peer = if stops_reading_only {
                peer.shutdown(Shutdown::Read)?;
                Some(peer)
            } else {
                drop(peer);
                None
            };
            // In the same step, so that nobody has received anything before.
            writer.write("request");
            let error = writer.drain().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
            assert_eq!(reader.readexactly(50_000).await.unwrap().len(), 50_000);
            assert_eq!(reader.readexactly(50_000).await.unwrap().len(), 50_000);
            match stops_reading_only {
                false => assert_eq!(reader.read(1).await?, b""),
                true => assert_eq!(
                    reader.read(1).await.unwrap_err().kind(),
                    ErrorKind::BrokenPipe
                ),
            }
            drop(peer);
        }
        std::fs::remove_file(&path)
    });
}

#[test]
fn reads_give_what_came_before_a_reset_and_then_the_reset() {
    for somebody_waits in [false, true] {
        test(async || {
            let (mut reader, writer, mut peer) = connected().await?;
            peer.write_all(b"one\ntwo\nthree")?;
            if somebody_waits {
                assert_eq!(reader.readline().await?, b"one\n");
                reset(peer);
            } else {
                reset(peer);
                assert!(writer.wait_closed().await.is_err());
                assert_eq!(reader.readline().await?, b"one\n");
            }
            assert_eq!(reader.readline().await?, b"two\n");
            for _ in 0..2 {
                let error = reader.readline().await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                let error = io::Error::from(reader.readexactly(100).await.unwrap_err());
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                assert!(!reader.at_eof());
            }
            assert_eq!(reader.readexactly(3).await.unwrap(), b"thr");
            assert_eq!(reader.read(100).await?, b"ee");
            let error = reader.read(100).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            Ok(())
        });
    }
}

// Halves

#[test]
fn dropping_the_writer_ends_its_direction_only() {
    test(async || {
        let (mut reader, writer, mut peer) = connected().await?;
        writer.write(vec![b'x'; MUCH]);
        drop(writer);
        let peer = spawn_blocking(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).unwrap();
            assert_eq!(all.len(), MUCH);
            peer.write_all(b"an answer").unwrap();
            peer
        })
        .await?;
        assert_eq!(reader.readexactly(9).await.unwrap(), b"an answer");
        assert!(
            timeout(Duration::from_millis(5), reader.read(1))
                .await
                .is_err()
        );
        drop(peer);
        assert_eq!(reader.read(1).await?, b"");
        Ok(())
    });
}

#[test]
fn dropping_both_halves_in_either_order_closes() {
    test(async || {
        for writer_first in [false, true] {
            let (reader, writer, peer) = connected().await?;
            writer.write(vec![b'x'; MUCH]);
            if writer_first {
                drop(writer);
                drop(reader);
            } else {
                drop(reader);
                yield_now().await;
                writer.write("x");
                drop(writer);
            }
            let received = spawn_blocking(move || {
                let mut peer = peer;
                let mut all = Vec::new();
                peer.read_to_end(&mut all).unwrap();
                // Nobody is there: a reset answers the first write, at the latest the second fails
                // by it.
                let refused = (0..100).any(|_| {
                    thread::sleep(Duration::from_millis(1));
                    peer.write_all(b"x").is_err()
                });
                (all.len(), refused)
            });
            let expected = MUCH + usize::from(!writer_first);
            assert_eq!(received.await?, (expected, true));
        }
        Ok(())
    });
}

#[test]
fn flushed_waits_until_all_is_sent_and_says_if_it_was_not() {
    test(async || {
        let (_reader, writer, peer) = connected().await?;
        writer.flushed().await?;
        writer.write("x");
        writer.flushed().await?;
        assert_eq!(writer.write_buffer_size(), 0);
        // Far below the limits, at which drain would wait.
        writer.set_write_buffer_limits(4 * MUCH, MUCH)?;
        writer.write(vec![b'x'; MUCH]);
        writer.drain().await?;
        let waiting = timeout(Duration::from_millis(5), writer.flushed()).await;
        assert!(waiting.is_err() && writer.write_buffer_size() > 0);
        let peer = count(peer);
        writer.close();
        writer.flushed().await?;
        writer.wait_closed().await?;
        writer.flushed().await?;
        assert_eq!(peer.join().unwrap()?, MUCH + 1);

        for aborts in [false, true] {
            let (_reader, writer, peer) = connected().await?;
            writer.write(vec![b'x'; MUCH]);
            let mut flushing = std::pin::pin!(writer.flushed());
            let early = timeout(Duration::from_millis(5), flushing.as_mut()).await;
            assert!(early.is_err());
            match aborts {
                false => reset(peer),
                true => writer.abort(),
            }
            let error = flushing.await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        Ok(())
    });
}

#[test]
fn ctrl_c_ends_the_wait_at_the_end_of_a_run() {
    const MARK: &str = "RONDEL_TEST_LINGERS";
    if std::env::var_os(MARK).is_none() {
        let start = Instant::now();
        let ended = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "ctrl_c_ends_the_wait_at_the_end_of_a_run"])
            .env(MARK, "1")
            .output()
            .unwrap();
        assert!(
            ended.status.success() && start.elapsed() < AGES,
            "{ended:?}"
        );
        return;
    }
    // SAFETY: a fork that goes on with this test alone, in the main thread, as Ctrl-C is for.
    if unsafe { libc::fork() } != 0 {
        let mut status = 0;
        // SAFETY: the kernel writes one integer there.
        unsafe { libc::wait(&raw mut status) };
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGINT);
        return;
    }
    let _ = Builder::new().linger(2 * AGES).run(async {
        let (_reader, writer, peer) = connected().await.unwrap();
        writer.write(vec![b'x'; MUCH]);
        thread::spawn(|| {
            thread::sleep(Duration::from_millis(30));
            // SAFETY: a signal to this process.
            unsafe { libc::kill(libc::getpid(), libc::SIGINT) };
        });
        std::mem::forget(peer);
    });
    // SAFETY: it should not have come so far.
    unsafe { libc::_exit(1) };
}

// The end of the loop

#[test]
fn what_is_written_when_the_run_ends_is_sent() {
    for dropped in [false, true] {
        let (kept, peer) = run(async {
            let (reader, writer, peer) = connected().await.unwrap();
            writer.write(vec![b'x'; MUCH]);
            let peer = count(peer);
            match dropped {
                false => (Some((reader, writer)), peer),
                true => (None, peer),
            }
        })
        .unwrap();
        drop(kept);
        assert_eq!(peer.join().unwrap().unwrap(), MUCH);
    }
}

#[test]
fn who_is_cancelled_at_the_end_of_the_run_has_its_last_words_sent() {
    struct Bye(StreamWriter);
    impl Drop for Bye {
        fn drop(&mut self) {
            self.0.write("bye");
        }
    }
    let peer = run(async {
        let (reader, writer, peer) = connected().await.unwrap();
        rondel::create_task(async move {
            let _halves = (reader, Bye(writer));
            std::future::pending::<()>().await;
        })
        .detach();
        yield_now().await;
        count(peer)
    })
    .unwrap();
    assert_eq!(peer.join().unwrap().unwrap(), 3);
}

#[test]
fn a_peer_that_never_reads_holds_the_end_of_a_run_up_for_the_linger_time_only() {
    for linger in [Duration::ZERO, Duration::from_millis(30)] {
        let start = Instant::now();
        let peer = Builder::new()
            .linger(linger)
            .run(async {
                let (_reader, writer, peer) = connected().await.unwrap();
                writer.write(vec![b'x'; MUCH]);
                peer
            })
            .unwrap();
        let taken = start.elapsed();
        assert!(taken >= linger && taken < AGES / 2, "{taken:?}");
        drop(peer);
    }
}

#[test]
fn a_connection_that_nobody_has_goes_when_its_peer_takes_nothing_for_the_linger_time() {
    let linger = Duration::from_millis(50);
    Builder::new()
        .linger(linger)
        .run(within_ages(async {
            let server = start_server(async |_, writer| writer.write(vec![0; MUCH]), LOCAL).await?;
            let peer = TcpStream::connect(server.addresses()[0])?;
            sleep(Duration::from_millis(1)).await;
            server.close();
            server.wait_closed().await;
            drop(peer);
            Ok::<(), io::Error>(())
        }))
        .unwrap()
        .unwrap();
}

#[test]
fn a_connection_that_nobody_has_goes_on_as_long_as_its_peer_takes_something() {
    let linger = Duration::from_millis(800);
    let received = Builder::new()
        .linger(linger)
        .run(within_ages(async {
            let server = start_server(async |_, writer| writer.write(vec![0; MUCH]), LOCAL).await?;
            let mut peer = TcpStream::connect(server.addresses()[0])?;
            spawn_blocking(move || {
                // Twice the linger time in all.
                let mut piece = vec![0; MUCH / 16];
                for _ in 0..16 {
                    thread::sleep(linger / 8);
                    peer.read_exact(&mut piece)?;
                }
                peer.read_to_end(&mut piece)
            })
            .await?
        }))
        .unwrap();
    assert_eq!(received.unwrap(), 0);
}

#[test]
fn streams_of_a_loop_that_has_ended_say_so_and_hang_nowhere() {
    type Kept = (StreamReader, StreamWriter, TcpStream);
    let (halves, at_end, server): (Vec<Kept>, Kept, Server) = run(async {
        let mut halves = Vec::new();
        for _ in 0..5 {
            halves.push(connected().await.unwrap());
        }
        // One of which the reactor knows nothing any more.
        let mut at_end = connected().await.unwrap();
        at_end.2.write_all(b"last words").unwrap();
        at_end.2.shutdown(Shutdown::Write).unwrap();
        while at_end.0.read(0).await.is_ok() && !at_end.0.at_eof() {
            let _ = timeout(Duration::from_millis(1), at_end.0.readexactly(1000)).await;
        }
        halves[0].2.write_all(b"some").unwrap();
        assert_eq!(halves[0].0.readexactly(1).await.unwrap(), b"s");
        let server = start_server(async |_, _| (), LOCAL).await.unwrap();
        (halves, at_end, server)
    })
    .unwrap();
    let address = server.addresses()[0];
    assert_eq!(
        TcpStream::connect(address).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    test(async || {
        const TEXT: &str = "Event loop is closed";
        let mut halves = halves.into_iter();
        let mut next = || halves.next().unwrap();
        let (mut reader, _writer, _peer) = next();
        assert_eq!(reader.readexactly(3).await.unwrap(), b"ome");
        assert_eq!(reader.read(1).await.unwrap_err().to_string(), TEXT);
        let (_reader, writer, mut peer) = next();
        writer.write("x");
        assert_eq!(writer.drain().await.unwrap_err().to_string(), TEXT);
        assert_eq!(peer.read(&mut [0])?, 0);
        let (_reader, writer, _peer) = next();
        assert_eq!(writer.wait_closed().await.unwrap_err().to_string(), TEXT);
        writer.close();
        let (_reader, writer, _peer) = next();
        let _ = writer.write_eof();
        let (reader, writer, mut peer) = next();
        drop(writer);
        drop(reader);
        assert_eq!(peer.read(&mut [0])?, 0);

        let (mut reader, writer, mut peer) = at_end;
        assert_eq!(reader.read(1).await?, b"");
        writer.write("x");
        assert_eq!(writer.drain().await.unwrap_err().to_string(), TEXT);
        assert_eq!(peer.read(&mut [0])?, 0);
        server.wait_closed().await;
        server.serve_forever().await;
        Ok(())
    });
}
