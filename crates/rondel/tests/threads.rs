//! Tasks and other threads: wakers that go there, foreign wakers, blocking work.

use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use rondel::{Builder, JoinError, create_task, gather, sleep, spawn_blocking, yield_now};

const SECOND: Duration = Duration::from_secs(1);

fn virtually<F: Future>(main: F) -> F::Output {
    Builder::new().virtual_clock().run(main).unwrap()
}

// Other wakers, other threads

/// Counts, and passes the wake on.
struct Counting(Waker, AtomicUsize);

impl Wake for Counting {
    fn wake(self: Arc<Self>) {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.wake_by_ref();
    }
}

/// Polls what is inside with a waker that isn't the task's.
struct Wrapped<F>(Pin<Box<F>>, Option<Arc<Counting>>);

impl<F: Future> Future for Wrapped<F> {
    type Output = (F::Output, usize);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let counting = this.1.get_or_insert_with(|| {
            Arc::new(Counting(context.waker().clone(), AtomicUsize::new(0)))
        });
        let waker = Waker::from(Arc::clone(counting));
        let output = this.0.as_mut().poll(&mut Context::from_waker(&waker));
        output.map(|output| (output, counting.1.load(Ordering::SeqCst)))
    }
}

#[test]
fn foreign_wakers_are_woken_by_timers_joins_and_gatherings() {
    virtually(async {
        let wrapped = Wrapped(
            Box::pin(async {
                sleep(SECOND).await;
                create_task(yield_now()).await.unwrap();
                gather([sleep(SECOND), sleep(SECOND)]).await.unwrap();
                yield_now().await;
            }),
            None,
        );
        let ((), wakes) = wrapped.await;
        assert_eq!(wakes, 4);
    });
}

#[test]
fn wakers_work_from_any_thread() {
    // Each round the waker goes to another thread, which wakes the sleeping loop by it.
    struct FromThread(Arc<AtomicBool>, mpsc::Sender<Waker>);
    impl Future for FromThread {
        type Output = ();
        fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            if self.0.load(Ordering::SeqCst) {
                return Poll::Ready(());
            }
            self.1.send(context.waker().clone()).unwrap();
            Poll::Pending
        }
    }
    let (send, wakers) = mpsc::channel::<Waker>();
    let woken = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&woken);
    let thread = thread::spawn(move || {
        for waker in wakers {
            flag.store(true, Ordering::SeqCst);
            waker.wake();
        }
    });
    rondel::run(async {
        for _ in 0..1000 {
            woken.store(false, Ordering::SeqCst);
            FromThread(Arc::clone(&woken), send.clone()).await;
        }
    })
    .unwrap();
    drop(send);
    thread.join().unwrap();
}

#[test]
fn many_threads_wake_many_tasks_and_nothing_is_lost() {
    const TASKS: usize = 50;
    const ROUNDS: usize = 40;
    rondel::run(async {
        type Slot = Mutex<(usize, Option<Waker>)>;
        let slots: Vec<Arc<Slot>> = (0..TASKS).map(|_| Arc::default()).collect();
        let tasks: Vec<_> = slots
            .iter()
            .map(|slot| {
                let slot = Arc::clone(slot);
                poll_fn(move |context| {
                    let mut slot = slot.lock().unwrap();
                    if slot.0 == 3 * ROUNDS {
                        return Poll::Ready(());
                    }
                    slot.1 = Some(context.waker().clone());
                    Poll::Pending
                })
            })
            .collect();
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let slots = slots.clone();
                thread::spawn(move || {
                    for _ in 0..ROUNDS {
                        for slot in &slots {
                            let mut slot = slot.lock().unwrap();
                            slot.0 += 1;
                            if let Some(waker) = slot.1.clone() {
                                drop(slot);
                                waker.wake();
                            }
                        }
                    }
                })
            })
            .collect();
        gather(tasks).await.unwrap();
        for thread in threads {
            thread.join().unwrap();
        }
    })
    .unwrap();
}

#[test]
fn a_waker_may_outlive_its_task_and_its_loop() {
    let kept = Arc::new(Mutex::new(None::<Waker>));
    for thread_count in 0..3 {
        rondel::run(async {
            let place = Arc::clone(&kept);
            let task = create_task(poll_fn(move |context| {
                *place.lock().unwrap() = Some(context.waker().clone());
                Poll::<()>::Pending
            }));
            yield_now().await;
            task.cancel();
            assert!(task.await.is_err());
            // Of a task that is complete, in a loop that runs.
            let waker = kept.lock().unwrap().clone().unwrap();
            waker.wake_by_ref();
            thread::spawn(move || waker.wake()).join().unwrap();
            yield_now().await;
        })
        .unwrap();
        let waker = kept.lock().unwrap().take().unwrap();
        // The loop is gone.
        if thread_count == 0 {
            waker.wake();
        } else {
            thread::spawn(move || {
                waker.wake_by_ref();
                let clone = waker.clone();
                clone.wake();
            })
            .join()
            .unwrap();
        }
    }
}

#[test]
fn a_handle_may_outlive_its_loop() {
    let (done, cancelled) = rondel::run(async {
        let done = create_task(async { Rc::new(7) });
        yield_now().await;
        (done, create_task(pending::<Rc<()>>()))
    })
    .unwrap();
    // They belong to this thread, so another loop on it may await them.
    rondel::run(async move {
        assert_eq!(*done.await.unwrap(), 7);
        assert!(!cancelled.cancel());
        assert!(matches!(cancelled.await, Err(JoinError::Cancelled(_))));
    })
    .unwrap();
}

// Blocking work

