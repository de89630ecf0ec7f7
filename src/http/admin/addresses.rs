//! `/addresses`: what is known of the addresses that clients come from.

use std::{cmp::Reverse, net::IpAddr, sync::Arc};

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use crate::{
    config::Network,
    http::{
        AdminState, Problem,
        page::{Checked, Page, Paged},
    },
    net::access::AddressState,
};

/// Which addresses to list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// The one that it is in.
    address: Option<IpAddr>,
    /// Only those that have to wait because of wrong keys, or that do not.
    back_off: Option<bool>,
    limit: Option<usize>,
    offset: Option<usize>,
}

/// One address, as shown.
#[derive(Debug, Serialize)]
pub(super) struct AddressView {
    /// An IPv6 address as its /64.
    address: Network,
    connections_open: u32,
    legs_waiting: u32,
    /// Since it was last forgotten, which it is when it is quiet.
    refused: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    back_off_seconds: Option<f64>,
}

/// Those with the most connections first, then those most often refused.
pub(super) async fn list(
    State(admin): State<Arc<AdminState>>,
    Checked(filter): Checked<Filter>,
) -> Result<Json<Paged<AddressView>>, Problem> {
    let page = Page::new(filter.limit, filter.offset)?;
    let mut all = admin.parts.access.addresses();
    all.retain(|(network, state)| {
        filter.address.is_none_or(|ip| network.contains(ip))
            && filter.back_off.is_none_or(|wanted| state.back_off.is_some() == wanted)
    });
    all.sort_by_key(|(network, state)| (Reverse((state.open, state.refused)), *network));
    Ok(Json(page.of(all.into_iter().map(AddressView::of).collect())))
}

impl AddressView {
    fn of((address, state): (Network, AddressState)) -> Self {
        Self {
            address,
            connections_open: state.open,
            legs_waiting: state.waiting,
            refused: state.refused,
            back_off_seconds: state.back_off.map(|left| left.as_secs_f64()),
        }
    }
}
