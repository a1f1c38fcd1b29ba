//! Neighbours kept apart.

/// Sequences of one row between two that follow each other in the order of use, where there are enough.
const COLUMNS: u64 = 64;

/// An order of `0..total` in which numbers that follow each other lie more than `apart` places from each other, and none goes far: each
/// block of some 64 times as many is laid out in rows and read by columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    total: u64,
    /// Rows of a block, where it is full.
    rows: u64,
}

/// Where a block begins, and how it is laid out: `tall` columns of `rows` numbers, then others of one less.
struct Block {
    start: u64,
    columns: u64,
    rows: u64,
    tall: u64,
}

impl Spread {
    /// Fewer numbers than some twice `apart` cannot be kept so far apart, and stay in their order.
    pub fn new(total: u64, apart: u64) -> Self {
        // More than are needed, since columns may differ by one.
        Self { total, rows: apart.saturating_add(3) }
    }

    /// The number at place `nth`, below the total.
    pub fn at(&self, nth: u64) -> u64 {
        let Block { start, columns, rows, tall } = self.block(nth);
        let within = nth - start;
        let (column, row, height) = match within.checked_sub(tall * rows) {
            None => (within / rows, within % rows, rows),
            Some(past) => (tall + past / (rows - 1), past % (rows - 1), rows - 1),
        };
        // From the middle on, so that the last numbers of a block and the first of the next are no neighbours either.
        let row = if columns > 1 { (row + rows / 2) % height } else { row };
        start + row * columns + column
    }

    /// The place of a number, below the total.
    pub fn place(&self, number: u64) -> u64 {
        let Block { start, columns, rows, tall } = self.block(number);
        let (row, column) = ((number - start) / columns, (number - start) % columns);
        let (before, height) = match column.checked_sub(tall) {
            None => (column * rows, rows),
            Some(past) => (tall * rows + past * (rows - 1), rows - 1),
        };
        let row = if columns > 1 { (row + height - rows / 2) % height } else { row };
        start + before + row
    }

    /// The block that `nth` lies in, be it a number or a place. The last one takes what is left.
    fn block(&self, nth: u64) -> Block {
        let size = self.rows.saturating_mul(COLUMNS);
        let last = (self.total / size).saturating_sub(1);
        let index = (nth / size).min(last);
        let start = index * size;
        let size = if index == last { self.total - start } else { size };
        let columns = (size / self.rows).max(1);
        let rows = size.div_ceil(columns);
        Block { start, columns, rows, tall: size - (rows - 1) * columns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_one_place_and_neighbours_are_apart() {
        for apart in [1, 2, 3, 8, 17] {
            for total in (1..40).chain([100, 257, 1000, 4321, 9000]) {
                let spread = Spread::new(total, apart);
                let places: Vec<u64> = (0..total).map(|number| spread.place(number)).collect();
                for (number, &place) in (0..).zip(&places) {
                    assert_eq!(spread.at(place), number, "{apart} {total}");
                    // A block and what is left of it, at the most.
                    assert!(place.abs_diff(number) < 2 * (apart + 3) * COLUMNS);
                }
                let nearest = places.windows(2).map(|both| both[0].abs_diff(both[1])).min();
                if total >= 2 * (apart + 3) {
                    assert!(nearest > Some(apart), "{apart} {total}: {nearest:?}");
                }
            }
        }
    }
}
