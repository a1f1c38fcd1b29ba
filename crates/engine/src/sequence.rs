//! One request on its way through the steps.

use std::time::Instant;

use dots_model::executor::{BLOCK_TOKENS, BlockId, Output, Sampling, Slice, Want};
use tokio::sync::mpsc::UnboundedSender;
use tracing::Span;

use crate::{
    blocks::blocks_for,
    constraint::AnswerConstraint,
    notes::Notes,
    outstanding,
    penalties::HistoryPenalties,
    prefix::{BlockName, BlockNames},
    request::{Event, Failure, Finish, FinishReason, Request, SamplingParams, Stop, Timing, TokenEvent, TokenLogprobs},
    speculate::{Cost, Lookup},
    text::AnswerText,
    turn::Turn,
};

/// Whoever asked.
pub(crate) struct Caller {
    /// The answer as they read it.
    pub answer: AnswerText,
    /// Where they listen.
    pub events: UnboundedSender<Event>,
    /// The place that they hold among those who ask.
    pub place: outstanding::Place,
    /// What their lines in the log stand under: a request's id, where it has one.
    pub span: Span,
}

pub(crate) struct Sequence {
    /// The prompt, then what was generated, then what is drafted.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    drafted_tokens: usize,
    max_tokens: usize,
    /// Tokens whose keys and values are in the cache.
    computed_tokens: usize,
    /// Blocks that hold these tokens and the next; position `p` lies in block `p / BLOCK_TOKENS`.
    pub block_table: Vec<BlockId>,
    names: BlockNames,
    /// Blocks whose content the pool knows.
    pub named_blocks: usize,
    /// Blocks behind what is computed that are on disk and will be read.
    pub restorable_blocks: usize,
    /// Tokens of the prompt that were in the cache when the sequence first ran.
    cached_tokens: Option<usize>,
    /// Its turn, given by the queue and kept while it runs.
    pub turn: Option<Turn>,
    priority: i32,
    tenant: u64,
    deadline: Option<Instant>,
    sampling: SamplingParams,
    seed: u64,
    /// Tokens so far by id, with how often each was generated; kept only where a penalty asks for it.
    seen: Vec<(u32, u32)>,
    penalties: HistoryPenalties,
    /// What they say of the next token.
    history_bias: Vec<(u32, f32)>,
    logprobs: Option<usize>,
    constraint: Option<AnswerConstraint>,
    notes: Notes,
    /// Where drafts come from; `None` where the engine does not speculate.
    pub lookup: Option<Lookup>,
    stop_token_ids: Vec<u32>,
    eos_token_ids: Vec<u32>,
    answer: AnswerText,
    submitted: Instant,
    first_step: Option<Instant>,
    first_token: Option<Instant>,
    events: UnboundedSender<Event>,
    is_finished: bool,
    span: Span,
    _outstanding: outstanding::Place,
}

impl Sequence {
    /// `eos_token_ids`: those of the model that end this answer.
    pub fn new(
        request: Request,
        max_tokens: usize,
        seed: u64,
        eos_token_ids: Vec<u32>,
        mut penalties: HistoryPenalties,
        caller: Caller,
    ) -> Self {
        let mut history_bias = Vec::new();
        penalties.bias(&request.prompt, &mut history_bias);
        let mut seen = Vec::new();
        if request.sampling.penalises_seen_tokens() {
            seen.extend(request.prompt.iter().map(|&id| (id, 0)));
            seen.sort_unstable();
            seen.dedup();
        }
        let mut names = BlockNames::new(request.cache_salt.as_deref());
        names.extend(&request.prompt);
        Self {
            notes: Notes::new(&request),
            prompt_tokens: request.prompt.len(),
            tokens: request.prompt,
            drafted_tokens: 0,
            max_tokens,
            computed_tokens: 0,
            block_table: Vec::new(),
            names,
            named_blocks: 0,
            restorable_blocks: 0,
            cached_tokens: None,
            turn: None,
            priority: request.priority,
            tenant: request.tenant,
            deadline: request.deadline,
            sampling: request.sampling,
            seed,
            seen,
            penalties,
            history_bias,
            logprobs: request.logprobs,
            constraint: request.constraint.map(|constraint| constraint.begin()),
            lookup: None,
            stop_token_ids: request.stop_token_ids,
            eos_token_ids,
            answer: caller.answer,
            submitted: Instant::now(),
            first_step: None,
            first_token: None,
            events: caller.events,
            is_finished: false,
            span: caller.span,
            _outstanding: caller.place,
        }
    }

