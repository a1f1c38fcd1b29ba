//! llama.cpp's GBNF, rewritten as Lark.
//!
//! GBNF is a grammar over characters; `llguidance` cuts a text into lexemes first. So whatever is regular becomes one
//! terminal: rules that do not recurse, and runs of regular items within those that do. Such a run takes as much as it can:
//! `[a-z]+ item` where an item may begin with a letter allows less here than in llama.cpp, never more. A rule that may be
//! empty, as one for white space, stays apart behind others, since what follows it often begins as it does.
//!
//! Known: literals, character classes, `.`, groups, `|`, `* + ? {m,n}`, comments, `<token>` and `<[id]>`. Not known: `!` before
//! a token.

use std::collections::BTreeMap;

use super::tool_calls::lark_string;

const MAX_DEPTH: usize = 24;
const MAX_REPEAT: u32 = 10_000;

/// Whether a grammar is GBNF and not Lark.
pub(super) fn is_gbnf(source: &str) -> bool {
    source.contains("::=")
}

/// The same grammar in Lark. `Err` says what is wrong and on which line.
pub(super) fn to_lark(source: &str) -> Result<String, String> {
    let rules = Parser { rest: source, line: 1 }.rules()?;
    Writer::new(&rules)?.lark()
}

#[derive(Debug)]
enum Node<'a> {
    Literal(String),
    /// A class as a regular expression, brackets included.
    Class(String),
    Rule {
        name: &'a str,
        line: usize,
    },
    /// As it is written, which is also how Lark writes it.
    Token(&'a str),
    Sequence(Vec<Node<'a>>),
    Either(Vec<Node<'a>>),
    Repeat {
        node: Box<Node<'a>>,
        least: u32,
        most: Option<u32>,
    },
}

impl<'a> Node<'a> {
    /// The rules that it names, with the lines where it does.
    fn references(&self, found: &mut Vec<(&'a str, usize)>) {
        match self {
            Node::Rule { name, line } => found.push((name, *line)),
            Node::Sequence(nodes) | Node::Either(nodes) => nodes.iter().for_each(|node| node.references(found)),
            Node::Repeat { node, .. } => node.references(found),
            Node::Literal(_) | Node::Class(_) | Node::Token(_) => {}
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Parser<'a> {
    fn wrong<T>(&self, expected: &str) -> Result<T, String> {
        let found = match self.rest.chars().next() {
            Some(c) => format!("{c:?}"),
            None => "the end".to_owned(),
        };
        Err(format!("line {}: expected {expected}, found {found}", self.line))
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn take(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn skip_space(&mut self, lines: bool) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' => {}
                '\r' | '\n' if lines => {}
                '#' => {
                    let end = self.rest.find(['\r', '\n']).unwrap_or(self.rest.len());
                    self.rest = &self.rest[end..];
                    continue;
                }
                _ => return,
            }
            self.next();
        }
    }

    fn rules(mut self) -> Result<BTreeMap<&'a str, Node<'a>>, String> {
        let mut rules = BTreeMap::new();
        self.skip_space(true);
        while !self.rest.is_empty() {
            let line = self.line;
            let name = self.name()?;
            self.skip_space(false);
            if !self.take("::=") {
                return self.wrong("'::='");
            }
            self.skip_space(true);
            let node = self.either(0)?;
            if !matches!(self.peek(), None | Some('\r' | '\n')) {
                return self.wrong("an item or the line's end");
            }
            if rules.insert(name, node).is_some() {
                return Err(format!("line {line}: the rule '{name}' is there twice"));
            }
            self.skip_space(true);
        }
        Ok(rules)
    }

    fn name(&mut self) -> Result<&'a str, String> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let end = self.rest.find(|c| !is_name(c)).unwrap_or(self.rest.len());
        if end == 0 {
            return self.wrong("a rule's name");
        }
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(name)
    }

    fn either(&mut self, depth: usize) -> Result<Node<'a>, String> {
        if depth > MAX_DEPTH {
            return Err(format!("line {}: groups nest deeper than {MAX_DEPTH}", self.line));
        }
        let mut alternatives = vec![self.sequence(depth)?];
        while self.take("|") {
            self.skip_space(true);
            alternatives.push(self.sequence(depth)?);
        }
        Ok(if alternatives.len() == 1 { alternatives.remove(0) } else { Node::Either(alternatives) })
    }

    fn sequence(&mut self, depth: usize) -> Result<Node<'a>, String> {
        let in_group = depth > 0;
        let mut nodes = Vec::new();
        loop {
            self.skip_space(in_group);
            let node = match self.peek() {
                Some('"') => self.literal()?,
                Some('[') => self.class()?,
                Some('.') => {
                    self.next();
                    Node::Class("(?s:.)".to_owned())
                }
                Some('<') => self.token()?,
                Some('(') => {
                    self.next();
                    self.skip_space(true);
                    let group = self.either(depth + 1)?;
                    if !self.take(")") {
                        return self.wrong("')'");
                    }
                    group
                }
                Some(c) if c.is_ascii_alphanumeric() || c == '-' || c == '_' => {
                    Node::Rule { line: self.line, name: self.name()? }
                }
                Some('!') => return self.wrong("an item ('!' before a token is not supported)"),
                _ => return Ok(Node::Sequence(nodes)),
            };
            nodes.push(self.repeated(node)?);
        }
    }

    fn repeated(&mut self, node: Node<'a>) -> Result<Node<'a>, String> {
        let (least, most) = match self.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => {
                self.next();
                let least = self.number()?;
                let most = match self.take(",") {
                    false => Some(least),
                    true if self.rest.trim_start().starts_with('}') => None,
                    true => Some(self.number()?),
                };
                self.skip_space(false);
                if self.peek() != Some('}') {
                    return self.wrong("'}'");
                }
                if most.is_some_and(|most| most < least) {
                    return self.wrong("a repetition's bounds in order before this");
                }
                (least, most)
            }
            _ => return Ok(node),
        };
        self.next();
        Ok(Node::Repeat { node: Box::new(node), least, most })
    }

    fn number(&mut self) -> Result<u32, String> {
        self.skip_space(false);
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let Some(number) = self.rest[..end].parse().ok().filter(|&number| number <= MAX_REPEAT) else {
            return self.wrong(&format!("a number up to {MAX_REPEAT}"));
        };
        self.rest = &self.rest[end..];
        self.skip_space(false);
        Ok(number)
    }

    fn token(&mut self) -> Result<Node<'a>, String> {
        let end = self.rest.find('>').filter(|&end| !self.rest[..end].contains(char::is_whitespace));
        let Some(end) = end else { return self.wrong("a token up to its '>'") };
        let (token, rest) = self.rest.split_at(end + 1);
        self.rest = rest;
        Ok(Node::Token(token))
    }

    fn literal(&mut self) -> Result<Node<'a>, String> {
        self.next();
        let mut text = String::new();
        loop {
            match self.peek() {
                Some('"') => break,
                Some(_) => text.push(self.character()?),
                None => return self.wrong("'\"'"),
            }
        }
        self.next();
        Ok(Node::Literal(text))
    }

    fn class(&mut self) -> Result<Node<'a>, String> {
        self.next();
        let mut class = String::from(if self.take("^") { "[^" } else { "[" });
        let mut is_empty = true;
        while self.peek() != Some(']') {
            let from = self.class_character()?;
            class.push_str(&escaped(from));
            is_empty = false;
            if self.rest.starts_with('-') && !self.rest.starts_with("-]") {
                self.next();
                let to = self.class_character()?;
                if to < from {
                    return Err(format!("line {}: a range from {from:?} to {to:?} is empty", self.line));
                }
                class.push('-');
                class.push_str(&escaped(to));
            }
        }
        self.next();
        if is_empty {
            return Err(format!("line {}: a class of no characters", self.line));
        }
        Ok(Node::Class(class + "]"))
    }

    fn class_character(&mut self) -> Result<char, String> {
        if self.peek().is_none() { self.wrong("']'") } else { self.character() }
    }

    fn character(&mut self) -> Result<char, String> {
        let Some(c) = self.next().filter(|&c| c != '\n') else { return self.wrong("a character") };
        if c != '\\' {
            return Ok(c);
        }
        let digits = match self.next() {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some(c @ ('"' | '\\' | '[' | ']' | '-' | '^' | '/')) => return Ok(c),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => return self.wrong("one of n r t \" \\ [ ] x u U after a backslash; before"),
        };
        let code = self.rest.get(..digits).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let Some(c) = code.and_then(char::from_u32) else {
            return self.wrong(&format!("a character's code in {digits} hexadecimal digits"));
        };
        self.rest = &self.rest[digits..];
        Ok(c)
    }
}

