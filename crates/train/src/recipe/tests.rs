use super::*;
use crate::checkpoint::{CheckpointError, Published, publish};

const SMALL: &str = r#"
name = "small"
seed = 7
[model]
preset = "dots"
layers = 8
width = 256
experts = 32
expert_width = 96
vocab_size = 8192
context = 2048
[tokenizer]
path = "tokenizer"
[sources.en]
shards = ["data/en"]
[sources.zh]
shards = "data/zh"
[sources.chat]
chats = ["chat.jsonl"]
[[phases]]
name = "stable"
tokens = "40M"
sequence_tokens = 512
batch_tokens = [{ from = 0, tokens = "4Ki" }, { from = "1M", tokens = "8Ki" }]
warmup_steps = 100
learning_rate = 3e-4
mixture = { en = 0.5, zh = 0.5 }
[[phases]]
name = "sft"
kind = "sft"
epochs = 2
sequence_tokens = 512
batch_tokens = 8192
learning_rate = { from = 5e-6, to = 1e-6, shape = "cosine" }
mixture = { chat = 2 }
bias_rate = 0
[checkpoints]
every_tokens = "1M"
[validation]
every_tokens = "500k"
tokens = "64k"
sources = ["en"]
"#;

fn parse(text: &str) -> Result<Recipe, String> {
    Recipe::parse(text, Path::new("small.toml")).map_err(|error| error.to_string())
}

fn small() -> Recipe {
    parse(SMALL).unwrap()
}

#[test]
fn the_dials_give_the_24_4_m_shape() {
    let recipe = small();
    let config = &recipe.model.config;
    assert_eq!(format!("{:.1}", config.parameters().total as f64 / 1e6), "24.4");
    assert_eq!((config.num_attention_heads, config.num_key_value_heads, config.head_dim), (8, 8, 32));
    assert_eq!((config.intermediate_size, config.moe_intermediate_size), (704, 96));
    assert_eq!((config.num_experts_per_tok, config.n_shared_experts, config.first_k_dense_replace), (6, 2, 1));
    assert_eq!(recipe.model.initial_deviation, 0.024);
}

#[test]
fn without_dials_the_preset_is_dots_llm1_itself() {
    let dials = "preset = \"dots\"\n";
    let start = SMALL.find("layers").unwrap();
    let end = SMALL.find("[tokenizer]").unwrap();
    let recipe = parse(&format!("{}{dials}{}", &SMALL[..start].replace(dials, ""), &SMALL[end..])).unwrap();
    assert_eq!(recipe.model.config, dots_model::Config::dots_llm1());
    assert_eq!(recipe.model.initial_deviation, 0.006);
}

#[test]
fn what_is_left_out_is_the_reports() {
    let recipe = small();
    let Optimizer { beta1, beta2, epsilon, weight_decay, clip } = recipe.optimizer;
    assert_eq!((beta1, beta2, epsilon, weight_decay, clip), (0.9, 0.95, 1e-8, 0.1, 1.0));
    assert_eq!((recipe.balance.bias_rate, recipe.balance.sequence_loss), (1e-3, 1e-4));
    let [stable, sft] = &recipe.phases[..] else { panic!() };
    assert_eq!((stable.bias_rate, stable.kind, stable.attention), (1e-3, Kind::Pretrain, Attention::Document));
    assert_eq!((sft.bias_rate, sft.kind, sft.length), (0.0, Kind::Sft, Length::Epochs(2.0)));
    assert_eq!(stable.batch, [BatchStage { from: 0, tokens: 4096 }, BatchStage { from: 1_000_000, tokens: 8192 }]);
    assert_eq!(stable.learning_rate, Rate { from: 3e-4, to: 3e-4, shape: Shape::Constant });
}

