//! Ranks that are threads of one process.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::Comm;
use crate::step::StepError;

/// What goes from one rank to another.
#[derive(Debug)]
enum Message {
    Numbers(Vec<f32>),
    Counts(Vec<u64>),
}

/// One thread of a group: see [`group`].
#[derive(Debug)]
pub struct Thread {
    rank: usize,
    /// To each rank.
    to: Vec<Sender<Message>>,
    /// From each rank.
    from: Vec<Receiver<Message>>,
}

/// A group of `ranks`, each to be taken to a thread of its own. Where a thread ends early, the others' next exchange with it is an
/// error that names it.
pub fn group(ranks: usize) -> Vec<Thread> {
    let mut threads: Vec<Thread> = (0..ranks)
        .map(|rank| Thread { rank, to: Vec::with_capacity(ranks), from: Vec::with_capacity(ranks) })
        .collect();
    // Senders and receivers are made in the order of the rank that they lead to or come from.
    for from in 0..ranks {
        for to in 0..ranks {
            let (sender, receiver) = channel();
            threads[from].to.push(sender);
            threads[to].from.push(receiver);
        }
    }
    threads
}

impl Thread {
    fn give(&self, to: usize, message: Message) -> Result<(), StepError> {
        let others = self.to.len();
        let way = self.to.get(to).ok_or_else(|| StepError::Ranks(format!("rank {to} is not one of {others}")))?;
        way.send(message).map_err(|_| left(to))
    }

    fn take(&self, from: usize) -> Result<Message, StepError> {
        let others = self.from.len();
        let way = self.from.get(from).ok_or_else(|| StepError::Ranks(format!("rank {from} is not one of {others}")))?;
        way.recv().map_err(|_| left(from))
    }

    fn take_numbers(&self, from: usize, expected: usize) -> Result<Vec<f32>, StepError> {
        let numbers = self.take_any_numbers(from)?;
        if numbers.len() != expected {
            return Err(out_of_step(from, format!("{expected} numbers"), format!("{}", numbers.len())));
        }
        Ok(numbers)
    }

    fn take_any_numbers(&self, from: usize) -> Result<Vec<f32>, StepError> {
        match self.take(from)? {
            Message::Numbers(numbers) => Ok(numbers),
            Message::Counts(_) => Err(out_of_step(from, "numbers".to_owned(), "counts".to_owned())),
        }
    }

    fn take_counts(&self, from: usize, expected: usize) -> Result<Vec<u64>, StepError> {
        match self.take(from)? {
            Message::Counts(counts) if counts.len() == expected => Ok(counts),
            Message::Counts(counts) => {
                Err(out_of_step(from, format!("{expected} counts"), format!("{}", counts.len())))
            }
            Message::Numbers(_) => Err(out_of_step(from, "counts".to_owned(), "numbers".to_owned())),
        }
    }

