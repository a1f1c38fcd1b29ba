//! Names of a model's parts: `name-00001-of-00003.gguf`.

/// The name of one part, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SplitName {
    /// What stands before the numbers.
    pub(crate) prefix: String,
    /// Which part, from 1.
    pub(crate) number: u32,
    /// How many there are.
    pub(crate) count: u32,
}

impl SplitName {
    /// Takes `name` apart; `None` where it is no part's.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| match text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse().ok(),
            false => None,
        };
        let (number, count) = (digits(number)?, digits(count)?);
        (1..=count).contains(&number).then(|| Self { prefix: prefix.to_owned(), number, count })
    }

    /// The name of part `number`.
    pub(crate) fn part(&self, number: u32) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.prefix, self.count)
    }

    /// The names of all parts in order.
    pub(crate) fn parts(&self) -> impl Iterator<Item = String> {
        (1..=self.count).map(|number| self.part(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_are_taken_apart_and_others_are_not() {
        let name = "Q4_K_M/dots-of-1-00002-of-00003.gguf";
        let split = SplitName::parse(name).unwrap();
        assert_eq!(split, SplitName { prefix: "Q4_K_M/dots-of-1".to_owned(), number: 2, count: 3 });
        assert_eq!(split.part(2), name);
        for other in
            ["dots.gguf", "a-00004-of-00003.gguf", "a-00000-of-00003.gguf", "a-1-of-3.gguf", "a-+0001-of-00003.gguf"]
        {
            assert_eq!(SplitName::parse(other), None, "{other}");
        }
    }
}