#[test]
fn blocking_work_leaves_the_loop_free() {
    rondel::run(async {
        let (send, receive) = mpsc::channel();
        let blocked = spawn_blocking(move || receive.recv().unwrap());
        // The loop runs on while the thread waits; only it can let the thread go.
        yield_now().await;
        send.send("let go").unwrap();
        assert_eq!(blocked.await.unwrap(), "let go");
        let error = spawn_blocking(|| panic!("in a thread")).await.unwrap_err();
        assert_eq!(error.to_string(), "task panicked: in a thread");
    })
    .unwrap();
}

#[test]
fn more_blocking_work_than_threads_is_queued_and_what_is_cancelled_in_the_queue_never_runs() {
    let started = Arc::new(AtomicUsize::new(0));
    rondel::run(async {
        let works: Vec<_> = (0..200_u32)
            .map(|n| spawn_blocking(move || n * 2))
            .collect();
        for (n, work) in works.into_iter().enumerate() {
            assert_eq!(work.await.unwrap() as usize, 2 * n);
        }
        // All threads there may be are held up, so what comes now waits; it is cancelled there.
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let holders: Vec<_> = (0..64)
            .map(|_| {
                let held = Arc::clone(&held);
                spawn_blocking(move || {
                    let _ = held.lock().unwrap().recv();
                })
            })
            .collect();
        let count = Arc::clone(&started);
        let waits = spawn_blocking(move || count.fetch_add(1, Ordering::SeqCst));
        assert!(rondel::timeout(Duration::ZERO, waits).await.is_err());
        drop(release);
        for holder in holders {
            holder.await.unwrap();
        }
        let count = Arc::clone(&started);
        spawn_blocking(move || count.fetch_add(10, Ordering::SeqCst))
            .await
            .unwrap();
    })
    .unwrap();
    assert_eq!(started.load(Ordering::SeqCst), 10);
}

#[test]
fn the_end_of_a_run_waits_for_work_that_has_begun() {
    let finished = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&finished);
    rondel::run(async move {
        let (begun, beginning) = mpsc::channel();
        let work = spawn_blocking(move || {
            begun.send(()).unwrap();
            // Long enough that a run which does not wait is over before.
            thread::sleep(Duration::from_millis(50));
            flag.store(true, Ordering::SeqCst);
        });
        beginning.recv().unwrap();
        drop(work);
    })
    .unwrap();
    assert!(finished.load(Ordering::SeqCst));
}

/// Runs `f` while all threads of the pool are busy.
async fn with_a_busy_pool(f: impl AsyncFnOnce()) {
    let (release, busy) = mpsc::channel::<()>();
    let busy = Arc::new(Mutex::new(busy));
    let jobs: Vec<_> = (0..32)
        .map(|_| {
            let busy = Arc::clone(&busy);
            spawn_blocking(move || {
                let _ = busy.lock().unwrap().recv();
            })
        })
        .collect();
    f().await;
    drop(release);
    gather(jobs).await.unwrap();
}

#[test]
fn blocking_work_that_nobody_awaits_runs_and_what_is_cancelled_in_time_does_not() {
    let ran = Arc::new(Mutex::new(Vec::new()));
    let work = |name: &'static str| {
        let ran = Arc::clone(&ran);
        move || ran.lock().unwrap().push(name)
    };
    rondel::run(with_a_busy_pool(async || {
        drop(spawn_blocking(work("dropped")));
        spawn_blocking(work("detached")).detach();
        let cancelled = spawn_blocking(work("timed out"));
        let short = Duration::from_millis(1);
        assert!(rondel::timeout(short, cancelled).await.is_err());
        let mut later = spawn_blocking(work("polled and detached"));
        assert!(rondel::timeout(short, &mut later).await.is_err());
        later.detach();
    }))
    .unwrap();
    // The end of the run has waited for them.
    let ran = ran.lock().unwrap();
    assert_eq!(*ran, ["dropped", "detached", "polled and detached"]);
}

#[test]
fn a_result_whose_destructor_panics_costs_no_thread() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("bomb");
        }
    }
    rondel::run(async {
        for _ in 0..40 {
            spawn_blocking(|| Bomb).detach();
        }
        assert_eq!(spawn_blocking(|| 5).await.unwrap(), 5);
        // One that is there before it is let go of.
        let bomb = spawn_blocking(|| Bomb);
        std::thread::sleep(Duration::from_millis(20));
        bomb.detach();
    })
    .unwrap();
}

#[test]
fn the_end_of_a_run_waits_for_threads_no_longer_than_it_is_told() {
    let (reports, heard) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let never = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let ran = std::sync::Arc::clone(&never);
    let limit = Duration::from_millis(20);
    rondel::Builder::new()
        .shutdown_timeout(limit)
        .run(async {
            rondel::set_exception_handler(move |context| {
                let _ = reports.send(context.to_string());
            });
            let released = std::sync::Arc::new(std::sync::Mutex::new(released));
            // As many as there can be threads, and one more.
            for _ in 0..32 {
                let released = std::sync::Arc::clone(&released);
                spawn_blocking(move || released.lock().unwrap().recv().is_ok()).detach();
            }
            spawn_blocking(move || ran.store(true, std::sync::atomic::Ordering::SeqCst)).detach();
        })
        .unwrap();
    let report = heard.recv().unwrap();
    assert!(report.contains("left running"), "{report}");
    drop(release);
    std::thread::sleep(limit);
    assert!(!never.load(std::sync::atomic::Ordering::SeqCst));
    // Who ends in time is waited for, and no longer.
    let began = std::time::Instant::now();
    rondel::Builder::new()
        .shutdown_timeout(Duration::from_secs(20))
        .run(async { spawn_blocking(|| std::thread::sleep(Duration::from_millis(5))).detach() })
        .unwrap();
    assert!(began.elapsed() < Duration::from_secs(10));
}
