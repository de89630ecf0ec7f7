//! What a value must keep to beyond its type. The rules themselves stand with their sections, in
//! `validate`; here is how they are written down and collected, so that all are reported at once.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use super::{Duration, problem::Problem};

/// The longest timeout. A longer one is a slip, and the clock could not count to any.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// A rule that does not hold.
struct Broken {
    /// Every key that has a part in it; the first is the one to look at.
    keys: Vec<String>,
    what: String,
}

/// The rules that do not hold.
#[derive(Default)]
pub(super) struct Rules {
    broken: Vec<Broken>,
}

impl Rules {
    /// Those that do not hold as problems, each placed by where its keys were set. A rule about a
    /// key that is among the problems already is left out: it would judge the default.
    pub(super) fn problems(
        self,
        before: &[Problem],
        place_of: impl Fn(&str) -> String,
    ) -> Vec<Problem> {
        let unread: BTreeSet<_> = before.iter().map(|problem| problem.key.as_str()).collect();
        let is_unread = |key: &String| {
            // With a table that is none, all that would be in it is unread.
            let table = key.split_once("].").map(|(table, _)| format!("{table}]"));
            unread.contains(key.as_str()) || table.is_some_and(|table| unread.contains(&*table))
        };
        let judged = self.broken.into_iter().filter(|rule| !rule.keys.iter().any(is_unread));
        let placed = judged.map(|Broken { keys, what }| {
            let mut places: Vec<_> = keys.iter().map(|key| place_of(key)).collect();
            places.dedup();
            let key = keys.into_iter().next().unwrap_or_default();
            Problem::at(places.join(" and "), key, what)
        });
        placed.collect()
    }

    pub(super) fn require(&mut self, holds: bool, keys: &[&str], what: impl Into<String>) {
        if !holds {
            self.broken.push(Broken {
                keys: keys.iter().map(|&key| key.to_owned()).collect(),
                what: what.into(),
            });
        }
    }

    pub(super) fn between<T: PartialOrd + std::fmt::Display>(
        &mut self,
        key: &str,
        found: T,
        least: T,
        most: T,
    ) {
        let what = format!("found {found}, expected {least} to {most}");
        self.require(least <= found && found <= most, &[key], what);
    }

    pub(super) fn timeout(&mut self, key: &str, found: Duration) {
        self.between(key, found, Duration::from_millis(1), LONGEST);
    }

    pub(super) fn wait_or_none(&mut self, key: &str, found: Duration) {
        self.between(key, found, Duration::from_secs(0), LONGEST);
    }

    pub(super) fn at_least_one(&mut self, key: &str, found: usize) {
        self.require(found >= 1, &[key], "found 0, expected 1 or more");
    }

    /// No two of one list may want the same port of the same address.
    pub(super) fn apart(&mut self, key: &str, listeners: &[SocketAddr]) {
        for (n, one) in listeners.iter().enumerate() {
            for other in listeners.iter().skip(n + 1).filter(|other| collide(*one, **other)) {
                self.require(false, &[key], collision(*one, *other));
            }
        }
    }

    /// Nor may one of each of two lists.
    pub(super) fn apart_from(
        &mut self,
        (key, listeners): (&str, &[SocketAddr]),
        (other_key, others): (&str, &[SocketAddr]),
    ) {
        for one in listeners {
            for other in others.iter().filter(|other| collide(*one, **other)) {
                let what = format!("{}, which is in {other_key}", collision(*one, *other));
                self.require(false, &[key, other_key], what);
            }
        }
    }
}

fn collision(one: SocketAddr, other: SocketAddr) -> String {
    if one == other {
        format!("{one} is there twice: leave one out")
    } else {
        format!("{one} takes the port of {other}: give it another port or leave one out")
    }
}

/// Whether both cannot be bound. Port 0 is a new port each time; `[::]` takes IPv4 as well.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |ip: IpAddr, other: IpAddr| match ip {
        IpAddr::V6(ip) => ip.is_unspecified(),
        IpAddr::V4(ip) => ip.is_unspecified() && other.to_canonical().is_ipv4(),
    };
    one.port() != 0
        && one.port() == other.port()
        && (one.ip().to_canonical() == other.ip().to_canonical()
            || covers(one.ip(), other.ip())
            || covers(other.ip(), one.ip()))
}
