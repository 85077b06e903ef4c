//! `interval`: ticks at equal distances.

use std::fmt;
use std::time::Duration;

use crate::time::{Instant, sleep_until};

/// Ticks each `period`, for the first time at once.
///
/// # Panics
/// If `period` is zero.
///
/// ```
/// use std::time::Duration;
///
/// rondel::Builder::new().virtual_clock().run(async {
///     let start = rondel::Instant::now();
///     let mut interval = rondel::interval(Duration::from_secs(2));
///     for tick in 0..3 {
///         interval.tick().await;
///         assert_eq!(start.elapsed(), Duration::from_secs(2) * tick);
///     }
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
pub fn interval(period: Duration) -> Interval {
    interval_at(Instant::now(), period)
}

/// Ticks each `period`, for the first time at `start`.
///
/// # Panics
/// If `period` is zero.
///
/// ```
/// rondel::run(async {
///     use std::time::Duration;
///
///     let start = rondel::Instant::now() + Duration::from_millis(1);
///     let mut ticks = rondel::interval_at(start, Duration::from_secs(60));
///     assert_eq!(ticks.tick().await, start);
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
pub fn interval_at(start: Instant, period: Duration) -> Interval {
    assert!(!period.is_zero(), "a period must not be zero");
    Interval {
        next: start,
        period,
        missed: MissedTicks::default(),
    }
}

/// What becomes of ticks that nobody has waited for in time.
///
/// ```
/// use std::time::Duration;
/// use rondel::MissedTicks;
///
/// let ticks = |missed| {
///     rondel::Builder::new().virtual_clock().run(async move {
///         let start = rondel::Instant::now();
///         let mut interval = rondel::interval(Duration::from_secs(10)).missed_ticks(missed);
///         interval.tick().await;
///         rondel::sleep(Duration::from_secs(25)).await;
///         let mut at = Vec::new();
///         for _ in 0..3 {
///             interval.tick().await;
///             at.push(start.elapsed().as_secs());
///         }
///         at
///     })
/// };
/// assert_eq!(ticks(MissedTicks::Burst)?, [25, 25, 30]);
/// assert_eq!(ticks(MissedTicks::Delay)?, [25, 35, 45]);
/// assert_eq!(ticks(MissedTicks::Skip)?, [25, 30, 40]);
/// # Ok::<(), rondel::RunError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MissedTicks {
    /// They come one after the other, until the interval has caught up.
    #[default]
    Burst,
    /// The next one comes a period after the late one.
    Delay,
    /// They are left out; the next one comes when it would have come anyway.
    Skip,
}

/// Ticks; see [`interval`].
///
/// ```
/// use std::time::Duration;
///
/// rondel::run(async {
///     let mut interval: rondel::Interval = rondel::interval(Duration::from_millis(1));
///     interval.tick().await;
///     let second = interval.tick().await;
///     assert!(second <= rondel::Instant::now());
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[derive(Clone)]
pub struct Interval {
    next: Instant,
    period: Duration,
    missed: MissedTicks,
}

impl Interval {
    /// What is to become of ticks that are missed.
    ///
    /// ```
    /// rondel::run(async {
    ///     use std::time::Duration;
    ///
    ///     let ticks = rondel::interval(Duration::from_secs(1));
    ///     let ticks = ticks.missed_ticks(rondel::MissedTicks::Skip);
    ///     assert_eq!(ticks.period(), Duration::from_secs(1));
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    #[must_use]
    pub fn missed_ticks(mut self, missed: MissedTicks) -> Self {
        self.missed = missed;
        self
    }

    /// Waits for the next tick; gives the time at which it was due.
    ///
    /// # Cancel safety
    /// A future that is dropped has taken no tick.
    ///
    /// ```
    /// rondel::run(async {
    ///     use std::time::Duration;
    ///
    ///     let mut ticks = rondel::interval(Duration::from_millis(1));
    ///     let first = ticks.tick().await;
    ///     assert_eq!(ticks.tick().await - first, Duration::from_millis(1));
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub async fn tick(&mut self) -> Instant {
        let due = self.next;
        sleep_until(due).await;
        let now = Instant::now();
        let late = now - due;
        self.next = match self.missed {
            MissedTicks::Delay if late >= self.period => now + self.period,
            MissedTicks::Skip if late >= self.period => {
                let over = late.as_nanos() % self.period.as_nanos();
                let over = Duration::from_nanos(u64::try_from(over).unwrap_or(0));
                now - over + self.period
            }
            _ => due + self.period,
        };
        due
    }

    /// Lets the next tick come a period from now.
    ///
    /// ```
    /// rondel::run(async {
    ///     use std::time::Duration;
    ///
    ///     let mut ticks = rondel::interval(Duration::from_millis(2));
    ///     ticks.tick().await;
    ///     rondel::sleep(Duration::from_millis(1)).await;
    ///     ticks.reset();
    ///     let from = rondel::Instant::now();
    ///     ticks.tick().await;
    ///     assert!(from.elapsed() >= Duration::from_millis(1));
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn reset(&mut self) {
        self.next = Instant::now() + self.period;
    }

    /// The time between two ticks.
    ///
    /// ```
    /// rondel::run(async {
    ///     use std::time::Duration;
    ///
    ///     let ticks = rondel::interval(Duration::from_millis(2));
    ///     assert_eq!(ticks.period(), Duration::from_millis(2));
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn period(&self) -> Duration {
        self.period
    }
}

impl fmt::Debug for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interval")
            .field("next", &self.next)
            .field("period", &self.period)
            .finish_non_exhaustive()
    }
}
