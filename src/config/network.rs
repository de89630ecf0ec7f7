//! A network, written as `10.0.0.0/8`; a plain address is a network of one.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The bits before the IPv4 address in an IPv6 address that stands for one.
const MAPPED: u8 = 96;

/// A network; an IPv4 network is one however it is written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network(IpNet);

impl Network {
    /// What a machine calls itself.
    pub const LOOPBACK: [Self; 2] = [
        Self(IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8))),
        Self(IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128))),
    ];

    /// The network of this many bits that an address is in; the address alone if it has no such.
    pub fn around(ip: IpAddr, bits: u8) -> Self {
        IpNet::new(ip, bits).map_or_else(|_| ip.into(), |net| Self(canonical(net).trunc()))
    }

    /// Its first address and its last, which are of one family.
    pub fn bounds(&self) -> (IpAddr, IpAddr) {
        (self.0.network(), self.0.broadcast())
    }

    /// Whether an address is in it, an IPv4 address that is written as IPv6 too.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip.to_canonical())
    }

    /// Whether every address of its family is in it.
    pub fn is_everyone(&self) -> bool {
        self.0.prefix_len() == 0
    }
}

impl From<IpAddr> for Network {
    fn from(ip: IpAddr) -> Self {
        Self(ip.to_canonical().into())
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            self.0.addr().fmt(f)
        } else {
            self.0.fmt(f)
        }
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(ip.into());
        }
        let net = text.parse().map_err(|_| {
            format!("{text:?} is not a network such as \"10.0.0.0/8\" or \"2001:db8::1\"")
        })?;
        Ok(Self(canonical(net).trunc()))
    }
}

fn canonical(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let v4 = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(MAPPED));
    let v4 = v4.and_then(|(ip, prefix_len)| Ipv4Net::new(ip, prefix_len).ok());
    v4.map_or(net, IpNet::V4)
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Network;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a network or an address in quotes such as \"10.0.0.0/8\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Network, E> {
                text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_read_as_people_write_them() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            (" 10.1.2.3/8 ", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7/32", "192.0.2.7"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::1", "::1"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), shown, "{text}");
        }
        for text in ["", "10.0.0.0/33", "10/8", "proxy.example", "10.0.0.1:80", "fe80::1%eth0"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_ipv4_address_is_one_however_it_is_written() {
        let network: Network = "10.0.0.0/8".parse().unwrap();
        for (ip, inside) in
            [("10.9.9.9", true), ("::ffff:10.9.9.9", true), ("11.0.0.1", false), ("::1", false)]
        {
            assert_eq!(network.contains(ip.parse().unwrap()), inside, "{ip}");
        }
    }
}
