//! What the tokens so far say about the next one: an end that would come too early, a word that may not be completed, a
//! repetition that may not go on.

use std::sync::Arc;

use crate::{
    dry::{self, Dry},
    request::Request,
};

/// The settings of one answer that look at the tokens so far. What they say is a function of those tokens alone (Law 2);
/// what they remember of the tokens before only saves looking again.
#[derive(Debug, Default)]
pub(crate) struct HistoryPenalties {
    prompt_tokens: usize,
    min_tokens: usize,
    end_ids: Vec<u32>,
    bad_words: Arc<[Vec<u32>]>,
    dry: Dry,
    dry_memory: dry::Memory,
}

impl HistoryPenalties {
    /// `end_ids`: all that end an answer, also where the request asks to go on past them, as in vLLM.
    pub fn new(request: &Request, end_ids: Vec<u32>) -> Self {
        Self {
            prompt_tokens: request.prompt.len(),
            min_tokens: request.min_tokens,
            end_ids,
            bad_words: request.sampling.bad_words.clone(),
            dry: request.sampling.dry.clone(),
            dry_memory: dry::Memory::default(),
        }
    }

    /// Whether anything is asked of them.
    pub fn look_back(&self) -> bool {
        self.min_tokens > 0 || !self.bad_words.is_empty() || self.dry.multiplier > 0.0
    }

    /// Leaves in `bias` what is added to the logits of the token after `tokens` (prompt and answer), an id perhaps more
    /// than once; negative infinity forbids it.
    ///
    /// The tokens of one call begin with those of the call before.
    ///
    /// A bad word's last token is forbidden where the answer ends with its others, as in vLLM: the prompt does not count.
    pub fn bias(&mut self, tokens: &[u32], bias: &mut Vec<(u32, f32)>) {
        bias.clear();
        let answer = &tokens[self.prompt_tokens..];
        if answer.len() < self.min_tokens {
            bias.extend(self.end_ids.iter().map(|&id| (id, f32::NEG_INFINITY)));
        }
        for word in self.bad_words.iter() {
            if let Some((&last, others)) = word.split_last()
                && answer.ends_with(others)
            {
                bias.push((last, f32::NEG_INFINITY));
            }
        }
        self.dry.charge(tokens, &mut self.dry_memory, bias);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SamplingParams;

    fn bias_after(request: &Request, answer: &[u32]) -> Vec<(u32, f32)> {
        let mut bias = vec![(1, 1.0)];
        let tokens = [request.prompt.as_slice(), answer].concat();
        HistoryPenalties::new(request, vec![90, 91]).bias(&tokens, &mut bias);
        bias
    }

    fn forbidden_after(request: &Request, answer: &[u32]) -> Vec<u32> {
        let bias = bias_after(request, answer);
        assert!(bias.iter().all(|&(_, bias)| bias == f32::NEG_INFINITY));
        bias.into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn ends_are_forbidden_until_there_are_enough_tokens() {
        let request = Request { prompt: vec![1, 2, 3], min_tokens: 2, ..Request::default() };
        assert_eq!(forbidden_after(&request, &[]), [90, 91]);
        assert_eq!(forbidden_after(&request, &[5]), [90, 91]);
        assert!(forbidden_after(&request, &[5, 5]).is_empty());
    }

    #[test]
    fn a_bad_words_last_token_is_forbidden_after_its_others() {
        let bad_words = [vec![7], vec![1, 2, 3], vec![2, 4], vec![]].into();
        let sampling = SamplingParams { bad_words, ..SamplingParams::default() };
        let request = Request { prompt: vec![1, 2], sampling, ..Request::default() };
        assert_eq!(forbidden_after(&request, &[]), [7], "the prompt does not count");
        assert_eq!(forbidden_after(&request, &[2]), [7, 4]);
        assert_eq!(forbidden_after(&request, &[1, 2]), [7, 3, 4]);
        assert_eq!(forbidden_after(&request, &[1, 2, 9]), [7]);
    }

    #[test]
    fn repetitions_of_the_prompt_count_and_all_penalties_come_together() {
        let dry = Dry { multiplier: 2.0, ..Dry::default() };
        let sampling = SamplingParams { dry, bad_words: [vec![6, 3]].into(), ..SamplingParams::default() };
        let request = Request { prompt: vec![5, 6, 3], sampling, min_tokens: 9, ..Request::default() };
        let forbidden = f32::NEG_INFINITY;
        assert_eq!(bias_after(&request, &[5, 6]), [(90, forbidden), (91, forbidden), (3, forbidden), (3, -2.0)]);
    }
}