    /// Who sums into whom, the same tree in every call: at distance 1, 2, 4, … each multiple of twice the distance takes from the
    /// rank that far above it.
    fn distances(&self) -> impl DoubleEndedIterator<Item = usize> + use<> {
        let ranks = self.to.len();
        (0..usize::BITS)
            .map(|bit| 1usize << bit)
            .take_while(move |distance| *distance < ranks)
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// `data` becomes the sum over all ranks, by `give` and `take` up the tree to rank 0 and down again.
    fn reduce<T: Copy>(
        &self,
        data: &mut [T],
        wrap: impl Fn(Vec<T>) -> Message,
        take: impl Fn(usize, usize) -> Result<Vec<T>, StepError>,
        add: impl Fn(&mut T, T),
    ) -> Result<(), StepError> {
        let ranks = self.to.len();
        for distance in self.distances() {
            if self.rank % (2 * distance) == distance {
                self.give(self.rank - distance, wrap(data.to_vec()))?;
                break;
            }
            if self.rank + distance < ranks {
                let theirs = take(self.rank + distance, data.len())?;
                data.iter_mut().zip(theirs).for_each(|(sum, theirs)| add(sum, theirs));
            }
        }
        for distance in self.distances().rev() {
            if self.rank % (2 * distance) == distance {
                data.copy_from_slice(&take(self.rank - distance, data.len())?);
            } else if self.rank.is_multiple_of(2 * distance) && self.rank + distance < ranks {
                self.give(self.rank + distance, wrap(data.to_vec()))?;
            }
        }
        Ok(())
    }
}

impl Comm for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.to.len()
    }

    fn all_reduce(&self, data: &mut [f32]) -> Result<(), StepError> {
        self.reduce(
            data,
            Message::Numbers,
            |from, length| self.take_numbers(from, length),
            |sum, theirs| *sum += theirs,
        )
    }

    fn all_reduce_counts(&self, data: &mut [u64]) -> Result<(), StepError> {
        self.reduce(data, Message::Counts, |from, length| self.take_counts(from, length), |sum, theirs| *sum += theirs)
    }

    fn reduce_scatter(&self, data: &[f32], out: &mut [f32]) -> Result<(), StepError> {
        equal_parts(data.len(), out.len(), self.ranks())?;
        // By the tree of `all_reduce`, so that a sum has the same bits whichever of the two made it.
        let mut sum = data.to_vec();
        self.all_reduce(&mut sum)?;
        out.copy_from_slice(&sum[self.rank * out.len()..][..out.len()]);
        Ok(())
    }

    fn all_gather(&self, data: &[f32], out: &mut [f32]) -> Result<(), StepError> {
        equal_parts(out.len(), data.len(), self.ranks())?;
        for to in 0..self.ranks() {
            self.give(to, Message::Numbers(data.to_vec()))?;
        }
        for from in 0..self.ranks() {
            out[from * data.len()..][..data.len()].copy_from_slice(&self.take_numbers(from, data.len())?);
        }
        Ok(())
    }

    fn all_to_all(&self, data: &[f32], counts: &[usize]) -> Result<(Vec<f32>, Vec<usize>), StepError> {
        // Unequal counts are the caller's; nothing is cut silently.
        if counts.len() != self.ranks() || counts.iter().sum::<usize>() != data.len() {
            let found = format!("{counts:?} for {} numbers", data.len());
            return Err(out_of_step(self.rank, format!("{} counts that sum to the numbers", self.ranks()), found));
        }
        let mut rest = data;
        for (to, &count) in counts.iter().enumerate() {
            let (part, after) = rest.split_at(count);
            self.give(to, Message::Numbers(part.to_vec()))?;
            rest = after;
        }
        let (mut received, mut received_counts) = (Vec::new(), Vec::with_capacity(self.ranks()));
        for from in 0..self.ranks() {
            let part = self.take_any_numbers(from)?;
            received_counts.push(part.len());
            received.extend(part);
        }
        Ok((received, received_counts))
    }

    fn send(&self, to: usize, data: &[f32]) -> Result<(), StepError> {
        self.give(to, Message::Numbers(data.to_vec()))
    }

    fn receive(&self, from: usize, data: &mut [f32]) -> Result<(), StepError> {
        data.copy_from_slice(&self.take_numbers(from, data.len())?);
        Ok(())
    }
}

fn left(rank: usize) -> StepError {
    StepError::Ranks(format!("rank {rank} has ended; its message is above"))
}

fn out_of_step(rank: usize, expected: String, found: String) -> StepError {
    StepError::Ranks(format!("rank {rank}: expected {expected}, found {found}; every rank must make the same calls"))
}

