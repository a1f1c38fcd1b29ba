//! What a run of a recipe begins with, for other programs: `cargo run --release -p dots-train --example batches -- RECIPE.toml OUT STEPS SEED...`.
//!
//! Writes the tokens and targets of the first STEPS steps as u32, little endian, one step after the other (`OUT/tokens.bin`,
//! `OUT/targets.bin`; a position without a target has 4,294,967,295), and for each SEED the initial weights that it makes, as a
//! checkpoint in the published layout (`OUT/seed-SEED/`). `bench/train_loss.py` trains on them with PyTorch.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use dots_train::{
    batches::Loader,
    checkpoint::{self, About, Companions, Name},
    cpu::{CpuStep, Options},
    order::Order,
    recipe::Recipe,
    run::Feed,
    schedule::Schedule,
};
use serde_json::Map;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [recipe, out, steps, seeds @ ..] = &arguments[..] else {
        return Err("expected RECIPE.toml OUT STEPS SEED...".into());
    };
    let (recipe, out) = (Recipe::load(Path::new(recipe))?, Path::new(out));
    let schedule = Schedule::new(&recipe, |_| 0);
    let order = Order::new(&recipe, &schedule)?;
    let mut loader = Loader::new(&recipe, &order)?;
    std::fs::create_dir_all(out)?;
    let [mut tokens, mut targets] =
        [File::create(out.join("tokens.bin"))?, File::create(out.join("targets.bin"))?].map(BufWriter::new);
    for step in 0..steps.parse()? {
        let at = schedule.at(step).ok_or("the recipe has fewer steps")?;
        for batch in loader.step(step, &at).map_err(|error| error.to_string())?.1 {
            batch.tokens.iter().try_for_each(|id| tokens.write_all(&id.to_le_bytes()))?;
            batch.targets.iter().try_for_each(|id| targets.write_all(&id.to_le_bytes()))?;
        }
    }
    tokens.flush()?;
    targets.flush()?;
    let longest = recipe.phases.iter().map(|phase| phase.sequence_tokens).max().unwrap_or(1);
    let options = Options {
        precision: recipe.arithmetic.precision,
        recompute: false,
        micro_batch_tokens: longest,
        sequence_tokens: longest,
        threads: 0,
        optimizer: recipe.optimizer,
    };
    let companions = Companions::read(&recipe.tokenizer)?;
    for seed in seeds {
        let mut step = CpuStep::random(&recipe.model.config, seed.parse()?, recipe.model.initial_deviation, &options)?;
        let lineage = Map::new();
        let name = Name { step: 0, tokens: 0 };
        let about = About { name, config: &recipe.model.config, companions: &companions, lineage: &lineage };
        let written = checkpoint::write(out, &mut step, &about)?;
        std::fs::rename(written, out.join(format!("seed-{seed}")))?;
    }
    Ok(())
}