#[test]
fn the_canonical_form_reads_to_itself_and_to_the_same_hash() {
    let recipe = small();
    let again = parse(&recipe.canonical()).unwrap();
    assert_eq!(again.canonical(), recipe.canonical());
    assert_eq!(again.hash(), recipe.hash());
    assert_eq!((&again.phases, &again.model, &again.sources), (&recipe.phases, &recipe.model, &recipe.sources));
    assert_eq!(recipe.hash().len(), 64);
    // What only looks different is the same run.
    let looks = SMALL
        .replace("\"40M\"", "40_000_000 # as many")
        .replace("learning_rate = 3e-4", "learning_rate = { from = 0.0003 }");
    assert_eq!(parse(&looks).unwrap().hash(), recipe.hash());
}

#[test]
fn awkward_paths_survive_the_canonical_form() {
    let odd = "a \\\" b\\\\c\\n\\u007f\\u0001 é";
    let recipe = parse(&SMALL.replace("data/en", odd)).unwrap();
    let again = parse(&recipe.canonical()).unwrap();
    assert_eq!(again.sources, recipe.sources);
    let chinese =
        parse(&SMALL.replace("[sources.zh]", "[sources.'中文']").replace("zh = 0.5", "'中文' = 0.5")).unwrap();
    assert_eq!(parse(&chinese.canonical()).unwrap().phases, chinese.phases);
    assert_eq!(again.sources["en"], Source::Shards(vec![PathBuf::from("a \" b\\c\n\u{7f}\u{1} é")]));
}

#[test]
fn set_changes_what_follows_from_it_too() {
    let mut recipe = small();
    let before = recipe.hash();
    recipe.set("phases.0.learning_rate", "1e-4").unwrap();
    recipe.set("phases.sft.learning_rate.to", "2e-6").unwrap();
    recipe.set("model.width", "512").unwrap();
    recipe.set("phases.stable.mixture.en", "3").unwrap();
    recipe.set("tokenizer.path", "other/folder").unwrap();
    recipe.set("phases.0.tokens", "41M").unwrap();
    assert_eq!(recipe.phases[0].learning_rate.from, 1e-4);
    assert_eq!(recipe.phases[1].learning_rate.to, 2e-6);
    assert_eq!(recipe.model.config.intermediate_size, 1376);
    assert_eq!((recipe.phases[0].mixture["en"], recipe.phases[0].mixture["zh"]), (3.0, 0.5));
    assert_eq!(recipe.tokenizer, Path::new("other/folder"));
    assert_eq!(recipe.phases[0].length, Length::Tokens(41_000_000));
    assert_ne!(recipe.hash(), before);
    // Ranks are how a run learns, and not what.
    let (before, text) = (recipe.hash(), recipe.canonical());
    recipe.set("ranks.data", "2").unwrap();
    assert!(recipe.hash() == before && recipe.canonical() != text);
}

#[test]
fn a_rate_said_as_a_number_can_be_given_its_ends() {
    let mut recipe = small();
    assert!(recipe.set("phases.0.learning_rate.to", "1e-5").unwrap_err().to_string().contains("shape"));
    recipe.set("phases.0.learning_rate.from", "1e-4").unwrap();
    assert_eq!(recipe.phases[0].learning_rate, Rate { from: 1e-4, to: 1e-4, shape: Shape::Constant });
}

#[test]
fn a_wrong_set_is_named_and_changes_nothing() {
    let mut recipe = small();
    let before = recipe.hash();
    for (key, value, said) in [
        ("phases.0.learning_rate", "-1", "--set: phases.0.learning_rate: expected a number from 0 on, found -1"),
        ("phases.7.tokens", "1", "--set: phases.7.tokens: expected keys of tables"),
        ("phases.nobody.tokens", "1", "leads nowhere"),
        ("phases.0", "1", "leads nowhere"),
        ("name.more", "1", "leads nowhere"),
        ("", "1", "leads nowhere"),
        ("model..width", "1", "leads nowhere"),
        ("optimiser.beta1", "0.8", "--set: optimiser: unknown key; the nearest known one is 'optimizer'"),
        ("model.hidden_size", "512", "the nearest known one is 'width'"),
        ("ranks.data", "1000000", "--set: ranks.data: expected a whole number from 1 to 65536, found 1000000"),
    ] {
        let error = recipe.set(key, value).unwrap_err().to_string();
        assert!(error.contains(said), "{key}={value}: {error}");
    }
    assert_eq!(recipe.hash(), before);
}

