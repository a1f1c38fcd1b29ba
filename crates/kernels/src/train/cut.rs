//! Slices cut at fixed places, for threads to share.

use std::marker::PhantomData;

use crate::compute::Compute;

/// A slice in parts of one length, the last of which may be shorter.
pub(crate) struct Cut<'a, T> {
    first: *mut T,
    len: usize,
    part: usize,
    /// How many parts there are; in an empty slice they lie past the end.
    count: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: parts do not overlap, and `for_each` hands each to one call only.
unsafe impl<T: Send> Sync for Cut<'_, T> {}

impl<'a, T> Cut<'a, T> {
    /// `data` in parts of `part` numbers; no parts where `part` is 0.
    pub(crate) fn new(data: &'a mut [T], part: usize) -> Self {
        let count = if part == 0 { 0 } else { data.len().div_ceil(part) };
        Self { first: data.as_mut_ptr(), len: data.len(), part, count, slice: PhantomData }
    }

    /// The same, where `data` may also be empty instead of `len` numbers: then its parts are empty, and as many.
    pub(crate) fn of(data: &'a mut [T], part: usize, len: usize) -> Self {
        assert!(data.is_empty() || data.len() == len, "{} numbers instead of {len}", data.len());
        let count = if part == 0 { 0 } else { len.div_ceil(part) };
        Self { count, ..Self::new(data, part) }
    }
}

/// One slice that is cut, or several that are cut into as many parts.
pub(crate) trait Parts {
    /// What each item gets.
    type Item;

    /// How many parts there are.
    fn count(&self) -> usize;

    /// Part `index`.
    ///
    /// # Safety
    /// `index` is below [`Parts::count`], and each is asked for at most once while the parts live.
    unsafe fn part(&self, index: usize) -> Self::Item;
}

impl<'a, T> Parts for Cut<'a, T> {
    type Item = &'a mut [T];

    fn count(&self) -> usize {
        self.count
    }

    unsafe fn part(&self, index: usize) -> &'a mut [T] {
        let start = (index * self.part).min(self.len);
        let len = self.part.min(self.len - start);
        // SAFETY: within the slice, by the caller's word on `index`; no other part has these numbers, and this one is handed
        // out once.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(start), len) }
    }
}

macro_rules! parts_of_tuple {
    ($($name:ident),*) => {
        impl<$($name: Parts),*> Parts for ($($name,)*) {
            type Item = ($($name::Item,)*);

            #[allow(non_snake_case)]
            fn count(&self) -> usize {
                let ($($name,)*) = self;
                let counts = [$($name.count()),*];
                assert!(counts.iter().all(|count| *count == counts[0]), "slices of unequal parts: {counts:?}");
                counts[0]
            }

            #[allow(non_snake_case)]
            unsafe fn part(&self, index: usize) -> Self::Item {
                let ($($name,)*) = self;
                // SAFETY: by the caller's word.
                unsafe { ($($name.part(index),)*) }
            }
        }
    };
}
parts_of_tuple!(A, B);
parts_of_tuple!(A, B, C);
parts_of_tuple!(A, B, C, D);
parts_of_tuple!(A, B, C, D, E);

/// Calls `body(index, part)` for each part, on any thread.
pub(crate) fn for_each<P: Parts + Sync>(compute: &Compute, parts: P, body: impl Fn(usize, P::Item) + Sync) {
    compute.run(parts.count(), |index, _| {
        // SAFETY: the pool gives each index below the count to exactly one call.
        body(index, unsafe { parts.part(index) });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_their_slices_and_nothing_twice() {
        let compute = Compute::new(2, 0);
        let (mut a, mut b) = (vec![0u32; 10], vec![0u32; 4]);
        for_each(&compute, (Cut::new(&mut a, 3), Cut::new(&mut b, 1)), |index, (a, b)| {
            a.iter_mut().chain(b).for_each(|x| *x += 1 + index as u32);
        });
        for_each(&compute, (Cut::new(&mut a, 3), Cut::of(&mut b[..0], 3, 10)), |_, (_, none)| assert!(none.is_empty()));
        assert_eq!(a, [1, 1, 1, 2, 2, 2, 3, 3, 3, 4]);
        assert_eq!(b, [1, 2, 3, 4]);
    }

    #[test]
    #[should_panic(expected = "slices of unequal parts")]
    fn slices_of_unequal_parts_are_refused() {
        let compute = Compute::new(1, 0);
        for_each(&compute, (Cut::new(&mut [0; 4], 2), Cut::new(&mut [0; 4], 1)), |_, _| ());
    }
}