    pub fn priority(&self) -> i32 {
        self.priority
    }

    pub fn tenant(&self) -> u64 {
        self.tenant
    }

    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The prompt and what was generated.
    pub fn committed_tokens(&self) -> &[u32] {
        &self.tokens[..self.tokens.len() - self.drafted_tokens]
    }

    pub fn computed_tokens(&self) -> usize {
        self.computed_tokens
    }

    /// Tokens still to be computed: one while decoding, more while the prompt is being read or a draft is tried.
    pub fn pending_tokens(&self) -> usize {
        self.tokens.len() - self.computed_tokens
    }

    /// Whether what is left is one sampled token, and a draft perhaps.
    pub fn is_decoding(&self) -> bool {
        self.pending_tokens() == 1 + self.drafted_tokens
    }

    /// Blocks that are missing before `pending` tokens more can be computed.
    pub fn missing_blocks(&self, pending: usize) -> usize {
        blocks_for(self.computed_tokens + pending).saturating_sub(self.block_table.len())
    }

    /// Names of the full blocks of the prompt and of what was generated, in order.
    pub fn names(&self) -> &[BlockName] {
        self.names.as_slice()
    }

    /// Names of the blocks that need not be computed, where the cache has them: at least one token always is, since an answer
    /// begins with what follows it.
    pub fn shareable_names(&self) -> &[BlockName] {
        let tokens = (self.tokens.len() - 1).min(self.notes.dispensable_tokens());
        let names = self.names.as_slice();
        &names[..(tokens / BLOCK_TOKENS).min(names.len())]
    }

    /// Starts on `blocks`, of which the first `shared` hold its first tokens already.
    pub fn begin(&mut self, shared: usize, blocks: Vec<BlockId>) {
        self.named_blocks = shared;
        self.computed_tokens = shared * BLOCK_TOKENS;
        self.cached_tokens.get_or_insert(self.computed_tokens.min(self.prompt_tokens));
        self.block_table = blocks;
        let queued_ms =
            self.first_step.get_or_insert_with(Instant::now).duration_since(self.submitted).as_millis() as u64;
        let (tokens, cached_tokens) = (self.committed_tokens().len(), self.computed_tokens);
        self.span.in_scope(|| tracing::debug!(tokens, cached_tokens, queued_ms, "begins"));
    }

    /// Notes that the next block was read from disk.
    pub fn restored(&mut self) {
        self.restorable_blocks -= 1;
        self.computed_tokens += BLOCK_TOKENS;
        let computed = self.computed_tokens.min(self.prompt_tokens);
        self.cached_tokens = self.cached_tokens.map(|cached| cached.max(computed));
    }

    /// Gives its blocks up and all that was computed; what was generated stays.
    pub fn preempt(&mut self) -> Vec<BlockId> {
        self.discard_draft();
        let lost_tokens = self.computed_tokens;
        self.span.in_scope(|| tracing::debug!(lost_tokens, "stopped for others"));
        self.restorable_blocks = 0;
        self.computed_tokens = 0;
        std::mem::take(&mut self.block_table)
    }

    /// Whether nobody waits for more: the answer is complete, or whoever asked hung up.
    pub fn is_done(&self) -> bool {
        self.is_finished || self.events.is_closed()
    }

    /// Ends the sequence where its deadline has passed.
    pub fn check_deadline(&mut self, now: Instant) {
        if !self.is_finished && self.deadline.is_some_and(|deadline| deadline <= now) {
            self.fail(Failure::Deadline);
        }
    }

    /// Whether tokens may be tried before they are known: not where the choice of one depends on the count of those before.
    pub fn may_draft(&self) -> bool {
        let looks_back = self.sampling.penalises_seen_tokens() || self.penalties.look_back();
        self.is_decoding() && !looks_back && self.constraint.is_none() && !self.notes.is_about_every_token()
    }

    /// Tokens that may still be generated.
    pub fn remaining_tokens(&self) -> usize {
        self.max_tokens + self.prompt_tokens - self.committed_tokens().len()
    }

