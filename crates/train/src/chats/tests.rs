use std::{fs, path::Path};

use super::*;
use crate::{
    batches::Loader,
    order,
    recipe::tiny,
    run::{Feed, Sequences},
    schedule::Schedule,
    step::{NO_TARGET, NO_TOKEN},
};

const TOKENIZER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/goldens/hf");

fn recipe(folder: &Path, lines: &[(&str, &str)], phase: &str) -> Recipe {
    for (name, lines) in lines {
        fs::write(folder.join(format!("{name}.jsonl")), lines).unwrap();
    }
    let source = |(name, _): &(&str, &str)| {
        format!("[sources.{name}]\nchats = [{:?}]\n", folder.join(format!("{name}.jsonl")).display().to_string())
    };
    let sources: String = lines.iter().map(source).collect();
    tiny(&format!(
        r#"
{sources}
[arithmetic]
micro_batch_tokens = 128
[checkpoints]
every_tokens = 1000
[[phases]]
name = "sft"
kind = "sft"
sequence_tokens = 64
batch_tokens = 128
learning_rate = {{ from = 5e-3, to = 1e-3, shape = "cosine" }}
{phase}
"#
    ))
}

fn chat(turns: usize, nth: usize) -> String {
    let turn = |turn| {
        let (question, answer) = (format!("q{nth}.{turn}"), format!("a{nth}.{turn}"));
        serde_json::json!([{ "role": "user", "content": question }, { "role": "assistant", "content": answer }])
    };
    let messages: Vec<serde_json::Value> = (0..turns).flat_map(|nth| turn(nth).as_array().unwrap().clone()).collect();
    format!("{}\n", serde_json::json!({ "messages": messages }))
}

fn steps(recipe: &Recipe) -> (Schedule, Vec<Vec<Sequences>>) {
    let (schedule, order) = order::open(recipe, &Sampled::default(), 2).unwrap();
    let mut loader = Loader::new(recipe, &order).unwrap();
    let step = |step: u64, loader: &mut Loader<'_>| {
        let (totals, batches) = loader.step(step, &schedule.at(step).unwrap()).unwrap();
        let targets = batches.iter().flat_map(|batch| &batch.targets).filter(|target| **target != NO_TARGET).count();
        assert_eq!(totals.targets, targets as u64);
        batches
    };
    let all = (0..schedule.steps()).map(|nth| step(nth, &mut loader)).collect();
    (schedule, all)
}

#[test]
fn what_is_learnt_of_packed_chats_is_their_answers_each_as_often_as_the_epochs_say() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..40).map(|nth| chat(1 + nth % 3, nth)).collect();
    let tokenizer = Tokenizer::new(&TokenizerSource::of_folder(TOKENIZER.as_ref()).unwrap()).unwrap();
    let [prompt, end] = ["<|response|>", "<|endofresponse|>"].map(|token| tokenizer.token_id(token).unwrap());
    for attention in ["document", "sequence"] {
        let phase = format!("epochs = 2\nattention = \"{attention}\"\nmixture = {{ a = 1.0 }}");
        let recipe = recipe(folder.path(), &[("a", &lines)], &phase);
        let (schedule, steps) = steps(&recipe);
        let (mut learnt, mut padding) = (String::new(), 0);
        for batch in steps.iter().flatten() {
            assert_eq!(batch.tokens.len() % 64, 0);
            for (at, (&token, &target)) in batch.tokens.iter().zip(&batch.targets).enumerate() {
                let (sequence, place) = (at / 64 * 64, at % 64);
                let from = batch.attend_from[at] as usize;
                if token == NO_TOKEN {
                    padding += 1;
                    assert!(
                        target == NO_TARGET && batch.tokens[at..sequence + 64].iter().all(|token| *token == NO_TOKEN)
                    );
                    assert!(from > 0 && batch.tokens[sequence + from] == NO_TOKEN);
                    continue;
                }
                if attention == "document" {
                    // A chat sees itself from its first question on.
                    assert_eq!(tokenizer.token_bytes(batch.tokens[sequence + from]), b"<|userprompt|>");
                    assert!(from == 0 || batch.tokens[sequence + from - 1] == end);
                } else {
                    assert_eq!(from, 0);
                }
                assert!(token != prompt || target != NO_TARGET, "an answer's first token is learnt");
                if target != NO_TARGET {
                    assert_eq!(target, batch.tokens[sequence + place + 1]);
                    learnt.push_str(std::str::from_utf8(tokenizer.token_bytes(target)).unwrap());
                }
            }
        }
        let mut found: Vec<&str> = learnt.split_terminator("<|endofresponse|>").collect();
        found.sort_unstable();
        let answers = (0..40).flat_map(|nth| (0..1 + nth % 3).map(move |turn| format!("a{nth}.{turn}")));
        // The last step is whole, so some of a third epoch may be seen.
        let mut more = 0;
        for answer in answers {
            let count = found.iter().filter(|other| **other == answer).count();
            assert!((2..=3).contains(&count), "{answer} {count}");
            more += usize::from(count == 3);
        }
        assert!(more < 20 && padding * 3 < schedule.tokens(), "{more} {padding}");
    }
}

