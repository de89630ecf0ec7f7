//! Networks, laid out for the question whether an address is in one of them.

use std::net::IpAddr;

use crate::config::Network;

/// Networks as ranges in order, none of which touches another: with thousands of them the answer
/// takes a dozen comparisons.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Ranges {
    /// Whether `ip` is in one of them, an IPv4 address in IPv6 clothes too.
    pub(super) fn contain(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => covers(&self.v4, ip.to_bits()),
            IpAddr::V6(ip) => covers(&self.v6, ip.to_bits()),
        }
    }
}

impl FromIterator<Network> for Ranges {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        let mut ranges = Self::default();
        for network in networks {
            match network.bounds() {
                (IpAddr::V4(first), IpAddr::V4(last)) => {
                    ranges.v4.push((first.to_bits(), last.to_bits()));
                }
                (IpAddr::V6(first), IpAddr::V6(last)) => {
                    ranges.v6.push((first.to_bits(), last.to_bits()));
                }
                // Both are of one network.
                (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
            }
        }
        Self { v4: merged(ranges.v4), v6: merged(ranges.v6) }
    }
}

fn covers<N: Ord>(ranges: &[(N, N)], ip: N) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= ip);
    after.checked_sub(1).is_some_and(|at| ip <= ranges[at].1)
}

fn merged<N: Ord + Copy>(mut ranges: Vec<(N, N)>) -> Vec<(N, N)> {
    ranges.sort_unstable();
    let mut merged: Vec<(N, N)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1 => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn an_address_is_found_in_a_network_of_its_family_alone() {
        let ranges: Ranges =
            networks(&["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7", "2001:db8::/32", "::/1"])
                .into_iter()
                .collect();
        for (ip, inside) in [
            ("10.0.0.0", true),
            ("10.255.255.255", true),
            ("::ffff:10.200.0.1", true),
            ("11.0.0.0", false),
            ("9.255.255.255", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("2001:db8:ffff::1", true),
            ("7fff::", true),
            ("8000::", false),
        ] {
            assert_eq!(ranges.contain(ip.parse().unwrap()), inside, "{ip}");
        }
        assert!(!Ranges::default().contain("::".parse().unwrap()));
    }

    proptest! {
        /// As if every network were asked.
        #[test]
        fn ranges_answer_as_their_networks_do(
            v4 in prop::collection::vec((0..1_u32 << 12, 20..=32_u8), 0..40),
            v6 in prop::collection::vec((0..1_u128 << 12, 116..=128_u8), 0..40),
            asked in prop::collection::vec(0..1_u32 << 13, 1..100),
        ) {
            let v4 = v4.into_iter().map(|(ip, len)| (IpAddr::from(ip.to_be_bytes()), len));
            let v6 = v6.into_iter().map(|(ip, len)| (IpAddr::from(ip.to_be_bytes()), len));
            let all: Vec<Network> =
                v4.chain(v6).map(|(ip, len)| format!("{ip}/{len}").parse().unwrap()).collect();
            let ranges: Ranges = all.iter().copied().collect();
            for bits in asked {
                let both = [
                    IpAddr::from(bits.to_be_bytes()), IpAddr::from(u128::from(bits).to_be_bytes())
                ];
                for ip in both {
                    let inside = all.iter().any(|network| network.contains(ip));
                    prop_assert_eq!(ranges.contain(ip), inside, "{}", ip);
                }
            }
        }
    }
}
