//! Of which node, or of all: and who of all has not answered.

use clap::{Args, ValueEnum, builder::NonEmptyStringValueParser};
use serde::Deserialize;

use super::api::Answer;

/// Whose relays.
#[derive(Debug, Args)]
#[command(next_help_heading = "More than one node")]
pub(super) struct Whose {
    /// cluster for the relays of all nodes, node for those of the one that is asked [default: node]
    #[arg(long, global = true, value_name = "SCOPE", conflicts_with = "node")]
    scope: Option<Scope>,
    /// Only the relays of the node that is called this, whichever is asked; see `nodes`.
    #[arg(long, global = true, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(super) node: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scope {
    Node,
    Cluster,
}

/// What an answer of all says of those that are not in it.
#[derive(Deserialize)]
struct Partial {
    #[serde(default)]
    missing: Vec<Missing>,
    /// The same of an answer that is none.
    #[serde(default)]
    problems: Vec<String>,
}

#[derive(Deserialize)]
struct Missing {
    node: String,
    why: String,
}

impl Whose {
    /// As parameters of a query.
    pub(super) fn pairs(&self) -> [(&'static str, Option<String>); 2] {
        let is_cluster = self.scope == Some(Scope::Cluster);
        [("scope", is_cluster.then(|| "cluster".to_owned())), ("node", self.node.clone())]
    }

    /// Says on standard error which nodes are not in an answer that should be of all.
    pub(super) fn tell_who_is_missing(&self, answer: &Answer) {
        if self.scope != Some(Scope::Cluster) {
            return;
        }
        let Ok(Partial { missing, problems }) = serde_json::from_slice(&answer.body) else {
            return;
        };
        let missing = missing.into_iter().map(|Missing { node, why }| format!("{node}: {why}"));
        for node in missing.chain(problems) {
            eprintln!("partial: without the node {}", node.replace(char::is_control, "?"));
        }
    }
}
