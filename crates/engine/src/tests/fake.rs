//! A model that is a hash, an executor that checks what it is told, and an engine without its thread.

use std::{
    collections::HashSet,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use dots_model::{
    Config, Error,
    executor::{
        BLOCK_TOKENS, Batch, BlockId, Executor, LayerRouting, Logprobs, Output, Outputs, Plan, Sampling, Slice, Ticket,
        Want,
    },
    sample::{Sampler, log_prob, log_prob_and_rank, top_logprobs, uniform},
};

use futures_core::Stream;

use crate::{
    Event, Failure, Finish, FinishReason, Stats, TokenBytes,
    engine::{EngineOptions, Events, prepare},
    outstanding::Places,
    penalties::HistoryPenalties,
    request::{Limits, Request, SubmitError},
    spill::{Spill, SpillOptions},
    stepper::Stepper,
    text::TextStream,
};

pub const VOCAB_SIZE: usize = 300;
pub const EOS: u32 = 256;
pub const EOS_TOO: u32 = 257;

/// A step with this token fails.
pub const POISON: u32 = 299;

/// In a step with this token the executor panics.
pub const PANIC: u32 = 298;

/// What follows which tokens.
#[derive(Clone)]
pub enum Model {
    /// Logits over ASCII and the ends of turn that depend on every token before them and its position.
    Hash,
    /// These tokens after the prompt, over and over.
    Script(Vec<u32>),
}

impl Model {
    pub fn logits(&self, tokens: &[u32], prompt_tokens: usize) -> Vec<f32> {
        let mut logits = vec![f32::NEG_INFINITY; VOCAB_SIZE];
        match self {
            Self::Hash => {
                let key = tokens.iter().fold(7u64, |key, &token| (uniform(key, token.into()) * 2f64.powi(53)) as u64);
                for id in (0..128).chain([EOS, EOS_TOO]) {
                    logits[id as usize] = (uniform(key, u64::from(id)) * 8.0) as f32;
                }
            }
            Self::Script(script) => logits[script[(tokens.len() - prompt_tokens) % script.len()] as usize] = 1.0,
        }
        logits
    }
}

/// Token ids below 256 are bytes; others have no text.
#[derive(Default)]
pub struct ByteText(Vec<u8>);

impl TextStream for ByteText {
    fn show_special_tokens(&mut self) {}

    fn push(&mut self, id: u32) -> String {
        self.0.extend(u8::try_from(id));
        let whole = match std::str::from_utf8(&self.0) {
            Ok(_) => self.0.len(),
            Err(error) => error.valid_up_to(),
        };
        let rest = self.0.split_off(whole);
        String::from_utf8(std::mem::replace(&mut self.0, rest)).unwrap()
    }

    fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.0)).into_owned()
    }
}

/// The first 128 ids as bytes.
pub struct Ascii;

impl TokenBytes for Ascii {
    fn token_bytes(&self, id: u32) -> &[u8] {
        const BYTES: [u8; 128] = {
            let mut bytes = [0; 128];
            let mut id = 0;
            while id < 128 {
                bytes[id] = id as u8;
                id += 1;
            }
            bytes
        };
        BYTES.get(id as usize..=id as usize).unwrap_or_default()
    }
}

/// Stores tokens instead of keys and values, and reads them back through the block tables.
pub struct FakeExecutor {
    config: Config,
    plan: Plan,
    model: Model,
    /// The prompt's length, for a script.
    prompt_tokens: usize,
    cache: Vec<Option<(usize, u32)>>,
    sampler: Sampler,
    outputs: Outputs,
}

