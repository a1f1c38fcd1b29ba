//! Numbers written in Chinese and Korean characters: 三百二十五, 十二万, 삼백이십오.

/// Digits of both scripts.
const DIGITS: [(char, u64); 25] = [
    ('零', 0),
    ('〇', 0),
    ('一', 1),
    ('二', 2),
    ('两', 2),
    ('兩', 2),
    ('三', 3),
    ('四', 4),
    ('五', 5),
    ('六', 6),
    ('七', 7),
    ('八', 8),
    ('九', 9),
    ('영', 0),
    ('공', 0),
    ('일', 1),
    ('이', 2),
    ('삼', 3),
    ('사', 4),
    ('오', 5),
    ('육', 6),
    ('륙', 6),
    ('칠', 7),
    ('팔', 8),
    ('구', 9),
];

/// Units within a group of four digits.
const SMALL: [(char, u64); 6] = [('十', 10), ('百', 100), ('千', 1000), ('십', 10), ('백', 100), ('천', 1000)];

/// The groups.
const LARGE: [(char, u64); 8] = [
    ('万', 10_000),
    ('萬', 10_000),
    ('만', 10_000),
    ('亿', 100_000_000),
    ('億', 100_000_000),
    ('억', 100_000_000),
    ('兆', 1_000_000_000_000),
    ('조', 1_000_000_000_000),
];

fn value(table: &[(char, u64)], character: char) -> Option<u64> {
    table.iter().find(|(known, _)| *known == character).map(|&(_, value)| value)
}

/// By which a number in digits is multiplied where this character follows it: `3万`, `3천`.
pub fn multiplier(character: char) -> Option<u64> {
    value(&LARGE, character).or_else(|| value(&SMALL, character))
}

/// The value of a text that consists of these characters alone; none where it does not, or is no number, such as 二三 beside 二十三.
pub fn parse(text: &str) -> Option<u64> {
    let (mut total, mut group, mut digit): (u64, u64, Option<u64>) = (0, 0, None);
    let (mut last_small, mut last_large) = (u64::MAX, u64::MAX);
    let mut any = false;
    for character in text.chars() {
        any = true;
        if let Some(found) = value(&DIGITS, character) {
            // A zero only holds a place: 三百零五.
            if digit.is_some_and(|digit| digit != 0) {
                return None;
            }
            digit = Some(found);
        } else if let Some(unit) = value(&SMALL, character) {
            if unit >= last_small {
                return None;
            }
            // 十二 is twelve; 零十 is nothing.
            let count = match digit.take() {
                Some(0) if group == 0 && total == 0 => return None,
                Some(0) | None => 1,
                Some(count) => count,
            };
            group += count * unit;
            last_small = unit;
        } else {
            let unit = value(&LARGE, character)?;
            let count = group + digit.take().unwrap_or(0);
            if unit >= last_large {
                return None;
            }
            // Korean says 만 for one of it.
            total = total.checked_add(count.max(1).checked_mul(unit)?)?;
            (group, last_small, last_large) = (0, u64::MAX, unit);
        }
    }
    any.then(|| total + group + digit.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chinese_and_korean_numbers_are_read_and_words_are_not() {
        for (text, expected) in [
            ("三百二十五", Some(325)),
            ("十二", Some(12)),
            ("二十", Some(20)),
            ("一百零五", Some(105)),
            ("两千零六", Some(2006)),
            ("十二万三千", Some(123_000)),
            ("三亿", Some(300_000_000)),
            ("零", Some(0)),
            ("삼백이십오", Some(325)),
            ("십이", Some(12)),
            ("만오천", Some(15_000)),
            ("二三", None),
            ("一个", None),
            ("十百", None),
            ("", None),
            ("이것", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
