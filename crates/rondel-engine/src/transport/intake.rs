//! Whether a transport reads: the program can pause reading, and closing stops it for good.

/// The reading state of a transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Intake {
    paused: bool,
    closing: bool,
}

impl Intake {
    /// Whether the transport is reading.
    #[inline]
    pub fn is_reading(self) -> bool {
        !self.closing && !self.paused
    }

    /// Whether the program has paused reading.
    #[inline]
    pub fn is_paused(self) -> bool {
        self.paused
    }

    /// Whether the transport is closing.
    #[inline]
    pub fn is_closing(self) -> bool {
        self.closing
    }

    /// Pauses reading. True: stop watching for reading.
    pub fn pause(&mut self) -> bool {
        let edge = self.is_reading();
        self.paused |= edge;
        edge
    }

    /// Resumes reading. True: start watching for reading.
    pub fn resume(&mut self) -> bool {
        let edge = self.paused && !self.closing;
        self.paused &= !edge;
        edge
    }

    /// Marks the transport as closing. False if it was already.
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
