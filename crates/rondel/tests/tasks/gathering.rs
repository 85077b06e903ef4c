//! `gather` and `try_gather`: whatever can be iterated over, errors, all results.

use std::collections::BTreeMap;

use rondel::{TryGatherError, create_task, gather, sleep, timeout, try_gather, yield_now};

use super::cut::at_every_poll;
use super::{Log, SECOND, virtually};

#[test]
fn anything_that_can_be_iterated_over_is_gathered() {
    virtually(async {
        let double = async |number: i32| number * 2;
        assert_eq!(gather((1..4).map(double)).await.unwrap(), [2, 4, 6]);
        let map: BTreeMap<_, _> = [("b", 2), ("a", 1)].into();
        assert_eq!(gather(map.into_values().map(double)).await.unwrap(), [2, 4]);
        assert_eq!(gather(Some(double(1))).await.unwrap(), [2]);
        assert!(
            gather(Vec::<std::future::Ready<()>>::new())
                .await
                .unwrap()
                .is_empty()
        );
        assert_eq!(gather((double(1), async { "x" })).await.unwrap(), (2, "x"));
    });
}

#[test]
fn all_results_come_if_exceptions_are_to_be_returned() {
    virtually(async {
        let fails = create_task(async {
            yield_now().await;
            panic!("expected")
        });
        let cancelled = create_task(std::future::pending::<i32>());
        cancelled.cancel();
        let (one, two, three) = gather((async { 1 }, fails, cancelled))
            .return_exceptions()
            .await;
        assert_eq!(one.unwrap(), 1);
        assert!(two.unwrap().unwrap_err().is_panic());
        assert!(three.unwrap().unwrap_err().is_cancelled());
        let results = gather((0..3).map(async |number| {
            assert!(number != 1, "expected");
            number
        }))
        .return_exceptions()
        .await;
        assert_eq!(*results[2].as_ref().unwrap(), 2);
        assert!(results[1].as_ref().unwrap_err().is_panic());
    });
}

#[test]
fn the_first_error_comes_at_once_and_the_others_run_on() {
    let log = Log::default();
    virtually(async {
        let work = |seconds: u32, result: Result<u32, &'static str>| {
            let log = log.clone();
            async move {
                sleep(SECOND * seconds).await;
                log.add(seconds.to_string());
                result
            }
        };
        let failed = try_gather([work(3, Ok(3)), work(1, Err("no")), work(2, Err("later"))]).await;
        assert!(matches!(failed, Err(TryGatherError::Error("no"))));
        log.add("failed");
        sleep(SECOND * 3).await;
        assert_eq!(
            try_gather([work(2, Ok(2)), work(1, Ok(1))]).await.unwrap(),
            [2, 1]
        );
        let panics = try_gather([async {
            if Log::default().take().is_empty() {
                panic!("expected");
            }
            Ok::<(), ()>(())
        }]);
        assert!(matches!(panics.await, Err(TryGatherError::Join(error)) if error.is_panic()));
    });
    assert_eq!(log.take(), ["1", "failed", "2", "3", "1", "2"]);
}

#[test]
fn who_gives_a_gathering_up_cancels_its_tasks() {
    at_every_poll(1, async |knife| {
        let log = Log::default();
        let nap = |name: &str, seconds| {
            let guard = log.on_drop(name);
            async move {
                let _guard = guard;
                sleep(SECOND * seconds).await;
                Ok::<u32, ()>(seconds)
            }
        };
        let both = [nap("a", 1), nap("b", 2)];
        let whole = knife
            .cut(async move { try_gather(both).await.unwrap() })
            .await;
        assert_eq!(log.take().len(), 2, "one is not gone");
        assert!(whole.is_none_or(|values| values == [1, 2]));
        let both = [nap("a", 1), nap("b", 2)];
        let whole = knife
            .cut(async move { gather(both).return_exceptions().await.len() })
            .await;
        assert_eq!(log.take().len(), 2, "one is not gone");
        assert!(whole.is_none_or(|length| length == 2));
        assert!(timeout(SECOND, yield_now()).await.is_ok());
    });
}
