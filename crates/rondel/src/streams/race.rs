//! Happy eyeballs (RFC 8305): several addresses of a name, tried side by side.
//!
//! The first attempt is given a head start; when it has failed, or the delay is over, the next one
//! starts beside it. The first that succeeds wins; dropping the others closes their sockets.
//! Families take turns, so that a network that swallows one of them costs one delay.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use crate::time::{Sleep, sleep};

/// The addresses in the order in which they are tried: families in turn, beginning with that of the
/// first.
pub(super) fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first().map(SocketAddr::is_ipv6) else {
        return addresses;
    };
    let (these, others): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first);
    let (mut these, mut others) = (these.into_iter(), others.into_iter());
    let mut order = Vec::new();
    loop {
        let (this, other) = (these.next(), others.next());
        if this.is_none() && other.is_none() {
            return order;
        }
        order.extend(this);
        order.extend(other);
    }
}

/// Runs attempts until one succeeds, a next one whenever one has failed and whenever `delay` has
/// passed. The errors of all, in the order of the attempts, if none does. Dropped, it drops all
/// attempts.
pub(super) async fn race<A, T, E, F>(
    attempts: impl IntoIterator<Item = A>,
    delay: Duration,
    mut start: impl FnMut(A) -> F,
) -> Result<T, Vec<E>>
where
    F: Future<Output = Result<T, E>>,
{
    type Attempt<F> = Option<Pin<Box<F>>>;
    let mut next = attempts.into_iter().peekable();
    let mut running: Vec<Attempt<F>> = Vec::new();
    let mut failures: Vec<Option<E>> = Vec::new();
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    let mut due = true;
    poll_fn(move |context| {
        loop {
            if std::mem::take(&mut due)
                && let Some(attempt) = next.next()
            {
                running.push(Some(Box::pin(start(attempt))));
                failures.push(None);
                timer = Some(Box::pin(sleep(delay)));
            }
            for (attempt, failure) in running.iter_mut().zip(&mut failures) {
                let Some(future) = attempt else { continue };
                match future.as_mut().poll(context) {
                    Poll::Ready(Ok(won)) => return Poll::Ready(Ok(won)),
                    Poll::Ready(Err(error)) => {
                        *attempt = None;
                        *failure = Some(error);
                        due = true;
                    }
                    Poll::Pending => {}
                }
            }
            if !due
                && let Some(sleep) = &mut timer
                && sleep.as_mut().poll(context).is_ready()
            {
                timer = None;
                due = true;
            }
            let no_more = next.peek().is_none();
            if no_more && running.iter().all(Option::is_none) {
                let failures = std::mem::take(&mut failures);
                return Poll::Ready(Err(failures.into_iter().flatten().collect()));
            }
            if no_more || !due {
                return Poll::Pending;
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, Instant};
    use std::cell::RefCell;

    const DELAY: Duration = Duration::from_millis(250);

    /// Attempts that take so long and succeed or not; when each began, and what came of all.
    fn raced(plan: Vec<(u64, bool)>) -> (Vec<u64>, Result<u64, Vec<u64>>, u64) {
        Builder::new()
            .virtual_clock()
            .run(async {
                let (start, begins) = (Instant::now(), RefCell::new(Vec::new()));
                let outcome = race(plan, DELAY, |(lasts, well)| {
                    let begins = &begins;
                    async move {
                        begins.borrow_mut().push(start.elapsed().as_millis() as u64);
                        sleep(Duration::from_millis(lasts)).await;
                        if well { Ok(lasts) } else { Err(lasts) }
                    }
                })
                .await;
                let begins = begins.borrow().clone();
                (begins, outcome, start.elapsed().as_millis() as u64)
            })
            .unwrap()
    }

    #[test]
    fn the_next_starts_after_the_delay_or_a_failure_and_the_first_success_wins() {
        assert_eq!(raced(vec![(10, true), (1, true)]), (vec![0], Ok(10), 10));
        assert_eq!(
            raced(vec![(10_000, true), (100, true), (1, true)]),
            (vec![0, 250], Ok(100), 350)
        );
        assert_eq!(
            raced(vec![(10, false), (20, false), (30, true)]),
            (vec![0, 10, 30], Ok(30), 60)
        );
        // The slow first one wins in the end.
        assert_eq!(
            raced(vec![(400, true), (1000, true)]),
            (vec![0, 250], Ok(400), 400)
        );
    }

    #[test]
    fn all_failures_are_told_in_the_order_of_the_attempts() {
        assert_eq!(
            raced(vec![(600, false), (10, false), (20, false)]),
            (vec![0, 250, 260], Err(vec![600, 10, 20]), 600)
        );
        assert_eq!(raced(vec![]), (vec![], Err(vec![]), 0));
    }

    #[test]
    fn families_take_turns() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (a, b, c) = (address("[::1]:1"), address("[::2]:1"), address("[::3]:1"));
        let (d, e) = (address("1.1.1.1:1"), address("1.1.1.2:1"));
        assert_eq!(interleaved(vec![a, b, c, d, e]), [a, d, b, e, c]);
        assert_eq!(interleaved(vec![d, a, b]), [d, a, b]);
        assert_eq!(interleaved(vec![]), []);
    }
}