    /// Drafts what is likely to follow, as long as `cost` says that it pays in a step of `rows` rows; how many tokens.
    pub fn draft(&mut self, cost: &Cost, rows: usize) -> usize {
        self.discard_draft();
        let may_draft = self.may_draft();
        // The last token of an answer needs no draft behind it.
        let limit = self.remaining_tokens().saturating_sub(1);
        let Some(lookup) = &mut self.lookup else { return 0 };
        let wished = if may_draft { cost.draft_tokens(rows, lookup).min(limit) } else { 0 };
        let proposal = lookup.propose(&self.tokens, wished.max(1));
        let draft = proposal[..proposal.len().min(wished)].to_vec();
        self.drafted_tokens = draft.len();
        self.tokens.extend(draft);
        self.drafted_tokens
    }

    /// Forgets what was drafted.
    pub fn discard_draft(&mut self) {
        self.tokens.truncate(self.tokens.len() - self.drafted_tokens);
        self.drafted_tokens = 0;
    }

    /// What the next `chunk` tokens are asked for: a sampled token after the last of the sequence and after each drafted one,
    /// and what the request wants to know beside.
    pub fn wants(&self, chunk: usize) -> Vec<Want<'_>> {
        let start = self.computed_tokens;
        let committed = self.committed_tokens().len();
        let rows = start..start + chunk;
        rows.filter_map(|position| {
            let row = position - start;
            let is_sampled = position + 1 >= committed && self.max_tokens > 0;
            let noted = self.notes.want(position, &self.tokens);
            let want = if is_sampled {
                let (sample, top_logprobs) = (Some(self.sampling(position + 1)), self.logprobs);
                Want { row, sample, top_logprobs, ..noted.unwrap_or_default() }
            } else {
                Want { row, ..noted? }
            };
            Some(want)
        })
        .collect()
    }

    fn sampling(&self, position: usize) -> Sampling<'_> {
        Sampling {
            temperature: self.sampling.temperature,
            top_p: self.sampling.top_p,
            top_k: self.sampling.top_k,
            min_p: self.sampling.min_p,
            typical_p: self.sampling.typical_p,
            xtc_probability: self.sampling.xtc_probability,
            xtc_threshold: self.sampling.xtc_threshold,
            seed: self.seed,
            position: position as u64,
            repetition_penalty: self.sampling.repetition_penalty,
            presence_penalty: self.sampling.presence_penalty,
            frequency_penalty: self.sampling.frequency_penalty,
            seen: &self.seen,
            logit_bias: &self.sampling.logit_bias,
            history_bias: &self.history_bias,
            mask: self.constraint.as_ref().map(AnswerConstraint::mask),
        }
    }

    /// The next `chunk` tokens.
    pub fn slice<'a>(&'a self, chunk: usize, wants: &'a [Want<'a>]) -> Slice<'a> {
        let start = self.computed_tokens;
        Slice { tokens: &self.tokens[start..start + chunk], start, block_table: &self.block_table, wants }
    }

    /// Notes that `chunk` tokens were computed, and takes what their `rows` gave. The tokens that were sampled and kept.
    pub fn take(&mut self, chunk: usize, rows: &[usize], outputs: &[Output]) -> usize {
        let start = self.computed_tokens;
        let drafted = self.drafted_tokens;
        let committed = self.tokens.len() - drafted;
        let mut outputs = rows.iter().map(|row| start + row).zip(outputs).peekable();

        while let Some((position, output)) = outputs.next_if(|(position, _)| position + 1 < committed) {
            self.notes.take(position, &self.tokens, output);
        }
        let draft = self.tokens.split_off(committed);
        self.drafted_tokens = 0;
        self.computed_tokens = committed.min(start + chunk);
        let mut sampled = 0;
        for (position, output) in outputs {
            self.notes.take(position, &self.tokens, output);
            self.notes.advance(self.computed_tokens);
            if position + 1 == self.prompt_tokens {
                self.finish_prompt();
            }
            if self.is_finished || self.max_tokens == 0 {
                break;
            }
            self.accept(output);
            sampled += 1;
            // A drafted token stays when it is the one that was sampled; then so does what was computed after it.
            let is_right = self.tokens.last().is_some_and(|token| draft.get(sampled - 1) == Some(token));
            if self.is_finished || !is_right {
                break;
            }
            self.computed_tokens += 1;
        }
        self.notes.advance(self.computed_tokens);
        if self.computed_tokens >= self.prompt_tokens {
            self.finish_prompt();
        }
        self.names.extend(&self.tokens[..self.computed_tokens]);
        sampled
    }

    /// Tells what was asked about the prompt; the end, where nothing else was.
    fn finish_prompt(&mut self) {
        if let Some(prompt) = self.notes.take_prompt() {
            self.tell(Event::Prompt(prompt));
        }
        if let Some(embedding) = self.notes.take_embedding() {
            self.tell(Event::Embedding(embedding));
        }
        if self.max_tokens == 0 && !self.is_finished {
            self.finish(FinishReason::Length, None, String::new());
        }
    }

    /// Takes a sampled token and says what it means for the answer.
    fn accept(&mut self, output: &Output) {
        let Some(id) = output.token else {
            return self.fail(Failure::Step("the executor sampled no token".to_owned()));
        };
        self.first_token.get_or_insert_with(Instant::now);
        self.tokens.push(id);
        self.penalties.bias(&self.tokens, &mut self.history_bias);
        if let Some(lookup) = &mut self.lookup {
            lookup.learn(id);
        }
        if self.sampling.penalises_seen_tokens() {
            match self.seen.binary_search_by_key(&id, |&(seen, _)| seen) {
                Ok(index) => self.seen[index].1 += 1,
                Err(index) => self.seen.insert(index, (id, 1)),
            }
        }

        let stop_id = self.stop_token_ids.contains(&id).then_some(Stop::Token(id));
        let ends_turn = stop_id.is_some() || self.eos_token_ids.contains(&id);
        let is_complete = match &mut self.constraint {
            Some(constraint) if !ends_turn => match constraint.accept(id) {
                Ok(is_complete) => is_complete,
                Err(reason) => return self.fail(Failure::Form(reason)),
            },
            _ => false,
        };
        let (text, stop_text) = if ends_turn { self.answer.push_end(id) } else { self.answer.push(id) };
        let logprobs = output
            .logprobs
            .as_ref()
            .filter(|_| self.logprobs.is_some())
            .and_then(|logprobs| Some(TokenLogprobs { logprob: logprobs.sampled?, top: logprobs.top.clone() }));
        self.tell(Event::Token(TokenEvent { id, text, logprobs }));

        if let Some(stop) = stop_text {
            self.finish(FinishReason::Stop, Some(Stop::Text(stop)), String::new());
        } else if ends_turn || is_complete || self.remaining_tokens() == 0 {
            let (text, stop_text) = self.answer.finish();
            let stop = stop_id.or(stop_text.map(Stop::Text));
            let is_stop = ends_turn || is_complete || stop.is_some();
            self.finish(if is_stop { FinishReason::Stop } else { FinishReason::Length }, stop, text);
        }
    }

    fn finish(&mut self, reason: FinishReason, stop: Option<Stop>, text: String) {
        let routing = self.notes.take_routing();
        let (tokens, ms) =
            (self.committed_tokens().len() - self.prompt_tokens, self.submitted.elapsed().as_millis() as u64);
        self.span.in_scope(|| tracing::debug!(?reason, tokens, ms, "ends"));
        self.tell(Event::Finished(Finish {
            reason,
            stop,
            text,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens.unwrap_or(0),
            completion_tokens: self.committed_tokens().len() - self.prompt_tokens,
            timing: self.timing(),
            routing,
        }));
        self.is_finished = true;
    }

    fn timing(&self) -> Timing {
        let now = Instant::now();
        let first_step = self.first_step.unwrap_or(now);
        let first_token = self.first_token.unwrap_or(now);
        Timing {
            queued: first_step - self.submitted,
            prefill: first_token.saturating_duration_since(first_step),
            decode: now - first_token,
        }
    }

    /// Ends the sequence without its answer.
    pub fn fail(&mut self, failure: Failure) {
        self.span.in_scope(|| match &failure {
            Failure::Step(error) => tracing::error!(error, "cannot be computed"),
            failure => tracing::debug!(%failure, "ends"),
        });
        self.tell(Event::Failed(failure));
        self.is_finished = true;
    }

    fn tell(&self, event: Event) {
        // Nobody listens after a cancellation, which `is_done` finds.
        let _ = self.events.send(event);
    }
}