#[test]
fn what_is_wrong_is_named_with_its_line_and_what_would_be_right() {
    for (from, to, said) in [
        ("seed = 7", "sede = 7", "small.toml:3: sede: unknown key; the nearest known one is 'seed'"),
        ("seed = 7", "seed = -7", "small.toml:3: seed: expected a whole number from 0 to"),
        ("seed = 7", "seed = 99999999999999999999", "found 99999999999999999999"),
        ("seed = 7", "seed = 1979-05-27", "found 1979-05-27"),
        ("seed = 7", "seed = ", "small.toml:3: "),
        ("name = \"small\"", "", "small.toml: name: expected 1 to 100 letters"),
        ("name = \"small\"", "name = \"../x\"", "small.toml:2: name: expected"),
        ("layers = 8", "layers = 0", "small.toml:6: model.layers: expected a whole number from 1 to 4096, found 0"),
        ("layers = 8", "num_hidden_layers = 8", "the nearest known one is 'layers'"),
        ("width = 256", "width = 256\nhead_width = 31", "model.head_width: expected an even number, found 31"),
        ("experts = 32", "experts = 32\ntop_k = 33", "model.top_k: expected 1 to 32, found 33"),
        ("layers = 8", "layers = 8\ninitial_deviation = nan", "expected a number above 0, found NaN"),
        ("shards = \"data/zh\"", "shards = []", "sources.zh.shards: expected at least one path"),
        (
            "shards = \"data/zh\"",
            "files = \"x\"",
            "sources.zh.shards: expected prefixes of shards, or files as chats, or a file of problems, found nothing",
        ),
        ("[sources.zh]", "[sources.\"z h\"]", "sources.z h: expected a name"),
        ("tokens = \"40M\"", "tokens = \"40Q\"", "phases.0.tokens: expected a whole number such as"),
        ("tokens = \"40M\"", "", "phases.0.tokens: expected"),
        ("tokens = \"40M\"", "epochs = 1", "phases.0.epochs: expected tokens in its place"),
        ("epochs = 2", "epochs = 2\ntokens = 1", "phases.1.epochs: expected epochs or tokens, found both"),
        (
            "batch_tokens = 8192",
            "batch_tokens = 8000",
            "expected whole sequences of 512 tokens, at least one for each data rank, such as 8192, found 8000",
        ),
        ("from = 0,", "from = 1,", "phases.0.batch_tokens.0.from: expected 0 in the first stage, found 1"),
        ("from = \"1M\"", "from = 0", "phases.0.batch_tokens.1.from: expected more than 0"),
        (
            "sequence_tokens = 512",
            "sequence_tokens = 4096",
            "phases.0.sequence_tokens: expected 2 to 2048, the model's context, found 4096",
        ),
        (
            "mixture = { en = 0.5, zh = 0.5 }",
            "mixture = { en = 0.5, fr = 0.5 }",
            "expected sources of the recipe (chat, en, zh), found \"fr\"",
        ),
        ("mixture = { en = 0.5, zh = 0.5 }", "mixture = { chat = 1 }", "expected sources of shards"),
        ("mixture = { en = 0.5, zh = 0.5 }", "mixture = { en = 0 }", "a table of numbers above 0"),
        ("mixture = { en = 0.5, zh = 0.5 }", "mixture = {}", "at least one source"),
        ("mixture = { chat = 2 }", "mixture = { en = 2 }", "expected sources of chats"),
        ("shape = \"cosine\"", "shape = \"cosin\"", "expected \"constant\" or \"linear\" or \"cosine\""),
        ("shape = \"cosine\"", "shape = \"constant\"", "as a constant rate has it"),
        ("shape = \"cosine\"", "form = \"cosine\"", "phases.1.learning_rate.shape: expected"),
        ("name = \"sft\"", "name = \"stable\"", "\"stable\" twice"),
        (
            "warmup_steps = 100",
            "utk = { chunks = 4 }\nattention = \"document\"",
            "phases.0.utk: expected none, or attention = \"sequence\"",
        ),
        ("every_tokens = \"1M\"", "", "checkpoints.every_tokens: expected"),
        (
            "sources = [\"en\"]",
            "sources = [\"chat\"]",
            "validation.sources: expected names of sources of shards, found \"chat\"",
        ),
        (
            "[checkpoints]",
            "[ranks]\ndata = 2\nexpert = 3\n[checkpoints]",
            "ranks.expert: expected a divisor of the 32 experts and of the 2 data ranks, found 3",
        ),
        (
            "[checkpoints]",
            "[ranks]\ninterleave = 2\n[checkpoints]",
            "ranks.interleave: expected 1, or pipeline above 1",
        ),
        (
            "[checkpoints]",
            "[ranks]\ndata = 64\n[checkpoints]",
            "at least one for each data rank, such as 32768, found 4096",
        ),
    ] {
        assert!(SMALL.contains(from), "{from}");
        let error = parse(&SMALL.replacen(from, to, 1)).unwrap_err();
        assert!(error.contains(said), "{to}: {error}");
    }
}

