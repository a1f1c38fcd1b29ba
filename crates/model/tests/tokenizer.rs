//! The tokenizer against ids that independent implementations give.

mod common;

use common::{golden, hugging_face, ids, json, qwen2_json, qwen2_vocabulary, text};
use dots_model::{
    checkpoint::TokenizerSource,
    tokenizer::{Detokenizer, Specials, Tokenizer},
};
use proptest::prelude::*;
use serde_json::{Value, json as value};

/// Qwen2 as a GGUF file has it, with two more special tokens, a user-defined one and one unused.
fn qwen2_gguf(bos: Option<u32>) -> TokenizerSource {
    let (mut tokens, merges) = qwen2_vocabulary();
    let mut types = vec![1; tokens.len()];
    for (token, kind) in [("<|endoftext|>", 3), ("<|response|>", 3), ("<|tool|>", 4), ("[PAD151646]", 5)] {
        tokens.push(token.into());
        types.push(kind);
    }
    TokenizerSource::Gguf { path: "m.gguf".into(), pre: "qwen2".into(), tokens, types, merges, bos }
}

#[test]
fn every_qwen2_vector_holds_from_tokenizer_json_and_from_gguf_metadata() {
    let json_tokenizer = Tokenizer::new(&hugging_face(qwen2_json(), None)).unwrap();
    let gguf_tokenizer = Tokenizer::new(&qwen2_gguf(None)).unwrap();
    let vectors = json("qwen2-tokenizer/vectors.json");
    for vector in vectors.as_array().unwrap() {
        let text = vector["text"].as_str().unwrap();
        let expected = ids(&vector["ids"]);
        for tokenizer in [&json_tokenizer, &gguf_tokenizer] {
            for specials in [Specials::Parse, Specials::AsText] {
                assert_eq!(tokenizer.encode(text, specials), expected, "{text:?}");
            }
            if vector["note"].is_null() {
                assert_eq!(tokenizer.decode(&expected), text);
            }
        }
    }
    assert!(vectors.as_array().unwrap().iter().any(|vector| vector["note"] == "changes under NFC"));
}

#[test]
fn decomposed_text_has_the_ids_of_composed_text() {
    let tokenizer = Tokenizer::new(&qwen2_gguf(None)).unwrap();
    // e and U+0301; the jamo of 한; A and the ring, and the ångström sign.
    for (decomposed, composed) in
        [("cafe\u{301}", "caf\u{e9}"), ("\u{1112}\u{1161}\u{11ab}", "\u{d55c}"), ("A\u{30a}\u{212b}", "\u{c5}\u{c5}")]
    {
        assert_eq!(tokenizer.encode(decomposed, Specials::Parse), tokenizer.encode(composed, Specials::Parse));
    }
    // The file's own "café" and "한" vectors begin so.
    assert_eq!(tokenizer.encode("cafe\u{301}", Specials::Parse), [924, 58858]);
    assert_eq!(tokenizer.encode("\u{1112}\u{1161}\u{11ab}", Specials::Parse), [23573]);
}

#[test]
fn gguf_token_types_are_kept_apart() {
    let tokenizer = Tokenizer::new(&qwen2_gguf(None)).unwrap();
    assert_eq!(tokenizer.vocab_size(), 151_646);
    assert!(tokenizer.is_special(151_644) && !tokenizer.is_special(151_645) && !tokenizer.is_special(151_646));
    assert_eq!(tokenizer.encode("<|response|>", Specials::Parse), [151_644]);
    assert_eq!(tokenizer.encode("a<|tool|>", Specials::AsText), [64, 151_645]);
    assert!(!tokenizer.encode("<|response|>", Specials::AsText).contains(&151_644));
    assert!(!tokenizer.encode("[PAD151646]", Specials::Parse).contains(&151_646));
    assert_eq!(tokenizer.decode(&[64, 151_644, 151_645, 151_646, 4_000_000_000]), "a<|tool|>");
    assert_eq!(tokenizer.token_bytes(151_644), b"<|response|>");
    assert_eq!(tokenizer.token_bytes(151_646), b"");
}

