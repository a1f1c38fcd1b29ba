//! `GET /v1/responses/{id}/input_items`: what a response was an answer to, page by page.

use dots_model::template::{Message, ToolCall};
use serde_json::{Map, Value, json};

use crate::{
    error::{ApiError, quoted},
    openai::fields::Fields,
};

const MAX_ITEMS: i64 = 100;
const DEFAULT_ITEMS: i64 = 20;

/// Which items are asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    limit: usize,
    newest_first: bool,
    /// The name of the item behind which the page begins.
    after: Option<String>,
}

enum Item<'a> {
    Said(&'a Message),
    Call(&'a ToolCall),
    Result(&'a Message),
}

impl Page {
    /// Reads an address's query. What is escaped in it is no name of an item and no number.
    pub fn parse(query: &str) -> Result<Self, ApiError> {
        let mut found = Map::new();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let number = value.parse::<i64>().ok().filter(|_| name == "limit");
            found.insert(name.to_owned(), number.map_or_else(|| json!(value), |number| json!(number)));
        }
        let fields = Fields::new(&found);
        let newest_first = match fields.string("order")? {
            None | Some("desc") => true,
            Some("asc") => false,
            Some(other) => {
                let message = format!("'order': expected 'asc' or 'desc', found '{}'.", quoted(other));
                return Err(ApiError::invalid("order", "invalid_value", message));
            }
        };
        let limit = fields.integer("limit", 1..=MAX_ITEMS)?.unwrap_or(DEFAULT_ITEMS) as usize;
        Ok(Self { limit, newest_first, after: fields.string("after")?.map(str::to_owned) })
    }

    /// The list of what was said before the response of this id. Items have no names of their own where the client gave
    /// them, so their names are made of the response's and their place.
    pub fn of(&self, response: &str, said: &[Message]) -> Result<Value, ApiError> {
        let stem = response.trim_start_matches("resp_");
        let mut items: Vec<(usize, Item<'_>)> = said.iter().flat_map(items_of).enumerate().collect();
        if self.newest_first {
            items.reverse();
        }
        let begin = match &self.after {
            None => 0,
            Some(after) => match items.iter().position(|(place, item)| item.id(stem, *place) == *after) {
                Some(at) => at + 1,
                None => {
                    let message = format!("'after': there is no item named '{}'.", quoted(after));
                    return Err(ApiError::invalid("after", "invalid_value", message));
                }
            },
        };
        let rest = &items[begin..];
        let page = &rest[..rest.len().min(self.limit)];
        let data: Vec<Value> = page.iter().map(|(place, item)| item.json(stem, *place)).collect();
        let id = |item: Option<&Value>| item.map(|item| item["id"].clone());
        Ok(json!({
            "object": "list",
            "first_id": id(data.first()),
            "last_id": id(data.last()),
            "has_more": page.len() < rest.len(),
            "data": data,
        }))
    }
}

/// A turn that says and calls is several items.
fn items_of(message: &Message) -> impl Iterator<Item = Item<'_>> {
    let is_said = !message.content.is_empty() || message.tool_calls.is_empty();
    let said = is_said.then(|| if message.role == "tool" { Item::Result(message) } else { Item::Said(message) });
    said.into_iter().chain(message.tool_calls.iter().map(Item::Call))
}

impl Item<'_> {
    fn id(&self, stem: &str, place: usize) -> String {
        let kind = match self {
            Self::Said(_) => "msg",
            Self::Call(_) => "fc",
            Self::Result(_) => "fco",
        };
        format!("{kind}_{stem}_{place}")
    }

    fn json(&self, stem: &str, place: usize) -> Value {
        let id = self.id(stem, place);
        match self {
            Self::Said(Message { role, content, .. }) if role == "assistant" => json!({
                "type": "message", "id": id, "status": "completed", "role": role,
                "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": content}],
            }),
            Self::Said(Message { role, content, .. }) => json!({
                "type": "message", "id": id, "status": "completed", "role": role,
                "content": [{"type": "input_text", "text": content}],
            }),
            Self::Call(call) => json!({
                "type": "function_call", "id": id, "status": "completed", "call_id": call.id, "name": call.name,
                "arguments": Value::Object(call.arguments.clone()).to_string(),
            }),
            Self::Result(message) => json!({
                "type": "function_call_output", "id": id, "status": "completed", "call_id": message.tool_call_id,
                "output": message.content,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> Vec<Message> {
        let call = ToolCall { id: "c".into(), name: "f".into(), arguments: Map::new() };
        vec![
            Message::new("user", "a"),
            Message { tool_calls: vec![call], ..Message::new("assistant", "b") },
            Message { tool_call_id: Some("c".into()), ..Message::new("tool", "d") },
        ]
    }

    #[test]
    fn pages_are_the_list_in_either_order() {
        for order in ["asc", "desc"] {
            let page = |query: &str| Page::parse(query).unwrap().of("resp_1", &said()).unwrap();
            let whole = page(&format!("order={order}"));
            let mut names: Vec<_> = whole["data"].as_array().unwrap().iter().map(|item| item["id"].clone()).collect();
            let (mut found, mut after) = (Vec::new(), String::new());
            loop {
                let page = page(&format!("limit=3&order={order}{after}"));
                found.extend(page["data"].as_array().unwrap().iter().map(|item| item["id"].clone()));
                after = format!("&after={}", page["last_id"].as_str().unwrap());
                if page["has_more"] == false {
                    break;
                }
            }
            assert_eq!((names.len(), &found), (4, &names));
            if order == "desc" {
                names.reverse();
            }
            assert_eq!(names, ["msg_1_0", "msg_1_1", "fc_1_2", "fco_1_3"]);
        }
    }

    #[test]
    fn a_wrong_query_is_named() {
        for (query, param) in [
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("limit=x", "limit"),
            ("limit=", "limit"),
            ("order=up", "order"),
            ("after=msg_2_0", "after"),
        ] {
            let error = Page::parse(query).and_then(|page| page.of("resp_1", &said())).unwrap_err();
            assert_eq!((error.parts().0, error.parts().2), (400, Some(param)), "{query}");
        }
    }
}
