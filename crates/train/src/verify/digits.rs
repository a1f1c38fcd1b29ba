//! Whole numbers from 0 on of any length, in decimal: as answers are written, and short.

/// Most digits of a number that an answer may hold; products of two are twice as long.
pub const MOST: usize = 400;

/// Decimal digits, the least first, without zeros at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Digits(Vec<u8>);

impl Digits {
    /// Of ASCII digits, the greatest first.
    pub fn of(text: &str) -> Self {
        let mut digits = Self(text.bytes().rev().map(|byte| byte - b'0').collect());
        digits.trim();
        digits
    }

    pub fn power_of_ten(exponent: usize) -> Self {
        let mut digits = vec![0; exponent];
        digits.push(1);
        Self(digits)
    }

    pub fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn plus(&self, other: &Self) -> Self {
        let mut sum = Vec::with_capacity(self.len().max(other.len()) + 1);
        let mut carry = 0;
        for place in 0..self.len().max(other.len()) {
            let digit = |digits: &Self| digits.0.get(place).copied().unwrap_or(0);
            let value = digit(self) + digit(other) + carry;
            sum.push(value % 10);
            carry = value / 10;
        }
        sum.push(carry);
        let mut sum = Self(sum);
        sum.trim();
        sum
    }

    pub fn times(&self, other: &Self) -> Self {
        let mut product = vec![0u32; self.len() + other.len() + 1];
        for (i, &a) in self.0.iter().enumerate() {
            for (j, &b) in other.0.iter().enumerate() {
                product[i + j] += u32::from(a) * u32::from(b);
            }
        }
        let mut carry = 0;
        let mut digits = Self(
            product
                .iter()
                .map(|&value| {
                    let value = value + carry;
                    carry = value / 10;
                    (value % 10) as u8
                })
                .collect(),
        );
        digits.trim();
        digits
    }

    fn trim(&mut self) {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }
}
