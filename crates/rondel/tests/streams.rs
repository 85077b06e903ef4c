//! Streams over real sockets: what is read, flow control, the ways a connection ends.

use std::cell::Cell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use rondel::{
    IncompleteReadError, ReadError, StreamReader, StreamWriter, create_task, gather,
    open_connection, run, sleep, spawn_blocking, start_server, timeout, yield_now,
};

const LOCAL: (&str, u16) = ("127.0.0.1", 0);
/// Long enough for anything that happens at all. A test that needs it has failed.
const AGES: Duration = Duration::from_secs(20);

/// Runs a test; what hangs fails.
fn test(main: impl AsyncFnOnce() -> io::Result<()>) {
    run(async { timeout(AGES, main()).await.expect("the test hangs") })
        .unwrap()
        .unwrap();
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

async fn echo(mut reader: StreamReader, writer: StreamWriter) -> io::Result<()> {
    loop {
        let data = reader.read(4096).await?;
        if data.is_empty() {
            return Ok(());
        }
        writer.write(data);
        writer.drain().await?;
    }
}

// Reading

#[test]
fn reads_take_what_they_say_however_the_bytes_come() {
    test(async || {
        let text = b"a line\nto the|bar12345\nlast, without an end";
        for size in [1, 2, 3, 7, 100] {
            let (mut reader, _writer, mut peer) = connected().await?;
            let pieces: Vec<_> = text.chunks(size).map(<[u8]>::to_vec).collect();
            let sender = spawn_blocking(move || {
                for piece in pieces {
                    peer.write_all(&piece).unwrap();
                }
            });
            assert_eq!(reader.readline().await?, b"a line\n");
            assert_eq!(reader.readuntil(b"|").await?, b"to the|");
            assert_eq!(reader.readuntil(b"ar").await?, b"bar");
            assert_eq!(reader.readexactly(5).await?, b"12345");
            assert_eq!(reader.readexactly(0).await?, b"");
            assert_eq!(reader.read(1).await?, b"\n");
            assert_eq!(reader.read(0).await?, b"");
            assert!(!reader.at_eof());
            assert_eq!(reader.readline().await?, b"last, without an end");
            assert!(reader.at_eof());
            assert_eq!(reader.readline().await?, b"");
            assert_eq!(reader.read(5).await?, b"");
            assert_eq!(reader.read_to_end().await?, b"");
            sender.await?;
        }
        Ok(())
    });
}

#[test]
fn a_stream_that_ends_too_early_gives_what_there_was() {
    test(async || {
        let (mut reader, _writer, mut peer) = connected().await?;
        peer.write_all(b"abc")?;
        drop(peer);
        let Err(ReadError::Incomplete(error)) = reader.readexactly(5).await else {
            panic!("five bytes of three")
        };
        let expected = IncompleteReadError {
            partial: b"abc".to_vec(),
            expected: Some(5),
        };
        assert_eq!(error, expected);
        let error = io::Error::from(reader.readuntil(b"\n").await.unwrap_err());
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        assert_eq!(
            error.to_string(),
            "0 bytes read on a total of undefined expected bytes"
        );
        Ok(())
    });
}

#[test]
fn overlong_lines_are_thrown_away_by_readline_and_kept_by_readuntil() {
    test(async || {
        let listener = TcpListener::bind(LOCAL)?;
        let address = listener.local_addr()?;
        let (mut reader, _writer) = rondel::open_connection_with_limit(address, 10).await?;
        let (mut peer, _) = listener.accept()?;
        peer.write_all(b"longer than ten\nshort\n")?;
        let error = reader.readline().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert_eq!(
            error.to_string(),
            "Separator is found, but chunk is longer than limit"
        );
        assert_eq!(reader.readline().await?, b"short\n");
        peer.write_all(b"longer than ten|")?;
        let Err(ReadError::LimitOverrun(error)) = reader.readuntil(b"|").await else {
            panic!("it is too long")
        };
        assert_eq!(error.consumed, 15);
        assert_eq!(reader.readexactly(16).await?, b"longer than ten|");
        Ok(())
    });
}

#[test]
fn a_read_that_is_given_up_takes_nothing() {
    test(async || {
        let (mut reader, _writer, mut peer) = connected().await?;
        peer.write_all(b"abc")?;
        assert!(
            timeout(Duration::from_millis(5), reader.readexactly(6))
                .await
                .is_err()
        );
        peer.write_all(b"def")?;
        assert_eq!(reader.readexactly(6).await?, b"abcdef");
        Ok(())
    });
}

#[test]
fn who_does_not_read_makes_the_peer_wait_and_loses_nothing() {
    test(async || {
        const SIZE: usize = 32 << 20;
        let sent = Rc::new(Cell::new(0));
        let sending = Rc::clone(&sent);
        let server = start_server(
            move |_, writer: StreamWriter| {
                let sent = Rc::clone(&sending);
                async move {
                    while sent.get() < SIZE {
                        writer.write([sent.get() as u8; 1 << 16]);
                        sent.set(sent.get() + (1 << 16));
                        writer.drain().await?;
                        assert!(writer.write_buffer_size() <= 64 << 10);
                    }
                    Ok::<(), io::Error>(())
                }
            },
            LOCAL,
        )
        .await?;
        let (mut reader, _writer) = open_connection(server.addresses()[0]).await?;
        // Wait until the sender is stuck: nothing moves for a while.
        let mut before = usize::MAX;
        while sent.get() != before {
            before = sent.get();
            sleep(Duration::from_millis(30)).await;
        }
        assert!(before < SIZE, "all was taken, though nobody read");
        let mut total = 0;
        loop {
            let data = reader.read(100_000).await?;
            if data.is_empty() {
                break;
            }
            total += data.len();
        }
        assert_eq!(total, SIZE);
        Ok(())
    });
}

#[test]
fn a_large_exact_read_goes_beyond_the_limit() {
    test(async || {
        let server = start_server(echo, LOCAL).await?;
        let (mut reader, writer) = open_connection(server.addresses()[0]).await?;
        let data: Vec<u8> = (0..5 << 20).map(|n: u32| (n % 251) as u8).collect();
        let copy = data.clone();
        let sender = create_task(async move {
            writer.write(&copy);
            writer.drain().await?;
            Ok::<_, io::Error>(writer)
        });
        assert_eq!(reader.readexactly(data.len()).await?, data);
        sender.await??;
        Ok(())
    });
}

// Writing

#[test]
fn writes_of_one_step_leave_together_without_a_drain() {
    test(async || {
        let (_reader, writer, mut peer) = connected().await?;
        writer.write("one ");
        writer.writelines(["two ", "three "]);
        writer.write("");
        assert_eq!(writer.write_buffer_size(), 14);
        // Nothing is sent before the step is over.
        peer.set_nonblocking(true)?;
        let mut buffer = [0; 64];
        assert_eq!(
            peer.read(&mut buffer).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
        yield_now().await;
        assert_eq!(writer.write_buffer_size(), 0);
        let count = peer.read(&mut buffer)?;
        assert_eq!(&buffer[..count], b"one two three ");
        Ok(())
    });
}

#[test]
fn writes_to_several_connections_in_one_step_keep_each_ones_order() {
    test(async || {
        let (_one, one, mut one_peer) = connected().await?;
        let (_two, two, mut two_peer) = connected().await?;
        // More than is held back until the step is over, in pieces that are and a last one that
        // isn't.
        let large = vec![b'x'; 60 * 1024];
        for (writer, number) in [(&one, 1), (&two, 2)] {
            writer.write(format!("a{number}"));
        }
        assert_eq!((one.write_buffer_size(), two.write_buffer_size()), (2, 2));
        for (writer, number) in [(&two, 2), (&one, 1)] {
            writer.write(format!("b{number}"));
        }
        assert_eq!((one.write_buffer_size(), two.write_buffer_size()), (4, 4));
        one.write(&large);
        one.write(&large);
        one.write("the end");
        two.close();
        assert_eq!(two.write_buffer_size(), 0);
        one.drain().await?;
        assert_eq!(one.write_buffer_size(), 0);
        one.close();
        for (peer, start, rest) in [
            (&mut one_peer, "a1b1", large.len() * 2 + 7),
            (&mut two_peer, "a2b2", 0),
        ] {
            let mut got = Vec::new();
            peer.read_to_end(&mut got)?;
            assert!(got.starts_with(start.as_bytes()));
            assert_eq!(got.len(), start.len() + rest);
        }
        Ok(())
    });
}

#[test]
fn a_large_write_goes_behind_the_small_ones_before_it() {
    test(async || {
        let (_reader, writer, mut peer) = connected().await?;
        let large = vec![b'x'; 1024 * 1024];
        let read = spawn_blocking(move || {
            let mut got = Vec::new();
            peer.read_to_end(&mut got).map(|_| got)
        });
        writer.write("small");
        writer.write(&large);
        writer.write("last");
        writer.drain().await?;
        writer.close();
        writer.wait_closed().await?;
        let got = read.await.unwrap()?;
        assert!(got.starts_with(b"smallx") && got.ends_with(b"xlast"));
        assert_eq!(got.len(), large.len() + 9);
        Ok(())
    });
}

#[test]
fn abort_drops_what_the_step_has_written() {
    test(async || {
        let (_reader, writer, mut peer) = connected().await?;
        let (_other, other, mut other_peer) = connected().await?;
        writer.write("never sent");
        writer.abort();
        other.write("sent");
        other.drain().await?;
        other.close();
        let mut got = Vec::new();
        peer.read_to_end(&mut got)?;
        assert!(got.is_empty());
        other_peer.read_to_end(&mut got)?;
        assert_eq!(got, b"sent");
        Ok(())
    });
}

#[test]
fn drain_waits_between_the_high_and_the_low_water_mark() {
    test(async || {
        let (_reader, writer, mut peer) = connected().await?;
        writer.set_write_buffer_limits(1 << 20, 1 << 10)?;
        assert_eq!(
            writer
                .set_write_buffer_limits(1, 2)
                .unwrap_err()
                .to_string(),
            "high (1) must be >= low (2) must be >= 0"
        );
        let mut written = 0;
        while writer.write_buffer_size() <= 1 << 20 {
            writer.write([1; 10_000]);
            written += 10_000;
            yield_now().await;
        }
        assert!(
            timeout(Duration::from_millis(5), writer.drain())
                .await
                .is_err()
        );
        let receiver = spawn_blocking(move || {
            let mut received = vec![0; written];
            peer.read_exact(&mut received).unwrap();
            peer
        });
        writer.drain().await?;
        assert!(writer.write_buffer_size() <= 1 << 10);
        receiver.await?;
        Ok(())
    });
}

#[test]
fn small_writes_to_a_slow_peer_take_about_as_much_memory_as_they_have_bytes() {
    fn resident() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        kib.unwrap().parse::<u64>().unwrap() * 1024
    }

    test(async || {
        const PIECES: u32 = 1_000_000;
        let (_reader, writer, mut peer) = connected().await?;
        let (_reader, other, _peer) = connected().await?;
        let before = resident();
        // So that it is not this connection's turn to have its bytes in the buffer that all share.
        other.write("x");
        for piece in 0..PIECES {
            writer.write(format!("{piece:09}\n"));
        }
        let (queued, taken) = (writer.write_buffer_size() as u64, resident() - before);
        assert!(queued > 1_000_000, "{queued}");
        assert!(
            taken < 5 * queued + (32 << 20),
            "{taken} bytes for {queued}"
        );
        drop(writer);
        let received = spawn_blocking(move || {
            let mut all = String::new();
            peer.read_to_string(&mut all).map(|_| all)
        })
        .await??;
        assert!((0..PIECES).eq(received.lines().map(|line| line.parse::<u32>().unwrap())));
        Ok(())
    });
}

#[test]
fn tasks_may_share_a_writer() {
    test(async || {
        let (_reader, writer, mut peer) = connected().await?;
        let writer = Rc::new(writer);
        let writers: Vec<_> = (0..10)
            .map(|_| {
                let writer = Rc::clone(&writer);
                async move {
                    for _ in 0..100 {
                        writer.write([7; 1000]);
                        writer.drain().await.unwrap();
                    }
                }
            })
            .collect();
        let receiver = spawn_blocking(move || {
            let mut received = vec![0; 1_000_000];
            peer.read_exact(&mut received).unwrap();
            received
        });
        gather(writers).await?;
        assert!(receiver.await?.iter().all(|&byte| byte == 7));
        Ok(())
    });
}

#[test]
fn half_closed_connections_go_on_in_the_other_direction() {
    test(async || {
        let server = start_server(
            async |mut reader: StreamReader, writer: StreamWriter| {
                let request = reader.read_to_end().await?.to_vec();
                writer.write(format!("got {}", request.len()));
                writer.drain().await
            },
            LOCAL,
        )
        .await?;
        let (mut reader, writer) = open_connection(server.addresses()[0]).await?;
        // More than the kernel takes at once: the end follows what is queued.
        writer.write(vec![b'x'; 8 << 20]);
        writer.write_eof()?;
        writer.write_eof()?;
        assert_eq!(reader.read_to_end().await?, b"got 8388608");
        Ok(())
    });
}

#[test]
#[should_panic(expected = "Cannot call write() after write_eof()")]
fn writing_after_write_eof_is_a_mistake() {
    test(async || {
        let (_reader, writer, _peer) = connected().await?;
        writer.write_eof()?;
        writer.write("more");
        Ok(())
    });
}

// The end of a connection

#[test]
fn close_and_drop_let_what_was_written_go_first() {
    for dropped in [false, true] {
        test(async move || {
            let (mut reader, writer, mut peer) = connected().await?;
            writer.write(vec![b'x'; 8 << 20]);
            if dropped {
                drop(writer);
            } else {
                writer.close();
                assert!(writer.is_closing());
                // What is written now is queued behind nothing that anybody waits for: asyncio
                // takes it, too.
                assert_eq!(reader.read(1).await?, b"");
            }
            let received = spawn_blocking(move || {
                let mut all = Vec::new();
                peer.read_to_end(&mut all).map(|_| all.len())
            });
            assert_eq!(received.await??, 8 << 20);
            Ok(())
        });
    }
}

#[test]
fn a_closed_connection_refuses_politely() {
    test(async || {
        let (mut reader, writer, _peer) = connected().await?;
        writer.close();
        writer.wait_closed().await?;
        writer.close();
        for _ in 0..3 {
            writer.write("into the void");
        }
        let error = writer.drain().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(error.to_string(), "Connection lost");
        assert_eq!(reader.read(1).await?, b"");
        assert!(writer.with_socket(|_| ()).is_none() && writer.sockname().is_none());
        assert!(writer.peername().is_some());
        Ok(())
    });
}

#[test]
fn abort_drops_what_was_not_sent() {
    test(async || {
        let (_reader, writer, mut peer) = connected().await?;
        writer.write(vec![b'x'; 8 << 20]);
        writer.abort();
        writer.wait_closed().await?;
        let received = spawn_blocking(move || {
            let mut all = Vec::new();
            let _ = peer.read_to_end(&mut all);
            all.len()
        });
        assert!(received.await? < 8 << 20);
        Ok(())
    });
}

#[test]
fn a_reset_in_the_middle_of_a_write_is_an_error_of_drain_and_of_reading() {
    test(async || {
        let (mut reader, writer, peer) = connected().await?;
        writer.write(vec![b'x'; 8 << 20]);
        let waiting = timeout(Duration::from_millis(5), writer.drain()).await;
        assert!(waiting.is_err());
        reset(peer);
        let error = writer.drain().await.unwrap_err();
        assert!(
            matches!(
                error.kind(),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
            ),
            "{error:?}"
        );
        assert_eq!(reader.read(1).await.unwrap_err().kind(), error.kind());
        assert_eq!(writer.wait_closed().await.unwrap_err().kind(), error.kind());
        for _ in 0..10 {
            writer.write("more");
        }
        assert!(writer.drain().await.is_err());
        Ok(())
    });
}

#[test]
fn a_reset_while_reading_is_an_error_of_the_read() {
    test(async || {
        let (mut reader, writer, peer) = connected().await?;
        let resetter = create_task(async move {
            yield_now().await;
            reset(peer);
        });
        let error = reader.readline().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET));
        assert!(writer.is_closing());
        resetter.await?;
        Ok(())
    });
}

#[test]
fn a_reset_is_found_while_nobody_reads() {
    test(async || {
        let (mut reader, writer, peer) = connected().await?;
        reset(peer);
        let error = writer.wait_closed().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert!(reader.read(1).await.is_err());
        Ok(())
    });
}
