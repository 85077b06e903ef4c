//! Spans of tasks and events of what is reported, as a subscriber of the crate `tracing` sees them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rondel::{Builder, build_task, create_task, current_task, run, sleep, yield_now};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_core::span::Current;

/// What a subscriber has seen.
#[derive(Default)]
struct Seen {
    /// The fields of the spans, by their number; 0 is none.
    spans: Vec<HashMap<String, String>>,
    open: Vec<usize>,
    entered: Vec<usize>,
    /// What happened, in order, with the name of the task in whose span it did.
    log: Vec<(String, String)>,
    follows: Vec<(usize, usize)>,
    metadata: Option<&'static Metadata<'static>>,
}

/// Takes what is of `Level` or worse.
struct Recorder(Arc<Mutex<Seen>>, Level);

struct Fields<'a>(&'a mut HashMap<String, String>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

fn index(id: &Id) -> usize {
    usize::try_from(id.into_u64()).unwrap()
}

impl Seen {
    fn task(&self, span: usize) -> String {
        self.spans[span]["task.name"].clone()
    }

    fn here(&self) -> String {
        match self.entered.last() {
            Some(span) => self.task(*span),
            None => String::new(),
        }
    }

    fn note(&mut self, what: impl Into<String>) {
        let here = self.here();
        self.log.push((here, what.into()));
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("rondel") && *metadata.level() <= self.1
            || metadata.target() == "spans"
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut seen = self.0.lock().unwrap();
        assert_eq!(attributes.metadata().target(), "rondel::task");
        assert!(attributes.is_root());
        seen.metadata = Some(attributes.metadata());
        if seen.spans.is_empty() {
            seen.spans.push(HashMap::new());
            seen.open.push(0);
        }
        let mut fields = HashMap::new();
        attributes.record(&mut Fields(&mut fields));
        seen.spans.push(fields);
        seen.open.push(1);
        Id::from_u64(seen.spans.len() as u64 - 1)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        values.record(&mut Fields(&mut self.0.lock().unwrap().spans[index(span)]));
    }

    fn record_follows_from(&self, span: &Id, follows: &Id) {
        let both = (index(span), index(follows));
        self.0.lock().unwrap().follows.push(both);
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = HashMap::new();
        event.record(&mut Fields(&mut fields));
        let mut seen = self.0.lock().unwrap();
        let message = fields.remove("message").unwrap();
        let of = match fields.get("exception").or(fields.get("task.name")) {
            Some(of) => format!(" of {of}"),
            None => String::new(),
        };
        seen.note(format!("{} {message}{of}", event.metadata().level()));
    }

    fn enter(&self, span: &Id) {
        self.0.lock().unwrap().entered.push(index(span));
    }

    fn exit(&self, span: &Id) {
        assert_eq!(self.0.lock().unwrap().entered.pop(), Some(index(span)));
    }

    fn clone_span(&self, span: &Id) -> Id {
        self.0.lock().unwrap().open[index(span)] += 1;
        span.clone()
    }

    fn try_close(&self, span: Id) -> bool {
        let left = &mut self.0.lock().unwrap().open[index(&span)];
        *left -= 1;
        *left == 0
    }

    fn current_span(&self) -> Current {
        let seen = self.0.lock().unwrap();
        match seen.entered.last() {
            Some(span) => Current::new(Id::from_u64(*span as u64), seen.metadata.unwrap()),
            None => Current::none(),
        }
    }
}

fn seen(level: Level, program: impl FnOnce()) -> Seen {
    let seen = Arc::new(Mutex::new(Seen::default()));
    tracing::subscriber::with_default(Recorder(Arc::clone(&seen), level), program);
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert!(seen.entered.is_empty());
    assert!(seen.open.iter().all(|left| *left == 0), "spans stay open");
    seen
}

fn say(what: &str) {
    tracing::info!(target: "spans", "{what}");
}

#[test]
fn each_step_runs_in_its_tasks_span() {
    let seen = seen(Level::TRACE, || {
        run(async {
            let first = build_task().name("first").create(async {
                say("begins");
                yield_now().await;
                say("goes on");
            });
            let second = create_task(async {
                say("begins");
                current_task().unwrap().set_name("renamed");
                yield_now().await;
                say("goes on");
            });
            second.set_name("second");
            first.await.unwrap();
            second.await.unwrap();
        })
        .unwrap();
    });
    let said = |task: &str, what: &str| (task.to_owned(), format!("INFO {what}"));
    assert_eq!(
        seen.log,
        [
            said("first", "begins"),
            said("second", "begins"),
            said("first", "goes on"),
            said("renamed", "goes on")
        ]
    );
}

