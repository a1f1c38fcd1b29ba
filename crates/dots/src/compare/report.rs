//! What the comparison found, for people and for programs.

use std::io::{self, Write};

use dots_model::{
    Checkpoint,
    executor::{Arithmetic, CacheType},
};
use serde_json::{Value, json};

use super::statistics::Summary;
use crate::{plan, table::Table, terminal::clean, units};

/// One of the two.
#[derive(Debug, Clone)]
pub struct Side {
    pub name: String,
    pub arithmetic: Arithmetic,
    pub cache_type: CacheType,
    /// Of all tensors, their scales included.
    pub weights_bytes: u64,
    pub parameters: u64,
}

impl Side {
    pub fn of(checkpoint: &Checkpoint, arithmetic: Arithmetic, cache_type: CacheType) -> Self {
        Self {
            name: checkpoint.path.display().to_string(),
            arithmetic,
            cache_type,
            weights_bytes: checkpoint.tensors().map(|(_, tensor)| tensor.bytes()).sum(),
            parameters: checkpoint.config.parameters().total,
        }
    }

    fn bits_per_weight(&self) -> f64 {
        self.weights_bytes as f64 * 8.0 / self.parameters as f64
    }
}

/// Everything that is shown.
pub struct Report {
    /// The reference and the model.
    pub sides: [Side; 2],
    pub text: String,
    pub context: usize,
    pub summary: Summary,
}

impl Report {
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let Summary { positions, perplexity, mean_divergence, standard_error, .. } = self.summary;
        for (role, side) in ["reference", "model"].iter().zip(&self.sides) {
            writeln!(out, "{role:<9}  {}", clean(&side.name))?;
        }
        writeln!(
            out,
            "text       {}: {positions} positions in windows of {} tokens\n",
            clean(&self.text),
            self.context
        )?;
        let mut table = Table::new(["", "reference", "model"]);
        let mut row = |name: &str, cell: &dyn Fn(usize) -> String| table.row([name.to_owned(), cell(0), cell(1)]);
        row("arithmetic", &|i| plan::arithmetic_name(self.sides[i].arithmetic).to_owned());
        row("cache", &|i| self.sides[i].cache_type.name().to_owned());
        row("weights", &|i| units::bytes(self.sides[i].weights_bytes));
        row("bits per weight", &|i| format!("{:.2}", self.sides[i].bits_per_weight()));
        row("perplexity", &|i| format!("{:.4}", perplexity[i]));
        table.write(out, "")?;
        writeln!(out, "\nKL(reference || model), in nats")?;
        writeln!(out, "  mean             {mean_divergence:.6} +- {standard_error:.6}")?;
        writeln!(out, "  99 % are within  {:.6}", self.summary.quantile_99)?;
        writeln!(out, "  largest          {:.6}", self.summary.largest_divergence)?;
        writeln!(out, "same best token    {:.2} %", 100.0 * self.summary.same_best)
    }

    pub fn to_json(&self) -> Value {
        let side = |i: usize| {
            let side = &self.sides[i];
            json!({
                "model": side.name,
                "arithmetic": plan::arithmetic_name(side.arithmetic),
                "cache_type": side.cache_type.name(),
                "weights_bytes": side.weights_bytes,
                "parameters": side.parameters,
                "bits_per_weight": side.bits_per_weight(),
                "perplexity": self.summary.perplexity[i],
            })
        };
        let summary = &self.summary;
        json!({
            "reference": side(0),
            "model": side(1),
            "text": self.text,
            "context": self.context,
            "positions": summary.positions,
            "kl_divergence": {
                "mean": summary.mean_divergence,
                "standard_error": summary.standard_error,
                "quantile_99": summary.quantile_99,
                "largest": summary.largest_divergence,
            },
            "same_best_token": summary.same_best,
        })
    }
}
