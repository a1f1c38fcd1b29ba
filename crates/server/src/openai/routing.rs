//! Which experts each token took: `"return_routing": true`.

use dots_engine::{Finish, Routing};
use serde::{Serialize, Serializer, ser::SerializeStruct};

/// `{"layers": [1, 2], "experts": [[[7, 3], [0, 5]]]}`: by token, by layer, in the order in which the experts' outputs were
/// added. The prompt's tokens come first; the last generated token was never computed and is not there.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutingShape {
    routing: Routing,
    /// Experts that a token takes in a layer.
    top_k: usize,
}

impl RoutingShape {
    /// Of an answer that has ended, where the request asked.
    pub fn of(finish: &Finish) -> Option<Self> {
        let routing = finish.routing.clone()?;
        let tokens = finish.prompt_tokens + finish.completion_tokens.saturating_sub(1);
        let top_k = routing.experts.len() / (tokens * routing.layers.len()).max(1);
        Some(Self { routing, top_k: top_k.max(1) })
    }
}

impl Serialize for RoutingShape {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Routing { layers, experts } = &self.routing;
        let mut shape = serializer.serialize_struct("RoutingShape", 2)?;
        shape.serialize_field("layers", layers)?;
        shape.serialize_field("experts", &Tokens { experts, layers: layers.len().max(1), top_k: self.top_k })?;
        shape.end()
    }
}

/// Written out as it is read: a long answer's lists would take ten times the memory that its experts take.
struct Tokens<'a> {
    experts: &'a [u16],
    layers: usize,
    top_k: usize,
}

impl Serialize for Tokens<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let token = |experts| Layers { experts, top_k: self.top_k };
        serializer.collect_seq(self.experts.chunks(self.layers * self.top_k).map(token))
    }
}

struct Layers<'a> {
    experts: &'a [u16],
    top_k: usize,
}

impl Serialize for Layers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.experts.chunks(self.top_k))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn experts_are_listed_by_token_and_by_layer() {
        let routing = Routing { layers: vec![1, 2], experts: vec![7, 3, 0, 5, 1, 2, 3, 4] };
        let finish = Finish { prompt_tokens: 1, completion_tokens: 2, routing: Some(routing), ..Finish::default() };
        let shape = serde_json::to_value(RoutingShape::of(&finish)).unwrap();
        assert_eq!(shape, json!({"layers": [1, 2], "experts": [[[7, 3], [0, 5]], [[1, 2], [3, 4]]]}));
        assert_eq!(RoutingShape::of(&Finish::default()), None);
    }
}
