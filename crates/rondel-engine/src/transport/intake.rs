//! Whether what comes is wanted: the program can pause reading, and the end stops it for good.

/// A transport's half that reads, as far as the program decides about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Intake {
    paused: bool,
    closing: bool,
}

impl Intake {
    /// Whether what comes is wanted.
    #[inline]
    pub fn is_reading(self) -> bool {
        !self.closing && !self.paused
    }

    /// Whether the program has paused reading.
    #[inline]
    pub fn is_paused(self) -> bool {
        self.paused
    }

    /// Whether the end is certain.
    #[inline]
    pub fn is_closing(self) -> bool {
        self.closing
    }

    /// Pauses reading. True: watch for reading no more.
    pub fn pause(&mut self) -> bool {
        let edge = self.is_reading();
        self.paused |= edge;
        edge
    }

    /// Resumes reading. True: watch for reading again.
    pub fn resume(&mut self) -> bool {
        let edge = self.paused && !self.closing;
        self.paused &= !edge;
        edge
    }

    /// The end. False: that was said before.
    pub fn close(&mut self) -> bool {
        !std::mem::replace(&mut self.closing, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pausing_and_resuming_are_edges_until_the_end() {
        let mut intake = Intake::default();
        assert!(intake.is_reading() && !intake.resume());
        assert!(intake.pause() && !intake.pause() && intake.is_paused());
        assert!(intake.resume() && intake.is_reading());
        assert!(intake.pause() && intake.close() && !intake.close());
        assert!(!intake.resume() && !intake.pause() && !intake.is_reading());
        assert!(intake.is_paused() && intake.is_closing());
    }
}
