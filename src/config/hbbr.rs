//! hbbr's own names, `PORT`, `KEY`, `BIND` and those of its bandwidths, in `.env` and in the
//! environment, so that its installations can be taken over as they stand.
//!
//! Its rules are kept: `.env` beats the environment, names ignore case, `-` equals `_`, what
//! stands below a `[section]` of `.env` is not read, and an empty value is no value. So is what
//! `PORT` means: hbbr listens on the port after it, and for WebSocket two further on.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::Path,
};

use super::{
    BitRate, Duration,
    dotenv::{self, Assignment},
    problem::{Origin, Problem},
    setting::{Reading, Setting},
    toml_file::read_text,
};

/// Its bandwidths, and ours. Its defaults are not taken over: what nobody set limits nobody.
const BANDWIDTHS: [(&str, &str); 3] = [
    ("TOTAL_BANDWIDTH", "bandwidth.total"),
    ("SINGLE_BANDWIDTH", "bandwidth.per_relay"),
    ("LIMIT_SPEED", "bandwidth.throttled"),
];

/// Its name for how much is too much, and for when that is looked at, in seconds. Both have our
/// defaults unless they are set; without the second nothing is looked at.
const DOWNGRADE: [(&str, &str); 2] = [
    ("DOWNGRADE_THRESHOLD", "bandwidth.downgrade_threshold"),
    ("DOWNGRADE_START_CHECK", "bandwidth.downgrade_after"),
];

/// The bits of its Mb.
const MEGABIT: f64 = 1024.0 * 1024.0;

/// What hbbr's names were set to.
#[derive(Default)]
pub(super) struct HbbrNames {
    names: BTreeMap<String, (String, Origin)>,
    reading: Reading,
}

impl HbbrNames {
    /// Reads the environment, then `.env` over it.
    pub(super) fn read(env: &[(String, String)], working_dir: &Path) -> Self {
        let mut read = Self::default();
        for (name, value) in env {
            read.take(name, value, Origin::Environment(name.clone()));
        }
        match read_text(&working_dir.join(".env")) {
            Ok(text) => read.take_file(&text),
            Err(why) if why.kind() == io::ErrorKind::NotFound => {}
            Err(why) => {
                let what = format!("this file cannot be read: {why}");
                read.reading.problems.push(Problem::at(".env", "", what));
            }
        }
        read
    }

    /// The address that `BIND` names, if it names one.
    pub(super) fn bind_address(&self) -> Option<IpAddr> {
        self.names.get("BIND").and_then(|(text, _)| text.parse().ok())
    }

    /// The settings that the names amount to, over the listeners that weaker sources gave.
    pub(super) fn settings(mut self, below: &[SocketAddr]) -> Reading {
        let (port, bind) = (self.port(), self.bind());
        if let Some((port, origin)) = port {
            let ip = bind.map_or(Ipv6Addr::UNSPECIFIED.into(), |(ip, _)| ip);
            self.listen(&[(ip, port + 1).into(), (ip, port + 3).into()], origin);
        } else if let Some((ip, origin)) = bind {
            self.listen(&rebound(below, ip), origin);
        }
        if let Some((key, origin)) = self.names.remove("KEY") {
            self.reading.settings.push(Setting::new("key", key, origin));
        }
        BANDWIDTHS.into_iter().for_each(|(name, key)| self.bandwidth(name, key));
        self.downgrade();
        self.reading
    }

    fn take_file(&mut self, text: &str) {
        let (assignments, wrong) = dotenv::parse(text);
        for line in wrong {
            let what = "expected NAME=VALUE, a comment or a [section]";
            self.reading.problems.push(Problem::at(format!(".env line {line}"), "", what));
        }
        for Assignment { line, name, value, in_section } in assignments {
            if name.to_ascii_uppercase().starts_with("RELAY__") {
                self.warn(format!(
                    "{name} in .env is not read: put it into the environment or config.toml"
                ));
            } else if !in_section {
                self.take(&name.clone(), &value, Origin::DotEnv { line, name });
            } else if is_known(&canonical(&name)) {
                self.warn(format!("{name} in .env is not read: it stands below a [section]"));
            }
        }
    }

