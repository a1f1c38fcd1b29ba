//! When an answer is computed, and for whom it may be shared: fields of vLLM's and one of ours.

use std::time::{Duration, Instant};

use super::fields::Fields;
use crate::error::ApiError;

/// Longest timeout that a request may set, in seconds: a week.
const MAX_TIMEOUT_SECONDS: f64 = 604_800.0;

/// How a request stands among others.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scheduling {
    /// The lower number goes first.
    pub priority: i32,
    /// Only requests of one salt share what is in the cache.
    pub cache_salt: Option<String>,
    /// After which the answer is not needed any more.
    pub timeout: Option<Duration>,
}

impl Scheduling {
    /// Reads the fields.
    pub fn parse(fields: Fields<'_>) -> Result<Self, ApiError> {
        let cache_salt = fields.string("cache_salt")?;
        if cache_salt == Some("") {
            return Err(ApiError::invalid(
                fields.param("cache_salt"),
                "invalid_value",
                "Invalid 'cache_salt': expected a text that is not empty.",
            ));
        }
        let priority = fields.integer("priority", i64::from(i32::MIN)..=i64::from(i32::MAX))?;
        let timeout = fields.number("timeout", 0.0..=MAX_TIMEOUT_SECONDS)?;
        Ok(Self {
            priority: priority.and_then(|priority| i32::try_from(priority).ok()).unwrap_or(0),
            cache_salt: cache_salt.map(str::to_owned),
            timeout: timeout.map(Duration::from_secs_f64),
        })
    }

    /// When the answer to a request that was read just now is not needed any more.
    pub fn deadline(&self) -> Option<Instant> {
        Instant::now().checked_add(self.timeout?)
    }

    /// Refuses a priority where the server does not ask who is more urgent, as vLLM does.
    pub fn check(&self, allows_priority: bool) -> Result<(), ApiError> {
        if self.priority == 0 || allows_priority {
            return Ok(());
        }
        Err(ApiError::invalid(
            "priority",
            "invalid_value",
            format!(
                "Got priority {} but this server serves in the order of arrival; it takes priorities where it is started \
                 with --scheduling-policy priority.",
                self.priority
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(body: Value) -> Result<Scheduling, ApiError> {
        let Value::Object(object) = body else { panic!("an object") };
        Scheduling::parse(Fields::new(&object))
    }

    #[test]
    fn each_field_out_of_its_range_is_named() {
        let cases = [
            (json!({"priority": 0.5}), "priority", "invalid_type"),
            (json!({"priority": 1_i64 << 31}), "priority", "integer_above_max_value"),
            (json!({"cache_salt": 1}), "cache_salt", "invalid_type"),
            (json!({"cache_salt": ""}), "cache_salt", "invalid_value"),
            (json!({"timeout": "1"}), "timeout", "invalid_type"),
            (json!({"timeout": -1}), "timeout", "decimal_below_min_value"),
            (json!({"timeout": 1e9}), "timeout", "decimal_above_max_value"),
        ];
        for (body, param, code) in cases {
            let error = parse(body.clone()).expect_err(&body.to_string());
            let (status, _, found_param, found_code) = error.parts();
            assert_eq!((status, found_param, found_code), (400, Some(param), Some(code)), "{body}");
        }
    }

    #[test]
    fn fields_arrive_as_they_are() {
        let parsed = parse(json!({"priority": -3, "cache_salt": "mine", "timeout": 1.5})).unwrap();
        let expected = Scheduling {
            priority: -3,
            cache_salt: Some("mine".to_owned()),
            timeout: Some(Duration::from_millis(1500)),
        };
        assert_eq!(parsed, expected);
        assert_eq!(parse(json!({"priority": null, "timeout": null})).unwrap(), Scheduling::default());
    }

    #[test]
    fn a_priority_needs_a_server_that_asks_for_it() {
        let urgent = Scheduling { priority: -1, ..Scheduling::default() };
        assert_eq!(urgent.check(false).unwrap_err().parts().2, Some("priority"));
        assert!(urgent.check(true).is_ok() && Scheduling::default().check(false).is_ok());
    }
}