/// A character as it stands in a regular expression's class between slashes.
fn escaped(c: char) -> String {
    match c {
        c if c.is_ascii_alphanumeric() => c.to_string(),
        c => format!("\\u{{{:x}}}", c as u32),
    }
}

struct Writer<'a> {
    rules: &'a BTreeMap<&'a str, Node<'a>>,
    /// A rule's name in Lark: `t0` is written `T0` where it is regular.
    names: BTreeMap<&'a str, String>,
    /// Rules that are one terminal, and whether they may be empty.
    regular: BTreeMap<&'a str, bool>,
    /// Terminals of runs within rules.
    runs: Vec<String>,
}

impl<'a> Writer<'a> {
    fn new(rules: &'a BTreeMap<&'a str, Node<'a>>) -> Result<Self, String> {
        if !rules.contains_key("root") {
            return Err("there is no rule 'root'".to_owned());
        }
        let mut writer = Self { rules, names: BTreeMap::new(), regular: BTreeMap::new(), runs: Vec::new() };
        writer.find_regular()?;
        for (i, &name) in rules.keys().enumerate() {
            let kind = if writer.regular.contains_key(name) { 'T' } else { 'r' };
            writer.names.insert(name, format!("{kind}{i}"));
        }
        Ok(writer)
    }

    /// A rule can be regular once all that it refers to is known to be: what recurses never is. Each is looked at once, when
    /// its last reference becomes known.
    fn find_regular(&mut self) -> Result<(), String> {
        let mut unknown: BTreeMap<&str, usize> = BTreeMap::new();
        let mut users: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (&rule, node) in self.rules {
            let mut references = Vec::new();
            node.references(&mut references);
            if let Some((name, line)) = references.iter().find(|(name, _)| !self.rules.contains_key(name)) {
                return Err(format!("line {line}: there is no rule '{name}'"));
            }
            unknown.insert(rule, references.len());
            references.iter().for_each(|&(name, _)| users.entry(name).or_default().push(rule));
        }
        let mut known: Vec<&str> = self.rules.keys().copied().filter(|rule| unknown[rule] == 0).collect();
        while let Some(rule) = known.pop() {
            let node = &self.rules[rule];
            if !self.is_regular(node) {
                continue;
            }
            self.regular.insert(rule, self.may_be_empty(node));
            for &user in users.get(rule).into_iter().flatten() {
                let unknown = unknown.entry(user).or_default();
                *unknown -= 1;
                if *unknown == 0 {
                    known.push(user);
                }
            }
        }
        Ok(())
    }

