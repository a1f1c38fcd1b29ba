//! A series of any length in bounded memory: steps fall into buckets of one width, which doubles whenever there are too many.

/// What several steps become together.
pub trait Merge: Clone {
    /// Takes a later one in.
    fn merge(&mut self, later: &Self);
}

/// Least, greatest and mean of what was measured; nothing where none was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stat {
    /// How many.
    pub count: u32,
    /// The least.
    pub min: f32,
    /// The greatest.
    pub max: f32,
    /// The mean.
    pub mean: f32,
}

impl Stat {
    /// Of none.
    pub const NONE: Self = Self { count: 0, min: f32::INFINITY, max: f32::NEG_INFINITY, mean: 0.0 };

    /// Of one, or of none where it is no number.
    pub fn of(value: Option<f64>) -> Self {
        match value.map(|value| value as f32).filter(|value| value.is_finite()) {
            Some(value) => Self { count: 1, min: value, max: value, mean: value },
            None => Self::NONE,
        }
    }
}

impl Merge for Stat {
    fn merge(&mut self, later: &Self) {
        let count = self.count.saturating_add(later.count);
        if later.count > 0 {
            let share = f64::from(later.count) / f64::from(count);
            self.mean = (f64::from(self.mean) * (1.0 - share) + f64::from(later.mean) * share) as f32;
        }
        self.min = self.min.min(later.min);
        self.max = self.max.max(later.max);
        self.count = count;
    }
}

/// Some following steps together.
#[derive(Debug, Clone, PartialEq)]
pub struct Bucket<T> {
    /// A multiple of the width: the first step that falls in here.
    pub start: u64,
    /// The last step that did.
    pub step: u64,
    /// Tokens seen after it.
    pub tokens: u64,
    /// What was measured.
    pub value: T,
}

/// A series, in the order of its steps.
#[derive(Debug, Clone)]
pub struct Buckets<T> {
    width: u64,
    capacity: usize,
    buckets: Vec<Bucket<T>>,
    cuts: u64,
}

impl<T: Merge> Buckets<T> {
    /// Never more than `capacity` buckets.
    pub fn new(capacity: usize) -> Self {
        Self { width: 1, capacity: capacity.max(2), buckets: Vec::new(), cuts: 0 }
    }

    /// The buckets.
    pub fn all(&self) -> &[Bucket<T>] {
        &self.buckets
    }

    /// Adds what was measured at a step, which is not before the last one.
    pub fn push(&mut self, step: u64, tokens: u64, value: T) {
        let start = step - step % self.width;
        if let Some(last) = self.buckets.last_mut()
            && last.start >= start
        {
            last.step = step.max(last.step);
            last.tokens = tokens;
            last.value.merge(&value);
            return;
        }
        self.buckets.push(Bucket { start, step, tokens, value });
        while self.buckets.len() > self.capacity && self.width < 1 << 62 {
            self.width *= 2;
            self.buckets = coarser(&self.buckets, self.width);
        }
    }

    /// Forgets this step and all after it, as far as they stand apart from what came before.
    pub fn cut(&mut self, step: u64) {
        let kept = self.buckets.partition_point(|bucket| bucket.start < step);
        self.cuts += u64::from(kept < self.buckets.len());
        self.buckets.truncate(kept);
    }

    /// How often something was forgotten: whoever was told of it has to be told all again.
    pub fn cuts(&self) -> u64 {
        self.cuts
    }

    /// The least width at which what lies between two steps falls into `most` buckets.
    ///
    /// Widths are powers of two and buckets begin at their multiples, so that those of one view do not wander as the run grows.
    pub fn width_for(&self, from: u64, to: u64, most: usize) -> u64 {
        let part = &self.buckets[self.between(from, to)];
        let mut width = self.width;
        while width < 1 << 62 && count(part, width) > most.max(2) {
            width *= 2;
        }
        width
    }

    /// What lies between two steps, both included, and one bucket more on each side so that a line can leave the picture.
    pub fn slice(&self, from: u64, to: u64, width: u64) -> Vec<Bucket<T>> {
        coarser(&self.buckets[self.between(from, to)], width.max(self.width))
    }

    /// What begins at a step or after it; `start` is a multiple of the width.
    pub fn since(&self, start: u64, width: u64) -> Vec<Bucket<T>> {
        let first = self.buckets.partition_point(|bucket| bucket.start < start);
        coarser(&self.buckets[first..], width.max(self.width))
    }

