//! `/blocklist` and `/throttlelist`: the networks that are refused, and those whose relays are
//! slowed down. What is added here is forgotten when the relay ends; of several nodes it holds on all,
//! and Redis keeps it. What is to stay belongs into the configuration or the list's file.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Extension, Json,
    extract::{State, rejection::JsonRejection},
    http::StatusCode,
    routing::{MethodRouter, delete, get},
};
use serde::{Deserialize, Serialize};

use crate::{
    config::{Duration, Network},
    http::{
        AdminState, Problem,
        page::{Checked, Named, NoParameters, Page, Paged},
    },
    net::access::{ListEntry, ListName, Source},
    relay::entrance::Arrival,
};

/// Which entries to list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// Those that it is in.
    address: Option<IpAddr>,
    limit: Option<usize>,
    offset: Option<usize>,
}

/// What is to be added.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Addition {
    network: Network,
    /// How long it is to stay; without, until the relay ends.
    duration: Option<Duration>,
}

/// One entry, as shown.
#[derive(Debug, Serialize)]
pub(super) struct EntryView {
    network: Network,
    /// `config`, `file` or `api`.
    source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in_seconds: Option<f64>,
}

/// What removing did.
#[derive(Debug, Serialize)]
pub(super) struct Removed {
    removed: usize,
}

/// A list whole: shown, added to, and emptied of what was added.
pub(super) fn whole(name: ListName) -> MethodRouter<Arc<AdminState>> {
    get(async move |State(admin): State<Arc<AdminState>>, Checked(filter)| {
        show(name, &admin, &filter)
    })
    .post(
        async move |State(admin): State<Arc<AdminState>>,
                    Extension(arrival),
                    Checked(NoParameters {}),
                    body| { add(name, &admin, arrival, body) },
    )
    .delete(
        async move |State(admin): State<Arc<AdminState>>,
                    Extension(arrival): Extension<Arrival>,
                    Checked(NoParameters {})| {
            let removed = admin.parts.access.remove_all(name);
            removed.iter().for_each(|&network| admin.nodes.unlisted(name, network));
            let removed = removed.len();
            tracing::info!(by = %arrival.peer, removed, "{} emptied of what was added", label(name));
            Json(Removed { removed })
        },
    )
}

/// One entry of a list: taken back.
pub(super) fn one(name: ListName) -> MethodRouter<Arc<AdminState>> {
    delete(
        async move |State(admin): State<Arc<AdminState>>,
                    Extension(arrival): Extension<Arrival>,
                    Named(network),
                    Checked(NoParameters {})| { remove(name, &admin, arrival, &network) },
    )
}

fn show(
    name: ListName,
    admin: &AdminState,
    filter: &Filter,
) -> Result<Json<Paged<EntryView>>, Problem> {
    let page = Page::new(filter.limit, filter.offset)?;
    let mut entries = admin.parts.access.list(name).entries();
    entries.retain(|entry| filter.address.is_none_or(|ip| entry.network.contains(ip)));
    Ok(Json(page.of(entries.into_iter().map(EntryView::of).collect())))
}

fn add(
    name: ListName,
    admin: &AdminState,
    arrival: Arrival,
    body: Result<Json<Addition>, JsonRejection>,
) -> Result<(StatusCode, Json<EntryView>), Problem> {
    let Json(Addition { network, duration }) =
        body.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))?;
    if name == ListName::Block && network.contains(arrival.peer.ip()) {
        let detail = format!("{network} holds {}, from where you ask", arrival.peer.ip());
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    let lasts = duration.map(Duration::get);
    let added = admin.parts.access.add(name, network, lasts);
    added.map_err(|full| Problem::new(StatusCode::CONFLICT, full.to_string()))?;
    admin.nodes.listed(name, network, lasts);
    let forever = "until it is taken back, or the relay ends".to_owned();
    let lasting = duration.map_or(forever, |duration| format!("for {duration}"));
    tracing::info!(by = %arrival.peer, "{} has {network} now, {lasting}", label(name));
    let entry = ListEntry { network, source: Source::Api, remaining: lasts };
    Ok((StatusCode::CREATED, Json(EntryView::of(entry))))
}

fn remove(
    name: ListName,
    admin: &AdminState,
    arrival: Arrival,
    network: &str,
) -> Result<Json<Removed>, Problem> {
    let network: Network =
        network.parse().map_err(|what: String| Problem::new(StatusCode::BAD_REQUEST, what))?;
    let access = &admin.parts.access;
    if access.remove(name, network) {
        admin.nodes.unlisted(name, network);
        tracing::info!(by = %arrival.peer, "{} has {network} no more", label(name));
        return Ok(Json(Removed { removed: 1 }));
    }
    let entries = access.list(name).entries();
    Err(match entries.into_iter().find(|entry| entry.network == network) {
        Some(ListEntry { source: Source::File(path), .. }) => {
            let detail = format!("{network} is in {}: take it out there", path.display());
            Problem::new(StatusCode::CONFLICT, detail)
        }
        Some(_) => {
            let detail = format!("{network} is in the configuration: take it out there");
            Problem::new(StatusCode::CONFLICT, detail)
        }
        None => Problem::new(StatusCode::NOT_FOUND, format!("{network} is not on the list")),
    })
}

const fn label(name: ListName) -> &'static str {
    match name {
        ListName::Block => "the blocklist",
        ListName::Throttle => "the throttle list",
    }
}

impl EntryView {
    fn of(entry: ListEntry) -> Self {
        let (source, file) = match entry.source {
            Source::Config => ("config", None),
            Source::File(path) => ("file", Some(path.display().to_string())),
            Source::Api => ("api", None),
        };
        let expires_in_seconds = entry.remaining.map(|remaining| remaining.as_secs_f64());
        Self { network: entry.network, source, file, expires_in_seconds }
    }
}
