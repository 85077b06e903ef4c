//! The traits of other crates: hyper's server and client, tokio's and futures' readers and writers.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::rt::{Executor, Timer};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};

use rondel::{
    Duplex, RondelExecutor, RondelTimer, StreamReader, StreamWriter, create_task, from_std,
    open_connection, run, sleep, start_server, timeout, yield_now,
};

const LOCAL: (&str, u16) = ("127.0.0.1", 0);
const AGES: Duration = Duration::from_secs(20);

fn test(main: impl AsyncFnOnce() -> io::Result<()>) {
    run(async { timeout(AGES, main()).await.expect("the test hangs") })
        .unwrap()
        .unwrap();
}

fn pair() -> io::Result<(Duplex, Duplex)> {
    let (one, other) = std::os::unix::net::UnixStream::pair()?;
    Ok((from_std(one)?.into(), from_std(other)?.into()))
}

async fn text(mut body: Incoming) -> hyper::Result<String> {
    let mut all = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        all.extend_from_slice(frame?.data_ref().map_or(&[], |data| data));
    }
    Ok(String::from_utf8_lossy(&all).into_owned())
}

#[test]
fn hyper_serves_and_asks_without_glue() {
    test(async || {
        // Neither the service nor its future is `Send`.
        let visitors = Rc::new(Cell::new(0));
        let server = start_server(
            async move |reader: StreamReader, writer: StreamWriter| {
                let service = service_fn(|request: Request<Incoming>| {
                    let visitors = Rc::clone(&visitors);
                    async move {
                        visitors.set(visitors.get() + 1);
                        let path = request.uri().path().to_owned();
                        let said = text(request.into_body()).await.unwrap();
                        let answer = format!("{path} {} {}", visitors.get(), said.len());
                        Ok::<_, Infallible>(Response::new(answer))
                    }
                });
                hyper::server::conn::http1::Builder::new()
                    .timer(RondelTimer)
                    .header_read_timeout(AGES)
                    .serve_connection(Duplex::new(reader, writer), service)
                    .await
            },
            LOCAL,
        )
        .await?;
        let stream = Duplex::from(open_connection(server.addresses()[0]).await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream)
            .await
            .map_err(io::Error::other)?;
        let driving = create_task(connection);
        for (index, size) in [0, 10, 1_000_000].into_iter().enumerate() {
            let request = Request::post("/there").header("host", "localhost");
            let request = request.body("x".repeat(size)).unwrap();
            let response = sender
                .send_request(request)
                .await
                .map_err(io::Error::other)?;
            assert_eq!(response.status(), StatusCode::OK);
            let answer = text(response.into_body()).await.map_err(io::Error::other)?;
            assert_eq!(answer, format!("/there {} {size}", index + 1));
        }
        // The client goes; then so does its connection.
        drop(sender);
        driving
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)?;
        server.close();
        server.wait_closed().await;
        Ok(())
    });
}

#[test]
fn hyper_s_timers_are_the_loop_s() {
    let waited = rondel::Builder::new()
        .virtual_clock()
        .run(async {
            let start = rondel::Instant::now();
            RondelTimer.sleep(Duration::from_secs(30)).await;
            let deadline = std::time::Instant::now() + Duration::from_secs(30);
            RondelTimer.sleep_until(deadline).await;
            // One that is not waited for, and one that ends elsewhere.
            drop(RondelTimer.sleep(AGES));
            let elsewhere = RondelTimer.sleep(AGES);
            std::thread::spawn(move || drop(elsewhere)).join().unwrap();
            start.elapsed()
        })
        .unwrap();
    assert!(waited > Duration::from_secs(59) && waited <= Duration::from_secs(60));
    test(async || {
        let ran = Rc::new(Cell::new(false));
        let runs = Rc::clone(&ran);
        RondelExecutor.execute(async move { runs.set(true) });
        yield_now().await;
        assert!(ran.get());
        Ok(())
    });
}

#[test]
fn tokio_s_functions_read_and_write() {
    test(async || {
        let (mut ours, mut theirs) = pair()?;
        let message = vec![7; 1_000_000];
        let sent = message.clone();
        let sending = create_task(async move {
            ours.write_all(b"a line\n").await?;
            ours.write_all(&sent).await?;
            ours.flush().await?;
            ours.shutdown().await?;
            // After the end of its side.
            let error = ours.write_all(b"x").await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
            let mut answer = String::new();
            AsyncReadExt::read_to_string(&mut ours, &mut answer).await?;
            Ok::<_, io::Error>(answer)
        });
        let mut line = String::new();
        AsyncBufReadExt::read_line(&mut theirs, &mut line).await?;
        assert_eq!(line, "a line\n");
        let mut all = Vec::new();
        AsyncReadExt::read_to_end(&mut theirs, &mut all).await?;
        assert!(all == message);
        theirs.write_all(b"thanks").await?;
        let (reader, writer) = theirs.into_split();
        drop((reader, writer));
        let answer = sending.await.map_err(io::Error::other)??;
        assert_eq!(answer, "thanks");
        Ok(())
    });
}