    fn is_regular(&self, node: &Node<'_>) -> bool {
        match node {
            Node::Literal(_) | Node::Class(_) => true,
            Node::Rule { name, .. } => self.regular.contains_key(name),
            Node::Token(_) => false,
            Node::Sequence(nodes) => {
                let [first @ .., last] = &nodes[..] else { return true };
                nodes.iter().all(|node| self.is_regular(node)) && (first.is_empty() || !self.is_apart(last))
            }
            Node::Either(nodes) => nodes.iter().all(|node| self.is_regular(node)),
            Node::Repeat { node, .. } => self.is_regular(node),
        }
    }

    /// Whether a regular node ends a terminal before it where nothing regular follows that cannot be empty.
    fn is_apart(&self, node: &Node<'_>) -> bool {
        matches!(node, Node::Rule { .. }) && self.may_be_empty(node)
    }

    /// Cuts a sequence into runs that are one terminal each, and what is regular nowhere, alone.
    fn runs_of<'n, 'b>(&self, nodes: &'n [Node<'b>]) -> Vec<&'n [Node<'b>]> {
        let mut runs = Vec::new();
        for stretch in nodes.chunk_by(|one, next| self.is_regular(one) && self.is_regular(next)) {
            let apart = stretch.iter().rev().take_while(|node| self.is_regular(node) && self.is_apart(node)).count();
            let (run, apart) = stretch.split_at(stretch.len() - apart);
            runs.extend((!run.is_empty()).then_some(run));
            runs.extend(apart.chunks(1));
        }
        runs
    }

    /// Of a regular node.
    fn may_be_empty(&self, node: &Node<'_>) -> bool {
        match node {
            Node::Literal(text) => text.is_empty(),
            Node::Class(_) | Node::Token(_) => false,
            Node::Rule { name, .. } => self.regular.get(name).copied().unwrap_or(false),
            Node::Sequence(nodes) => nodes.iter().all(|node| self.may_be_empty(node)),
            Node::Either(nodes) => nodes.iter().any(|node| self.may_be_empty(node)),
            Node::Repeat { node, least, .. } => *least == 0 || self.may_be_empty(node),
        }
    }

    fn lark(mut self) -> Result<String, String> {
        let mut lark = format!("start: {}\n", self.names["root"]);
        for (name, node) in self.rules {
            let body = match self.regular.contains_key(name) {
                true => self.terminal(node),
                false => self.rule(node),
            };
            lark += &format!("{}: {body}\n", self.names[name]);
        }
        for (i, run) in self.runs.iter().enumerate() {
            lark += &format!("RUN{i}: {run}\n");
        }
        Ok(lark)
    }

    fn terminal(&self, node: &Node<'_>) -> String {
        match node {
            Node::Literal(text) => lark_string(text),
            Node::Class(class) => format!("/{class}/"),
            Node::Rule { name, .. } => self.names[name].clone(),
            Node::Token(token) => (*token).to_owned(),
            Node::Sequence(nodes) if nodes.is_empty() => "\"\"".to_owned(),
            Node::Sequence(nodes) => joined(nodes, " ", |node| self.terminal(node)),
            Node::Either(nodes) => joined(nodes, " | ", |node| self.terminal(node)),
            Node::Repeat { node, least, most } => repeat(self.terminal(node), *least, *most),
        }
    }

    fn rule(&mut self, node: &Node<'_>) -> String {
        match node {
            _ if self.is_regular(node) => self.run(std::slice::from_ref(node)),
            Node::Sequence(nodes) => {
                let runs = self.runs_of(nodes);
                let parts: Vec<String> = runs
                    .into_iter()
                    .map(|run| if self.is_regular(&run[0]) { self.run(run) } else { self.rule(&run[0]) })
                    .collect();
                format!("({})", parts.join(" "))
            }
            Node::Either(nodes) => {
                let alternatives: Vec<String> = nodes.iter().map(|node| self.rule(node)).collect();
                format!("({})", alternatives.join(" | "))
            }
            Node::Repeat { node, least, most } => repeat(self.rule(node), *least, *most),
            Node::Literal(_) | Node::Class(_) | Node::Rule { .. } | Node::Token(_) => self.terminal(node),
        }
    }

    /// A terminal of its own for a run of regular nodes; a lone rule has one.
    fn run(&mut self, nodes: &[Node<'_>]) -> String {
        match nodes {
            [node @ Node::Rule { .. }] => self.terminal(node),
            [Node::Sequence(nodes)] if nodes.is_empty() => "\"\"".to_owned(),
            nodes => {
                let run = joined(nodes, " ", |node| self.terminal(node));
                self.runs.push(run);
                format!("RUN{}", self.runs.len() - 1)
            }
        }
    }
}

fn joined<'a>(nodes: &[Node<'a>], separator: &str, write: impl Fn(&Node<'a>) -> String) -> String {
    let written: Vec<String> = nodes.iter().map(write).collect();
    if let [one] = &written[..] { one.clone() } else { format!("({})", written.join(separator)) }
}

fn repeat(item: String, least: u32, most: Option<u32>) -> String {
    match (least, most) {
        // Lark refuses an upper bound of 0.
        (_, Some(0)) => "\"\"".to_owned(),
        (0, None) => format!("({item})*"),
        (1, None) => format!("({item})+"),
        (0, Some(1)) => format!("({item})?"),
        (least, None) => format!("({item}){{{least},}}"),
        (least, Some(most)) => format!("({item}){{{least},{most}}}"),
    }
}
