//! Write flow control: high-water and low-water marks.
//!
//! A program that writes faster than its peer reads is told to pause when more than `high` bytes
//! wait, and to resume when at most `low` do. The defaults and rules are those of asyncio's
//! `_FlowControlMixin`. The caller says how much waits (`write_queue.rs`) and calls the protocol's
//! `pause_writing` and `resume_writing`.

use std::fmt;

/// asyncio's default high-water mark, in bytes.
pub const DEFAULT_HIGH_WATER: usize = 64 * 1024;

/// The limits of one transport, and whether its writer is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowControl {
    high: usize,
    low: usize,
    paused: bool,
}

/// Contradictory limits. The message is asyncio's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidLimits {
    /// The high-water mark that was given or derived, in bytes.
    pub high: i64,
    /// The low-water mark that was given or derived, in bytes.
    pub low: i64,
}

impl fmt::Display for InvalidLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { high, low } = self;
        write!(f, "high ({high}) must be >= low ({low}) must be >= 0")
    }
}

impl std::error::Error for InvalidLimits {}

impl Default for FlowControl {
    fn default() -> Self {
        Self {
            high: DEFAULT_HIGH_WATER,
            low: DEFAULT_HIGH_WATER / 4,
            paused: false,
        }
    }
}

impl FlowControl {
    /// Sets the limits, in bytes. Without `high`: four times `low`, or 64 KiB. Without `low`: a
    /// quarter of `high`.
    ///
    /// # Errors
    /// Unless `high >= low >= 0`; nothing has changed then.
    pub fn set_limits(&mut self, high: Option<i64>, low: Option<i64>) -> Result<(), InvalidLimits> {
        let high = high
            .unwrap_or_else(|| low.map_or(DEFAULT_HIGH_WATER as i64, |low| low.saturating_mul(4)));
        let low = low.unwrap_or_else(|| high.div_euclid(4));
        match (usize::try_from(high), usize::try_from(low)) {
            (Ok(high), Ok(low)) if high >= low => (self.high, self.low) = (high, low),
            _ => return Err(InvalidLimits { high, low }),
        }
        Ok(())
    }

    /// The low-water and the high-water mark, in bytes.
    pub fn limits(&self) -> (usize, usize) {
        (self.low, self.high)
    }

    /// The high-water mark, in bytes.
    #[inline]
    pub fn high(&self) -> usize {
        self.high
    }

    /// Whether the writer was told to pause and not yet to resume.
    #[inline]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Must be called when the queue may have grown; `size` is its size in bytes. True if the
    /// writer must now be told to pause.
    #[inline]
    pub fn pauses_at(&mut self, size: usize) -> bool {
        let edge = size > self.high && !self.paused;
        self.paused |= edge;
        edge
    }

    /// Must be called when the queue may have shrunk; `size` is its size in bytes. True if the
    /// writer must now be told to resume.
    #[inline]
    pub fn resumes_at(&mut self, size: usize) -> bool {
        let edge = self.paused && size <= self.low;
        self.paused &= !edge;
        edge
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn limits_derive_from_each_other_as_asyncio_has_it() {
        let mut flow = FlowControl::default();
        assert_eq!(flow.limits(), (16 * 1024, 64 * 1024));
        flow.set_limits(Some(1001), None).unwrap();
        assert_eq!(flow.limits(), (250, 1001));
        flow.set_limits(None, Some(100)).unwrap();
        assert_eq!(flow.limits(), (100, 400));
        flow.set_limits(Some(0), None).unwrap();
        assert_eq!(flow.limits(), (0, 0));
        flow.set_limits(None, None).unwrap();
        assert_eq!(flow, FlowControl::default());
    }

    #[test]
    fn contradictory_limits_are_refused_and_change_nothing() {
        let mut flow = FlowControl::default();
        let error = flow.set_limits(Some(1), Some(2)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "high (1) must be >= low (2) must be >= 0"
        );
        // Python's floor division, not Rust's.
        let error = flow.set_limits(Some(-1), None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "high (-1) must be >= low (-1) must be >= 0"
        );
        assert!(flow.set_limits(None, Some(-1)).is_err());
        assert_eq!(flow, FlowControl::default());
    }

    proptest! {
        #[test]
        fn edges_alternate_and_stand_where_the_limits_say(
            low in 0_i64..200,
            above in 0_i64..200,
            sizes in proptest::collection::vec(0_usize..500, 0..200),
        ) {
            let mut flow = FlowControl::default();
            flow.set_limits(Some(low + above), Some(low)).unwrap();
            let (low, high) = flow.limits();
            let (mut paused, mut before) = (false, 0);
            for size in sizes {
                let edge = if size > before {
                    flow.pauses_at(size)
                } else {
                    flow.resumes_at(size)
                };
                let expected = if size > before { size > high && !paused } else { size <= low && paused };
                prop_assert_eq!(edge, expected);
                paused ^= edge;
                prop_assert_eq!(flow.is_paused(), paused);
                before = size;
            }
        }
    }
}