fn equal_parts(whole: usize, part: usize, ranks: usize) -> Result<(), StepError> {
    if part.checked_mul(ranks) == Some(whole) {
        return Ok(());
    }
    Err(StepError::Ranks(format!("expected {ranks} equal parts of {whole} numbers, found parts of {part}")))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// What each rank of a group returns from `body`.
    fn on<T: Send>(ranks: usize, body: impl Fn(Thread) -> T + Sync) -> Vec<T> {
        thread::scope(|scope| {
            let threads: Vec<_> = group(ranks).into_iter().map(|member| scope.spawn(|| body(member))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn every_rank_gets_the_same_sum_of_all() {
        for ranks in 1..=7 {
            let sums = on(ranks, |comm| {
                let mut data = [comm.rank() as f32 + 0.1, 1.0 / (comm.rank() as f32 + 3.0)];
                let mut counts = [comm.rank() as u64, 1];
                comm.all_reduce(&mut data).unwrap();
                comm.all_reduce_counts(&mut counts).unwrap();
                (data.map(f32::to_bits), counts)
            });
            assert!(sums.iter().all(|sum| *sum == sums[0]), "{ranks}: {sums:?}");
            let want: f32 = (0..ranks).map(|rank| rank as f32 + 0.1).sum();
            assert!((f32::from_bits(sums[0].0[0]) - want).abs() < 1e-4);
            assert_eq!(sums[0].1, [(ranks * (ranks - 1) / 2) as u64, ranks as u64]);
        }
    }

    #[test]
    fn a_sum_has_the_bits_of_the_tree_and_not_of_a_line() {
        // Along a line 2 + 1e8 - 1e8 is 0 in f32; the tree adds 1 + 1 and 1e8 - 1e8 first.
        let values = [1.0f32, 1.0, 1e8, -1e8];
        let sums = on(4, |comm| {
            let mut data = [values[comm.rank()]];
            comm.all_reduce(&mut data).unwrap();
            data[0]
        });
        assert_eq!(sums, [2.0; 4]);
    }

    #[test]
    fn what_is_scattered_and_gathered_is_what_was_reduced() {
        let (whole, parts): (Vec<_>, Vec<_>) = on(3, |comm| {
            let data: Vec<f32> = (0..6).map(|i| (i + 10 * comm.rank()) as f32).collect();
            let (mut part, mut gathered) = ([0.0; 2], [0.0; 6]);
            comm.reduce_scatter(&data, &mut part).unwrap();
            comm.all_gather(&part, &mut gathered).unwrap();
            let mut reduced = data;
            comm.all_reduce(&mut reduced).unwrap();
            (reduced, gathered.to_vec())
        })
        .into_iter()
        .unzip();
        assert_eq!(whole, parts);
    }

    #[test]
    fn all_to_all_brings_each_its_parts_in_the_order_of_ranks() {
        let received = on(3, |comm| {
            // Rank r sends r + to numbers to rank `to`.
            let counts: Vec<usize> = (0..3).map(|to| comm.rank() + to).collect();
            let data: Vec<f32> = counts
                .iter()
                .enumerate()
                .flat_map(|(to, &count)| vec![(10 * comm.rank() + to) as f32; count])
                .collect();
            comm.all_to_all(&data, &counts).unwrap()
        });
        assert_eq!(received[0], (vec![10.0, 20.0, 20.0], vec![0, 1, 2]));
        assert_eq!(received[2].1, [2, 3, 4]);
        assert!(received[2].0.starts_with(&[2.0, 2.0, 12.0]));
    }

    #[test]
    fn a_rank_that_ends_or_asks_for_something_else_is_named() {
        let errors = on(2, |comm| match comm.rank() {
            0 => comm.all_reduce(&mut [0.0]).unwrap_err().to_string(),
            _ => String::new(),
        });
        assert!(errors[0].contains("rank 1 has ended"), "{}", errors[0]);
        let errors = on(2, |comm| match comm.rank() {
            0 => comm.all_reduce(&mut [0.0; 2]).unwrap_err().to_string(),
            _ => comm.send(0, &[0.0; 3]).map(|()| String::new()).unwrap(),
        });
        assert!(errors[0].contains("expected 2 numbers, found 3"), "{}", errors[0]);
    }
}
