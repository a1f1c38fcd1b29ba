//! Responses that can be read again and continued, the last used of them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use dots_model::template::{Message, ToolCall};
use serde_json::{Map, Value};

/// Most responses kept.
const MAX_RESPONSES: usize = 4096;
/// Most bytes of all of them together.
const MAX_BYTES: usize = 256 << 20;
/// What a message and an entry cost beside their texts, about.
const OVERHEAD_BYTES: usize = 128;

/// A response as it was sent, and the conversation that it ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The response's JSON.
    pub json: String,
    /// All that was said before its answer, without the instructions, which were that response's own.
    pub said: Arc<Vec<Message>>,
    /// Its answer; `None` where there is none to go on from, since it still runs, failed or was cancelled.
    pub answer: Option<Message>,
    /// Whether it was made while nobody waited.
    pub background: bool,
}

impl Stored {
    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        let messages = self.said.iter().chain(&self.answer);
        self.json.len() + messages.map(message_bytes).sum::<usize>() + OVERHEAD_BYTES
    }
}

fn message_bytes(message: &Message) -> usize {
    let call = |call: &ToolCall| call.id.len() + call.name.len() + object_bytes(&call.arguments) + OVERHEAD_BYTES;
    let names = [&message.tool_call_id, &message.name].into_iter().flatten().map(String::len).sum::<usize>();
    let calls = message.tool_calls.iter().map(call).sum::<usize>();
    message.role.len() + message.content.len() + names + calls + OVERHEAD_BYTES
}

fn object_bytes(object: &Map<String, Value>) -> usize {
    object.iter().map(|(key, value)| key.len() + OVERHEAD_BYTES + value_bytes(value)).sum()
}

/// Values come from JSON that was read, and so are not nested deeper than its reader allows.
fn value_bytes(value: &Value) -> usize {
    let inside = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(value_bytes).sum(),
        Value::Object(object) => object_bytes(object),
    };
    inside + size_of::<Value>()
}

/// Keeps responses in memory, within a count and a size. Where one more needs room, the tenant who has most gives it up: of its
/// responses the one that was not asked for the longest.
#[derive(Debug)]
pub struct ResponseStore {
    kept: Mutex<Kept>,
    max_responses: usize,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Kept {
    by_id: HashMap<String, Entry>,
    /// Of each tenant who has any.
    by_tenant: HashMap<u64, Holding>,
    uses: u64,
    bytes: usize,
}

/// What one tenant has.
#[derive(Debug, Default)]
struct Holding {
    /// Ids by when they were last used.
    by_use: BTreeMap<u64, String>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    tenant: u64,
    stored: Arc<Stored>,
    bytes: usize,
    last_use: u64,
}

impl Default for ResponseStore {
    fn default() -> Self {
        Self::with_limits(MAX_RESPONSES, MAX_BYTES)
    }
}

impl ResponseStore {
    fn with_limits(max_responses: usize, max_bytes: usize) -> Self {
        Self { kept: Mutex::default(), max_responses, max_bytes }
    }

    /// Keeps a response of `tenant` under `id`, and drops others where it needs their place. One that is larger than all
    /// places together, or than what other tenants leave who have less, is not kept.
    pub fn put(&self, tenant: u64, id: String, stored: impl Into<Arc<Stored>>) {
        let stored = stored.into();
        let bytes = stored.bytes();
        if bytes > self.max_bytes {
            return;
        }
        let mut kept = self.lock();
        kept.remove(&id);
        while kept.by_id.len() >= self.max_responses || kept.bytes + bytes > self.max_bytes {
            let more_bytes = (kept.bytes + bytes > self.max_bytes).then_some(bytes);
            let Some(oldest) = kept.oldest_of_most(tenant, more_bytes) else { return };
            kept.remove(&oldest);
        }
        let last_use = kept.next_use();
        let own = kept.by_tenant.entry(tenant).or_default();
        own.by_use.insert(last_use, id.clone());
        own.bytes += bytes;
        kept.bytes += bytes;
        kept.by_id.insert(id, Entry { tenant, stored, bytes, last_use });
    }

    /// The response under `id`, where it is still kept and `tenant` put it there. Ids stand in logs and in addresses, so that to
    /// know one is no right to read it.
    pub fn get(&self, tenant: u64, id: &str) -> Option<Arc<Stored>> {
        let mut kept = self.lock();
        let now = kept.next_use();
        let entry = kept.by_id.get_mut(id).filter(|entry| entry.tenant == tenant)?;
        let before = std::mem::replace(&mut entry.last_use, now);
        let stored = Arc::clone(&entry.stored);
        let own = kept.by_tenant.entry(tenant).or_default();
        own.by_use.remove(&before);
        own.by_use.insert(now, id.to_owned());
        Some(stored)
    }

