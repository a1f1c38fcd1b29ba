//! Memory is planned, then taken: the same code counts it and takes it, so the two cannot differ.

use dots_model::Error;

/// What a step takes, before it takes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Bytes of each part, by name, in the order in which they are taken.
    pub parts: Vec<(&'static str, u64)>,
}

impl Plan {
    /// All of them; `u64::MAX` where that is more.
    pub fn total_bytes(&self) -> u64 {
        self.parts.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }
}

impl Plan {
    /// Adds the parts of another plan to those of the same name.
    pub(crate) fn add(&mut self, other: &Self) {
        for (name, bytes) in &other.parts {
            match self.parts.iter_mut().find(|(own, _)| own == name) {
                Some((_, own)) => *own = own.saturating_add(*bytes),
                None => self.parts.push((name, *bytes)),
            }
        }
    }
}

/// Hands out buffers of zeros, or only counts them.
#[derive(Debug)]
pub(crate) struct Memory {
    take: bool,
    plan: Plan,
}

impl Memory {
    /// Memory that is counted: every buffer comes empty.
    pub(crate) fn counted() -> Self {
        Self { take: false, plan: Plan::default() }
    }

    /// Memory that is taken.
    pub(crate) fn taken() -> Self {
        Self { take: true, plan: Plan::default() }
    }

    /// What was counted or taken so far.
    pub(crate) fn plan(self) -> Plan {
        self.plan
    }

    /// What follows counts as this part.
    pub(crate) fn part(&mut self, name: &'static str) {
        self.plan.parts.push((name, 0));
    }

    /// Whether buffers are taken, and not only counted.
    pub(crate) fn is_taken(&self) -> bool {
        self.take
    }

    /// Counts bytes that are taken elsewhere.
    pub(crate) fn elsewhere(&mut self, bytes: usize) {
        if let Some((_, sum)) = self.plan.parts.last_mut() {
            *sum = sum.saturating_add(bytes as u64);
        }
    }

    /// A buffer of this shape.
    pub(crate) fn numbers<T: Copy + Default>(&mut self, shape: &[usize]) -> Result<Vec<T>, Error> {
        let len = shape.iter().fold(1usize, |product, size| product.saturating_mul(*size));
        self.elsewhere(len.saturating_mul(size_of::<T>()));
        if !self.take {
            return Ok(Vec::new());
        }
        let mut numbers = Vec::new();
        let part = self.plan.parts.last().map_or("memory", |(name, _)| *name);
        numbers
            .try_reserve_exact(len)
            .map_err(|_| Error::Memory(format!("{part}: {len} numbers are more than this machine gives")))?;
        numbers.resize(len, T::default());
        Ok(numbers)
    }
}
