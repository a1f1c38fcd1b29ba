//! Numbers as answers have them, compared exactly.
//!
//! Read are signs, digits grouped by commas or narrow spaces, decimals, fractions (`3/4`, `\frac{3}{4}`), mixed numbers (`1 1/2`),
//! powers (`2^{10}`), scientific forms (`1.5 \times 10^3`, `1.5e3`), multiples (`5 million`, `3万`) and percent; units
//! and currencies are passed over. What is a number and a letter that no unit is (`2x`, `3\sqrt{2}`, `2\pi`) is no number.

use super::{
    digits::{Digits, MOST},
    numerals,
    plain::{GROUP, plain},
};

/// A fraction of whole numbers.
#[derive(Debug, Clone)]
pub struct Number {
    negative: bool,
    above: Digits,
    below: Digits,
    percent: bool,
}

/// Words that multiply the number before them.
const MULTIPLES: [(&str, usize); 4] = [("thousand", 3), ("million", 6), ("billion", 9), ("trillion", 12)];
/// Units of one letter; any other letter beside a number is a variable.
const UNITS: &str = "mgshLlVAWNJKCFt";
/// What makes a product or a power of the number before it.
const FACTORS: [&str; 8] = ["\\sqrt", "\\pi", "√", "π", "^", "_", "!", "(\\"];

impl Number {
    /// A whole text as one number, with a unit or without: `12 km`, `$1,200`, `x = 3/4`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = plain(text);
        let text = text.rsplit_once('=').map_or(&*text, |(_, right)| right).trim();
        let text = text.trim_end_matches(['.', ' ']);
        let text = unbraced(text).trim_start_matches(['€', '£', '¥', '￥', '₩', ' ']);
        if let Some(number) = Self::in_words(text) {
            return Some(number);
        }
        let (number, end) = at(text, 0)?;
        is_unit(&text[end..]).then_some(number)
    }

    /// The first number in a text that begins an answer: `12 apples, as 3 of them…`; after the last `=` where there is one.
    pub fn first(text: &str) -> Option<Self> {
        let text = plain(text);
        let right = text.rsplit_once('=').and_then(|(_, right)| all(right).next());
        right.or_else(|| {
            // Characters stand for numbers only where nothing is before them.
            let start = text.trim_start_matches(|c: char| !c.is_alphanumeric() && !matches!(c, '-' | '+' | '\\' | '.'));
            Self::leading_words(start).or_else(|| all(&text).next())
        })
    }

    /// The last number in a text.
    pub fn last(text: &str) -> Option<Self> {
        all(&plain(text)).last()
    }

    /// Whether both are the same. Where one of them is of a hundred, the other may have been written either way: 50 % is 50, and 0.5.
    pub fn same(&self, other: &Self) -> bool {
        if self.equals(other) {
            return true;
        }
        match (self.percent, other.percent) {
            (true, false) => self.hundredth().equals(other),
            (false, true) => other.hundredth().equals(self),
            _ => false,
        }
    }

    fn equals(&self, other: &Self) -> bool {
        self.above.times(&other.below) == other.above.times(&self.below)
            && (self.negative == other.negative || self.above.is_zero())
    }

    fn hundredth(&self) -> Self {
        Self { below: self.below.times(&Digits::power_of_ten(2)), ..self.clone() }
    }

    fn whole(above: Digits) -> Self {
        Self { negative: false, above, below: Digits::power_of_ten(0), percent: false }
    }

    /// Characters and nothing else, but for a sign and a word of measure.
    fn in_words(text: &str) -> Option<Self> {
        let (negative, text) = match text.strip_prefix(['负', '負']) {
            Some(text) => (true, text),
            None => (false, text),
        };
        let run: String = text
            .chars()
            .take_while(|&c| numerals::parse(&c.to_string()).is_some() || numerals::multiplier(c).is_some())
            .collect();
        let rest = text[run.len()..].trim();
        let value = numerals::parse(&run)?;
        // A measure is short; anything longer is a text that begins with such a character.
        (rest.chars().count() <= 2 && rest.chars().all(char::is_alphabetic))
            .then(|| Self { negative, ..Self::whole(Digits::of(&value.to_string())) })
    }

    fn leading_words(text: &str) -> Option<Self> {
        let end = text.find(|c: char| !c.is_alphabetic()).unwrap_or(text.len());
        Self::in_words(&text[..end])
    }
}

/// Without a pair of braces around all of it.
fn unbraced(text: &str) -> &str {
    match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        Some(within) if !within.contains(['{', '}']) => within.trim(),
        _ => text,
    }
}

