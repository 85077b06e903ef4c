//! Context variables: who sees what.

use std::rc::Rc;

use rondel::{
    Context, ContextVar, build_task, call_later, call_soon, copy_context, create_task, sleep,
    yield_now,
};

use super::{Log, SECOND, turns, virtually};

static NAME: ContextVar<&str> = ContextVar::new("name");
static GUARDED: ContextVar<Rc<dyn Fn()>> = ContextVar::new("guarded");

#[test]
fn tasks_begin_with_their_creators_values_and_keep_their_own() {
    virtually(async {
        assert_eq!(NAME.get(), None);
        NAME.set("main");
        let task = create_task(async {
            assert_eq!(NAME.get(), Some("main"));
            NAME.set("task");
            yield_now().await;
            assert_eq!(NAME.get(), Some("task"));
            create_task(async { NAME.get() }).await.unwrap()
        });
        NAME.set("main again");
        turns(2).await;
        assert_eq!(NAME.get(), Some("main again"));
        assert_eq!(task.await.unwrap(), Some("task"));
        let eager = build_task().eager_start(true);
        let mut eager = eager.create(async {
            let before = NAME.get();
            NAME.set("eager");
            before
        });
        assert_eq!(eager.result().unwrap().unwrap(), Some("main again"));
        assert_eq!(NAME.get(), Some("main again"));
        let empty = build_task().context(Context::default());
        assert_eq!(empty.create(async { NAME.get() }).await.unwrap(), None);
    });
}

#[test]
fn calls_have_the_values_of_who_scheduled_them() {
    let log = Log::default();
    virtually(async {
        let see = |log: &Log| {
            let log = log.clone();
            move || {
                log.add(NAME.get().unwrap_or("none"));
                NAME.set("set by a call");
                call_soon(move || log.add(NAME.get().unwrap_or("none")));
            }
        };
        call_soon(see(&log));
        NAME.set("main");
        call_later(SECOND, see(&log));
        NAME.set("later");
        turns(3).await;
        sleep(SECOND * 2).await;
        assert_eq!(NAME.get(), Some("later"));
    });
    assert_eq!(
        log.take(),
        ["none", "set by a call", "main", "set by a call"]
    );
}

#[test]
fn a_token_brings_the_value_before_back_and_a_context_can_be_entered() {
    virtually(async {
        let token = NAME.set("one");
        let context = copy_context();
        let inner = NAME.set("two");
        context.run(|| {
            assert_eq!(NAME.get(), Some("one"));
            NAME.set("three");
        });
        assert_eq!(NAME.get(), Some("two"));
        NAME.reset(inner);
        assert_eq!(NAME.get(), Some("one"));
        NAME.reset(token);
        assert_eq!(NAME.get(), None);
        static OTHER: ContextVar<&str> = ContextVar::new("other");
        let token = OTHER.set("x");
        let wrong = std::panic::AssertUnwindSafe(|| NAME.reset(token));
        assert!(std::panic::catch_unwind(wrong).is_err());
    });
}

#[test]
fn the_main_task_begins_with_the_threads_values() {
    let token = NAME.set("thread");
    virtually(async {
        assert_eq!(NAME.get(), Some("thread"));
        NAME.set("main");
    });
    assert_eq!(NAME.get(), Some("thread"));
    NAME.reset(token);
}

#[test]
fn values_go_with_their_task_even_if_its_handle_and_wakers_stay() {
    let log = Log::default();
    virtually(async {
        let guard = log.on_drop("value");
        let (send, receive) = std::sync::mpsc::channel();
        let task = create_task(async move {
            GUARDED.set(Rc::new(move || {
                let _ = &guard;
            }));
            std::future::poll_fn(|context| {
                send.send(context.waker().clone()).unwrap();
                std::task::Poll::Ready(())
            })
            .await;
        });
        turns(2).await;
        log.add("done");
        let waker = receive.recv().unwrap();
        drop(task);
        // The memory is freed by another thread; the value is not there any more.
        std::thread::spawn(move || drop(waker)).join().unwrap();
    });
    assert_eq!(log.take(), ["drop value", "done"]);
}
