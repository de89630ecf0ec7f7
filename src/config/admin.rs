//! `[admin]`: the admin API and the metrics.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::Secret;

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