/// Whether a number may be followed by this: nothing, or words that measure.
fn is_unit(rest: &str) -> bool {
    let rest = rest.trim();
    rest.chars().count() <= 40
        && !rest.chars().any(|c| c.is_ascii_digit() && !rest.contains('^'))
        && rest.chars().all(|c| c.is_alphanumeric() || " /^{}.²³-".contains(c))
}

/// The numbers of a plain text, one after the other.
fn all(text: &str) -> impl Iterator<Item = Number> {
    let mut from = 0;
    std::iter::from_fn(move || {
        while from < text.len() {
            match at(text, from) {
                Some((number, end)) => {
                    from = end;
                    return Some(number);
                }
                None => from = next(text, from),
            }
        }
        None
    })
}

/// Where to look on: behind a run of digits that is no number, else behind one character.
fn next(text: &str, from: usize) -> usize {
    let digits = text[from..].find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len() - from);
    from + digits.max(text[from..].chars().next().map_or(1, char::len_utf8))
}

/// The number that begins at `from`, and where it ends.
fn at(text: &str, from: usize) -> Option<(Number, usize)> {
    let before = text[..from].chars().next_back();
    let mut scan = Scan { text, at: from };
    let mut negative = false;
    if let Some(sign) = scan.one_of("+-") {
        // Behind a number or a name it subtracts.
        if text[..from].trim_end().chars().next_back().is_some_and(|c| c.is_ascii_alphanumeric() || ")}]".contains(c)) {
            return None;
        }
        negative = sign == '-';
        scan.spaces();
    } else if before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') {
        return None;
    }
    let mut number = scan.value()?;
    number.negative = negative;
    scan.suffix(&mut number)?;
    Some((number, scan.at))
}

/// A place in a plain text.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn spaces(&mut self) {
        self.at = self.text.len() - self.rest().trim_start_matches(' ').len();
    }

    fn one_of(&mut self, characters: &str) -> Option<char> {
        let first = self.rest().chars().next().filter(|&c| characters.contains(c))?;
        self.at += first.len_utf8();
        Some(first)
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.rest().starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    /// Tries what may follow; the place stays where it does not.
    fn maybe<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let start = self.at;
        let found = read(self);
        if found.is_none() {
            self.at = start;
        }
        found
    }

    fn digits(&mut self) -> Option<&'a str> {
        let end = self.rest().find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest().len());
        let digits = &self.rest()[..end];
        self.at += end;
        (!digits.is_empty() && digits.len() <= MOST).then_some(digits)
    }

    /// Digits, grouped by threes or not, and what stands behind their point.
    fn decimal(&mut self) -> Option<Number> {
        let mut whole = String::new();
        if !self.rest().starts_with('.') {
            whole += self.digits()?;
            while let Some(group) = self.maybe(|scan| {
                scan.one_of(",\u{202f}")?;
                scan.digits().filter(|digits| digits.len() == 3)
            }) {
                if whole.len() > MOST {
                    return None;
                }
                whole += group;
            }
        }
        let part = self.maybe(|scan| {
            scan.one_of(".")?;
            scan.digits()
        });
        let part = part.unwrap_or("");
        if whole.is_empty() && part.is_empty() {
            return None;
        }
        let above = Digits::of(&(whole + part));
        Some(Number { below: Digits::power_of_ten(part.len()), ..Number::whole(above) })
    }

    /// `\frac{3}{4}` or `\frac34`.
    fn fraction(&mut self) -> Option<Number> {
        if !self.take("\\frac") {
            return None;
        }
        let mut part = || {
            self.spaces();
            if self.take("{") {
                self.spaces();
                let negative = self.one_of("-").is_some();
                let mut number = self.decimal()?;
                number.negative = negative;
                self.spaces();
                return self.take("}").then_some(number);
            }
            let digit = self.one_of("0123456789")?;
            Some(Number::whole(Digits::of(&digit.to_string())))
        };
        let (above, below) = (part()?, part()?);
        over(&above, &below)
    }

    /// A number without sign, unit or percent.
    fn value(&mut self) -> Option<Number> {
        if self.rest().starts_with("\\frac") {
            return self.fraction();
        }
        self.take("{");
        let number = self.decimal()?;
        self.take("}");
        if let Some(part) = self.maybe(|scan| {
            scan.spaces();
            scan.fraction()
        }) {
            return plus(&number, &part);
        }
        if let Some(part) = self.maybe(|scan| {
            // Of a mixed number; 3/4/2020 is a date.
            scan.one_of(" ")?;
            let above = Number::whole(Digits::of(scan.digits()?));
            scan.one_of("/")?;
            let below = Number::whole(Digits::of(scan.digits()?));
            if scan.rest().starts_with('/') { None } else { over(&above, &below) }
        }) {
            return plus(&number, &part);
        }
        if let Some(below) = self.maybe(|scan| {
            scan.spaces();
            scan.one_of("/")?;
            scan.spaces();
            scan.decimal()
        }) {
            return over(&number, &below);
        }
        if let Some(exponent) = self.maybe(Self::exponent) {
            return power(&number, exponent);
        }
        Some(number)
    }

    /// `^{10}` or `^10`.
    fn exponent(&mut self) -> Option<usize> {
        self.one_of("^")?;
        let braced = self.take("{");
        let exponent = self.digits()?.parse().ok()?;
        (!braced || self.take("}")).then_some(exponent)
    }

    /// What multiplies the number, and percent; none where what follows makes it part of something else.
    fn suffix(&mut self, number: &mut Number) -> Option<()> {
        let ten = self.maybe(|scan| {
            if scan.one_of("eE").is_some() {
                let negative = scan.one_of("+-") == Some('-');
                return Some((negative, scan.digits()?.parse().ok()?));
            }
            scan.spaces();
            scan.one_of("×x*")?;
            scan.spaces();
            if !scan.take("10^") {
                return None;
            }
            let braced = scan.take("{");
            let negative = scan.one_of("-").is_some();
            let exponent = scan.digits()?.parse().ok()?;
            (!braced || scan.take("}")).then_some((negative, exponent))
        });
        if let Some((negative, exponent)) = ten {
            number.scale(exponent, negative)?;
        }
        let word = self.maybe(|scan| {
            scan.spaces();
            let lower = scan.rest().get(..8)?.to_ascii_lowercase();
            let (word, exponent) = MULTIPLES.iter().find(|(word, _)| lower.starts_with(word))?;
            scan.at += word.len();
            Some(*exponent)
        });
        if let Some(exponent) = word {
            number.scale(exponent, false)?;
        }
        self.characters(number)?;
        number.percent = self
            .maybe(|scan| {
                scan.spaces();
                ["%", "percent", "퍼센트"].iter().any(|word| scan.take(word)).then_some(())
            })
            .is_some();
        if FACTORS.iter().any(|factor| self.rest().starts_with(factor)) {
            return None;
        }
        let mut following = self.rest().chars();
        let variable = following.next().is_some_and(|c| c.is_ascii_alphabetic() && !UNITS.contains(c))
            && following.next().is_none_or(|c| !c.is_alphabetic());
        (!variable).then_some(())
    }

    /// `3万5千`: each multiple, and what follows it.
    fn characters(&mut self, number: &mut Number) -> Option<()> {
        let multiple = |scan: &Self| scan.rest().chars().next().and_then(|c| Some((c, numerals::multiplier(c)?)));
        let Some((first, mut by)) = multiple(self) else { return Some(()) };
        self.at += first.len_utf8();
        *number = times(number, by);
        while let Some((part, unit)) = self.maybe(|scan| {
            scan.spaces();
            let part = scan.decimal()?;
            let (character, unit) = multiple(scan).filter(|&(_, unit)| unit < by)?;
            scan.at += character.len_utf8();
            Some((part, unit))
        }) {
            let negative = number.negative;
            number.negative = false;
            *number = Number { negative, ..plus(number, &times(&part, unit))? };
            by = unit;
        }
        Some(())
    }
}

