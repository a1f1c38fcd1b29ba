//! Reads one table of a recipe, key after key, and refuses what nobody asked for.

use std::{ops::RangeInclusive, path::PathBuf};

use super::{
    count,
    error::{Place, RecipeError},
    tree::{Entry, Table, Value},
};

/// How alike, from 0 to 1, a known key must be to be suggested.
const ALIKE: f64 = 0.7;

/// A table while it is read.
pub struct Section<'a> {
    /// Its key from the top, empty for the top.
    key: String,
    place: Place,
    table: &'a Table,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub fn top(table: &'a Table, place: Place) -> Self {
        Self { key: String::new(), place, table, known: Vec::new() }
    }

    /// The key of its `name`, from the top.
    pub fn key(&self, name: &str) -> String {
        if self.key.is_empty() { name.to_owned() } else { format!("{}.{name}", self.key) }
    }

    fn entry(&mut self, name: &'static str) -> Option<&'a Entry> {
        self.known.push(name);
        self.table.get(name)
    }

    /// Whether `name` is there.
    pub fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// Whether `name` is there and a table.
    pub fn is_table(&self, name: &str) -> bool {
        self.table.get(name).is_some_and(|entry| matches!(entry.value, Value::Table(_)))
    }

    /// The error that `name` is not as `expected`; `found` in words where its value alone does not say it.
    pub fn wrong(&self, name: &str, expected: impl Into<String>, found: Option<String>) -> RecipeError {
        let entry = self.table.get(name);
        let place = entry.map_or(&self.place, |entry| &entry.place).clone();
        let found = found.or_else(|| entry.map(|entry| entry.value.shown())).unwrap_or_else(|| "nothing".to_owned());
        RecipeError::Wrong { place, key: self.key(name), expected: expected.into(), found }
    }

    fn read<T>(
        &mut self,
        name: &'static str,
        expected: impl Fn() -> String,
        take: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, RecipeError> {
        let Some(entry) = self.entry(name) else { return Ok(None) };
        take(&entry.value).map(Some).ok_or_else(|| self.wrong(name, expected(), None))
    }

    /// `value`, or the error that `name` is missing.
    pub fn need<T>(&self, name: &str, expected: &str, value: Option<T>) -> Result<T, RecipeError> {
        value.ok_or_else(|| self.wrong(name, expected, None))
    }

    pub fn text(&mut self, name: &'static str) -> Result<Option<String>, RecipeError> {
        self.read(
            name,
            || "text".to_owned(),
            |value| match value {
                Value::Text(text) => Some(text.clone()),
                _ => None,
            },
        )
    }

    /// One of the words `choices`, as what it stands for.
    pub fn word<T: Copy>(&mut self, name: &'static str, choices: &[(&str, T)]) -> Result<Option<T>, RecipeError> {
        let words = || choices.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(" or ");
        self.read(name, words, |value| match value {
            Value::Text(text) => choices.iter().find(|(word, _)| word == text).map(|&(_, meant)| meant),
            _ => None,
        })
    }

    pub fn truth(&mut self, name: &'static str) -> Result<Option<bool>, RecipeError> {
        self.read(
            name,
            || "true or false".to_owned(),
            |value| match value {
                Value::Truth(truth) => Some(*truth),
                _ => None,
            },
        )
    }

    /// A whole number within bounds.
    pub fn whole(&mut self, name: &'static str, within: RangeInclusive<u64>) -> Result<Option<u64>, RecipeError> {
        let expected = || format!("a whole number from {} to {}", within.start(), within.end());
        self.read(name, expected, |value| match value {
            Value::Whole(number) => u64::try_from(*number).ok().filter(|number| within.contains(number)),
            _ => None,
        })
    }

    /// A count of tokens of at least `least`.
    pub fn count(&mut self, name: &'static str, least: u64) -> Result<Option<u64>, RecipeError> {
        let expected = || format!("{}, at least {least}", count::EXPECTED);
        self.read(name, expected, |value| {
            let count = match value {
                Value::Whole(number) => u64::try_from(*number).ok().filter(|&count| count <= count::MOST),
                Value::Text(text) => count::parse(text),
                _ => None,
            };
            count.filter(|&count| count >= least)
        })
    }

    /// A finite number that is `fit`, as `expected` says in words.
    pub fn real(
        &mut self,
        name: &'static str,
        expected: &str,
        fit: impl Fn(f64) -> bool,
    ) -> Result<Option<f64>, RecipeError> {
        self.read(name, || expected.to_owned(), |value| real(value).filter(|&number| fit(number)))
    }

    /// A number from 0 on.
    pub fn not_negative(&mut self, name: &'static str) -> Result<Option<f64>, RecipeError> {
        self.real(name, "a number from 0 on", |number| number >= 0.0)
    }

    /// A number above 0.
    pub fn positive(&mut self, name: &'static str) -> Result<Option<f64>, RecipeError> {
        self.real(name, "a number above 0", |number| number > 0.0)
    }

    /// A list of texts, or one.
    pub fn texts(&mut self, name: &'static str) -> Result<Option<Vec<String>>, RecipeError> {
        self.read(
            name,
            || "texts in a list".to_owned(),
            |value| match value {
                Value::Text(text) => Some(vec![text.clone()]),
                Value::List(items) => items
                    .iter()
                    .map(|item| match &item.value {
                        Value::Text(text) => Some(text.clone()),
                        _ => None,
                    })
                    .collect(),
                _ => None,
            },
        )
    }

    /// A list of paths, or one, none of them empty.
    pub fn paths(&mut self, name: &'static str) -> Result<Option<Vec<PathBuf>>, RecipeError> {
        let Some(texts) = self.texts(name)? else { return Ok(None) };
        if texts.is_empty() || texts.iter().any(String::is_empty) {
            return Err(self.wrong(name, "at least one path, none of them empty", None));
        }
        Ok(Some(texts.into_iter().map(PathBuf::from).collect()))
    }

    /// Numbers by names that are free.
    pub fn numbers(&mut self, name: &'static str) -> Result<Option<Vec<(String, f64)>>, RecipeError> {
        self.read(
            name,
            || "a table of numbers above 0".to_owned(),
            |value| match value {
                Value::Table(table) => table
                    .iter()
                    .map(|(key, entry)| Some((key.clone(), real(&entry.value).filter(|&number| number > 0.0)?)))
                    .collect(),
                _ => None,
            },
        )
    }

    /// The table `name`; an empty one where it is missing.
    pub fn section(&mut self, name: &'static str) -> Result<Section<'a>, RecipeError> {
        static EMPTY: Table = Table::new();
        let key = self.key(name);
        let Some(entry) = self.entry(name) else {
            return Ok(Section { key, place: self.place.clone(), table: &EMPTY, known: Vec::new() });
        };
        let Value::Table(table) = &entry.value else { return Err(self.wrong(name, "a table", None)) };
        Ok(Section { key, place: entry.place.clone(), table, known: Vec::new() })
    }

    /// The tables of the list `name`, `None` where it is missing or no list.
    pub fn list(&mut self, name: &'static str) -> Result<Option<Vec<Section<'a>>>, RecipeError> {
        let Some(Entry { value: Value::List(items), .. }) = self.entry(name) else { return Ok(None) };
        let read = |(index, item): (usize, &'a Entry)| {
            let key = format!("{}.{index}", self.key(name));
            match &item.value {
                Value::Table(table) => Ok(Section { key, place: item.place.clone(), table, known: Vec::new() }),
                other => {
                    let (place, expected) = (item.place.clone(), "a table".to_owned());
                    Err(RecipeError::Wrong { place, key, expected, found: other.shown() })
                }
            }
        };
        items.iter().enumerate().map(read).collect::<Result<_, _>>().map(Some)
    }

    /// Every key with its table, where the keys are free.
    pub fn named(&mut self) -> Result<Vec<(&'a str, Section<'a>)>, RecipeError> {
        let read = |(name, entry): (&'a String, &'a Entry)| {
            let Value::Table(table) = &entry.value else { return Err(self.wrong(name, "a table", None)) };
            let section = Section { key: self.key(name), place: entry.place.clone(), table, known: Vec::new() };
            Ok((name.as_str(), section))
        };
        self.table.iter().map(read).collect()
    }

    /// Refuses keys that were not read. `others` are names that people may know a key by, each with its own.
    pub fn finish(self, others: &[(&str, &'static str)]) -> Result<(), RecipeError> {
        let Some((key, entry)) = self.table.iter().find(|(key, _)| !self.known.contains(&key.as_str())) else {
            return Ok(());
        };
        let alike = |known: &str| strsim::jaro_winkler(known, &key.replace('-', "_"));
        let nearest = (self.known.iter().map(|&known| (alike(known), known)))
            .chain(others.iter().map(|&(other, known)| (alike(other), known)))
            .filter(|&(alike, _)| alike >= ALIKE)
            .max_by(|one, other| one.0.total_cmp(&other.0));
        let advice = match nearest {
            Some((_, known)) => format!("the nearest known one is '{known}'"),
            None => format!("known are {}", self.known.join(", ")),
        };
        Err(RecipeError::Unknown { place: entry.place.clone(), key: self.key(key), advice })
    }
}

fn real(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Whole(number) => *number as f64,
        Value::Real(number) => *number,
        _ => return None,
    };
    number.is_finite().then_some(number)
}