    fn between(&self, from: u64, to: u64) -> std::ops::Range<usize> {
        let first = self.buckets.partition_point(|bucket| bucket.step < from).saturating_sub(1);
        let end = (self.buckets.partition_point(|bucket| bucket.start <= to) + 1).min(self.buckets.len());
        first.min(end)..end
    }
}

/// How many buckets of this width hold something.
fn count<T>(buckets: &[Bucket<T>], width: u64) -> usize {
    let mut count = 0;
    let mut last = None;
    for bucket in buckets {
        let start = bucket.start - bucket.start % width;
        if last != Some(start) {
            count += 1;
            last = Some(start);
        }
    }
    count
}

fn coarser<T: Merge>(buckets: &[Bucket<T>], width: u64) -> Vec<Bucket<T>> {
    let mut coarse: Vec<Bucket<T>> = Vec::with_capacity(count(buckets, width));
    for bucket in buckets {
        let start = bucket.start - bucket.start % width;
        match coarse.last_mut().filter(|last| last.start == start) {
            Some(last) => {
                (last.step, last.tokens) = (bucket.step, bucket.tokens);
                last.value.merge(&bucket.value);
            }
            None => coarse.push(Bucket { start, ..bucket.clone() }),
        }
    }
    coarse
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(capacity: usize, steps: u64) -> Buckets<Stat> {
        let mut buckets = Buckets::new(capacity);
        (0..steps).for_each(|step| buckets.push(step, 10 * step, Stat::of(Some(step as f64))));
        buckets
    }

    #[test]
    fn a_million_steps_take_no_more_room_than_was_given_and_lose_no_extreme() {
        let buckets = filled(1000, 1_000_000);
        assert!((500..=1000).contains(&buckets.all().len()));
        assert!(buckets.width.is_power_of_two());
        let mut whole = Stat::NONE;
        buckets.all().iter().for_each(|bucket| whole.merge(&bucket.value));
        assert_eq!((whole.count, whole.min, whole.max), (1_000_000, 0.0, 999_999.0));
        assert!((whole.mean - 499_999.5).abs() < 10.0, "{}", whole.mean);
        assert_eq!(buckets.all().last().map(|bucket| (bucket.step, bucket.tokens)), Some((999_999, 9_999_990)));
    }

    #[test]
    fn steps_far_apart_take_no_more_buckets_than_there_are_steps() {
        let mut buckets = Buckets::new(4);
        for step in [0, 1, 1 << 50, (1 << 50) + 1, 1 << 52, (1 << 53) - 1] {
            buckets.push(step, 0, Stat::of(Some(1.0)));
        }
        assert!(buckets.all().len() <= 4);
    }

    #[test]
    fn a_view_has_its_neighbours_and_the_detail_that_there_is() {
        let buckets = filled(1 << 14, 10_000);
        let part = buckets.slice(100, 199, buckets.width_for(100, 199, 1000));
        assert_eq!((part.len(), part[0].step, part[101].step), (102, 99, 200));
        let width = buckets.width_for(0, u64::MAX, 100);
        let whole = buckets.slice(0, u64::MAX, width);
        assert_eq!((width, whole.len(), whole[1].start), (128, 79, 128));
        assert_eq!(buckets.since(whole[70].start, width), whole[70..]);
        assert!(buckets.slice(20_000, 30_000, 1).len() <= 1 && buckets.slice(7, 3, 1).len() <= 3);
        assert!(Buckets::<Stat>::new(4).slice(0, 9, 1).is_empty());
    }

    #[test]
    fn what_a_resume_repeats_is_forgotten_first() {
        let mut buckets = filled(1000, 100);
        buckets.cut(60);
        buckets.push(60, 0, Stat::of(Some(-1.0)));
        assert_eq!(buckets.all().len(), 61);
        assert_eq!(buckets.all()[60].value.min, -1.0);
    }

    #[test]
    fn what_is_no_number_counts_nothing() {
        let mut stat = Stat::of(None);
        for value in [Some(f64::NAN), Some(1e300), Some(2.0), None, Some(4.0)] {
            stat.merge(&Stat::of(value));
        }
        assert_eq!(stat, Stat { count: 2, min: 2.0, max: 4.0, mean: 3.0 });
    }
}
