//! Blocks of the cache on disk, so that a long chat goes on after a restart, or after others took its blocks, without being read
//! again.
//!
//! Blocks are written behind the steps, by a thread of their own, as they are filled; they are read back when a sequence begins
//! whose next blocks are there. A block's file is named by its content's [`BlockName`] in a folder named by the key: what the
//! bytes depend on beside the tokens. It is a cache: a file that cannot be written or read costs time and nothing else.

mod files;

use std::{
    collections::{HashSet, VecDeque},
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, SyncSender},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use dots_model::executor::{BlockId, Executor};

use self::files::Files;
use crate::{
    blocks::{BlockPool, Content},
    prefix::BlockName,
};

/// Blocks that wait for the disk in memory, beside the one that is being written.
const WRITER_QUEUE: usize = 2;
/// Most blocks that wait to be written by their names; others are written when they are filled again.
const MAX_WANTED: usize = 1 << 16;
/// Blocks that are read in one step, so that those who decode beside do not wait for long.
const READS_PER_STEP: usize = 8;
/// How long the end of an engine waits for the disk.
const LONGEST_END: Duration = Duration::from_secs(30);

/// Where the cache spills to.
#[derive(Debug, Clone)]
pub struct SpillOptions {
    /// The folder; made where it is missing.
    pub folder: PathBuf,
    /// Most bytes of files there; what was not used for longest is removed.
    pub limit_bytes: u64,
    /// What the bytes of a block depend on beside its tokens: weights, layout, cache type, arithmetic. Blocks of another key are
    /// left alone.
    pub key: [u8; 32],
}

/// What is written, what is to be, and the thread that does it.
pub(crate) struct Spill {
    files: Arc<Mutex<Files>>,
    /// Blocks to write, in the order in which they were filled.
    wanted: VecDeque<(BlockName, BlockId)>,
    queued: HashSet<BlockName>,
    writer: Option<SyncSender<(BlockName, Vec<u8>)>>,
    thread: Option<JoinHandle<()>>,
    /// Buffers that the writer has done with.
    emptied: mpsc::Receiver<Vec<u8>>,
    /// Blocks that the writer has and has not given back.
    in_flight: usize,
    buffer: Vec<u8>,
}

impl Spill {
    /// Opens the folder and starts the writer. `block_bytes`: what one block exports.
    pub fn open(options: &SpillOptions, block_bytes: usize) -> io::Result<Self> {
        let files = Arc::new(Mutex::new(Files::open(options, block_bytes)?));
        let (writer, to_write) = mpsc::sync_channel::<(BlockName, Vec<u8>)>(WRITER_QUEUE);
        let (give_back, emptied) = mpsc::channel();
        let thread = std::thread::Builder::new().name("dots-spill".to_owned()).spawn({
            let files = Arc::clone(&files);
            move || {
                while let Ok((name, mut bytes)) = to_write.recv() {
                    // Writing needs no lock; the index does.
                    let written = lock(&files).place(&name).and_then(|place| place.write(&bytes));
                    match written {
                        Ok(()) => lock(&files).insert(name),
                        Err(error) => tracing::warn!(%error, "a block of the cache could not be written"),
                    }
                    bytes.clear();
                    // Nobody takes it back at the end.
                    let _ = give_back.send(bytes);
                }
            }
        })?;
        Ok(Self {
            files,
            wanted: VecDeque::new(),
            queued: HashSet::new(),
            writer: Some(writer),
            thread: Some(thread),
            emptied,
            in_flight: 0,
            buffer: Vec::new(),
        })
    }

    /// Asks for a block that was filled to be written.
    pub fn want(&mut self, name: BlockName, block: BlockId) {
        // A disk that stands still must not make this grow.
        if !lock(&self.files).touch(&name) && self.wanted.len() < MAX_WANTED && self.queued.insert(name) {
            self.wanted.push_back((name, block));
        }
    }

    /// How many of `names`, from the first on, can be read.
    pub fn readable(&self, names: &[BlockName]) -> usize {
        let files = lock(&self.files);
        names.iter().take_while(|name| files.contains(name)).count()
    }

    /// Most blocks to read in one step.
    pub fn reads_per_step(&self) -> usize {
        READS_PER_STEP
    }

    /// Reads the block of `name` into `block`; whether that went well.
    pub fn read(&mut self, name: &BlockName, block: BlockId, executor: &mut dyn Executor) -> bool {
        let place = lock(&self.files).place(name);
        let read = place.and_then(|place| place.read(&mut self.buffer));
        let imported = read.and_then(|()| executor.import_block(block, &self.buffer).map_err(io::Error::other));
        match imported {
            Ok(()) => {
                lock(&self.files).touch(name);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "a block of the cache could not be read");
                false
            }
        }
    }

    /// Removes blocks, of which the first could not be read and the others will be computed before anyone asks for them.
    pub fn remove(&mut self, names: &[BlockName]) {
        let mut files = lock(&self.files);
        names.iter().for_each(|name| files.remove(name));
    }

    /// Hands the writer one block, if it has room and there is one that still holds what it should; whether more may follow.
    pub fn pump(&mut self, pool: &BlockPool, executor: &dyn Executor) -> bool {
        let mut spare = None;
        while let Ok(bytes) = self.emptied.try_recv() {
            self.in_flight -= 1;
            spare = Some(bytes);
        }
        // A block is megabytes: it is copied only where there is room for it.
        if self.in_flight > WRITER_QUEUE {
            return !self.wanted.is_empty();
        }
        while let Some((name, block)) = self.wanted.pop_front() {
            self.queued.remove(&name);
            if pool.find(&name) != Content::Computed(block) {
                continue;
            }
            let mut bytes = spare.unwrap_or_default();
            executor.export_block(block, &mut bytes);
            let Some(writer) = &self.writer else { return false };
            if writer.send((name, bytes)).is_err() {
                // Its panic has been printed. Without it nothing is kept any more.
                self.writer = None;
                return false;
            }
            self.in_flight += 1;
            return !self.wanted.is_empty();
        }
        false
    }

    /// Writes what is left, for a while.
    pub fn end(mut self, pool: &BlockPool, executor: &dyn Executor) {
        let start = Instant::now();
        while self.pump(pool, executor) && start.elapsed() < LONGEST_END {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(self.writer.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed.
            let _ = thread.join();
        }
    }
}

fn lock(files: &Mutex<Files>) -> std::sync::MutexGuard<'_, Files> {
    files.lock().unwrap_or_else(PoisonError::into_inner)
}