    fn take(&mut self, name: &str, value: &str, origin: Origin) {
        let canonical = canonical(name);
        let value = value.trim();
        if value.is_empty() || !is_known(&canonical) {
            return;
        }
        self.names.insert(canonical, (value.to_owned(), origin));
    }

    fn port(&mut self) -> Option<(u16, Origin)> {
        let (text, origin) = self.names.remove("PORT")?;
        match text.parse::<u16>() {
            // As in hbbr, where 0 is its way of saying none.
            Ok(0) => None,
            Ok(port) if port <= u16::MAX - 3 => Some((port, origin)),
            _ => {
                let mut what = format!(
                    "found {text:?}, expected a port number up to 65532 (the relay listens on \
                     the next port, and two further on)"
                );
                if text.contains("://") {
                    what += ": this looks like a Kubernetes service link, so set \
                             enableServiceLinks: false, or unset it";
                }
                self.reading.problems.push(Problem::at(origin, "listen", what));
                None
            }
        }
    }

    fn bind(&mut self) -> Option<(IpAddr, Origin)> {
        let (text, origin) = self.names.remove("BIND")?;
        match text.parse() {
            Ok(ip) => Some((ip, origin)),
            Err(_) => {
                let what = format!("found {text:?}, expected an IP address such as 0.0.0.0 or ::");
                self.reading.problems.push(Problem::at(origin, "listen", what));
                None
            }
        }
    }

    fn bandwidth(&mut self, name: &str, key: &str) {
        if let Some((megabits, origin)) = self.number(name, key, "a number of Mb/s") {
            let rate = BitRate::from_bits((megabits * MEGABIT) as u64);
            self.reading.settings.push(Setting::new(key, rate.to_string(), origin));
        }
    }

    fn downgrade(&mut self) {
        let [(threshold, threshold_key), (start, after_key)] = DOWNGRADE;
        if let Some((part, origin)) = self.number(threshold, threshold_key, "a number such as 0.66")
        {
            self.reading.settings.push(Setting::new(threshold_key, part, origin));
        }
        if let Some((seconds, origin)) = self.number(start, after_key, "a number of seconds") {
            let after = Duration::from_millis((seconds * 1000.0) as u64);
            self.reading.settings.push(Setting::new(after_key, after.to_string(), origin));
        }
    }

    /// What a name that stands for a number is set to; 0 is none, as in hbbr.
    fn number(&mut self, name: &str, key: &str, expected: &str) -> Option<(f64, Origin)> {
        let (text, origin) = self.names.remove(name)?;
        match text.parse::<f64>() {
            Ok(0.0) => None,
            Ok(number) if number > 0.0 && number < 1e9 => Some((number, origin)),
            _ => {
                let what = format!("found {text:?}, expected {expected}");
                self.reading.problems.push(Problem::at(origin, key, what));
                None
            }
        }
    }

    fn listen(&mut self, listeners: &[SocketAddr], origin: Origin) {
        self.reading.settings.push(Setting::new("listen", addresses(listeners), origin));
    }

    fn warn(&mut self, warning: String) {
        self.reading.warnings.push(warning);
    }
}

/// The same ports on another address.
pub(super) fn rebound(listeners: &[SocketAddr], ip: IpAddr) -> Vec<SocketAddr> {
    let mut rebound: Vec<SocketAddr> = Vec::new();
    for listener in listeners {
        let moved = SocketAddr::new(ip, listener.port());
        if moved.port() == 0 || !rebound.contains(&moved) {
            rebound.push(moved);
        }
    }
    rebound
}

/// Listeners as they stand in a file.
pub(super) fn addresses(listeners: &[SocketAddr]) -> Vec<String> {
    listeners.iter().map(SocketAddr::to_string).collect()
}

fn canonical(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

fn is_known(canonical: &str) -> bool {
    ["PORT", "KEY", "BIND"].contains(&canonical)
        || BANDWIDTHS.iter().chain(&DOWNGRADE).any(|(name, _)| *name == canonical)
}
