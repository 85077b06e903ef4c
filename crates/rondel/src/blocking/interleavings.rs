//! Every interleaving of the pool's threads and who gives them work, by loom: `make test-loom`.
//!
//! Loom has no time: a thread that is idle waits for ever, so that a job which nobody is told of
//! shows as a deadlock.

use std::sync::atomic::AtomicUsize as PlainUsize;
use std::task::Wake;

use loom::sync::Notify;

use super::*;

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    // All interleavings of pool threads, their locks and their end are too many: those with up to
    // two preemptions, where bugs show.
    model.preemption_bound = Some(2);
    model.check(check);
}

/// A job that runs `work` for a future, as `Pool::spawn` makes it.
fn submit<T: Send + 'static>(
    pool: &Pool,
    work: impl FnOnce() -> T + Send + 'static,
) -> BlockingTask<T> {
    let slot = Arc::new(Slot {
        stage: Mutex::new(Stage::Queued(None)),
    });
    let of_thread = Arc::clone(&slot);
    let job = Box::new(move || drop(of_thread.run(work)));
    pool.submit(job).unwrap();
    BlockingTask {
        slot,
        awaited: false,
    }
}

#[test]
fn each_job_runs_once_before_the_pool_is_joined() {
    for threads in [1, 2] {
        model(move || {
            let pool = Pool::new("test", threads);
            let ran = Arc::new(PlainUsize::new(0));
            for _ in 0..2 {
                let ran = Arc::clone(&ran);
                submit(&pool, move || ran.fetch_add(1, Ordering::Relaxed)).detach();
            }
            assert!(pool.join(None));
            assert_eq!(ran.load(Ordering::Relaxed), 2);
            assert_eq!(pool.shared.lock().alive, 0);
        });
    }
}

#[test]
fn a_thread_that_has_become_idle_is_told_of_the_next_job() {
    model(|| {
        let pool = Pool::new("test", 1);
        let done = Arc::new(Notify::new());
        for _ in 0..2 {
            let told = Arc::clone(&done);
            submit(&pool, move || told.notify()).detach();
            // By now it may be waiting for work, be about to, or not be done.
            done.wait();
        }
        assert!(pool.join(None));
    });
}

/// Ends a wait by a wake.
struct Told(Notify);

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}

#[test]
fn who_waits_for_a_result_is_woken() {
    model(|| {
        let pool = Pool::new("test", 1);
        let mut task = submit(&pool, || 7);
        let told = Arc::new(Told(Notify::new()));
        let waker = Waker::from(Arc::clone(&told));
        let result = loop {
            match Pin::new(&mut task).poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(result) => break result,
                Poll::Pending => told.0.wait(),
            }
        };
        assert_eq!(result.unwrap(), 7);
        assert!(pool.join(None));
    });
}

#[test]
fn a_job_whose_future_goes_has_run_whole_or_not_at_all() {
    model(|| {
        let pool = Pool::new("test", 1);
        let ran = Arc::new(PlainUsize::new(0));
        let of_job = Arc::clone(&ran);
        let mut task = submit(&pool, move || of_job.fetch_add(1, Ordering::Relaxed));
        let polled = Pin::new(&mut task).poll(&mut Context::from_waker(Waker::noop()));
        drop(task);
        assert!(pool.join(None));
        let ran = ran.load(Ordering::Relaxed);
        assert!(ran == 1 || (ran == 0 && polled.is_pending()));
    });
}
