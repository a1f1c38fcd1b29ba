//! Something bounded of which tenants take some: places, or bytes. The rule is that of the engine's places: beyond the bound only
//! who would still have less than a fair share is given any, so that one who takes all of it keeps nobody else out. With `k`
//! tenants at once so much is taken as `limit * (1 + 1/2 + ... + 1/k)` at most.

use std::collections::HashMap;

/// What is taken of it, and by whom.
#[derive(Debug)]
pub struct Shares {
    limit: usize,
    all: usize,
    /// Of each tenant who has any.
    by_tenant: HashMap<u64, usize>,
}

impl Shares {
    /// Nothing is taken yet.
    pub fn new(limit: usize) -> Self {
        Self { limit, all: 0, by_tenant: HashMap::new() }
    }

    /// Whether `tenant` may take so much more.
    pub fn has_room(&self, tenant: u64, amount: usize) -> bool {
        let own = self.by_tenant.get(&tenant).copied().unwrap_or(0);
        let tenants = self.by_tenant.len() + usize::from(own == 0);
        self.all.saturating_add(amount) <= self.limit || own.saturating_add(amount) <= self.limit / tenants
    }

    /// Notes what `tenant` has taken.
    pub fn take(&mut self, tenant: u64, amount: usize) {
        self.all += amount;
        *self.by_tenant.entry(tenant).or_default() += amount;
    }

    /// Notes that it is given back.
    pub fn give_back(&mut self, tenant: u64, amount: usize) {
        self.all -= amount;
        if let Some(own) = self.by_tenant.get_mut(&tenant) {
            *own -= amount;
            if *own == 0 {
                self.by_tenant.remove(&tenant);
            }
        }
    }

    /// What is taken in all.
    pub fn all(&self) -> usize {
        self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_who_takes_everything_keeps_nobody_else_out() {
        let mut shares = Shares::new(60);
        let mut take = |tenant: u64, amount: usize| {
            let has_room = shares.has_room(tenant, amount);
            if has_room {
                shares.take(tenant, amount);
            }
            has_room
        };
        assert_eq!([take(1, 50), take(1, 20), take(1, 10), take(1, 1)], [true, false, true, false]);
        assert_eq!([take(2, 31), take(2, 30), take(2, 1)], [false, true, false], "half of it, since there are two");
        assert_eq!([take(3, 20), take(3, 1)], [true, false]);
        shares.give_back(1, 60);
        assert!(shares.has_room(3, 10) && !shares.has_room(3, 11), "who is gone takes no share");
        shares.give_back(2, 30);
        shares.give_back(3, 20);
        assert!(shares.all() == 0 && shares.by_tenant.is_empty());
    }
}
