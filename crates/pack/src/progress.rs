//! How far the work is, for whoever shows it.

/// Told what happens; every method may be left as it is.
pub trait Progress {
    /// The work begins: `total` weights, of which `done` were finished before.
    fn start(&mut self, total: u64, done: u64) {
        let _ = (total, done);
    }

    /// The work on a file begins.
    fn file(&mut self, name: &str) {
        let _ = name;
    }

    /// So many weights more are written.
    fn advance(&mut self, weights: u64) {
        let _ = weights;
    }

    /// The work is done or given up.
    fn finish(&mut self) {}
}

/// Nobody looks.
impl Progress for () {}
