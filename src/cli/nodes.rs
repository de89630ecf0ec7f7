//! `nodes`: every node of a relay, as the one that is asked knows them.

use std::process::ExitCode;

use clap::Args;
use hyper::{Method, StatusCode};

use super::{
    relays::{Access, nodes_table, read},
    tls::Trust,
};

const EXAMPLES: &str = "\
Examples:
  mini_rust_desk_relay_server nodes
      as the relay on this machine knows them
  mini_rust_desk_relay_server nodes --url http://10.0.0.5:21120 --token-file token --json
      as another one does, for a program

A node says every cluster.heartbeat that it lives; one that has not for three of them is no longer
listed. A relay without [cluster] is its own only node.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Nodes {
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    trust: Trust,
}

impl Nodes {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self { access, trust } = self;
        access.run(&trust, async |api, json| {
            let answer = api.ask(Method::GET, "/nodes?limit=1000").await?;
            match answer.status {
                StatusCode::OK if json => answer.text(),
                StatusCode::OK => Ok(nodes_table(&read(api, &answer)?)),
                _ => Err(api.refusal(&answer)),
            }
        })
    }
}