#[test]
fn a_phase_with_utk_attends_to_the_sequence() {
    let recipe = parse(&SMALL.replace("warmup_steps = 100", "utk = { chunks = 4 }")).unwrap();
    assert_eq!(recipe.phases[0].attention, Attention::Sequence);
    assert_eq!(recipe.phases[0].utk, Some(Utk { chunks: 4 }));
    assert_eq!(parse(&recipe.canonical()).unwrap().phases, recipe.phases);
}

#[test]
fn a_model_may_start_from_a_checkpoint_and_needs_it_only_once() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/goldens/hf");
    let start = SMALL.find("preset").unwrap();
    let end = SMALL.find("[tokenizer]").unwrap();
    let model = |start_at: &str| format!("{}start = {start_at:?}\ncontext = 512\n{}", &SMALL[..start], &SMALL[end..]);
    let text = model(folder.to_str().unwrap());
    let recipe = parse(&text).unwrap();
    let config = dots_model::Checkpoint::open(&folder).unwrap().config;
    assert_eq!(recipe.model.config, dots_model::Config { max_position_embeddings: 512, ..config });
    let moved = recipe.canonical().replace(folder.to_str().unwrap(), "gone");
    assert_eq!(parse(&moved).unwrap().model.config, recipe.model.config);
    assert!(parse(&model("gone")).unwrap_err().starts_with("model.start: gone"));
}

#[test]
fn a_file_that_is_none_or_too_long_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.toml");
    assert!(Recipe::load(&path).unwrap_err().to_string().contains("r.toml"));
    fs::write(&path, "#".repeat(1 << 21)).unwrap();
    assert!(Recipe::load(&path).unwrap_err().to_string().contains("at most 1048576 bytes"));
    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(Recipe::load(&path).unwrap_err().to_string().contains("UTF-8"));
    fs::write(&path, "[".repeat(100_000)).unwrap();
    Recipe::load(&path).unwrap_err();
    fs::write(&path, SMALL).unwrap();
    assert_eq!(Recipe::load(&path).unwrap().hash(), small().hash());
}

#[test]
fn what_two_recipes_say_differently_is_named_as_set_takes_it() {
    let (before, mut after) = (small(), small());
    assert_eq!(before.changes(&after), []);
    after.set("phases.stable.learning_rate.from", "1e-4").unwrap();
    after.set("phases.stable.learning_rate.to", "1e-4").unwrap();
    after.set("phases.stable.batch_tokens", "[{ from = 0, tokens = 4096 }]").unwrap();
    after.set("sources.zh.shards", "elsewhere").unwrap();
    let changes = before.changes(&after);
    let found: Vec<_> = changes.iter().map(|it| (it.key.as_str(), it.before.as_str(), it.after.as_str())).collect();
    assert_eq!(
        found,
        [
            ("phases.stable.batch_tokens.1.from", "1000000", "nothing"),
            ("phases.stable.batch_tokens.1.tokens", "8192", "nothing"),
            ("phases.stable.learning_rate.from", "0.0003", "0.0001"),
            ("phases.stable.learning_rate.to", "0.0003", "0.0001"),
            ("sources.zh.shards.0", "\"data/zh\"", "\"elsewhere\""),
        ]
    );
}