#[test]
fn a_peer_that_takes_nothing_holds_a_write_up() {
    test(async || {
        let (mut ours, mut theirs) = pair()?;
        let much = vec![1; 10_000_000];
        let writing = ours.write_all(&much);
        assert!(timeout(Duration::from_millis(20), writing).await.is_err());
        assert!(ours.writer.write_buffer_size() < 1_000_000);
        let reading = create_task(async move {
            let mut all = Vec::new();
            AsyncReadExt::read_to_end(&mut theirs, &mut all)
                .await
                .map(|_| all.len())
        });
        ours.flush().await?;
        drop(ours);
        assert!(reading.await.map_err(io::Error::other)?? < 10_000_000);
        Ok(())
    });
}

#[test]
fn pipes_have_the_traits_too() {
    test(async || {
        let (read, write) = io::pipe()?;
        let mut writer = rondel::open_write_pipe(write)?;
        let mut reader = rondel::open_read_pipe(read)?;
        let message = vec![3; 500_000];
        let sent = message.clone();
        let sending = create_task(async move {
            writer.write_all(&sent).await?;
            writer.flush().await?;
            writer.shutdown().await
        });
        let mut all = Vec::new();
        AsyncReadExt::read_to_end(&mut reader, &mut all).await?;
        assert!(all == message);
        sending.await.map_err(io::Error::other)?
    });
}

#[test]
fn futures_traits_read_and_write() {
    use futures_io::{AsyncBufRead, AsyncRead, AsyncWrite};
    test(async || {
        let (mut ours, mut theirs) = pair()?;
        let data = b"hello".as_slice();
        let written = poll_fn(|cx| AsyncWrite::poll_write(Pin::new(&mut ours), cx, data)).await?;
        assert_eq!(written, 5);
        poll_fn(|cx| AsyncWrite::poll_flush(Pin::new(&mut ours), cx)).await?;
        poll_fn(|cx| AsyncWrite::poll_close(Pin::new(&mut ours), cx)).await?;
        let theirs = &mut theirs;
        poll_fn(|cx| {
            AsyncBufRead::poll_fill_buf(Pin::new(theirs), cx)
                .map_ok(|found| assert_eq!(found, b"hello"))
        })
        .await?;
        AsyncBufRead::consume(Pin::new(theirs), 1);
        let mut memory = [0; 10];
        let read = poll_fn(|cx| AsyncRead::poll_read(Pin::new(theirs), cx, &mut memory)).await?;
        assert_eq!(&memory[..read], b"ello");
        let read = poll_fn(|cx| AsyncRead::poll_read(Pin::new(theirs), cx, &mut memory)).await?;
        assert_eq!(read, 0);
        // Dropped before anything comes, a read takes nothing.
        let other = timeout(
            Duration::ZERO,
            poll_fn(|cx| AsyncRead::poll_read(Pin::new(&mut ours), cx, &mut memory)),
        );
        assert!(other.await.is_err());
        theirs.writer.write("x");
        sleep(Duration::from_millis(1)).await;
        assert_eq!(ours.reader.read(10).await?, b"x");
        Ok(())
    });
}

/// Pieces around the most that one write takes: what is written of them is a beginning of all.
#[test]
fn vectored_writes_leave_nothing_out() {
    const MOST: usize = 64 * 1024;
    test(async || {
        for lengths in [
            [MOST, MOST + 1, 5],
            [MOST + 1, 1, 5],
            [1, 2 * MOST, 5],
            [0, 3, 5],
        ] {
            let (mut one, mut other) = pair()?;
            // Whatever the peer does, all of it is taken.
            one.writer.set_write_buffer_limits(10 * MOST, 0)?;
            let pieces: Vec<Vec<u8>> = lengths
                .iter()
                .zip(b"abc")
                .map(|(length, byte)| vec![*byte; *length])
                .collect();
            let slices: Vec<_> = pieces.iter().map(|piece| io::IoSlice::new(piece)).collect();
            let written = poll_fn(|context| {
                hyper::rt::Write::poll_write_vectored(Pin::new(&mut one), context, &slices)
            })
            .await?;
            AsyncWriteExt::shutdown(&mut one).await?;
            let mut came = Vec::new();
            AsyncReadExt::read_to_end(&mut other, &mut came).await?;
            assert_eq!(came.len(), written);
            assert!(came == pieces.concat()[..written], "{lengths:?}");
        }
        Ok(())
    });
}
