//! `relays`: the active relays, one of them, and its end, over the admin API of a relay that runs:
//! of that node, of another one, or of all that there are.

mod api;
mod percent;
mod place;
mod view;
mod whose;

use std::{
    io::{self, Write as _},
    net::IpAddr,
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;

pub(super) use self::view::nodes as nodes_table;
use self::{
    api::{AdminApi, Answer},
    place::Place,
    whose::Whose,
};
use super::tls::Trust;
use crate::wire::rendezvous::Text;

const EXAMPLES: &str = "\
Examples:
  mini_rust_desk_relay_server relays list
      of the relay on this machine, with the token from its own configuration
  mini_rust_desk_relay_server relays list --sort=-rate --limit 10
      the ten that move the most bytes a second
  mini_rust_desk_relay_server relays show UUID --json
      one of them, for a program
  mini_rust_desk_relay_server relays close UUID --url https://10.0.0.5:21120 --ca cert.pem --token-file token
      on another machine: both sides are disconnected
  mini_rust_desk_relay_server relays list --scope cluster --sort=-rate --limit 10
      the ten busiest of all nodes, whichever of them is asked
  mini_rust_desk_relay_server relays close UUID --scope cluster
      wherever it is
  mini_rust_desk_relay_server relays list --node relay-2
      those of one node: `nodes` lists them

A node that does not answer within 2 s is named on standard error, and the others are shown all the
same: the exit code is 0 unless nothing could be shown or done.

Without --url and --token the configuration says where the relay listens and what its token is, as
it does for the relay itself: run this where the relay runs. A relay without a configured token
prints one to standard error at each start.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Relays {
    #[command(subcommand)]
    act: Act,
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    trust: Trust,
}

/// Where the admin API is, and what opens it.
#[derive(Debug, Args)]
#[command(next_help_heading = "The admin API")]
pub(super) struct Access {
    /// Where the admin API is, by http or https [default: the configuration's first admin.listen, or
    /// else its first listen]
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// The admin token. Others on this machine can see it in the list of processes: prefer
    /// --token-file, or RELAY__ADMIN__TOKEN in the environment [default: the configuration's]
    #[arg(long, global = true, value_name = "TOKEN", conflicts_with = "token_file")]
    token: Option<String>,
    /// A file that holds the admin token.
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Read this configuration instead of ./config.toml.
    #[arg(short, long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the API's own JSON instead of text for people.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// List the active relays, those that match every filter.
    List(Filter),
    /// Show one relay in full.
    Show(Named),
    /// Close a relay: both sides are disconnected.
    Close(Named),
}

#[derive(Debug, Args)]
struct Named {
    /// The relay's uuid, as `list` shows it.
    #[arg(value_name = "UUID", value_parser = NonEmptyStringValueParser::new())]
    uuid: String,
}

#[derive(Debug, Args)]
struct Filter {
    /// Only relays with this uuid.
    #[arg(long, value_name = "UUID")]
    uuid: Option<String>,
    /// Only relays to this machine, by its id as the controlling client gave it.
    #[arg(long, value_name = "ID")]
    target_id: Option<String>,
    /// Only this kind: default (a desktop), file_transfer, port_forward, rdp, view_camera,
    /// terminal.
    #[arg(long, value_name = "TYPE")]
    connection_type: Option<String>,
    /// Only relays with a leg over this transport.
    #[arg(long, value_parser = ["tcp", "websocket"])]
    transport: Option<String>,
    /// Only relays with a leg from this address.
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// Only relays with a leg whose key has this label.
    #[arg(long, value_name = "LABEL")]
    key: Option<String>,
    /// age, idle, bytes, rate, uuid or target_id; with - before it the largest first, as in
    /// --sort=-rate [default: age, the youngest first]
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    sort: Option<String>,
    /// How many to list, up to 1000 [default: 100]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// How many to leave out at the beginning.
    #[arg(long, value_name = "N")]
    offset: Option<usize>,
}

impl Relays {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Self { whose, access, trust, act } = self;
        access.run(&trust, async |api, json| act.run(api, &whose, json).await)
    }
}

impl Access {
    /// Does something with the API, and prints what comes of it.
    pub(super) fn run(
        self,
        trust: &Trust,
        act: impl AsyncFnOnce(&AdminApi, bool) -> anyhow::Result<String>,
    ) -> anyhow::Result<ExitCode> {
        let Self { url, token, token_file, config, json } = self;
        let Place { url, token } = Place::find(url, token, token_file, config)?;
        let api = AdminApi::new(&url, &token, trust)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let text = runtime.block_on(act(&api, json))?;
        // A reader such as `head` may go before all is written.
        let _ = io::stdout().write_all(text.as_bytes());
        Ok(ExitCode::SUCCESS)
    }
}

impl Act {
    async fn run(self, api: &AdminApi, whose: &Whose, json: bool) -> anyhow::Result<String> {
        let (method, path) = match &self {
            Self::List(filter) => (Method::GET, format!("/relays{}", filter.query(whose))),
            Self::Show(Named { uuid }) => (Method::GET, one(uuid, whose)),
            Self::Close(Named { uuid }) => (Method::DELETE, one(uuid, whose)),
        };
        let answer = api.ask(method, &path).await?;
        whose.tell_who_is_missing(&answer);
        match (&self, answer.status) {
            (_, StatusCode::OK) if json => return answer.text(),
            (_, StatusCode::OK) => {}
            // It tells which of the two there is not, the node or the relay.
            (_, StatusCode::NOT_FOUND) if whose.node.is_some() => return Err(api.says(&answer)),
            (Self::Show(Named { uuid }) | Self::Close(Named { uuid }), StatusCode::NOT_FOUND) => {
                bail!(
                    "no active relay at {api} has the uuid {}: it may have ended, see `relays list`",
                    Text::from(uuid.as_str())
                );
            }
            _ => return Err(api.refusal(&answer)),
        }
        Ok(match self {
            Self::List(_) => view::list(&read(api, &answer)?),
            Self::Show(_) => view::one(&read(api, &answer)?),
            Self::Close(Named { uuid }) => view::closed(&uuid, &read(api, &answer)?),
        })
    }
}

fn one(uuid: &str, whose: &Whose) -> String {
    format!("/relays/{}{}", percent::encoded(uuid), query(&whose.pairs()))
}

/// As the query of a URL, empty or from its `?` on: what there is of these.
fn query(pairs: &[(&str, Option<String>)]) -> String {
    let given = pairs.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    let mut query = String::new();
    for (name, value) in given {
        query.push(if query.is_empty() { '?' } else { '&' });
        query.push_str(&format!("{name}={}", percent::encoded(value)));
    }
    query
}

pub(super) fn read<T: DeserializeOwned>(api: &AdminApi, answer: &Answer) -> anyhow::Result<T> {
    serde_json::from_slice(&answer.body).with_context(|| {
        format!("the answer from {api} is not an admin API's of this version: is --url right?")
    })
}

impl Filter {
    fn query(&self, whose: &Whose) -> String {
        let number = |n: Option<usize>| n.map(|n| n.to_string());
        let [scope, node] = whose.pairs();
        query(&[
            ("uuid", self.uuid.clone()),
            ("target_id", self.target_id.clone()),
            ("connection_type", self.connection_type.clone()),
            ("transport", self.transport.clone()),
            ("address", self.address.map(|address| address.to_string())),
            ("key", self.key.clone()),
            ("sort", self.sort.clone()),
            ("limit", number(self.limit)),
            ("offset", number(self.offset)),
            scope,
            node,
        ])
    }
}
