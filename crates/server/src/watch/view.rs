//! What the page is told of a run: all that there is in as many points as a picture takes, then what is new.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::{
    buckets::{Bucket, Buckets, Merge, Stat},
    record::{Mark, Record, SERIES, Scalars},
    routers::{Cells, Curves, DEAD_AFTER_LINES, Routers},
};

/// Dead experts that are named.
const DEAD_NAMED: usize = 50;

/// How fine a picture is.
#[derive(Debug, Clone, Copy)]
pub struct Detail {
    /// Points of a curve over the steps.
    pub steps: usize,
    /// Points of each layer's curve.
    pub curves: usize,
    /// Columns of a heat map, and numbers of all heat maps together.
    pub columns: usize,
    pub cells: usize,
}

/// For a page that can ask for more.
pub const LIVE: Detail = Detail { steps: 1500, curves: 600, columns: 400, cells: 1 << 20 };

/// For one that cannot.
pub const REPORT: Detail = Detail { steps: 6000, curves: 1500, columns: 600, cells: 1 << 20 };

/// What one page has been told of one run.
#[derive(Debug, Default)]
pub struct Told {
    epoch: Option<u64>,
    /// Of each part its width, how often it was cut, and the start of its last bucket, which may have grown since.
    parts: BTreeMap<String, (u64, u64, u64)>,
    /// The version of what stands beside the metrics.
    folder: Option<u64>,
}

impl Told {
    /// Whether the page has to forget what it was told before.
    pub fn begins(&mut self, epoch: u64) -> bool {
        let is_new = self.epoch != Some(epoch);
        if is_new {
            *self = Self { epoch: Some(epoch), ..Self::default() };
        }
        is_new
    }

    /// Whether the page has not been told this version of the folder's other files.
    pub fn wants_folder(&mut self, version: u64) -> bool {
        self.folder.replace(version) != Some(version)
    }

    /// What is new in a series: its width, from which step on what the page has is to be replaced, and by what.
    fn news<T: Merge>(&mut self, name: &str, series: &Buckets<T>, most: usize) -> (u64, u64, Vec<Bucket<T>>) {
        let width = series.width_for(0, u64::MAX, most);
        let last = series.all().last().map_or(0, |bucket| bucket.start - bucket.start % width);
        let from = match self.parts.insert(name.to_owned(), (width, series.cuts(), last)) {
            Some((told, cuts, start)) if (told, cuts) == (width, series.cuts()) => start,
            _ => 0,
        };
        (width, from, series.since(from, width))
    }
}

/// What a page with this behind it does not know yet.
pub fn news(record: &Record, told: &mut Told, detail: Detail) -> Map<String, Value> {
    let mut parts = Map::new();
    let (width, from, buckets) = told.news("steps", &record.steps, detail.steps);
    parts.insert("steps".to_owned(), steps(width, from, &buckets));
    if let Some(routers) = &record.routers {
        let curves_part = told.news("curves", &routers.curves, detail.curves);
        let cells_part = told.news("cells", &routers.cells, columns(routers, detail));
        parts.insert("routers".to_owned(), routers_part(routers, curves_part, cells_part));
    }
    let validation = record.validation.iter().map(|(name, series)| {
        let (width, from, buckets) = told.news(&format!("validation {name}"), series, detail.curves);
        (name.clone(), validation(width, from, &buckets))
    });
    parts.insert("validation".to_owned(), Value::Object(validation.collect()));
    parts
}

/// What lies between two steps, both included, as finely as it is kept.
pub fn between(record: &Record, from: u64, to: u64, detail: Detail) -> Map<String, Value> {
    fn part<T: Merge>(series: &Buckets<T>, from: u64, to: u64, most: usize) -> (u64, u64, Vec<Bucket<T>>) {
        let width = series.width_for(from, to, most);
        (width, 0, series.slice(from, to, width))
    }
    let mut parts = Map::new();
    let (width, start, buckets) = part(&record.steps, from, to, detail.steps);
    parts.insert("steps".to_owned(), steps(width, start, &buckets));
    if let Some(routers) = &record.routers {
        let curves_part = part(&routers.curves, from, to, detail.curves);
        let cells_part = part(&routers.cells, from, to, columns(routers, detail));
        parts.insert("routers".to_owned(), routers_part(routers, curves_part, cells_part));
    }
    let validation = record.validation.iter().map(|(name, series)| {
        let (width, start, buckets) = part(series, from, to, detail.curves);
        (name.clone(), validation(width, start, &buckets))
    });
    parts.insert("validation".to_owned(), Value::Object(validation.collect()));
    parts
}

