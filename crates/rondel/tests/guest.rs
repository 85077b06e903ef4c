//! A guest under a host that is no more than a `poll` loop.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use rondel::{Guest, Task};

/// Whether the guest's descriptor is readable within so many milliseconds.
fn is_readable(guest: &Guest, millis: i32) -> bool {
    let mut fds = [libc::pollfd {
        fd: guest.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    }];
    // SAFETY: one entry, which outlives the call.
    (unsafe { libc::poll(fds.as_mut_ptr(), 1, millis) }) == 1
}

/// Runs the guest until the task is done; it must always say when there is something to do.
fn drive<T>(guest: &Guest, task: &Task<T>) {
    while !task.done() {
        assert!(is_readable(guest, 10_000), "the guest has gone to sleep");
        guest.turn().unwrap();
    }
}

fn run<F: Future + 'static>(guest: &Guest, future: F) -> F::Output {
    let mut task = guest.enter(|| rondel::create_task(future));
    drive(guest, &task);
    let mut context = Context::from_waker(Waker::noop());
    match guest.enter(|| pin!(&mut task).poll(&mut context)) {
        Poll::Ready(output) => output.unwrap(),
        Poll::Pending => panic!("the task is done"),
    }
}

#[test]
fn a_guest_without_anything_to_do_is_quiet() {
    let guest = Guest::new().unwrap();
    assert!(!is_readable(&guest, 0));
    guest.turn().unwrap();
    assert!(!is_readable(&guest, 0));
    assert_eq!(guest.next_deadline(), None);
}

#[test]
fn a_task_makes_the_descriptor_readable_and_runs_in_a_turn() {
    let guest = Guest::new().unwrap();
    let ran = Rc::new(Cell::new(false));
    let mark = Rc::clone(&ran);
    guest.enter(|| rondel::create_task(async move { mark.set(true) }).detach());
    assert!(is_readable(&guest, 0));
    assert!(!ran.get());
    guest.turn().unwrap();
    assert!(ran.get());
    assert!(!is_readable(&guest, 0));
}

#[test]
fn timers_fire_when_they_are_due_and_the_descriptor_says_so() {
    let guest = Guest::new().unwrap();
    let order = Rc::new(RefCell::new(Vec::new()));
    let notes = Rc::clone(&order);
    let begin = Instant::now();
    run(&guest, async move {
        let tasks = [30, 10, 20].map(|millis| {
            let notes = Rc::clone(&notes);
            rondel::create_task(async move {
                rondel::sleep(Duration::from_millis(millis)).await;
                notes.borrow_mut().push(millis);
            })
        });
        for task in tasks {
            task.await.unwrap();
        }
    });
    assert_eq!(*order.borrow(), [10, 20, 30]);
    assert!(begin.elapsed() >= Duration::from_millis(30));
}

#[test]
fn the_next_deadline_is_that_of_the_first_timer_that_is_not_cancelled() {
    let guest = Guest::new().unwrap();
    let (short, long) = guest.enter(|| {
        let sleep = |seconds| rondel::create_task(rondel::sleep(Duration::from_secs(seconds)));
        (sleep(10), sleep(100))
    });
    guest.turn().unwrap();
    let seconds = guest.next_deadline().unwrap().as_secs();
    assert!((8..=10).contains(&seconds), "{seconds}");
    guest.enter(|| drop(short));
    guest.turn().unwrap();
    guest.enter(|| long.cancel());
    guest.turn().unwrap();
    // A handle that is dropped detaches; one that is cancelled takes its timer along.
    let seconds = guest.next_deadline().unwrap().as_secs();
    assert!((8..=10).contains(&seconds), "{seconds}");
    assert!(!is_readable(&guest, 0));
}

#[test]
fn a_server_and_its_client_work_in_a_guest() {
    let guest = Guest::new().unwrap();
    let answer = run(&guest, async {
        let server = rondel::start_server(
            async |mut reader: rondel::StreamReader, writer: rondel::StreamWriter| {
                while let Ok(line) = reader.readline().await
                    && !line.is_empty()
                {
                    let line = line.to_ascii_uppercase();
                    writer.write(line);
                }
            },
            ("127.0.0.1", 0),
        )
        .await
        .unwrap();
        let (mut reader, writer) = rondel::open_connection(server.addresses()[0])
            .await
            .unwrap();
        let mut answers = Vec::new();
        for line in ["one\n", "two\n"] {
            writer.write(line);
            answers.extend_from_slice(reader.readline().await.unwrap());
        }
        answers
    });
    assert_eq!(answer, b"ONE\nTWO\n");
}

#[test]
fn what_is_written_in_enter_is_sent_when_it_ends() {
    let guest = Guest::new().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (_reader, writer) = run(&guest, async move {
        rondel::open_connection(address).await.unwrap()
    });
    let mut peer = listener.accept().unwrap().0;
    guest.enter(|| writer.write("at once"));
    let mut bytes = [0; 7];
    peer.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"at once");
}

#[test]
fn threads_wake_a_guest() {
    let guest = Guest::new().unwrap();
    let sum = run(&guest, async {
        let mut sum = 0;
        for n in 0..100_u64 {
            sum += rondel::spawn_blocking(move || n).await.unwrap();
        }
        sum
    });
    assert_eq!(sum, 4950);
}

#[test]
fn no_wake_of_many_threads_is_lost() {
    let guest = Guest::new().unwrap();
    let flags: Vec<_> = (0..200).map(|_| Arc::new(AtomicBool::new(false))).collect();
    let tasks: Vec<_> = flags
        .iter()
        .map(|flag| {
            let flag = Arc::clone(flag);
            guest.enter(|| {
                rondel::create_task(poll_fn(move |context| {
                    if flag.load(Ordering::Acquire) {
                        return Poll::Ready(());
                    }
                    let (flag, waker) = (Arc::clone(&flag), context.waker().clone());
                    std::thread::spawn(move || {
                        flag.store(true, Ordering::Release);
                        waker.wake();
                    });
                    Poll::Pending
                }))
            })
        })
        .collect();
    for task in &tasks {
        drive(&guest, task);
    }
}

