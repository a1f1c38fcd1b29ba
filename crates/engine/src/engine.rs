//! The engine: one thread that steps the executor, and the one way in.

use std::{
    hash::{BuildHasher, RandomState},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError, TryRecvError},
    },
    task::{Context, Poll},
    thread::{self, JoinHandle},
    time::Duration,
};

use dots_model::{
    executor::{BLOCK_TOKENS, Executor},
    tokenizer::Tokenizer,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tracing::Span;

use crate::{
    outstanding::{Place, Places},
    penalties::HistoryPenalties,
    request::{Event, Failure, Limits, Request, SubmitError},
    sequence::{Caller, Sequence},
    speculate::Lookup,
    spill::{Spill, SpillOptions},
    stats::Stats,
    stepper::Stepper,
    text::{AnswerText, TextStream, TokenizerText},
};

/// Between two blocks that an idle engine gives to the disk.
const WHILE_IDLE: Duration = Duration::from_millis(1);

/// Settings of an engine.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Longest sequence, prompt and completion together, in tokens; the cache may hold less.
    pub max_model_len: usize,
    /// Most tokens in one step, prompts' chunks and decoded tokens together; the executor may take fewer.
    pub max_batch_tokens: usize,
    /// Most sequences in one step; never more than tokens.
    pub max_sequences: usize,
    /// Most requests that wait beside those that run; more are refused.
    pub max_queue: usize,
    /// Try what is likely to follow before it is known, where that is measured to be faster.
    pub speculate: bool,
    /// Keep blocks of the cache on disk too.
    pub spill: Option<SpillOptions>,
    /// Ids that end a turn.
    pub eos_token_ids: Vec<u32>,
}

/// Runs requests. Cheap to clone. When the last clone is dropped, the engine's thread ends after the step under way, which
/// the drop waits for; what still runs ends with [`Event::Failed`].
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

struct Shared {
    options: EngineOptions,
    limits: Limits,
    places: Arc<Places>,
    new_text: Box<NewText>,
    stats: Arc<Mutex<Stats>>,
    // Dropped before the thread is joined, which tells the thread to end.
    submissions: mpsc::Sender<Sequence>,
    thread: JoinOnDrop,
}

type NewText = dyn Fn() -> Box<dyn TextStream> + Send + Sync;

struct JoinOnDrop(Option<JoinHandle<()>>);

impl Drop for JoinOnDrop {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // A panic there has been printed, and its requests have failed.
            let _ = thread.join();
        }
    }
}

impl Engine {
    /// Starts the engine's thread over `executor`.
    pub fn start(executor: Box<dyn Executor>, tokenizer: Arc<Tokenizer>, options: EngineOptions) -> Self {
        Self::start_with_text(executor, Box::new(move || Box::new(TokenizerText::new(tokenizer.clone()))), options)
    }

    pub(crate) fn start_with_text(executor: Box<dyn Executor>, new_text: Box<NewText>, options: EngineOptions) -> Self {
        let limits = Limits {
            vocab_size: executor.config().vocab_size,
            context_tokens: options.max_model_len.min(executor.plan().cache_blocks * BLOCK_TOKENS),
        };
        let spill = options.spill.as_ref().and_then(|spill| {
            let mut block = Vec::new();
            executor.export_block(0, &mut block);
            let opened = Spill::open(spill, block.len());
            // Without it the engine is slower and no less right.
            opened.inspect_err(|error| tracing::error!(%error, folder = %spill.folder.display(), "no spill")).ok()
        });
        let stepper = Stepper::new(executor, options.max_batch_tokens, options.max_sequences, spill);
        let stats = Arc::new(Mutex::new(stepper.stats()));
        let (submissions, submitted) = mpsc::channel();
        let thread = thread::Builder::new().name("dots-engine".to_owned()).spawn({
            let stats = stats.clone();
            move || run(stepper, &submitted, &stats)
        });
        // Without a thread every submit says that the engine has stopped.
        let thread = thread.inspect_err(|error| tracing::error!(%error, "no thread for the engine")).ok();
        let places = Places::new(options.max_sequences.saturating_add(options.max_queue).max(1));
        Self(Arc::new(Shared { options, limits, places, new_text, stats, submissions, thread: JoinOnDrop(thread) }))
    }