/// Columns of heat maps that do not together go past what may be sent.
fn columns(routers: &Routers, detail: Detail) -> usize {
    (detail.cells / (routers.layers.len() * routers.experts).max(1)).clamp(16, detail.columns)
}

fn part<T>(width: u64, from: u64, buckets: &[Bucket<T>]) -> Map<String, Value> {
    let mut part = Map::new();
    part.insert("width".to_owned(), json!(width));
    part.insert("from".to_owned(), json!(from));
    part.insert("step".to_owned(), buckets.iter().map(|bucket| bucket.step).collect());
    part.insert("tokens".to_owned(), buckets.iter().map(|bucket| bucket.tokens).collect());
    part
}

fn steps(width: u64, from: u64, buckets: &[Bucket<Scalars>]) -> Value {
    let mut all = part(width, from, buckets);
    let series = SERIES.iter().enumerate().map(|(index, name)| {
        let of = |bucket: &Bucket<Scalars>| bucket.value.0[index];
        ((*name).to_owned(), band(buckets.iter().map(of)))
    });
    all.insert("series".to_owned(), Value::Object(series.collect()));
    Value::Object(all)
}

fn validation(width: u64, from: u64, buckets: &[Bucket<Stat>]) -> Value {
    let mut all = part(width, from, buckets);
    all.insert("loss".to_owned(), band(buckets.iter().map(|bucket| bucket.value)));
    Value::Object(all)
}

/// Means; and least and greatest where they are others.
fn band(stats: impl Iterator<Item = Stat> + Clone) -> Value {
    let number = |stat: Stat, value: f32| if stat.count > 0 { json!(value) } else { Value::Null };
    let mut band = Map::new();
    band.insert("mean".to_owned(), stats.clone().map(|stat| number(stat, stat.mean)).collect());
    if stats.clone().any(|stat| stat.count > 1) {
        band.insert("min".to_owned(), stats.clone().map(|stat| number(stat, stat.min)).collect());
        band.insert("max".to_owned(), stats.map(|stat| number(stat, stat.max)).collect());
    }
    Value::Object(band)
}

fn routers_part(
    routers: &Routers,
    (curves_width, curves_from, curves): (u64, u64, Vec<Bucket<Curves>>),
    (cells_width, cells_from, cells): (u64, u64, Vec<Bucket<Cells>>),
) -> Value {
    let mut of_layers = part(curves_width, curves_from, &curves);
    let mut of_experts = part(cells_width, cells_from, &cells);
    let by_layer = |pick: fn(&super::routers::Balance) -> (u32, f32)| -> Value {
        let curve = |layer: usize| -> Value {
            let points = curves.iter().map(|bucket| pick(&bucket.value.0[layer]));
            points.map(|(count, value)| if count > 0 { json!(value) } else { Value::Null }).collect()
        };
        (0..routers.layers.len()).map(curve).collect()
    };
    of_layers.insert("ratio".to_owned(), by_layer(|balance| (balance.ratio.count, balance.ratio.mean)));
    of_layers.insert("entropy".to_owned(), by_layer(|balance| (balance.entropy.count, balance.entropy.mean)));
    of_layers.insert("dead".to_owned(), by_layer(|balance| (balance.dead.count, balance.dead.max)));
    of_experts.insert("loads".to_owned(), halves(cells.iter().map(|bucket| &bucket.value.loads), routers).into());
    of_experts.insert("biases".to_owned(), halves(cells.iter().map(|bucket| &bucket.value.biases), routers).into());
    json!({ "layers": routers.layers, "experts": routers.experts, "curves": of_layers, "cells": of_experts })
}

/// (columns, layers, experts) as the upper halves of their f32, the lower byte first, in base64: three digits are enough to
/// look at. What was not measured is NaN.
fn halves<'a>(columns: impl Iterator<Item = &'a Vec<f32>>, routers: &Routers) -> String {
    let cells = routers.layers.len() * routers.experts;
    let mut bytes = Vec::new();
    for column in columns {
        let values = column.iter().copied().chain(std::iter::repeat(f32::NAN)).take(cells);
        // Rounded to the nearest; what overflows becomes infinite.
        let rounded =
            values.map(|value| if value.is_nan() { 0x7fc0 } else { ((value.to_bits() + 0x8000) >> 16) as u16 });
        rounded.for_each(|half| bytes.extend_from_slice(&half.to_le_bytes()));
    }
    STANDARD.encode(bytes)
}

