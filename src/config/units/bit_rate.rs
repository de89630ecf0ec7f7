//! How fast bytes may go: a rate in bits a second, or none.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A bandwidth, written as in `100Mbit/s`, `2.5Gbit/s` or `12.5MB/s`; or `unlimited`.
///
/// Prefixes are decimal, as networks have them; `KiB/s` and its like are there for those who count
/// in these.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct BitRate {
    /// 0: no limit.
    bits: u64,
}

/// How "no limit" is written.
const UNLIMITED: &str = "unlimited";

/// Units that are written out, the largest that fits first.
const SHOWN: [(u64, &str); 4] =
    [(1_000_000_000, "Gbit/s"), (1_000_000, "Mbit/s"), (1_000, "kbit/s"), (1, "bit/s")];

impl BitRate {
    /// No limit.
    pub const UNLIMITED: Self = Self { bits: 0 };

    /// So many bits a second; 0 is no limit.
    pub const fn from_bits(bits: u64) -> Self {
        Self { bits }
    }

    /// So many millions of bits a second.
    pub const fn from_mbit(mbit: u64) -> Self {
        Self { bits: mbit * 1_000_000 }
    }

    /// Whether there is no limit.
    pub const fn is_unlimited(self) -> bool {
        self.bits == 0
    }

    /// Whole bytes a second, at least one; `None` for no limit.
    pub const fn bytes_per_second(self) -> Option<u64> {
        match self.bits {
            0 => None,
            1..8 => Some(1),
            bits => Some(bits / 8),
        }
    }

    /// The lower of two.
    #[must_use]
    pub const fn min(self, other: Self) -> Self {
        match (self.bits, other.bits) {
            (0, _) => other,
            (_, 0) => self,
            (one, two) => Self { bits: if one < two { one } else { two } },
        }
    }

    /// In bits a second; 0 for no limit.
    pub const fn bits_per_second(self) -> u64 {
        self.bits
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SHOWN.iter().find(|(unit, _)| self.bits != 0 && self.bits.is_multiple_of(*unit)) {
            Some((unit, name)) => write!(f, "{}{name}", self.bits / unit),
            None => f.write_str(UNLIMITED),
        }
    }
}

impl fmt::Debug for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BitRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() || text == "0" || text.eq_ignore_ascii_case(UNLIMITED) {
            return Ok(Self::UNLIMITED);
        }
        let unit_at = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        rate(number, unit.trim_start()).map(|bits| Self { bits }).ok_or_else(|| {
            format!("{text:?} is not a rate such as \"100Mbit/s\", \"12.5MB/s\" or \"{UNLIMITED}\"")
        })
    }
}

/// Bits a second; `None` for what is none, is less than one, or more than there is room for.
fn rate(number: &str, unit: &str) -> Option<u64> {
    let number: f64 = number.parse().ok()?;
    let bits = (number * bits_of(unit)?).round();
    (1.0..=MOST).contains(&bits).then_some(bits as u64)
}

/// As far as every whole number is one that an `f64` holds: a thousand terabits.
const MOST: f64 = 1e15;

/// The bits in one `unit`. Bits and bytes are told apart by `b` and `B`, so that case matters there.
fn bits_of(unit: &str) -> Option<f64> {
    let unit = unit.strip_suffix("/s").or_else(|| unit.strip_suffix("ps"))?;
    let (prefix, bits) = match unit {
        _ if unit.to_ascii_lowercase().ends_with("bit") => (&unit[..unit.len() - 3], 1.0),
        _ if unit.ends_with('b') => (&unit[..unit.len() - 1], 1.0),
        _ if unit.ends_with('B') => (&unit[..unit.len() - 1], 8.0),
        _ => return None,
    };
    let times = match prefix {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    Some(times * bits)
}

impl<'de> Deserialize<'de> for BitRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = BitRate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rate in quotes such as \"100Mbit/s\", \"12.5MB/s\" or \"unlimited\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<BitRate, E> {
                text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

impl Serialize for BitRate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates_read_as_people_write_them() {
        for (text, bits) in [
            ("100Mbit/s", 100_000_000),
            ("100 Mbit/s", 100_000_000),
            ("100mbit/s", 0),
            ("2.5Gbit/s", 2_500_000_000),
            ("12.5MB/s", 100_000_000),
            ("1MiB/s", 8 << 20),
            ("64kbit/s", 64_000),
            ("64Kbps", 64_000),
            ("8 Mb/s", 8_000_000),
            ("300bit/s", 300),
        ] {
            let read = text.parse::<BitRate>().map_or(0, BitRate::bits_per_second);
            assert_eq!(read, bits, "{text}");
        }
        for text in ["", "0", "unlimited", " Unlimited "] {
            assert_eq!(text.parse(), Ok(BitRate::UNLIMITED), "{text}");
        }
        for text in [
            "100",
            "fast",
            "-1Mbit/s",
            "1 Mbit",
            "1Xbit/s",
            "1.2.3Mbit/s",
            "/s",
            "é/s",
            "0.1bit/s",
            "1000000Tbit/s",
            "NaNMbit/s",
            "0Mbit/s",
        ] {
            assert!(text.parse::<BitRate>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_rate_is_shown_in_the_largest_unit_that_says_it_exactly() {
        for (bits, shown) in [
            (0, "unlimited"),
            (1, "1bit/s"),
            (64_000, "64kbit/s"),
            (1_500_000, "1500kbit/s"),
            (100_000_000, "100Mbit/s"),
            (2_000_000_000, "2Gbit/s"),
        ] {
            assert_eq!(BitRate::from_bits(bits).to_string(), shown);
        }
    }

    proptest! {
        #[test]
        fn a_rate_survives_its_own_display(bits in 0..=1_000_000_000_000_000_u64, zeros in 0..4_u32) {
            let rate = BitRate::from_bits(bits / 10_u64.pow(3 * zeros) * 10_u64.pow(3 * zeros));
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,12}", unit in "[kKMGTi]{0,2}(bit|b|B|é)?(/s|ps)?") {
            let _ = format!("{text}{unit}").parse::<BitRate>();
        }
    }
}