/// A waker that counts.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn a_future_can_be_polled_by_the_host_itself() {
    let guest = Guest::new().unwrap();
    let flag = Arc::new(Flag::default());
    let waker = Waker::from(Arc::clone(&flag));
    let mut sleep = pin!(rondel::sleep(Duration::from_millis(5)));
    let mut poll = || guest.enter(|| sleep.as_mut().poll(&mut Context::from_waker(&waker)));
    assert!(poll().is_pending());
    while !flag.0.load(Ordering::Acquire) {
        assert!(is_readable(&guest, 10_000));
        guest.turn().unwrap();
    }
    assert!(poll().is_ready());
}

#[test]
fn the_announcement_comes_once_until_the_next_turn_and_the_descriptor_stays_quiet() {
    let guest = Guest::new().unwrap();
    let calls = Rc::new(Cell::new(0));
    let counter = Rc::clone(&calls);
    guest.on_ready(move || counter.set(counter.get() + 1));
    for _ in 0..3 {
        guest.enter(|| rondel::create_task(rondel::yield_now()).detach());
    }
    assert_eq!(calls.get(), 1);
    assert!(!is_readable(&guest, 0));
    guest.turn().unwrap();
    guest.enter(|| rondel::create_task(async {}).detach());
    assert_eq!(calls.get(), 2);
}

#[test]
fn its_waker_makes_the_descriptor_readable_from_any_thread() {
    let guest = Guest::new().unwrap();
    let waker = guest.waker();
    std::thread::scope(|scope| {
        scope.spawn(|| waker.wake_by_ref());
        assert!(is_readable(&guest, 10_000));
    });
    guest.turn().unwrap();
    assert!(!is_readable(&guest, 0));
    drop(guest);
    waker.wake();
}

#[test]
fn tasks_that_never_wait_leave_the_host_its_turn() {
    let guest = Guest::new().unwrap();
    let stop = Rc::new(Cell::new(false));
    let flag = Rc::clone(&stop);
    let task = guest.enter(|| {
        rondel::create_task(async move {
            while !flag.get() {
                rondel::yield_now().await;
            }
        })
    });
    guest.turn().unwrap();
    assert!(!task.done());
    assert!(is_readable(&guest, 0));
    stop.set(true);
    guest.turn().unwrap();
    assert!(task.done());
}

#[test]
fn a_turn_within_a_step_does_nothing() {
    let guest = Rc::new(Guest::new().unwrap());
    let weak = Rc::downgrade(&guest);
    let task = guest.enter(|| {
        rondel::create_task(async move {
            if let Some(guest) = weak.upgrade() {
                guest.turn().unwrap();
                guest.enter(|| rondel::create_task(async {}).detach());
            }
        })
    });
    drive(&guest, &task);
}

#[test]
fn two_guests_on_one_thread_keep_to_themselves() {
    let (one, two) = (Guest::new().unwrap(), Guest::new().unwrap());
    one.enter(|| {
        two.enter(|| rondel::create_task(async {}).detach());
        assert!(is_readable(&two, 0));
        assert!(!is_readable(&one, 0));
        rondel::create_task(async {}).detach();
    });
    assert!(is_readable(&one, 0));
    one.turn().unwrap();
    assert!(is_readable(&two, 0));
    two.turn().unwrap();
    assert!(!is_readable(&one, 0) && !is_readable(&two, 0));
}

#[test]
fn a_loop_of_its_own_runs_beside_a_guest_but_not_within_it() {
    let guest = Guest::new().unwrap();
    let refused = guest.enter(|| rondel::run(async {}));
    assert!(matches!(refused, Err(rondel::RunError::AlreadyRunning)));
    assert_eq!(rondel::run(async { 1 }).unwrap(), 1);
}

/// Notes that it was dropped.
struct Noted(Rc<Cell<bool>>);

impl Drop for Noted {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

#[test]
fn the_end_of_a_guest_drops_its_tasks_and_closes_its_connections() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let dropped = Rc::new(Cell::new(false));
    let guest = Guest::new().unwrap();
    let noted = Noted(Rc::clone(&dropped));
    guest.enter(|| {
        rondel::create_task(async move {
            let _noted = noted;
            let (mut reader, _writer) = rondel::open_connection(address).await.unwrap();
            let _ = reader.readline().await;
        })
        .detach();
    });
    let mut peer = loop {
        guest.turn().unwrap();
        listener.set_nonblocking(true).unwrap();
        if let Ok((peer, _)) = listener.accept() {
            break peer;
        }
        is_readable(&guest, 1);
    };
    peer.set_nonblocking(false).unwrap();
    drop(guest);
    assert!(dropped.get());
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
    let _ = peer.write_all(b"too late");
}

#[test]
fn what_outlives_a_guest_does_no_harm() {
    let guest = Guest::new().unwrap();
    let task = guest.enter(|| rondel::create_task(rondel::sleep(Duration::from_secs(60))));
    let waker: Rc<RefCell<Option<Waker>>> = Rc::default();
    let slot = Rc::clone(&waker);
    guest.enter(|| {
        rondel::create_task(poll_fn(move |context| -> Poll<()> {
            *slot.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        }))
        .detach();
    });
    guest.turn().unwrap();
    drop(guest);
    let waker = waker.borrow_mut().take().unwrap();
    waker.wake_by_ref();
    std::thread::spawn(move || waker.wake()).join().unwrap();
    drop(task);
}
