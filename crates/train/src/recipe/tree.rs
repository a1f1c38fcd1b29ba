//! A TOML document as a tree whose values know where they were written, so that each error can say so.

use std::{collections::BTreeMap, path::Path};

use toml::de::{DeTable, DeValue};

use super::error::{Place, RecipeError};

/// Named values.
pub type Table = BTreeMap<String, Entry>;

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub place: Place,
    pub value: Value,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(String),
    Whole(i64),
    Real(f64),
    Truth(bool),
    /// What no recipe holds: a date, or a whole number past 64 bits; its text.
    Other(String),
    List(Vec<Entry>),
    Table(Table),
}

impl Value {
    /// The value as an error shows it.
    pub fn shown(&self) -> String {
        match self {
            Self::Text(text) if text.chars().count() > 60 => {
                format!("{:?}…", text.chars().take(60).collect::<String>())
            }
            Self::Text(text) => format!("{text:?}"),
            Self::Whole(number) => number.to_string(),
            Self::Real(number) => format!("{number:?}"),
            Self::Truth(truth) => truth.to_string(),
            Self::Other(text) => text.clone(),
            Self::List(items) => format!("a list of {}", items.len()),
            Self::Table(_) => "a table".to_owned(),
        }
    }
}

/// The tree of a document. `path` is the file that it came from.
pub fn parse(text: &str, path: &Path) -> Result<Table, RecipeError> {
    let place = |at: usize| {
        let line = text.get(..at).map(|before| 1 + before.matches('\n').count());
        Place::File(path.to_owned(), line)
    };
    let parsed = DeTable::parse(text).map_err(|error| RecipeError::Syntax {
        place: error.span().map_or(Place::File(path.to_owned(), None), |span| place(span.start)),
        message: error.message().to_owned(),
    })?;
    Ok(table(parsed.get_ref(), &place))
}

/// The value of a `--set`: what TOML reads of it, else the text itself.
pub fn parse_value(text: &str) -> Value {
    match DeValue::parse(text) {
        Ok(parsed) => value(parsed.get_ref(), &|_| Place::Set),
        Err(_) => Value::Text(text.to_owned()),
    }
}

fn table(parsed: &DeTable<'_>, place: &dyn Fn(usize) -> Place) -> Table {
    let entry = |at: usize, parsed: &DeValue<'_>| Entry { place: place(at), value: value(parsed, place) };
    parsed.iter().map(|(key, value)| (key.get_ref().to_string(), entry(key.span().start, value.get_ref()))).collect()
}

fn value(parsed: &DeValue<'_>, place: &dyn Fn(usize) -> Place) -> Value {
    match parsed {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Whole(number),
            Err(_) => Value::Other(number.as_str().to_owned()),
        },
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) => Value::Real(number),
            Err(_) => Value::Other(number.as_str().to_owned()),
        },
        DeValue::Boolean(truth) => Value::Truth(*truth),
        DeValue::Datetime(date) => Value::Other(date.to_string()),
        DeValue::Array(items) => Value::List(
            items
                .iter()
                .map(|item| Entry { place: place(item.span().start), value: value(item.get_ref(), place) })
                .collect(),
        ),
        DeValue::Table(parsed) => Value::Table(table(parsed, place)),
    }
}
