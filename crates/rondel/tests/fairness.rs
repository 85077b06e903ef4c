//! What is always ready gives way: one connection, one task never has the loop for itself.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use rondel::{
    ServerOptions, StreamReader, StreamWriter, create_task, open_connection, open_unix_connection,
    run, sleep, start_server, start_unix_server_with, timeout, yield_now,
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

/// Counts how often another task got its turn meanwhile.
async fn turns_of_others(busy: impl AsyncFnOnce() -> io::Result<()>) -> io::Result<u32> {
    let turns = Rc::new(Cell::new(0));
    let count = Rc::clone(&turns);
    let other = create_task(async move {
        loop {
            count.set(count.get() + 1);
            yield_now().await;
        }
    });
    let done = busy().await;
    other.cancel();
    done.map(|()| turns.get())
}

#[test]
fn a_peer_that_is_always_ahead_leaves_the_loop_to_others() {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let seen = run(async {
        let server = start_server(
            async |mut reader: StreamReader, writer: StreamWriter| {
                loop {
                    let data = reader.read(100).await?;
                    if data.is_empty() {
                        return Ok::<(), io::Error>(());
                    }
                    writer.write(data);
                    writer.drain().await?;
                }
            },
            LOCAL,
        )
        .await
        .unwrap();
        let address = server.addresses()[0];
        let flooded = thread::spawn(move || {
            let mut flood = TcpStream::connect(address).unwrap();
            let mut answers = flood.try_clone().unwrap();
            thread::spawn(move || {
                let mut thrown_away = [0; 1 << 16];
                while answers.read(&mut thrown_away).is_ok_and(|n| n > 0) {}
            });
            let start = Instant::now();
            let told = || stopped.try_recv().is_ok();
            while !told() && start.elapsed() < AGES && flood.write_all(&[0; 1 << 18]).is_ok() {}
            start.elapsed()
        });
        // Another client, and a timer, get their turns while the flood lasts.
        let mut victim = open_connection(address).await.unwrap();
        for _ in 0..10 {
            victim.1.write("x");
            assert_eq!(victim.0.readexactly(1).await.unwrap(), b"x");
            sleep(Duration::from_millis(1)).await;
        }
        stop.send(()).unwrap();
        flooded
    })
    .unwrap()
    .join()
    .unwrap();
    assert!(seen < AGES / 2, "{seen:?}");
}

#[test]
fn reads_of_what_has_arrived_give_way() {
    test(async || {
        let (mut reader, _writer, mut peer) = connected().await?;
        peer.write_all(&b"line\n".repeat(2000))?;
        drop(peer);
        assert_eq!(reader.readline().await?, b"line\n");
        let turns = turns_of_others(async || {
            for _ in 0..999 {
                assert_eq!(reader.readline().await?, b"line\n");
            }
            for _ in 0..999 {
                assert_eq!(reader.readexactly(5).await?, b"line\n");
            }
            Ok(())
        })
        .await?;
        assert!(turns >= 10, "{turns}");
        assert_eq!(reader.read_to_end().await?, b"line\n");
        // At its end a stream is always ready, too.
        let turns = turns_of_others(async || {
            for _ in 0..1000 {
                assert_eq!(reader.read(1).await?, b"");
            }
            Ok(())
        })
        .await?;
        assert!(turns >= 5, "{turns}");
        Ok(())
    });
}

#[test]
fn writes_that_the_kernel_takes_at_once_give_way() {
    test(async || {
        let (_reader, writer, _peer) = connected().await?;
        let turns = turns_of_others(async || {
            for _ in 0..1000 {
                writer.write("x");
                writer.drain().await?;
            }
            Ok(())
        })
        .await?;
        assert!(turns >= 5, "{turns}");
        Ok(())
    });
}

#[test]
fn connections_that_are_made_at_once_give_way() {
    test(async || {
        let name = format!("\0rondel-fair-{}", std::process::id());
        let mut options = ServerOptions::default();
        options.backlog = 1000;
        let _server = start_unix_server_with(async |_, _| (), &name, options).await?;
        let turns = turns_of_others(async || {
            for _ in 0..1000 {
                open_unix_connection(&name).await?;
            }
            Ok(())
        })
        .await?;
        assert!(turns >= 5, "{turns}");
        Ok(())
    });
}

#[test]
fn who_polls_outside_a_task_s_step_has_no_budget() {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    // After the loop has ended there is no step, and nothing that would renew a budget.
    let (mut reader, _writer, mut peer) = run(async { connected().await.unwrap() }).unwrap();
    let _ = peer.write_all(b"x");
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..1000 {
        assert!(matches!(
            pin!(reader.read(1)).poll(&mut context),
            Poll::Ready(_)
        ));
    }
}