impl Number {
    /// Times ten to the power of `exponent`, or divided by it.
    fn scale(&mut self, exponent: usize, divide: bool) -> Option<()> {
        if exponent > MOST {
            return None;
        }
        let power = Digits::power_of_ten(exponent);
        if divide {
            self.below = self.below.times(&power);
        } else {
            self.above = self.above.times(&power);
        }
        Some(())
    }
}

fn times(number: &Number, by: u64) -> Number {
    Number { above: number.above.times(&Digits::of(&by.to_string())), ..number.clone() }
}

fn over(above: &Number, below: &Number) -> Option<Number> {
    (!below.above.is_zero()).then(|| Number {
        negative: above.negative != below.negative,
        above: above.above.times(&below.below),
        below: above.below.times(&below.above),
        percent: false,
    })
}

/// Of numbers that are not negative.
fn plus(a: &Number, b: &Number) -> Option<Number> {
    if b.negative {
        return None;
    }
    let above = a.above.times(&b.below).plus(&b.above.times(&a.below));
    Some(Number { above, below: a.below.times(&b.below), ..a.clone() })
}

fn power(base: &Number, exponent: usize) -> Option<Number> {
    let longest = base.above.len().max(base.below.len());
    if exponent > MOST || longest.saturating_mul(exponent) > MOST {
        return None;
    }
    let raise = |digits: &Digits| (0..exponent).fold(Digits::power_of_ten(0), |product, _| product.times(digits));
    Some(Number { above: raise(&base.above), below: raise(&base.below), ..base.clone() })
}

// The character by which digits are grouped is the one that `decimal` looks for.
const _: () = assert!(GROUP as u32 == 0x202f);