#[test]
fn spikes_are_doubted_as_the_recipe_says() {
    let Spike { on, deviations, nats, window } = small().spike;
    assert_eq!((on, deviations, nats, window), (true, 8.0, 1.0, 100));
    let recipe = parse(&format!("{SMALL}[spike]\non = false\nnats = 0.5\n")).unwrap();
    assert_eq!((recipe.spike.on, recipe.spike.nats), (false, 0.5));
    let error = parse(&format!("{SMALL}[spike]\ndeviation = 3\n")).unwrap_err();
    assert!(error.contains("spike.deviation: unknown key; the nearest known one is 'deviations'"), "{error}");
}

/// `small()`, started from a checkpoint that two experts were added to; `model` goes into its `[model]`.
fn grown(model: &str) -> Result<Recipe, String> {
    // A kept recipe says every dial, and needs no folder to be read.
    parse(&small().canonical().replace("[model]\n", &format!("[model]\nstart = \"grown\"\n{model}\n")))
}

#[test]
fn what_is_frozen_is_all_but_the_new_experts_and_their_rows() {
    let model = grown("new_experts = 2\nfreeze = \"all\"").unwrap().model;
    let rows = |name: &str, rows| model.frozen_rows(&format!("model.{name}.weight"), rows);
    for name in [
        "embed_tokens",
        "norm",
        "layers.0.mlp.up_proj",
        "layers.3.self_attn.q_proj",
        "layers.3.mlp.shared_experts.down_proj",
        "layers.3.mlp.experts.29.gate_proj",
    ] {
        assert_eq!(rows(name, 96), 96, "{name}");
    }
    assert_eq!(model.frozen_rows("lm_head.weight", 8192), 8192);
    assert_eq!(rows("layers.3.mlp.experts.30.gate_proj", 96), 0);
    assert_eq!(rows("layers.3.mlp.gate", 32), 30);
    assert_eq!([model.balanced(false), model.balanced(true)], [[30, 30], [30, 32]]);

    let model = grown("new_experts = 2\nfreeze = [\"experts\", \"norms\"]").unwrap().model;
    let rows = |name: &str| model.frozen_rows(name, 32);
    assert_eq!(rows("model.layers.3.mlp.gate.weight"), 0);
    assert_eq!(rows("model.layers.3.self_attn.k_norm.weight"), 32);
    assert_eq!([model.balanced(false), model.balanced(true)], [[0, 30], [0, 32]]);
    assert_eq!([false, true].map(|settled| small().model.balanced(settled)), [[0, 32]; 2]);
}

#[test]
fn what_is_said_of_new_experts_is_kept_and_what_makes_no_sense_is_refused() {
    let recipe = grown("new_experts = 2\nfreeze = [\"routers\", \"embedding\"]").unwrap();
    assert_eq!(recipe.model.freeze, [Part::Embedding, Part::Routers]);
    assert_eq!(parse(&recipe.canonical()).unwrap().canonical(), recipe.canonical());
    assert!(recipe.canonical().contains("settle_tokens"));
    assert!(!small().canonical().contains("settle_tokens"), "a recipe without them reads as it did");
    for (model, expected) in [
        ("new_experts = 32", "model.new_experts: expected a whole number from 0 to 31, found 32"),
        ("freeze = \"all\"", "model.freeze: expected something left to learn, such as new_experts above 0"),
        ("freeze = [\"expert\"]", "shared_experts, experts, routers, all, found \"expert\""),
    ] {
        let error = grown(model).unwrap_err();
        assert!(error.contains(expected), "{model}: {error}");
    }
    let error = parse(&SMALL.replace("context = 2048", "context = 2048\nnew_experts = 2")).unwrap_err();
    assert!(error.contains("model.new_experts: expected start beside it"), "{error}");
    let error = parse(&format!("{SMALL}[balance]\nsettle_tokens = 5\n")).unwrap_err();
    assert!(error.contains("balance.settle_tokens: expected model.new_experts beside it"), "{error}");
}