#[test]
fn a_bos_comes_only_where_the_files_ask_for_it() {
    assert_eq!(Tokenizer::new(&qwen2_gguf(Some(151_643))).unwrap().encode("a", Specials::AsText), [151_643, 64]);
    assert_eq!(golden().encode("The", Specials::Parse), [284]);

    let with = |config: Value| {
        Tokenizer::new(&hugging_face(text("goldens/hf/tokenizer.json"), Some(config)))
            .unwrap()
            .encode("The", Specials::Parse)
    };
    assert_eq!(with(value!({"bos_token": "<|system|>"})), [284]);
    assert_eq!(with(value!({"bos_token": "<|system|>", "add_bos_token": false})), [284]);
    assert_eq!(with(value!({"bos_token": {"content": "<|system|>"}, "add_bos_token": true})), [501, 284]);
    assert_eq!(with(value!({"bos_token": null, "add_bos_token": true})), [284]);

    let mut file = json("goldens/hf/tokenizer.json");
    file["post_processor"] = value!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|system|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [], "special_tokens": {}
    });
    let tokenizer = Tokenizer::new(&hugging_face(file.to_string(), None)).unwrap();
    assert_eq!(tokenizer.encode("The", Specials::Parse), [501, 284]);
}

#[test]
fn the_golden_texts_have_their_ids_and_the_golden_ids_their_text() {
    let tokenizer = golden();
    let golden = json("goldens/hf/golden.json");
    for case in golden["cases"].as_array().unwrap() {
        assert_eq!(tokenizer.encode(case["text"].as_str().unwrap(), Specials::Parse), ids(&case["ids"]));
        assert_eq!(tokenizer.decode(&ids(&case["greedy_24"])), case["greedy_text"].as_str().unwrap());
    }
    for (token, id) in golden["special_ids"].as_object().unwrap() {
        let id = id.as_u64().unwrap() as u32;
        assert_eq!(tokenizer.token_id(token), Some(id));
        assert!(tokenizer.is_special(id));
        assert_eq!(tokenizer.encode(token, Specials::Parse), [id]);
        let spelt = tokenizer.encode(token, Specials::AsText);
        assert!(spelt.iter().all(|&id| !tokenizer.is_special(id)));
        assert_eq!(tokenizer.decode(&spelt), *token);
    }
    assert_eq!(tokenizer.vocab_size(), 507);
}

#[test]
fn added_tokens_keep_the_ids_of_their_file_behind_a_gap() {
    let mut file = json("goldens/hf/tokenizer.json");
    for added in file["added_tokens"].as_array_mut().unwrap() {
        added["id"] = (added["id"].as_u64().unwrap() + 1000).into();
    }
    let tokenizer = Tokenizer::new(&hugging_face(file.to_string(), None)).unwrap();
    assert_eq!(tokenizer.encode("The<|response|>", Specials::Parse), [284, 1505]);
    assert_eq!(tokenizer.vocab_size(), 1507);
    assert_eq!(tokenizer.decode(&[284, 700]), "The");
}

#[test]
fn tokens_that_the_config_names_are_special_whatever_tokenizer_json_says() {
    let mut file = json("goldens/hf/tokenizer.json");
    for added in file["added_tokens"].as_array_mut().unwrap() {
        added["special"] = false.into();
    }
    let config = value!({
        "eos_token": "<|endofresponse|>",
        "added_tokens_decoder": {"505": {"content": "<|response|>", "lstrip": false, "normalized": false,
            "rstrip": false, "single_word": false, "special": true}}
    });
    let tokenizer = Tokenizer::new(&hugging_face(file.to_string(), Some(config))).unwrap();
    assert!(tokenizer.is_special(506) && tokenizer.is_special(505) && !tokenizer.is_special(504));
    assert_eq!(tokenizer.encode("<|endofuserprompt|>", Specials::AsText), [504]);
    assert!(!tokenizer.encode("<|endofresponse|>", Specials::AsText).contains(&506));
}

