use super::*;
use crate::prefix::BlockNames;

fn names(count: usize) -> Vec<BlockName> {
    let mut names = BlockNames::new(None);
    names.extend(&(0..(count * BLOCK_TOKENS) as u32).collect::<Vec<_>>());
    names.as_slice().to_vec()
}

/// A pool in which one sequence has computed `count` named blocks.
fn computed(total: usize, count: usize) -> (BlockPool, Vec<BlockId>, Vec<BlockName>) {
    let mut pool = BlockPool::new(total);
    let names = names(count);
    let table: Vec<_> = names
        .iter()
        .map(|&name| {
            let block = pool.take().unwrap();
            pool.announce(block, name);
            pool.mark_computed(block);
            block
        })
        .collect();
    (pool, table, names)
}

#[test]
fn blocks_are_taken_until_none_is_left_and_come_back() {
    let mut pool = BlockPool::new(3);
    let table: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
    assert_eq!((table.len(), pool.free(), pool.total()), (3, 0, 3));
    pool.check_integrity([&table[..]].into_iter()).unwrap();
    pool.release(&table);
    assert_eq!((pool.free(), pool.idle()), (3, 0));
    pool.check_integrity(std::iter::empty()).unwrap();
}

#[test]
fn what_was_computed_is_found_again_after_its_holder_left() {
    let (mut pool, table, names) = computed(4, 2);
    pool.release(&table);
    assert_eq!((pool.free(), pool.idle()), (4, 2));
    assert_eq!(pool.find(&names[1]), Content::Computed(table[1]));
    pool.share(table[0]);
    pool.share(table[0]);
    assert_eq!((pool.free(), pool.idle()), (3, 1));
    assert!(!pool.is_exclusive(table[0]));
    pool.check_integrity([&table[..1], &table[..1]].into_iter()).unwrap();
    pool.release(&table[..1]);
    assert!(pool.is_exclusive(table[0]));
    pool.release(&table[..1]);
    pool.check_integrity(std::iter::empty()).unwrap();
}

#[test]
fn empty_blocks_go_first_then_the_longest_idle_and_of_one_sequence_its_end() {
    let (mut pool, table, names) = computed(4, 3);
    pool.release(&table);
    pool.take().unwrap();
    let found = |pool: &BlockPool| names.iter().map(|name| pool.find(name) != Content::Absent).collect::<Vec<_>>();
    assert_eq!(found(&pool), [true, true, true]);
    pool.take().unwrap();
    assert_eq!(found(&pool), [true, true, false]);
    // Used again: now the other is idle for longer.
    pool.share(table[1]);
    pool.release(&table[1..2]);
    pool.take().unwrap();
    assert_eq!(found(&pool), [false, true, false]);
}

#[test]
fn what_was_announced_and_never_computed_is_forgotten() {
    let mut pool = BlockPool::new(2);
    let name = names(1)[0];
    let block = pool.take().unwrap();
    pool.announce(block, name);
    assert_eq!(pool.find(&name), Content::Announced);
    pool.release(&[block]);
    assert_eq!((pool.find(&name), pool.idle()), (Content::Absent, 0));
    pool.check_integrity(std::iter::empty()).unwrap();
}

#[test]
fn of_two_blocks_with_one_content_the_second_bears_no_name() {
    let (mut pool, table, names) = computed(3, 1);
    let twin = pool.take().unwrap();
    pool.announce(twin, names[0]);
    pool.mark_computed(twin);
    assert_eq!(pool.find(&names[0]), Content::Computed(table[0]));
    pool.release(&[twin]);
    assert_eq!((pool.free(), pool.idle()), (2, 0));
    pool.check_integrity([&table[..]].into_iter()).unwrap();
}

#[test]
fn a_lost_a_doubled_and_a_foreign_block_are_found() {
    let mut pool = BlockPool::new(4);
    let held = [pool.take().unwrap(), pool.take().unwrap()];
    let check = |tables: &[&[BlockId]]| pool.check_integrity(tables.iter().copied()).unwrap_err();
    assert_eq!(check(&[&held[..1]]), format!("block {} is lost", held[1]));
    assert_eq!(check(&[&held, &held]), format!("block {} has 1 holders and is in 2 tables", held[0]));
    assert_eq!(check(&[&held, &[9]]), "block 9 is outside the pool of 4");
}
