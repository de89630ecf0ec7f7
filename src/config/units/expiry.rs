//! Until when something is valid: a moment, or a day that is the last.

use std::{fmt, str::FromStr};

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// How the `toml` crate hands a date over that stands there without quotes.
const UNQUOTED: &str = "$__toml_private_datetime";

/// The moment from which something is no longer valid, written as an RFC 3339 date-time such as
/// `2027-01-31T18:00:00Z`, or as a date: that day, in UTC, is then the last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiry(Timestamp);

impl Expiry {
    /// That moment.
    pub const fn get(self) -> Timestamp {
        self.0
    }
}

impl From<Timestamp> for Expiry {
    fn from(moment: Timestamp) -> Self {
        Self(moment)
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for Expiry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let moment = match text.len() {
            // A longer text may be a date too, with a time that jiff would drop.
            10 => text.parse().ok().and_then(end_of),
            _ => text.parse().ok(),
        };
        moment.map(Self).ok_or_else(|| format!("{text:?} is not a date such as \"2027-01-31\""))
    }
}

fn end_of(last: Date) -> Option<Timestamp> {
    Some(last.tomorrow().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

impl<'de> Deserialize<'de> for Expiry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Expiry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a date such as \"2027-01-31\", or \"2027-01-31T18:00:00Z\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Expiry, E> {
                text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Expiry, A::Error> {
                match map.next_entry::<String, String>() {
                    Ok(Some((name, text))) if name == UNQUOTED => self.visit_str(&text),
                    _ => Err(de::Error::invalid_type(de::Unexpected::Map, &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for Expiry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_the_last_day_and_a_time_the_moment() {
        for (text, moment) in [
            ("2027-01-31", "2027-02-01T00:00:00Z"),
            ("2026-12-31", "2027-01-01T00:00:00Z"),
            ("2027-01-31T18:00:00Z", "2027-01-31T18:00:00Z"),
            ("2027-01-31T18:00:00+08:00", "2027-01-31T10:00:00Z"),
        ] {
            assert_eq!(text.parse::<Expiry>().unwrap().to_string(), moment, "{text}");
            assert_eq!(moment.parse::<Expiry>().unwrap().to_string(), moment);
        }
        for text in ["", "soon", "2027-13-01", "2027-01-31T18:00:00", "31.1.2027", "20270131"] {
            assert!(text.parse::<Expiry>().is_err(), "{text}");
        }
    }
}
