//! Ctrl-C and the handlers of a program. Each test forks: `run` handles SIGINT on a process' main
//! thread alone, which in the child is the one that has forked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rondel::{RunError, sleep};

/// Runs `child` in a child; its status.
fn in_child(child: impl FnOnce()) -> libc::c_int {
    // SAFETY: the child uses nothing that another thread of its parent may have held but the
    // allocator, which glibc and musl make usable; it leaves without running what the parent has
    // registered for its end.
    match unsafe { libc::fork() } {
        0 => {
            let well = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).is_ok();
            // SAFETY: ends the process.
            unsafe { libc::_exit(if well { 0 } else { 1 }) }
        }
        pid => {
            assert!(pid > 0);
            let mut status = 0;
            // SAFETY: a child of our own, and room for its status.
            assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
            status
        }
    }
}

fn interrupt() {
    // SAFETY: sends a signal to this thread.
    unsafe { libc::raise(libc::SIGINT) };
}

static COUNT: AtomicUsize = AtomicUsize::new(0);
static BEFORE: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count(_: libc::c_int) {
    COUNT.fetch_add(1, Ordering::SeqCst);
}

/// As libraries do that hand on to who was there before.
extern "C" fn count_and_go_on(signal: libc::c_int) {
    COUNT.fetch_add(1, Ordering::SeqCst);
    let before = BEFORE.load(Ordering::SeqCst);
    // SAFETY: what `signal` has given as the handler before.
    let before: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(before) };
    before(signal);
}

fn set_handler(handler: extern "C" fn(libc::c_int)) {
    // SAFETY: the handlers do nothing that isn't async-signal-safe.
    let before = unsafe { libc::signal(libc::SIGINT, handler as *const () as libc::sighandler_t) };
    BEFORE.store(before, Ordering::SeqCst);
}

#[test]
fn ctrl_c_cancels_main_and_the_default_is_back_after_the_run() {
    let status = in_child(|| {
        let outcome = rondel::run(async {
            interrupt();
            sleep(Duration::from_secs(20)).await;
        });
        assert!(matches!(outcome, Err(RunError::KeyboardInterrupt)));
        interrupt();
    });
    assert_eq!(libc::WTERMSIG(status), libc::SIGINT);
}

#[test]
fn a_handler_that_the_program_sets_while_the_loop_runs_stays() {
    let status = in_child(|| {
        rondel::run(async {
            set_handler(count);
            interrupt();
            sleep(Duration::from_millis(1)).await;
        })
        .unwrap();
        interrupt();
        assert_eq!(COUNT.load(Ordering::SeqCst), 2);
    });
    assert_eq!(status, 0);
}

#[test]
fn a_handler_that_goes_on_to_the_loop_s_own_is_not_replaced_either() {
    let status = in_child(|| {
        let outcome = rondel::run(async {
            set_handler(count_and_go_on);
            interrupt();
            // The loop is stuck, but the program has its own ways.
            interrupt();
            sleep(Duration::from_secs(20)).await;
        });
        assert!(matches!(outcome, Err(RunError::KeyboardInterrupt)));
        interrupt();
        interrupt();
        assert_eq!(COUNT.load(Ordering::SeqCst), 4);
    });
    assert_eq!(status, 0);
}

#[test]
fn ctrl_c_may_be_waited_for_in_place_of_being_cancelled() {
    let status = in_child(|| {
        let cleaned_up = rondel::run(async {
            let waiting = rondel::create_task(rondel::ctrl_c());
            rondel::yield_now().await;
            interrupt();
            waiting.await.unwrap().unwrap();
            // Time for what has to be waited for.
            sleep(Duration::from_millis(1)).await;
            true
        });
        assert!(matches!(cleaned_up, Ok(true)));
        // From now on it cancels again.
        let outcome = rondel::run(async {
            interrupt();
            sleep(Duration::from_secs(20)).await;
        });
        assert!(matches!(outcome, Err(RunError::KeyboardInterrupt)));
    });
    assert_eq!(status, 0);
}
