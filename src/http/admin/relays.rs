//! `/relays`: the active relays, one of them, and its end by an operator's hand.

use std::{cmp::Ordering, net::IpAddr, sync::Arc, time::Instant};

use axum::{Extension, Json, extract::State, http::StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use super::limit;
use crate::{
    config::BitRate,
    http::{
        AdminState, Problem,
        page::{Checked, Named, NoParameters, Order, Page, Paged, Said},
    },
    relay::{
        entrance::Arrival,
        registry::{ActiveLeg, ActiveRelay, ActiveRelays},
    },
    wire::Transport,
};

/// Which relays to list, and in what order. All filters must hold.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    uuid: Option<String>,
    target_id: Option<String>,
    connection_type: Option<String>,
    /// Of either leg.
    transport: Option<TransportName>,
    /// Of either leg.
    address: Option<IpAddr>,
    /// The label of either leg's.
    key: Option<String>,
    sort: Option<Order<Field>>,
    limit: Option<usize>,
    offset: Option<usize>,
}

/// As [`Transport::label`] has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TransportName {
    Tcp,
    WebSocket,
}

/// What relays can be ordered by.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Field {
    Age,
    Idle,
    Bytes,
    Rate,
    Uuid,
    TargetId,
}

/// One active relay, as shown.
#[derive(Debug, Serialize)]
pub(super) struct RelayView {
    /// Unique on this node while it runs.
    id: u64,
    uuid: String,
    /// As the controlling client claims.
    target_id: Option<String>,
    connection_type: String,
    started: Timestamp,
    age_seconds: f64,
    idle_seconds: f64,
    waited_seconds: f64,
    /// Sent by both legs.
    bytes: u64,
    bytes_per_second: u64,
    /// `light`, or `bulk` while it moves much.
    plane: &'static str,
    /// What it may move one way, shared limits aside.
    bandwidth: BitRate,
    /// Whether a limit, be it shared, held it back within the last second.
    limited: bool,
    /// The node that carries its second leg; of a leg that is carried, the one that relays it.
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<String>,
    /// The leg that waited, and the one that came.
    legs: [LegView; 2],
}

/// One leg of it.
#[derive(Debug, Serialize)]
struct LegView {
    address: String,
    transport: &'static str,
    /// The label of its key; null on an open relay.
    key: Option<String>,
    /// Whether that is within TLS.
    tls: bool,
    /// By this leg, framing included.
    sent_bytes: u64,
    sent_bytes_per_second: u64,
}

/// What can be changed of a relay.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    /// What it may move one way; `null` for what the configuration has.
    #[serde(deserialize_with = "there")]
    bandwidth: Option<BitRate>,
}

/// What closing did.
#[derive(Debug, Serialize)]
pub(super) struct Closed {
    closed: usize,
}

pub(super) async fn list(
    State(admin): State<Arc<AdminState>>,
    Checked(filter): Checked<Filter>,
) -> Result<Json<Paged<RelayView>>, Problem> {
    listed(&admin.parts.relays, &filter)
}

/// The legs that this node carries to others, where they are relayed: the client's leg, and the
/// connection to that node.
pub(super) async fn carried(
    State(admin): State<Arc<AdminState>>,
    Checked(filter): Checked<Filter>,
) -> Result<Json<Paged<RelayView>>, Problem> {
    listed(&admin.parts.carried, &filter)
}

fn listed(registry: &ActiveRelays, filter: &Filter) -> Result<Json<Paged<RelayView>>, Problem> {
    let page = Page::new(filter.limit, filter.offset)?;
    let relays = registry.all();
    // Ordered as shown: the relays themselves go on counting while they are compared.
    let matching = relays.iter().filter(|relay| filter.holds(relay));
    // One time for all, or two relays that began together change places from page to page.
    let now = Instant::now();
    let mut views: Vec<_> = matching.map(|relay| RelayView::at(registry, relay, now)).collect();
    let order = filter.sort.unwrap_or(Order { field: Field::Age, descending: false });
    views.sort_by(|a, b| {
        // The id settles ties, so that pages do not overlap.
        let ascending = order.field.compare(a, b).then(b.id.cmp(&a.id));
        if order.descending { ascending.reverse() } else { ascending }
    });
    Ok(Json(page.of(views)))
}

pub(super) async fn show(
    State(admin): State<Arc<AdminState>>,
    Named(uuid): Named,
    Checked(NoParameters {}): Checked<NoParameters>,
) -> Result<Json<RelayView>, Problem> {
    let newest = named(&admin, &uuid).into_iter().max_by_key(|relay| relay.id);
    let view = |relay: Arc<ActiveRelay>| RelayView::at(&admin.parts.relays, &relay, Instant::now());
    newest.map(|relay| Json(view(relay))).ok_or_else(no_such_relay)
}

pub(super) async fn change(
    State(admin): State<Arc<AdminState>>,
    Extension(arrival): Extension<Arrival>,
    Named(uuid): Named,
    Checked(NoParameters {}): Checked<NoParameters>,
    Said(Change { bandwidth }): Said<Change>,
) -> Result<Json<RelayView>, Problem> {
    limit("bandwidth", bandwidth.unwrap_or_default())?;
    let relays = named(&admin, &uuid);
    for relay in &relays {
        tracing::info!(
            uuid = %relay.uuid,
            bandwidth = %bandwidth.map_or_else(|| "as configured".to_owned(), |rate| rate.to_string()),
            by = %arrival.peer,
            "a relay's bandwidth is changed on an operator's request"
        );
        admin.parts.relays.set_bandwidth(relay, bandwidth);
    }
    show(State(admin), Named(uuid), Checked(NoParameters {})).await
}

