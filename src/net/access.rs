//! Who may come in: one decision for each connection, once its real address is known.
//!
//! What a connection says is judged elsewhere; here only whence it comes counts.

mod addresses;
mod ranges;

use std::net::IpAddr;

use arc_swap::ArcSwap;

pub use self::addresses::AddressPermit;
use self::{
    addresses::{Addresses, Limits},
    ranges::Ranges,
};
use super::listener::Connection;
use crate::config::{AccessConfig, ProxyConfig};

/// Why a connection is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The operator wants none from there.
    #[error("its address is blocked")]
    Blocked,
    /// Its address has as many as it may.
    #[error(
        "its address has {limit} connections open; raise access.connections_per_address if these are many clients"
    )]
    Connections {
        /// As many as it may.
        limit: u32,
    },
    /// Its address makes them too fast.
    #[error(
        "its address makes more than {limit} connections a second; raise access.connection_rate if these are many clients"
    )]
    Rate {
        /// As fast as it may.
        limit: u32,
    },
}

/// Who decides.
pub struct Access {
    policy: ArcSwap<Policy>,
    addresses: Addresses,
}

/// What the operator asked for.
struct Policy {
    blocked: Ranges,
    exempt: Ranges,
    limits: Limits,
}

impl Denial {
    /// Its name as a metric's label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Connections { .. } => "address_connections",
            Self::Rate { .. } => "address_rate",
        }
    }
}

impl Access {
    /// Decides as `config` says. Trusted proxies are not limited: what they bring are many
    /// clients, each of whom is judged once the proxy has said who it is.
    pub fn new(config: &AccessConfig, proxies: &ProxyConfig) -> Self {
        let policy = Policy {
            blocked: config.blocklist.iter().copied().collect(),
            exempt: config.exempt.iter().chain(&proxies.trusted).copied().collect(),
            limits: Limits {
                connections: config.connections_per_address,
                rate: config.connection_rate,
                burst: config.connection_burst,
            },
        };
        Self { policy: ArcSwap::from_pointee(policy), addresses: Addresses::new() }
    }

    /// Lets a connection in, or says why not. To be asked once its `peer` is who it really is, and
    /// again if that turns out to be somebody else; the place that it had is then given back.
    ///
    /// # Errors
    /// When it is to be turned away.
    pub fn admit<S>(&self, connection: &mut Connection<S>) -> Result<(), Denial> {
        connection.permit.address = self.permit(connection.peer.ip())?;
        Ok(())
    }

    /// A place for one more connection from `ip`: for who has none at hand yet.
    ///
    /// # Errors
    /// When it is to be turned away.
    pub fn permit(&self, ip: IpAddr) -> Result<AddressPermit, Denial> {
        let policy = self.policy.load();
        if policy.blocked.contain(ip) {
            return Err(Denial::Blocked);
        }
        if !policy.limits.exist() || policy.exempt.contain(ip) {
            return Ok(AddressPermit::default());
        }
        self.addresses.take(ip, policy.limits)
    }

    /// Forgets that a connection came: it went without a word, as hbbs does to see whether a relay
    /// is there.
    pub fn forgive<S>(&self, connection: &Connection<S>) {
        connection.permit.address.forgive(self.policy.load().limits);
    }

    /// Whether the operator wants nobody from there.
    pub fn is_blocked(&self, ip: IpAddr) -> bool {
        self.policy.load().blocked.contain(ip)
    }

    /// Forgets the addresses that there is nothing to be kept of; to be called every few seconds.
    pub fn sweep(&self) {
        self.addresses.sweep();
    }
}