impl FakeExecutor {
    pub fn new(model: Model, prompt_tokens: usize, cache_blocks: usize, max_batch_tokens: usize) -> Self {
        let config = Config {
            vocab_size: VOCAB_SIZE,
            hidden_size: 8,
            intermediate_size: 8,
            moe_intermediate_size: 8,
            num_hidden_layers: 1,
            first_k_dense_replace: 1,
            num_attention_heads: 1,
            num_key_value_heads: 1,
            head_dim: 8,
            n_routed_experts: 1,
            n_shared_experts: 1,
            num_experts_per_tok: 1,
            norm_topk_prob: true,
            routed_scaling_factor: 1.0,
            rms_norm_eps: 1e-5,
            rope_theta: 1e4,
            max_position_embeddings: 4096,
        };
        Self {
            config,
            plan: Plan { cache_blocks, max_batch_tokens, ..Plan::default() },
            model,
            prompt_tokens,
            cache: vec![None; cache_blocks * BLOCK_TOKENS],
            sampler: Sampler::default(),
            outputs: Outputs::default(),
        }
    }

    fn output(&mut self, slice: &Slice<'_>, want: &Want<'_>) -> Output {
        let length = slice.start + want.row + 1;
        let read = |position| self.cache[place(slice, position)].filter(|&(written, _)| written == position);
        let tokens: Vec<u32> =
            (0..length).map(|position| read(position).expect("a position is written before it is read").1).collect();
        let logits = self.model.logits(&tokens, self.prompt_tokens);
        let token = want.sample.map(|sampling| self.sampler.sample(&logits, &sampling));
        let logprobs = want.top_logprobs.map(|count| {
            let (log_sum_exp, top) = top_logprobs(&logits, count);
            Logprobs { sampled: token.map(|id| log_prob(logits[id as usize], log_sum_exp)), top }
        });
        let score = want.score.map(|id| log_prob_and_rank(&logits, id));
        // A state and a choice of experts that tell which tokens came before.
        let hidden = want.hidden.then(|| vec![length as f32, tokens[length - 1] as f32]);
        let experts = vec![(tokens[length - 1] % 8, 1.0), ((length % 8) as u32, 1.0)];
        let routing = want.routing.then(|| vec![LayerRouting { layer: 0, experts }]);
        Output { token, logprobs, score, hidden, routing, ..Output::default() }
    }
}

fn place(slice: &Slice<'_>, position: usize) -> usize {
    slice.block_table[position / BLOCK_TOKENS] as usize * BLOCK_TOKENS + position % BLOCK_TOKENS
}

impl Executor for FakeExecutor {
    fn config(&self) -> &Config {
        &self.config
    }

    fn plan(&self) -> Plan {
        self.plan
    }

    fn submit(&mut self, batch: &Batch<'_>) -> Result<Ticket, Error> {
        let tokens: usize = batch.slices.iter().map(|slice| slice.tokens.len()).sum();
        assert!(tokens > 0 && tokens <= self.plan.max_batch_tokens, "{tokens} tokens in a step");
        assert!(!batch.slices.iter().any(|slice| slice.tokens.contains(&PANIC)), "a token that panics");
        if batch.slices.iter().any(|slice| slice.tokens.contains(&POISON)) {
            return Err(Error::Memory("poisoned".to_owned()));
        }
        let mut written = HashSet::new();
        for slice in &batch.slices {
            for (position, &token) in (slice.start..).zip(slice.tokens) {
                let place = place(slice, position);
                assert!(written.insert(place), "two tokens in one place");
                if position % BLOCK_TOKENS == 0 {
                    self.cache[place..place + BLOCK_TOKENS].fill(None);
                }
                self.cache[place] = Some((position, token));
            }
        }
        self.outputs.rows.clear();
        for slice in &batch.slices {
            for want in slice.wants {
                let output = self.output(slice, want);
                self.outputs.rows.push(output);
            }
        }
        Ok(Ticket(0))
    }

    fn collect(&mut self, _ticket: Ticket) -> &Outputs {
        &self.outputs
    }

    fn copy_block(&mut self, _from: BlockId, _to: BlockId) {
        unreachable!("shared blocks are whole")
    }