#[test]
fn a_source_is_gone_through_as_often_as_its_share_says() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..60).map(|nth| chat(2, nth)).collect();
    let phase = "epochs = 1\nmixture = { a = 1.0, b = 3.0 }";
    let recipe = recipe(folder.path(), &[("a", &lines), ("b", &lines)], phase);
    let (schedule, order) = order::open(&recipe, &Sampled::default(), 1).unwrap();
    let sequences = schedule.tokens() / 64;
    let mut seen = [0, 0];
    for index in 0..sequences {
        let pieces = order.sample(0, index);
        assert_eq!(pieces, order.sample(0, index));
        seen[pieces[0].source] += pieces.len();
        for piece in &pieces {
            let name = order.chats()[piece.source].name();
            assert!(order.seen(name, piece.shard, piece.document).iter().any(|seen| seen.sequence == index));
        }
    }
    assert!((58..=66).contains(&seen[0]) && (174..=190).contains(&seen[1]), "{seen:?}");
    assert!(order.seen("a", 1, 0).is_empty() && order.seen("a", 0, 60).is_empty() && order.seen("c", 0, 0).is_empty());
}

#[test]
fn long_chats_are_cut_and_what_cannot_be_learnt_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let long = format!(
        "{}\n",
        serde_json::json!({ "messages": [
        { "role": "user", "content": "why ".repeat(200) }, { "role": "assistant", "content": "because" },
    ] })
    );
    let lines = [chat(20, 1), chat(1, 2), long.clone()].concat();
    let phase = "epochs = 1\nmixture = { a = 1.0 }";
    let (_, order) = order::open(&recipe(folder.path(), &[("a", &lines)], phase), &Sampled::default(), 1).unwrap();
    assert_eq!(order.shortened().collect::<Vec<_>>(), [("sft", "a", 3, 1, 1)]);
    assert_eq!(order.sample(0, 0).iter().chain(&order.sample(0, 1)).map(|piece| piece.tokens).max(), Some(64));
    let error =
        order::open(&recipe(folder.path(), &[("a", &long)], phase), &Sampled::default(), 1).unwrap_err().to_string();
    assert!(error.contains("source a: expected a chat with an answer within its first 64 tokens"), "{error}");
}

#[test]
fn a_line_that_is_no_chat_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (line, expected) in [
        ("{\"text\": \"x\"}", "expected a chat, `messages` with a role and a content each, found no list"),
        ("{\"messages\": []}", "expected at least one answer"),
        ("{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}", "expected at least one answer"),
        ("{\"messages\": [{\"content\": \"x\"}]}", "expected a text as `role` of message 1, found none"),
        ("{\"messages\": [{\"role\": \"assistant\"}]}", "expected a text as `content` of message 1, found none"),
        ("{\"messages\": [{\"role\": \"assistant\", \"content\": \"x\", \"tool_calls\": [7]}]}", "calls with a name"),
        (
            "{\"messages\": [{\"role\": \"a b\", \"content\": \"x\"}, {\"role\": \"assistant\", \"content\": \"x\"}]}",
            "role",
        ),
        ("nothing", "expected a JSON object"),
    ] {
        let lines = format!("{}\n{line}\n", chat(1, 0));
        let recipe = recipe(folder.path(), &[("a", &lines)], "epochs = 1\nmixture = { a = 1.0 }");
        let error = order::open(&recipe, &Sampled::default(), 2).unwrap_err().to_string();
        assert!(error.contains("a.jsonl: line 3: ") && error.contains(expected), "{line}: {error}");
    }
}
