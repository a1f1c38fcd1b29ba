//! One request on its way through the steps.

use dots_model::executor::{BlockId, Output, Sampling, Slice, Want};
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    blocks::blocks_for,
    constraint::AnswerConstraint,
    penalties::HistoryPenalties,
    request::{Event, Finish, FinishReason, Request, SamplingParams, TokenEvent, TokenLogprobs},
    text::AnswerText,
};

pub(crate) struct Sequence {
    /// The prompt, then what was generated.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    max_tokens: usize,
    /// Tokens whose keys and values are in the cache.
    computed_tokens: usize,
    pub block_table: Vec<BlockId>,
    sampling: SamplingParams,
    seed: u64,
    /// Tokens so far by id, with how often each was generated; kept only where a penalty asks for it.
    seen: Vec<(u32, u32)>,
    penalties: HistoryPenalties,
    /// What they say of the next token.
    history_bias: Vec<(u32, f32)>,
    logprobs: Option<usize>,
    constraint: Option<AnswerConstraint>,
    stop_token_ids: Vec<u32>,
    answer: AnswerText,
    events: UnboundedSender<Event>,
    is_finished: bool,
}

impl Sequence {
    /// `stop_token_ids`: all that apply, the model's own included.
    pub fn new(
        request: Request,
        max_tokens: usize,
        seed: u64,
        stop_token_ids: Vec<u32>,
        mut penalties: HistoryPenalties,
        answer: AnswerText,
        events: UnboundedSender<Event>,
    ) -> Self {
        let mut history_bias = Vec::new();
        penalties.bias(&request.prompt, &mut history_bias);
        let mut seen = Vec::new();
        if request.sampling.penalises_seen_tokens() {
            seen.extend(request.prompt.iter().map(|&id| (id, 0)));
            seen.sort_unstable();
            seen.dedup();
        }
        Self {
            prompt_tokens: request.prompt.len(),
            tokens: request.prompt,
            max_tokens,
            computed_tokens: 0,
            block_table: Vec::new(),
            sampling: request.sampling,
            seed,
            seen,
            penalties,
            history_bias,
            logprobs: request.logprobs,
            constraint: request.constraint.map(|constraint| constraint.begin()),
            stop_token_ids,
            answer,
            events,
            is_finished: false,
        }
    }

    /// Blocks that hold the sequence at its longest.
    pub fn blocks_needed(&self) -> usize {
        blocks_for(self.prompt_tokens + self.max_tokens)
    }

    /// Tokens still to be computed: one while decoding, more while the prompt is being read.
    pub fn pending_tokens(&self) -> usize {
        self.tokens.len() - self.computed_tokens
    }

    /// Whether nobody waits for more: the answer is complete, or whoever asked hung up.
    pub fn is_done(&self) -> bool {
        self.is_finished || self.events.is_closed()
    }

    /// A sampled token, where the next `chunk` tokens are the last pending ones.
    pub fn want(&self, chunk: usize) -> Option<Want<'_>> {
        if chunk < self.pending_tokens() {
            return None;
        }
        let sampling = Sampling {
            temperature: self.sampling.temperature,
            top_p: self.sampling.top_p,
            top_k: self.sampling.top_k,
            min_p: self.sampling.min_p,
            typical_p: self.sampling.typical_p,
            xtc_probability: self.sampling.xtc_probability,
            xtc_threshold: self.sampling.xtc_threshold,
            seed: self.seed,
            position: self.tokens.len() as u64,
            repetition_penalty: self.sampling.repetition_penalty,
            presence_penalty: self.sampling.presence_penalty,
            frequency_penalty: self.sampling.frequency_penalty,
            seen: &self.seen,
            logit_bias: &self.sampling.logit_bias,
            history_bias: &self.history_bias,
            mask: self.constraint.as_ref().map(AnswerConstraint::mask),
        };
        let (row, sample) = (chunk - 1, Some(sampling));
        Some(Want { row, sample, top_logprobs: self.logprobs, ..Want::default() })
    }

    /// The next `chunk` tokens.
    pub fn slice<'a>(&'a self, chunk: usize, wants: &'a [Want<'a>]) -> Slice<'a> {
        let start = self.computed_tokens;
        Slice { tokens: &self.tokens[start..start + chunk], start, block_table: &self.block_table, wants }
    }

    /// Notes that `chunk` tokens are in the cache; whether a token was sampled after them.
    pub fn advance(&mut self, chunk: usize) -> bool {
        self.computed_tokens += chunk;
        chunk > 0 && self.pending_tokens() == 0
    }

    /// Takes the sampled token and says what it means for the answer.
    pub fn accept(&mut self, output: &Output) {
        let Some(id) = output.token else { return self.fail("the executor sampled no token") };
        self.tokens.push(id);
        self.penalties.bias(&self.tokens, &mut self.history_bias);
        if self.sampling.penalises_seen_tokens() {
            match self.seen.binary_search_by_key(&id, |&(seen, _)| seen) {
                Ok(index) => self.seen[index].1 += 1,
                Err(index) => self.seen.insert(index, (id, 1)),
            }
        }

        let ends_turn = self.stop_token_ids.contains(&id);
        let is_complete = match &mut self.constraint {
            Some(constraint) if !ends_turn => match constraint.accept(id) {
                Ok(is_complete) => is_complete,
                Err(reason) => return self.fail(&format!("the answer's form: {reason}")),
            },
            _ => false,
        };
        let (text, has_stop_text) = if ends_turn { self.answer.push_end(id) } else { self.answer.push(id) };
        let logprobs = output
            .logprobs
            .as_ref()
            .filter(|_| self.logprobs.is_some())
            .and_then(|logprobs| Some(TokenLogprobs { logprob: logprobs.sampled?, top: logprobs.top.clone() }));
        self.tell(Event::Token(TokenEvent { id, text, logprobs }));

        let completion_tokens = self.tokens.len() - self.prompt_tokens;
        if ends_turn || is_complete || has_stop_text || completion_tokens == self.max_tokens {
            let (text, ends_in_stop_text) = if has_stop_text { Default::default() } else { self.answer.finish() };
            let is_stop = ends_turn || is_complete || has_stop_text || ends_in_stop_text;
            let reason = if is_stop { FinishReason::Stop } else { FinishReason::Length };
            let prompt_tokens = self.prompt_tokens;
            self.tell(Event::Finished(Finish { reason, text, prompt_tokens, completion_tokens }));
            self.is_finished = true;
        }
    }

    /// Ends the sequence with an error.
    pub fn fail(&mut self, reason: &str) {
        self.tell(Event::Failed(reason.to_owned()));
        self.is_finished = true;
    }

    fn tell(&self, event: Event) {
        // Nobody listens after a cancellation, which `is_done` finds.
        let _ = self.events.send(event);
    }
}