    /// Forgets the response of `tenant` under `id`; whether there was one.
    pub fn remove(&self, tenant: u64, id: &str) -> bool {
        let mut kept = self.lock();
        kept.by_id.get(id).is_some_and(|entry| entry.tenant == tenant) && kept.remove(id)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn next_use(&mut self) -> u64 {
        self.uses += 1;
        self.uses
    }

    fn remove(&mut self, id: &str) -> bool {
        let Some(entry) = self.by_id.remove(id) else { return false };
        self.bytes -= entry.bytes;
        if let Some(own) = self.by_tenant.get_mut(&entry.tenant) {
            own.by_use.remove(&entry.last_use);
            own.bytes -= entry.bytes;
            if own.by_use.is_empty() {
                self.by_tenant.remove(&entry.tenant);
            }
        }
        true
    }

    /// The least used response of the tenant who has most, in bytes, or by count where `more_bytes` is none; `newcomer` is about to
    /// have one more, and where two have as much it is the one. None where the newcomer would have most, and has nothing to give up.
    fn oldest_of_most(&self, newcomer: u64, more_bytes: Option<usize>) -> Option<String> {
        let amount = |holding: Option<&Holding>| match more_bytes {
            Some(_) => holding.map_or(0, |holding| holding.bytes),
            None => holding.map_or(0, |holding| holding.by_use.len()),
        };
        let own = amount(self.by_tenant.get(&newcomer)) + more_bytes.unwrap_or(1);
        let others = self.by_tenant.iter().filter(|(tenant, _)| **tenant != newcomer);
        let most = others.max_by_key(|(_, holding)| amount(Some(*holding)));
        let gives = match most {
            Some((_, holding)) if amount(Some(holding)) > own => Some(holding),
            _ => self.by_tenant.get(&newcomer),
        };
        gives?.by_use.values().next().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(bytes: usize) -> Stored {
        Stored { json: "x".repeat(bytes - OVERHEAD_BYTES), said: Arc::default(), answer: None, background: false }
    }

    fn kept(store: &ResponseStore, ids: &[&str]) -> Vec<bool> {
        ids.iter().map(|id| store.lock().by_id.contains_key(*id)).collect()
    }

    #[test]
    fn who_was_not_asked_for_the_longest_goes_first() {
        let store = ResponseStore::with_limits(2, 10_000);
        store.put(1, "a".into(), stored(200));
        store.put(1, "b".into(), stored(200));
        assert!(store.get(1, "a").is_some());
        store.put(1, "c".into(), stored(200));
        assert_eq!(kept(&store, &["a", "b", "c"]), [true, false, true]);
    }

    #[test]
    fn bytes_are_bounded_whatever_comes() {
        let store = ResponseStore::with_limits(100, 1000);
        for (i, size) in [200, 900, 300, 1001, 400, 400, 129, 1000].into_iter().enumerate() {
            store.put(1, format!("{i}"), stored(size));
            let kept = store.lock();
            assert!(kept.bytes <= 1000);
            assert_eq!(kept.bytes, kept.by_id.values().map(|entry| entry.bytes).sum::<usize>());
            assert_eq!(kept.by_id.len(), kept.by_tenant.get(&1).map_or(0, |own| own.by_use.len()));
        }
        assert_eq!(kept(&store, &["3", "6", "7"]), [false, false, true]);
    }

    #[test]
    fn who_has_most_makes_room_and_nobody_else() {
        let store = ResponseStore::with_limits(6, 10_000);
        let put = |tenant: u64, name: &str, bytes: usize| store.put(tenant, name.to_owned(), stored(bytes));
        let kept = |names: &str| names.split(' ').map(|name| store.lock().by_id.contains_key(name)).collect::<Vec<_>>();
        put(1, "mine", 200);
        (0..100).for_each(|i| put(2, &format!("theirs{i}"), 200));
        assert_eq!(kept("mine theirs94 theirs95 theirs99"), [true, false, true, true]);
        // As many as fit, until all have as much.
        (0..3).for_each(|i| put(1, &format!("more{i}"), 200));
        assert_eq!(kept("mine more0 more1 more2 theirs97"), [false, true, true, true, true]);
        put(3, "third", 200);
        assert_eq!(kept("more0 more1 theirs97 third").iter().filter(|kept| **kept).count(), 3);
        // By bytes, too; what would have most of all and has nothing to give up is not kept.
        let bytes = || store.lock().bytes;
        let before = bytes();
        put(4, "large", 9_500);
        assert_eq!((bytes(), kept("large third")), (before, vec![false, true]));
        put(3, "larger", 8_900);
        assert_eq!((bytes(), kept("larger third more2")), (before - 200 + 8_900, vec![true, false, true]));
        put(1, "new", 300);
        assert_eq!(kept("larger new more2"), [false, true, true]);
    }

    #[test]
    fn calls_and_results_count() {
        let bytes = |message| Stored { answer: Some(message), ..stored(OVERHEAD_BYTES) }.bytes();
        let bare = bytes(Message::new("tool", ""));
        let named = Message { tool_call_id: Some("x".repeat(1000)), ..Message::new("tool", "") };
        assert_eq!(bytes(named), bare + 1000);
        let arguments = serde_json::json!({"a": vec![0; 1000], "b": {"c": "x".repeat(1000)}});
        let call = ToolCall { id: "1".into(), name: "f".into(), arguments: arguments.as_object().unwrap().clone() };
        let calls = Message { tool_calls: vec![call], ..Message::new("tool", "") };
        assert!(bytes(calls) > bare + 1000 * size_of::<Value>() + 1000);
    }

    #[test]
    fn nobody_reads_or_removes_what_another_has_put() {
        let store = ResponseStore::with_limits(10, 10_000);
        store.put(1, "a".into(), stored(300));
        assert!(store.get(2, "a").is_none() && !store.remove(2, "a"));
        assert!(store.get(1, "a").is_some() && store.remove(1, "a"));
    }

    #[test]
    fn what_is_removed_is_gone_and_one_id_is_kept_once() {
        let store = ResponseStore::with_limits(10, 10_000);
        store.put(1, "a".into(), stored(300));
        store.put(1, "a".into(), stored(400));
        assert_eq!(store.lock().bytes, 400);
        assert!(store.remove(1, "a") && !store.remove(1, "a"));
        assert_eq!(store.lock().bytes, 0);
        assert!(store.get(1, "a").is_none());
    }
}