#[test]
fn a_whole_word_lookup_cannot_reach_a_special_token() {
    // `ignore_merges` takes a piece that is in the vocabulary as it stands; the special token is in the vocabulary here,
    // and without a pre-tokenizer that cuts at punctuation the piece is the token's text.
    let mut file = json("goldens/hf/tokenizer.json");
    file["model"]["ignore_merges"] = true.into();
    file["model"]["vocab"]["<|response|>"] = 505.into();
    file["pre_tokenizer"] =
        value!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let tokenizer = Tokenizer::new(&hugging_face(file.to_string(), None)).unwrap();
    assert!(!tokenizer.encode("<|response|>", Specials::AsText).contains(&505));
    assert_eq!(tokenizer.encode("<|response|>", Specials::Parse), [505]);
}

#[test]
fn a_character_in_pieces_waits_until_it_is_whole() {
    let tokenizer = Tokenizer::new(&qwen2_gguf(None)).unwrap();
    // 🦙 is three tokens after a space: " \xf0\x9f\xa6", "\x99" for Qwen2's split of it.
    let ids = tokenizer.encode(" 🦙!", Specials::AsText);
    let mut stream = tokenizer.stream();
    let parts: Vec<String> = ids.iter().map(|&id| stream.push(&tokenizer, id)).collect();
    assert!(parts.iter().all(|part| !part.contains('\u{fffd}')), "{parts:?}");
    assert!(parts.iter().any(String::is_empty), "{parts:?}");
    assert_eq!(parts.concat(), " 🦙!");
    assert_eq!(stream.finish(), "");

    let mut stream = tokenizer.stream();
    let cut: String = ids[..2].iter().map(|&id| stream.push(&tokenizer, id)).collect();
    assert_eq!((cut.as_str(), stream.finish().as_str()), (" ", "\u{fffd}"));
    assert_eq!(stream, Detokenizer::default());
}

#[test]
fn special_tokens_have_their_text_where_asked() {
    let tokenizer = golden();
    let ids = tokenizer.encode("<|userprompt|>hi<|endofuserprompt|>", Specials::Parse);
    let text = |mut stream: Detokenizer| -> String { ids.iter().map(|&id| stream.push(tokenizer, id)).collect() };
    assert_eq!(text(Detokenizer::default()), "hi");
    assert_eq!(text(Detokenizer::with_special_tokens()), "<|userprompt|>hi<|endofuserprompt|>");
}

#[test]
fn a_megabyte_of_one_kind_is_encoded_without_loss() {
    let tokenizer = golden();
    for unit in ["a", " ", "\n", "'", "不", "<|"] {
        let text = unit.repeat(1_000_000 / unit.len());
        assert_eq!(tokenizer.decode(&tokenizer.encode(&text, Specials::AsText)), text);
    }
}

proptest! {
    #[test]
    fn a_stream_joined_is_the_whole_decoded(ids in prop::collection::vec(0u32..520, 0..60)) {
        let tokenizer = golden();
        let mut stream = tokenizer.stream();
        let mut joined: String = ids.iter().map(|&id| stream.push(tokenizer, id)).collect();
        joined += &stream.finish();
        prop_assert_eq!(joined, tokenizer.decode(&ids));
    }

    #[test]
    fn any_text_comes_back_and_holds_no_special_token(text in "(<\\|(response|system)\\|>|[ -~]|\\PC|\\s){0,40}") {
        let tokenizer = golden();
        let ids = tokenizer.encode(&text, Specials::AsText);
        prop_assert!(ids.iter().all(|&id| !tokenizer.is_special(id)));
        prop_assert_eq!(tokenizer.decode(&ids), text);
    }
}