    fn export_block(&self, block: BlockId, out: &mut Vec<u8>) {
        let at = block as usize * BLOCK_TOKENS;
        for place in &self.cache[at..at + BLOCK_TOKENS] {
            let (position, token) = place.unwrap_or_default();
            out.extend((position as u32).to_le_bytes());
            out.extend(token.to_le_bytes());
        }
    }

    fn import_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), Error> {
        let at = block as usize * BLOCK_TOKENS;
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        for (place, bytes) in self.cache[at..at + BLOCK_TOKENS].iter_mut().zip(bytes.chunks(8)) {
            *place = Some((number(&bytes[..4]) as usize, number(&bytes[4..])));
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub cache_blocks: usize,
    pub max_batch_tokens: usize,
    pub max_sequences: usize,
    pub speculate: bool,
}

pub const ROOMY: Size = Size { cache_blocks: 64, max_batch_tokens: 64, max_sequences: 8, speculate: false };

pub fn options(size: Size) -> EngineOptions {
    EngineOptions {
        max_model_len: 512,
        max_batch_tokens: size.max_batch_tokens,
        max_sequences: size.max_sequences,
        max_queue: 1024,
        speculate: size.speculate,
        spill: None,
        eos_token_ids: vec![EOS, EOS_TOO],
    }
}

pub fn limits(size: Size) -> Limits {
    Limits { vocab_size: VOCAB_SIZE, context_tokens: 512.min(size.cache_blocks * BLOCK_TOKENS) }
}

/// An engine that steps when it is told to, and checks its pool each time.
pub struct ManualEngine {
    pub stepper: Stepper,
    size: Size,
    places: Arc<Places>,
}

impl ManualEngine {
    pub fn new(size: Size) -> Self {
        Self::with_executor(FakeExecutor::new(Model::Hash, 0, size.cache_blocks, size.max_batch_tokens), size)
    }

    /// One that keeps its blocks on disk too.
    pub fn with_spill(size: Size, options: &SpillOptions) -> Self {
        let executor = FakeExecutor::new(Model::Hash, 0, size.cache_blocks, size.max_batch_tokens);
        let spill = Spill::open(options, 8 * BLOCK_TOKENS).unwrap();
        let stepper = Stepper::new(Box::new(executor), size.max_batch_tokens, size.max_sequences, Some(spill));
        Self { stepper, size, places: Places::new(1024) }
    }

    pub fn with_executor(executor: FakeExecutor, size: Size) -> Self {
        Self {
            stepper: Stepper::new(Box::new(executor), size.max_batch_tokens, size.max_sequences, None),
            size,
            places: Places::new(1024),
        }
    }

    pub fn submit(&mut self, request: Request) -> Result<Events, SubmitError> {
        let max_tokens = request.checked_max_tokens(&limits(self.size))?;
        let place = self.places.take(request.tenant)?;
        let (sequence, events) =
            prepare(request, max_tokens, &options(self.size), Box::new(ByteText::default()), place);
        self.stepper.scheduler.add(sequence);
        Ok(events)
    }

    /// What it holds, without what it has done.
    pub fn holds(&self) -> Stats {
        let Stats { running, waiting, free_blocks, total_blocks, .. } = self.stepper.stats();
        Stats { running, waiting, free_blocks, total_blocks, ..Stats::default() }
    }

    pub fn step(&mut self) {
        self.stepper.scheduler.remove_done();
        if !self.stepper.scheduler.is_idle() {
            self.stepper.step();
        }
        self.stepper.scheduler.check_integrity().unwrap();
    }

    pub fn run_until_idle(&mut self) {
        for _ in 0..100_000 {
            if self.stepper.scheduler.is_idle() {
                return;
            }
            self.step();
        }
        panic!("the engine never becomes idle");
    }
}

/// What has come since the last time.
pub fn come(events: &mut Events) -> Vec<Event> {
    let mut context = Context::from_waker(Waker::noop());
    std::iter::from_fn(|| match Pin::new(&mut *events).poll_next(&mut context) {
        Poll::Ready(event) => event,
        Poll::Pending => None,
    })
    .collect()
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub tokens: Vec<u32>,
    pub text: String,
    pub end: Result<FinishReason, Failure>,
}

/// Reads an answer to its end, and holds its events to their contract.
pub fn answer(mut events: Events, prompt_tokens: usize) -> Answer {
    let (mut tokens, mut text) = (Vec::new(), String::new());
    let end = loop {
        match events.blocking_next().expect("an answer ends with an event that says so") {
            Event::Token(token) => {
                tokens.push(token.id);
                text += &token.text;
            }
            Event::Prompt(_) | Event::Embedding(_) => panic!("nobody asked about the prompt"),
            Event::Finished(Finish { reason, text: rest, prompt_tokens: prompt, completion_tokens, .. }) => {
                assert_eq!((prompt, completion_tokens), (prompt_tokens, tokens.len()));
                text += &rest;
                break Ok(reason);
            }
            Event::Failed(reason) => break Err(reason),
        }
    };
    assert_eq!(events.blocking_next(), None);
    Answer { tokens, text, end }
}

/// The answer of [`Model::Hash`] to a request with a seed, by the shortest way: no cache, no batch, no streaming.
pub fn expected_answer(request: &Request, limits: &Limits) -> Answer {
    let mut tokens = request.prompt.clone();
    let longest = request.prompt.len() + request.checked_max_tokens(limits).unwrap();
    let settings = &request.sampling;
    let end_ids = [request.stop_token_ids.as_slice(), &[EOS, EOS_TOO]].concat();
    let mut history_bias = Vec::new();
    loop {
        HistoryPenalties::new(request, end_ids.clone()).bias(&tokens, &mut history_bias);
        let generated = &tokens[request.prompt.len()..];
        let mut seen: Vec<(u32, u32)> =
            tokens.iter().map(|&id| (id, generated.iter().filter(|&&other| other == id).count() as u32)).collect();
        seen.sort_unstable();
        seen.dedup();
        let sampling = Sampling {
            temperature: settings.temperature,
            top_p: settings.top_p,
            top_k: settings.top_k,
            min_p: settings.min_p,
            typical_p: settings.typical_p,
            xtc_probability: settings.xtc_probability,
            xtc_threshold: settings.xtc_threshold,
            seed: settings.seed.unwrap(),
            position: tokens.len() as u64,
            repetition_penalty: settings.repetition_penalty,
            presence_penalty: settings.presence_penalty,
            frequency_penalty: settings.frequency_penalty,
            seen: &seen,
            logit_bias: &settings.logit_bias,
            history_bias: &history_bias,
            mask: None,
        };
        let id = Sampler::default().sample(&Model::Hash.logits(&tokens, 0), &sampling);
        tokens.push(id);

        let generated = &tokens[request.prompt.len()..];
        let ends_turn = request.stop_token_ids.contains(&id) || (!request.ignore_eos && [EOS, EOS_TOO].contains(&id));
        let text_of =
            |ids: &[u32]| -> String { ids.iter().filter_map(|&id| u8::try_from(id).ok()).map(char::from).collect() };
        let before = text_of(&generated[..generated.len() - 1]);
        let text = if ends_turn && !request.include_stop { before.clone() } else { text_of(generated) };
        // A stop text that the last token completed.
        let may_end = generated.len() > request.min_tokens && text.len() > before.len();
        let stops = request.stop.iter().filter(|stop| may_end && text.ends_with(stop.as_str()));
        let cut = stops.map(|stop| text.len() - if request.include_stop { 0 } else { stop.len() }).min();
        if cut.is_some() || ends_turn || tokens.len() == longest {
            let is_stopped = cut.is_some() || ends_turn;
            return Answer {
                tokens: generated.to_vec(),
                text: text[..cut.unwrap_or(text.len())].to_owned(),
                end: Ok(if is_stopped { FinishReason::Stop } else { FinishReason::Length }),
            };
        }
    }
}