#[test]
fn problems_are_a_source_that_needs_a_model_to_answer_them() {
    let with = |more: &str| {
        let text = SMALL.replace("mixture = { chat = 2 }", "mixture = { chat = 2, sums = 1 }");
        parse(&format!("{text}[sources.sums]\nproblems = \"sums.jsonl\"\n{more}\n"))
    };
    let recipe = with("samples = 16").unwrap();
    let expected = Sampling {
        problems: "sums.jsonl".into(),
        samples: 16,
        keep: 4,
        temperature: 1.0,
        top_p: 1.0,
        max_tokens: 1024,
        test_seconds: 5,
    };
    assert_eq!(recipe.sources["sums"], Source::Problems(expected));
    assert_eq!(parse(&recipe.canonical()).unwrap().canonical(), recipe.canonical());
    for (more, said) in [
        ("temperature = 0", "sources.sums.temperature: expected a number above 0, up to 100, found 0"),
        ("top_p = 1.5", "sources.sums.top_p: expected a number above 0, up to 1"),
        ("chats = \"x\"", "sources.sums.chats: expected shards or chats or problems, found both"),
        ("sample = 3", "sources.sums.sample: unknown key; the nearest known one is 'samples'"),
    ] {
        let error = with(more).unwrap_err();
        assert!(error.contains(said), "{more}: {error}");
    }
    let first = SMALL.replace("mixture = { en = 0.5, zh = 0.5 }", "kind = \"sft\"\nmixture = { sums = 1 }");
    let error = parse(&format!("{first}[sources.sums]\nproblems = \"sums.jsonl\"\n")).unwrap_err();
    assert!(error.contains("phases.0.mixture: expected a phase before it, or model.start"), "{error}");
}

#[test]
fn heads_that_are_wider_than_training_computes_are_refused_a_starts_too() {
    let error = small().set("model.head_width", "256").unwrap_err().to_string();
    assert!(error.contains("model.head_width: expected an even number of at most 128"), "{error}");
    assert!(error.contains("found 256"), "{error}");

    let folder = tempfile::tempdir().unwrap();
    let start = folder.path().join("wide");
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/goldens/hf");
    let config = dots_model::Config { head_dim: 160, ..small().model.config };
    let about = Published { config: &config, tokenizer: &tokenizer, lineage: &serde_json::Map::new() };
    let zeros = &mut |_: &str, shape: &[usize]| Ok::<_, CheckpointError>(vec![0.0; shape.iter().product()]);
    publish(&start, &about, zeros).unwrap();
    let (head, rest) = SMALL.split_once("preset").unwrap();
    let (_, rest) = rest.split_once("[tokenizer]").unwrap();
    let error = parse(&format!("{head}start = {:?}\n[tokenizer]{rest}", start.to_str().unwrap())).unwrap_err();
    assert!(error.contains("model.head_width: expected an even number of at most 128"), "{error}");
    assert!(error.contains("found 160"), "{error}");
}

#[test]
fn constants_of_the_optimizer_are_held_to_what_is_left_of_them_in_f32() {
    for (key, value) in [
        ("epsilon", "1e-46"),
        ("epsilon", "1e39"),
        ("beta1", "0.99999999"),
        ("beta2", "0.99999999"),
        ("weight_decay", "1e39"),
        ("clip", "1e-46"),
    ] {
        let error = small().set(&format!("optimizer.{key}"), value).unwrap_err().to_string();
        assert!(error.contains(&format!("optimizer.{key}: expected a number")) && error.contains("f32"), "{error}");
    }
    for (key, value) in [("epsilon", "1e-30"), ("beta2", "0.9999999"), ("weight_decay", "0"), ("clip", "1e30")] {
        small().set(&format!("optimizer.{key}"), value).unwrap();
    }
}
