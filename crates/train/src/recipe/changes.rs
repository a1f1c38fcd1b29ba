//! What two recipes say differently, key by key.

use std::{collections::BTreeMap, path::Path};

use super::{
    Recipe,
    tree::{self, Table, Value},
};

/// A key that two recipes say differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// From the top, its parts joined by dots, phases by name: as `--set` takes it.
    pub key: String,
    /// The first recipe's value; `nothing` where it has none.
    pub before: String,
    /// The second one's.
    pub after: String,
}

impl Recipe {
    /// What `other` says otherwise, with everything written out in both.
    pub fn changes(&self, other: &Self) -> Vec<Change> {
        let (before, after) = (flat(self), flat(other));
        let said = |all: &BTreeMap<String, String>, key: &str| all.get(key).map_or("nothing".to_owned(), String::clone);
        let keys: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        (keys.into_iter())
            .map(|key| Change { key: key.clone(), before: said(&before, key), after: said(&after, key) })
            .filter(|change| change.before != change.after)
            .collect()
    }
}

/// Every value that stands alone, by its key.
fn flat(recipe: &Recipe) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    // What was written here is read.
    if let Ok(table) = tree::parse(&recipe.canonical(), Path::new("recipe.toml")) {
        add_table("", &table, &mut all);
    }
    all
}

fn add_table(before: &str, table: &Table, all: &mut BTreeMap<String, String>) {
    for (key, entry) in table {
        let key = if before.is_empty() { key.clone() } else { format!("{before}.{key}") };
        add(&key, &entry.value, all);
    }
}

fn add(key: &str, value: &Value, all: &mut BTreeMap<String, String>) {
    match value {
        Value::Table(table) => add_table(key, table, all),
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                let name = match &item.value {
                    Value::Table(table) => table.get("name").map(|name| &name.value),
                    _ => None,
                };
                match name {
                    Some(Value::Text(name)) => add(&format!("{key}.{name}"), &item.value, all),
                    _ => add(&format!("{key}.{index}"), &item.value, all),
                }
            }
        }
        Value::Text(text) => {
            all.insert(key.to_owned(), format!("{text:?}"));
        }
        other => {
            all.insert(key.to_owned(), other.shown());
        }
    }
}
