//! The virtual clock beside what takes real time: it jumps when nothing is under way.

use std::io::{self, Write};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use rondel::{
    Builder, Jump, create_task, getaddrinfo, open_connection, sleep, spawn_blocking, start_server,
    timeout, yield_now,
};

/// An hour: nobody waits for it in real time.
const AGES: Duration = Duration::from_secs(3600);
/// What other threads take. Long enough to be overtaken by a clock that jumps.
const WHILE: Duration = Duration::from_millis(20);

fn virtually<T>(main: impl AsyncFnOnce() -> T) -> T {
    Builder::new().virtual_clock().run(main()).unwrap()
}

#[test]
fn it_does_not_overtake_a_function_in_a_thread() {
    virtually(async || {
        let began = rondel::Instant::now();
        let work = timeout(AGES, spawn_blocking(|| thread::sleep(WHILE)));
        work.await.expect("time has overtaken a thread").unwrap();
        // Meanwhile it went as time does.
        assert!(began.elapsed() >= WHILE && began.elapsed() < AGES);
        // And jumps again.
        sleep(AGES).await;
    });
}

#[test]
fn a_function_that_nobody_awaits_is_not_overtaken_either_and_does_not_hold_time_up_when_it_ends() {
    let real = Instant::now();
    virtually(async || {
        let (send, ended) = std::sync::mpsc::channel();
        spawn_blocking(move || {
            thread::sleep(WHILE);
            send.send(())
        })
        .detach();
        sleep(AGES).await;
        assert_eq!(ended.try_recv(), Ok(()));
    });
    assert!(real.elapsed() < AGES);
}

#[test]
fn it_does_not_overtake_a_look_up() {
    virtually(async || {
        let found = timeout(AGES, getaddrinfo("localhost", 80)).await;
        assert!(
            !found
                .expect("time has overtaken a name")
                .unwrap()
                .is_empty()
        );
    });
}

#[test]
fn it_does_not_overtake_a_peer() {
    virtually(async || {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let peer = thread::spawn(move || {
            let (mut client, _) = listener.accept()?;
            thread::sleep(WHILE);
            client.write_all(b"hi\n")?;
            io::Result::Ok(client)
        });
        let (mut reader, writer) = open_connection(address).await?;
        let line = timeout(AGES, reader.readline()).await;
        assert_eq!(line.expect("time has overtaken a peer")?, b"hi\n");
        let _open = peer.join().unwrap()?;
        // An open connection may bring something at any time: so this is waited for in real time.
        let real = Instant::now();
        sleep(WHILE).await;
        assert!(real.elapsed() >= WHILE);
        writer.close();
        writer.wait_closed().await?;
        sleep(AGES).await;
        io::Result::Ok(())
    })
    .unwrap();
}

#[test]
fn a_clock_that_always_jumps_overtakes_everything() {
    let always = Builder::new().virtual_clock_with(Jump::Always);
    let outcome = always.run(async {
        let server = start_server(async |_, _| (), ("127.0.0.1", 0)).await?;
        sleep(AGES).await;
        drop(server);
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = spawn_blocking(move || held.recv());
        assert!(timeout(AGES, held).await.is_err());
        drop(release);
        io::Result::Ok(())
    });
    outcome.unwrap().unwrap();
}

#[test]
fn a_manual_clock_is_moved_by_the_program_alone() {
    let manual = Builder::new().virtual_clock_with(Jump::Manual);
    let outcome = manual.run(async {
        let began = rondel::Instant::now();
        let [first, second] =
            [1, 2].map(|seconds| create_task(sleep(Duration::from_secs(seconds))));
        spawn_blocking(|| thread::sleep(WHILE)).await?;
        assert!(began.elapsed().is_zero() && !first.done());
        rondel::advance(Duration::from_secs(1));
        first.await?;
        yield_now().await;
        assert!(!second.done());
        rondel::advance(Duration::from_secs(5));
        second.await?;
        assert_eq!(began.elapsed(), Duration::from_secs(6));
        Ok::<_, rondel::JoinError>(())
    });
    outcome.unwrap().unwrap();
}
