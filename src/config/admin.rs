//! `[admin]`: the admin API and the metrics.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{Secret, rules::Rules};

/// In characters: what nobody guesses over a network.
const SHORTEST_TOKEN: usize = 16;

/// The `[admin]` section.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// Listeners of the admin API's own. Empty: it shares the front door.
    #[serde(deserialize_with = "super::units::listeners")]
    pub listen: Vec<SocketAddr>,
    /// The bearer token. Empty, with no `token_file`: one is made at start and printed to stderr.
    pub token: Secret,
    /// A file that holds the bearer token; empty for none.
    pub token_file: PathBuf,
}

impl AdminConfig {
    pub(super) fn validate(&self, rules: &mut Rules) {
        rules.apart("admin.listen", &self.listen);
        rules.require(
            self.token.is_empty() || self.token_file.as_os_str().is_empty(),
            &["admin.token", "admin.token_file"],
            "token and token_file are both set in one place: leave one of them empty",
        );
        let long_enough = self.token.expose().chars().count() >= SHORTEST_TOKEN;
        rules.require(
            self.token.is_empty() || long_enough,
            &["admin.token"],
            format!("shorter than {SHORTEST_TOKEN} characters: choose a longer one"),
        );
    }
}