#[test]
fn a_span_says_which_task_it_is_and_where_that_was_created() {
    let line = line!() + 3;
    let seen = seen(Level::TRACE, || {
        run(async {
            create_task(async {}).await.unwrap();
            build_task().name("named").create(async {}).await.unwrap();
        })
        .unwrap();
    });
    let [_, main, first, named] = &seen.spans[..] else {
        panic!("there are {} spans", seen.spans.len() - 1);
    };
    for (span, line) in [(main, line - 1), (first, line), (named, line + 1)] {
        assert_eq!(span["loc.file"], file!());
        assert_eq!(span["loc.line"], line.to_string());
        assert!(span["loc.col"].parse::<u32>().unwrap() > 1);
    }
    assert_eq!(
        [&main["task.name"], &first["task.name"], &named["task.name"]],
        ["Task-1", "Task-2", "named"]
    );
    assert_ne!(main["task.id"], first["task.id"]);
    assert_eq!(seen.follows, [(2, 1), (3, 1)]);
}

#[test]
fn an_eager_task_has_its_span_within_that_of_its_creator() {
    let seen = seen(Level::TRACE, || {
        run(async {
            let task = build_task().name("eager").eager_start(true).create(async {
                say("begins");
                yield_now().await;
                say("goes on");
            });
            say("meanwhile");
            task.await.unwrap();
        })
        .unwrap();
    });
    let order: Vec<&str> = seen.log.iter().map(|(task, _)| task.as_str()).collect();
    assert_eq!(order, ["eager", "Task-1", "eager"]);
}

#[test]
fn a_cancelled_future_is_dropped_within_its_span() {
    struct Says;
    impl Drop for Says {
        fn drop(&mut self) {
            say("dropped");
        }
    }
    let waiting = async || {
        let _says = Says;
        std::future::pending::<()>().await;
    };
    let seen = seen(Level::TRACE, || {
        run(async {
            let cancelled = build_task().name("cancelled").create(waiting());
            build_task().name("left").create(waiting()).detach();
            yield_now().await;
            cancelled.cancel();
            assert!(cancelled.await.unwrap_err().is_cancelled());
        })
        .unwrap();
    });
    let order: Vec<&str> = seen.log.iter().map(|(task, _)| task.as_str()).collect();
    assert_eq!(order, ["cancelled", "left"]);
}

#[test]
fn what_the_exception_handler_is_told_is_an_event() {
    let seen = seen(Level::ERROR, || {
        run(async {
            rondel::set_exception_handler(|_| ());
            create_task(async { panic!("out of cheese") }).detach();
            yield_now().await;
            rondel::call_exception_handler("The cache is cold", &"no file");
        })
        .unwrap();
    });
    let told = [
        "ERROR Task exception was never retrieved of out of cheese",
        "ERROR The cache is cold of no file",
    ];
    assert_eq!(seen.log, told.map(|told| (String::new(), told.to_owned())));
    assert!(seen.spans.is_empty(), "nobody wants spans");
}

#[test]
fn a_failure_that_nobody_awaits_is_told_in_its_tasks_span() {
    let seen = seen(Level::TRACE, || {
        run(async {
            rondel::set_exception_handler(|_| ());
            let task = build_task().name("fails").create(async { panic!("no") });
            task.detach();
            yield_now().await;
        })
        .unwrap();
    });
    assert_eq!(seen.log[0].0, "fails");
}

#[test]
fn a_slow_step_is_an_event() {
    let seen = seen(Level::WARN, || {
        let debug = Builder::new().debug(true);
        debug
            .slow_callback_duration(Duration::from_millis(5))
            .run(async {
                rondel::set_slow_step_reporter(|_| ());
                let greedy = build_task().name("greedy").create(async {
                    sleep(Duration::ZERO).await;
                    std::thread::sleep(Duration::from_millis(6));
                });
                greedy.await.unwrap();
            })
            .unwrap();
    });
    let [(_, told)] = &seen.log[..] else {
        panic!("{:?}", seen.log);
    };
    assert!(told.starts_with("WARN Executing <Task name='greedy' created at "));
    assert!(told.ends_with(" seconds of greedy"));
}

#[test]
fn a_display_that_panics_harms_nothing() {
    struct Panics;
    impl fmt::Display for Panics {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("while it is shown")
        }
    }
    let seen = seen(Level::ERROR, || {
        run(async {
            rondel::set_exception_handler(|_| ());
            rondel::call_exception_handler("unseen", &Panics);
            rondel::call_exception_handler("seen", &"this");
        })
        .unwrap();
    });
    assert_eq!(seen.log.len(), 1, "{:?}", seen.log);
}