/// What must be there, if only as `null`.
fn there<'de, D: Deserializer<'de>>(from: D) -> Result<Option<BitRate>, D::Error> {
    Option::deserialize(from)
}

pub(super) async fn close(
    State(admin): State<Arc<AdminState>>,
    Extension(arrival): Extension<Arrival>,
    Named(uuid): Named,
    Checked(NoParameters {}): Checked<NoParameters>,
) -> Result<Json<Closed>, Problem> {
    let relays = named(&admin, &uuid);
    if relays.is_empty() {
        return Err(no_such_relay());
    }
    for relay in &relays {
        tracing::info!(uuid = %relay.uuid, by = %arrival.peer, "closing a relay on an operator's request");
        relay.close();
    }
    Ok(Json(Closed { closed: relays.len() }))
}

/// The relays of one key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfKey {
    /// Required: no slip of the finger is to close them all.
    key: String,
}

/// Closes every relay with a leg of this key: for one that was taken away, whose relays go on.
pub(super) async fn close_all(
    State(admin): State<Arc<AdminState>>,
    Extension(arrival): Extension<Arrival>,
    Checked(OfKey { key }): Checked<OfKey>,
) -> Json<Closed> {
    let mut relays = admin.parts.relays.all();
    relays.retain(|relay| relay.legs.iter().any(|leg| leg.grant.label() == Some(&*key)));
    // Without one it may be no label: somebody may have sent the key itself.
    if !relays.is_empty() {
        tracing::info!(
            key,
            relays = relays.len(),
            by = %arrival.peer,
            "closing a key's relays on an operator's request"
        );
    }
    relays.iter().for_each(|relay| relay.close());
    Json(Closed { closed: relays.len() })
}

fn named(admin: &AdminState, uuid: &str) -> Vec<Arc<ActiveRelay>> {
    let mut relays = admin.parts.relays.all();
    relays.retain(|relay| relay.uuid.as_str() == uuid);
    relays
}

fn no_such_relay() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no active relay has this uuid; it may have just ended")
}

impl Filter {
    fn holds(&self, relay: &ActiveRelay) -> bool {
        fn is<T: PartialEq>(wanted: Option<&T>, is: impl FnOnce(&T) -> bool) -> bool {
            wanted.is_none_or(is)
        }
        let any_leg = |holds: &dyn Fn(&ActiveLeg) -> bool| relay.legs.iter().any(holds);
        is(self.uuid.as_ref(), |uuid| relay.uuid.as_str() == uuid)
            && is(self.target_id.as_ref(), |id| {
                relay.target.as_ref().is_some_and(|target| target.as_str() == id)
            })
            && is(self.connection_type.as_ref(), |kind| relay.conn_type.to_string() == *kind)
            && is(self.transport.as_ref(), |kind| any_leg(&|leg| *kind == leg.transport.into()))
            && is(self.key.as_ref(), |key| any_leg(&|leg| leg.grant.label() == Some(key)))
            && is(self.address.as_ref(), |ip| any_leg(&|leg| leg.address.ip() == ip.to_canonical()))
    }
}

impl From<Transport> for TransportName {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Tcp => Self::Tcp,
            Transport::WebSocket => Self::WebSocket,
        }
    }
}

impl Field {
    fn compare(self, a: &RelayView, b: &RelayView) -> Ordering {
        match self {
            Self::Age => a.age_seconds.total_cmp(&b.age_seconds),
            Self::Idle => a.idle_seconds.total_cmp(&b.idle_seconds),
            Self::Bytes => a.bytes.cmp(&b.bytes),
            Self::Rate => a.bytes_per_second.cmp(&b.bytes_per_second),
            Self::Uuid => a.uuid.cmp(&b.uuid),
            Self::TargetId => a.target_id.cmp(&b.target_id),
        }
    }
}

impl RelayView {
    fn at(registry: &ActiveRelays, relay: &ActiveRelay, now: Instant) -> Self {
        let [first, second] = &relay.legs;
        Self {
            id: relay.id,
            uuid: relay.uuid.as_str().to_owned(),
            target_id: relay.target.as_ref().map(|target| target.as_str().to_owned()),
            connection_type: relay.conn_type.to_string(),
            started: relay.started(),
            age_seconds: relay.age_at(now).as_secs_f64(),
            idle_seconds: relay.idle_at(now).as_secs_f64(),
            waited_seconds: relay.waited().as_secs_f64(),
            bytes: relay.bytes(),
            bytes_per_second: relay.rate(),
            plane: if relay.is_in_bulk() { "bulk" } else { "light" },
            bandwidth: registry.bandwidth(relay),
            limited: relay.allowance().was_held_back(),
            via: registry.via(relay).map(|node| node.to_string()),
            legs: [LegView::of(first), LegView::of(second)],
        }
    }
}

impl LegView {
    fn of(leg: &ActiveLeg) -> Self {
        Self {
            address: leg.address.to_string(),
            transport: leg.transport.label(),
            key: leg.grant.label().map(ToOwned::to_owned),
            tls: leg.tls,
            sent_bytes: leg.received(),
            sent_bytes_per_second: leg.rate(),
        }
    }
}