    /// Queues a request. Dropping the returned stream cancels it within one step. What the engine logs of it stands under the
    /// span in which this is called.
    pub fn submit(&self, request: Request) -> Result<Events, SubmitError> {
        let Shared { options, limits, places, new_text, submissions, .. } = &*self.0;
        let max_tokens = request.checked_max_tokens(limits)?;
        let place = places.take(request.tenant)?;
        let (sequence, events) = prepare(request, max_tokens, options, new_text(), place);
        submissions.send(sequence).map_err(|_| SubmitError::Stopped)?;
        Ok(events)
    }

    /// The engine's settings.
    pub fn options(&self) -> &EngineOptions {
        &self.0.options
    }

    /// Whether the engine's thread runs. It ends early only where the executor panicked: then every submit is refused.
    pub fn is_running(&self) -> bool {
        self.0.thread.0.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// What the engine is busy with.
    pub fn stats(&self) -> Stats {
        *self.0.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a checked request a sequence.
pub(crate) fn prepare(
    mut request: Request,
    max_tokens: usize,
    options: &EngineOptions,
    text: Box<dyn TextStream>,
    place: Place,
) -> (Sequence, Events) {
    let seed = request.sampling.seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    let end_ids = [request.stop_token_ids.as_slice(), &options.eos_token_ids].concat();
    let penalties = HistoryPenalties::new(&request, end_ids);
    let eos_token_ids = if request.ignore_eos { Vec::new() } else { options.eos_token_ids.clone() };
    let answer = AnswerText::new(text, &mut request);
    let (events, receiver) = unbounded_channel();
    let caller = Caller { answer, events, place, span: Span::current() };
    let mut sequence = Sequence::new(request, max_tokens, seed, eos_token_ids, penalties, caller);
    sequence.lookup = options.speculate.then(Lookup::default);
    (sequence, Events { receiver, has_ended: false })
}

fn run(mut stepper: Stepper, submitted: &mpsc::Receiver<Sequence>, stats: &Mutex<Stats>) {
    while receive(&mut stepper, submitted) {
        stepper.scheduler.remove_done();
        if !stepper.scheduler.is_idle() {
            stepper.step();
        }
        if (stepper.scheduler.is_idle() || cfg!(debug_assertions))
            && let Err(fault) = stepper.scheduler.check_integrity()
        {
            tracing::error!(fault, "the block pool is broken");
            debug_assert!(false, "the block pool is broken: {fault}");
        }
        *stats.lock().unwrap_or_else(PoisonError::into_inner) = stepper.stats();
    }
    stepper.end();
}

/// Takes what was submitted, waiting for it where there is nothing else to do; false once the last [`Engine`] is gone.
fn receive(stepper: &mut Stepper, submitted: &mpsc::Receiver<Sequence>) -> bool {
    if stepper.scheduler.is_idle() {
        let mut waited = RecvTimeoutError::Timeout;
        while stepper.idle() && waited == RecvTimeoutError::Timeout {
            match submitted.recv_timeout(WHILE_IDLE) {
                Ok(sequence) => {
                    stepper.scheduler.add(sequence);
                    return true;
                }
                Err(error) => waited = error,
            }
        }
        match submitted.recv() {
            Ok(sequence) => stepper.scheduler.add(sequence),
            Err(_) => return false,
        }
    }
    loop {
        match submitted.try_recv() {
            Ok(sequence) => stepper.scheduler.add(sequence),
            Err(TryRecvError::Empty) => return true,
            Err(TryRecvError::Disconnected) => return false,
        }
    }
}

/// The events of one request: a `Stream`, or one by one with [`Self::blocking_next`]. The last is [`Event::Finished`] or
/// [`Event::Failed`]. What is not read waits in memory, at most one event for each of the request's `max_tokens` and three
/// more.
#[derive(Debug)]
pub struct Events {
    receiver: UnboundedReceiver<Event>,
    has_ended: bool,
}

impl Events {
    /// Waits for the next event on a thread that is not async; panics on one that is.
    pub fn blocking_next(&mut self) -> Option<Event> {
        let event = self.receiver.blocking_recv();
        self.or_failed(event)
    }

    fn or_failed(&mut self, event: Option<Event>) -> Option<Event> {
        if self.has_ended {
            return None;
        }
        let event = event.unwrap_or(Event::Failed(Failure::Stopped));
        self.has_ended = matches!(event, Event::Finished(_) | Event::Failed(_));
        Some(event)
    }
}

impl futures_core::Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let event = std::task::ready!(self.receiver.poll_recv(cx));
        Poll::Ready(self.or_failed(event))
    }
}
