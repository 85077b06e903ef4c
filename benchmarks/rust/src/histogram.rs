//! Latencies in nanoseconds, in logarithmic buckets of at most 1/32 (3 %) width: constant memory, one shift and
//! one increment a sample, so that measuring does not slow the load generator.

/// Buckets each power of two is divided into.
const DIVISIONS: u64 = 32;
/// Powers of two above the exact range; 2^40 ns is 18 minutes.
const POWERS: u64 = 36;

/// Counts of latencies.
#[derive(Debug)]
pub struct Histogram {
    buckets: Vec<u64>,
    samples: u64,
    max: u64,
}

impl Histogram {
    /// An empty histogram.
    pub fn new() -> Self {
        Self {
            buckets: vec![0; (DIVISIONS * POWERS) as usize],
            samples: 0,
            max: 0,
        }
    }

    /// Counts one latency of `nanoseconds`.
    pub fn record(&mut self, nanoseconds: u64) {
        let last = self.buckets.len() - 1;
        self.buckets[index(nanoseconds).min(last)] += 1;
        self.samples += 1;
        self.max = self.max.max(nanoseconds);
    }

    /// Number of latencies counted.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// The largest latency counted, in nanoseconds; 0 when there is none.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The latency in nanoseconds that `fraction` (0 to 1) of the samples do not exceed, to within a bucket.
    pub fn quantile(&self, fraction: f64) -> u64 {
        let rank = (fraction * self.samples as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_bound(index as u64).min(self.max);
            }
        }
        self.max
    }

    /// Forgets everything counted.
    pub fn clear(&mut self) {
        self.buckets.fill(0);
        self.samples = 0;
        self.max = 0;
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

fn index(value: u64) -> usize {
    if value < DIVISIONS {
        return value as usize;
    }
    let power = u64::from(value.ilog2() - DIVISIONS.ilog2());
    (power * DIVISIONS + (value >> power)) as usize
}

fn upper_bound(index: u64) -> u64 {
    if index < 2 * DIVISIONS {
        return index;
    }
    let power = index / DIVISIONS - 1;
    ((index - power * DIVISIONS + 1) << power) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        let mut value = 1_u64;
        while value < 1 << 39 {
            for near in [value - 1, value, value + 1] {
                let bucket = index(near) as u64;
                assert!(upper_bound(bucket) >= near, "{near}");
                assert!(bucket == 0 || upper_bound(bucket - 1) < near, "{near}");
                assert!(upper_bound(bucket) <= near + near / DIVISIONS, "{near}");
            }
            value += value / 3 + 1;
        }
    }

    #[test]
    fn quantiles_of_a_ramp() {
        let mut histogram = Histogram::new();
        for value in 1..=100_000 {
            histogram.record(value);
        }
        assert_eq!(histogram.samples(), 100_000);
        assert!((50_000..=51_600).contains(&histogram.quantile(0.5)));
        assert!((99_000..=100_000).contains(&histogram.quantile(0.99)));
        assert_eq!(histogram.quantile(1.0), 100_000);
    }

    #[test]
    fn a_value_beyond_the_range_is_still_counted() {
        let mut histogram = Histogram::new();
        histogram.record(u64::MAX);
        assert_eq!(histogram.samples(), 1);
        assert_eq!(histogram.max(), u64::MAX);
        histogram.clear();
        assert_eq!(histogram.quantile(0.5), 0);
    }
}
