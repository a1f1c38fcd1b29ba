//! What a request wants to know about its tokens beside the ones that are sampled.

use dots_model::executor::{Output, Want};

use crate::request::{Pooling, PromptList, PromptToken, Request, Routing, RoutingOf};

/// Gathers, row by row and in order, what was asked about a sequence's tokens.
#[derive(Debug)]
pub(crate) struct Notes {
    prompt_tokens: usize,
    prompt_logprobs: Option<usize>,
    pooling: Option<Pooling>,
    /// Positions below this were noted. They may come again after a preemption, and are then passed over.
    noted_tokens: usize,
    prompt: Vec<Option<PromptToken>>,
    pooled: Vec<f64>,
    routing: Option<Routing>,
    /// The first position whose experts are asked for.
    routing_from: usize,
}

impl Notes {
    pub fn new(request: &Request) -> Self {
        Self {
            prompt_tokens: request.prompt.len(),
            prompt_logprobs: request.prompt_logprobs,
            pooling: request.pooling,
            noted_tokens: 0,
            prompt: Vec::new(),
            pooled: Vec::new(),
            routing: (request.routing != RoutingOf::Nothing).then(Routing::default),
            routing_from: if request.routing == RoutingOf::Answer { request.prompt.len() } else { 0 },
        }
    }

    /// Positions that need not be computed again, where the cache has them: all, unless something is asked about each.
    pub fn dispensable_tokens(&self) -> usize {
        let asks_of_prompt = self.prompt_logprobs.is_some() || self.pooling == Some(Pooling::Mean);
        if asks_of_prompt {
            self.noted_tokens
        } else if self.routing.is_some() {
            self.noted_tokens.max(self.routing_from)
        } else {
            usize::MAX
        }
    }

    /// What the row at `position` of `tokens` is asked for, its sampled token aside.
    pub fn want(&self, position: usize, tokens: &[u32]) -> Option<Want<'static>> {
        if position < self.noted_tokens {
            return None;
        }
        let next = tokens.get(position + 1).filter(|_| position + 1 < self.prompt_tokens).copied();
        let score = next.filter(|_| self.prompt_logprobs.is_some());
        let hidden = match self.pooling {
            Some(Pooling::Mean) => position < self.prompt_tokens,
            Some(Pooling::Last) => position + 1 == self.prompt_tokens,
            None => false,
        };
        let want = Want {
            score,
            top_logprobs: self.prompt_logprobs.filter(|_| score.is_some()),
            hidden,
            routing: self.routing.is_some() && position >= self.routing_from,
            ..Want::default()
        };
        (score.is_some() || hidden || want.routing).then_some(want)
    }

    /// Notes what the row at `position` of `tokens` gave.
    pub fn take(&mut self, position: usize, tokens: &[u32], output: &Output) {
        if position < self.noted_tokens {
            return;
        }
        if let (Some((logprob, rank)), Some(&id)) = (output.score, tokens.get(position + 1)) {
            let top = output.logprobs.as_ref().map(|logprobs| logprobs.top.clone()).unwrap_or_default();
            self.prompt.push(Some(PromptToken { id, logprob, rank, top }));
        }
        if let Some(hidden) = &output.hidden {
            self.pooled.resize(hidden.len(), 0.0);
            self.pooled.iter_mut().zip(hidden).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        if let (Some(routing), Some(layers)) = (&mut self.routing, &output.routing) {
            if routing.layers.is_empty() {
                routing.layers = layers.iter().map(|layer| layer.layer).collect();
            }
            let experts = layers.iter().flat_map(|layer| &layer.experts);
            routing.experts.extend(experts.map(|&(expert, _)| expert as u16));
        }
    }

    /// Says that every position below `tokens` has been taken.
    pub fn advance(&mut self, tokens: usize) {
        self.noted_tokens = self.noted_tokens.max(tokens);
    }

    /// The prompt's log-probabilities, once.
    pub fn take_prompt(&mut self) -> Option<PromptList> {
        self.prompt_logprobs.take()?;
        let found = std::mem::take(&mut self.prompt);
        Some(std::iter::once(None).chain(found).collect())
    }

    /// The prompt's embedding, once.
    pub fn take_embedding(&mut self) -> Option<Vec<f32>> {
        let count = match self.pooling.take()? {
            Pooling::Mean => self.prompt_tokens as f64,
            Pooling::Last => 1.0,
        };
        Some(self.pooled.iter().map(|sum| (sum / count) as f32).collect())
    }

    /// The experts that were asked for, once.
    pub fn take_routing(&mut self) -> Option<Routing> {
        self.routing.take()
    }

    /// Whether rows that are computed on trial would be asked for more than a token.
    pub fn is_about_every_token(&self) -> bool {
        self.routing.is_some()
    }
}