/// What is written above the curves.
pub fn head(record: &Record) -> Map<String, Value> {
    let marks = |marks: &[Mark]| -> Value {
        marks.iter().map(|mark| json!({ "step": mark.step, "tokens": mark.tokens, "name": mark.name })).collect()
    };
    let mut head = Map::new();
    let mut put = |name: &str, value: Value| drop(head.insert(name.to_owned(), value));
    if let Some(last) = &record.last {
        put("step", json!(last.step));
        put("tokens", json!(last.tokens));
        put("phase", json!(last.phase));
        put("time", json!(last.time));
    }
    put("phases", marks(&record.phases));
    put("checkpoints", marks(&record.checkpoints));
    put("pauses", marks(&record.pauses));
    put("error", record.error.as_ref().map_or(Value::Null, |mark| json!({ "step": mark.step, "message": mark.name })));
    put("lines", json!(record.lines));
    put("bad_lines", json!(record.bad_lines));
    put(
        "first_bad",
        record.first_bad.as_ref().map_or(Value::Null, |(line, why)| json!({ "line": line, "reason": why })),
    );
    if let Some(routers) = &record.routers {
        put("dead_after", json!(DEAD_AFTER_LINES));
        put("dead_count", json!(routers.dead().count()));
        put(
            "dead",
            routers.dead().take(DEAD_NAMED).map(|(layer, expert, step)| json!([layer, expert, step])).collect(),
        );
    }
    head
}

#[cfg(test)]
mod tests {
    use super::{super::line::parse, *};

    fn record(steps: std::ops::Range<u64>) -> Record {
        let mut record = Record::default();
        extend(&mut record, steps);
        record
    }

    fn extend(record: &mut Record, steps: std::ops::Range<u64>) {
        for step in steps {
            let line = format!(
                r#"{{"step":{step},"tokens":{},"loss":{step},"routers":[{{"layer":1,"loads":[1,3]}}]}}"#,
                step * 8
            );
            record.take(parse(line.as_bytes()));
        }
    }

    #[test]
    fn a_page_that_was_told_parts_has_what_a_new_one_is_told() {
        let detail = Detail { steps: 50, curves: 20, columns: 16, cells: 1 << 20 };
        let mut growing = record(0..0);
        let (mut told, mut steps, mut losses) = (Told::default(), Vec::<u64>::new(), Vec::<f64>::new());
        for end in 1..400 {
            extend(&mut growing, end - 1..end);
            if end % 7 != 0 {
                continue;
            }
            let part = news(&growing, &mut told, detail).remove("steps").unwrap();
            let (from, width) = (part["from"].as_u64().unwrap(), part["width"].as_u64().unwrap());
            let kept = steps.iter().filter(|&&step| step - step % width < from).count();
            steps.truncate(kept);
            losses.truncate(kept);
            steps.extend(part["step"].as_array().unwrap().iter().map(|step| step.as_u64().unwrap()));
            losses.extend(part["series"]["loss"]["mean"].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()));
            let whole = news(&growing, &mut Told::default(), detail).remove("steps").unwrap();
            assert_eq!(json!(steps), whole["step"], "{end}");
            assert_eq!(json!(losses), whole["series"]["loss"]["mean"], "{end}");
            assert!(steps.len() <= 50);
        }
    }

    #[test]
    fn after_a_cut_a_page_is_told_all_again() {
        let mut record = record(0..100);
        let mut told = Told::default();
        news(&record, &mut told, LIVE);
        extend(&mut record, 40..142);
        let part = &news(&record, &mut told, LIVE)["steps"];
        assert_eq!((&part["from"], part["step"].as_array().unwrap().len()), (&json!(0), 142));
    }

    #[test]
    fn a_view_is_finer_than_the_whole() {
        let record = record(0..10_000);
        let whole = between(&record, 0, u64::MAX, LIVE);
        let part = between(&record, 500, 600, LIVE);
        assert_eq!((&whole["steps"]["width"], &part["steps"]["width"]), (&json!(8), &json!(1)));
        assert!(whole["steps"]["series"]["loss"]["min"].is_array() && part["steps"]["series"]["loss"]["min"].is_null());
        assert_eq!(part["routers"]["cells"]["step"].as_array().unwrap().len(), 53, "cells are kept by two steps here");
    }

    #[test]
    fn heat_maps_are_the_upper_halves_of_their_numbers() {
        let record = record(0..1);
        let cells = &between(&record, 0, 9, LIVE)["routers"]["cells"];
        let bytes = STANDARD.decode(cells["loads"].as_str().unwrap()).unwrap();
        let half = |at: usize| f32::from_bits(u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]])) << 16);
        assert_eq!((bytes.len(), half(0), half(2)), (4, 0.5, 1.5));
        let biases = STANDARD.decode(cells["biases"].as_str().unwrap()).unwrap();
        assert_eq!(biases, [0xc0, 0x7f, 0xc0, 0x7f], "none were told");
    }
}
