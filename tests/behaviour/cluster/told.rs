//! What a node knows of a leg that another node carries for it, and holds it to: the client itself,
//! as if it had come here.

use std::net::{IpAddr, Ipv4Addr};

use mini_rust_desk_relay_server::{
    config::{BitRate, Config, KeyConfig, ProxyProtocol, Secret, Size},
    wire::{
        Transport::{self, Tcp, WebSocket},
        rendezvous::{ConnType, request_relay},
    },
};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::support::{Cluster, name};
use crate::{
    by_hand::{Wire, opening},
    servers::PROXY,
    support::{TestGateway, eventually, read_to_end, unique},
    tls::Kind,
};

/// Clients that come from addresses of their own.
const HERE: Ipv4Addr = Ipv4Addr::new(127, 0, 6, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(127, 0, 6, 2);

/// A leg from an address.
async fn leg_from(ip: Ipv4Addr, node: &TestGateway, transport: Transport, hello: &[u8]) -> Wire {
    let mut wire = Wire::connect_from(ip, node.addr).await;
    wire.send(opening(transport, hello)).await;
    if transport == WebSocket {
        wire.upgraded().await;
    }
    wire
}

/// Two legs from two addresses: one waits with the first node, the other comes to the second.
async fn pair_from(cluster: &Cluster, second: Transport) -> (Wire, Wire, String) {
    let uuid = unique("from");
    let hello = request_relay(&uuid, "", "", ConnType::Default);
    let waits = leg_from(HERE, &cluster[0], Tcp, &hello).await;
    cluster.until_claimed(0, &uuid).await;
    let comes = leg_from(THERE, &cluster[1], second, &hello).await;
    cluster[0].until_active(&uuid).await;
    (waits, comes, uuid)
}

async fn relay(node: &TestGateway, uuid: &str) -> Value {
    node.get(&format!("/api/v1/relays/{uuid}")).await.json()
}

#[tokio::test]
async fn a_relay_is_shown_once_with_its_clients_as_they_are() {
    let Some(cluster) = Cluster::start(2).await else { return };
    for (at, kind) in Kind::ALL.into_iter().enumerate() {
        let pair = cluster.pair((0, Kind::ALL[3 - at]), (1, kind)).await;
        let shown = relay(&cluster[0], &pair.uuid).await;
        for (leg, kind) in [(0, Kind::ALL[3 - at]), (1, kind)] {
            let transport = if kind.is_websocket() { "websocket" } else { "tcp" };
            assert_eq!(shown["legs"][leg]["transport"], transport, "{shown}");
            assert_eq!(shown["legs"][leg]["tls"], kind.is_tls(), "{shown}");
        }
        let elsewhere = format!("/api/v1/relays/{}", pair.uuid);
        assert_eq!(cluster[1].get(&elsewhere).await.status, 404, "it is counted once");
    }
    cluster.until_quiet().await;
}

#[tokio::test]
async fn address_target_and_kind_are_those_that_the_clients_said() {
    let Some(cluster) = Cluster::start(2).await else { return };
    for transport in [Tcp, WebSocket] {
        for second_says in [true, false] {
            let uuid = unique("said");
            let says = request_relay(&uuid, "417866831", "", ConnType::FileTransfer);
            let says_not = request_relay(&uuid, "", "", ConnType::Default);
            let (first, second) = if second_says { (&says_not, &says) } else { (&says, &says_not) };
            let waits = leg_from(HERE, &cluster[0], Tcp, first).await;
            cluster.until_claimed(0, &uuid).await;
            let comes = leg_from(THERE, &cluster[1], transport, second).await;
            cluster[0].until_active(&uuid).await;
            let shown = relay(&cluster[0], &uuid).await;
            assert_eq!(shown["target_id"], "417866831", "{shown}");
            assert_eq!(shown["connection_type"], "file_transfer", "{shown}");
            for (leg, wire) in [(0, &waits), (1, &comes)] {
                let address = wire.socket.local_addr().unwrap().to_string();
                assert_eq!(shown["legs"][leg]["address"], address, "{shown}");
            }
        }
    }
    cluster.until_quiet().await;
}

#[tokio::test]
async fn an_address_that_a_proxy_told_one_node_is_known_to_the_other() {
    let proxied = |_, config: &mut Config| {
        config.proxy.trusted = vec![IpAddr::from(PROXY).into()];
        config.proxy.protocol = ProxyProtocol::Required;
    };
    let Some(cluster) = Cluster::start_with(2, proxied).await else { return };
    let uuid = unique("proxied");
    let hello = opening(Tcp, &request_relay(&uuid, "", "", ConnType::Default));
    let mut legs = Vec::new();
    for node in 0..2 {
        let mut wire = Wire::connect_from(PROXY, cluster[node].addr).await;
        let header = format!("PROXY TCP4 203.0.113.{node} 198.51.100.1 5632{node} 21117\r\n");
        wire.send([header.as_bytes(), &hello].concat()).await;
        if node == 0 {
            cluster.redis.until_claimed(&name(0), &uuid).await;
        }
        legs.push(wire);
    }
    // Of a node that demands headers, the admin API too: but whoever asks is no proxy.
    eventually("the relay is active", async || {
        relay(&cluster[0], &uuid).await["legs"][1]["address"] == "203.0.113.1:56321"
    })
    .await;
    assert_eq!(relay(&cluster[0], &uuid).await["legs"][0]["address"], "203.0.113.0:56320");
}

#[tokio::test]
async fn who_is_blocked_at_either_node_is_cut_off_and_its_peer_is_told() {
    let open = |_, config: &mut Config| config.access.exempt.clear();
    let Some(cluster) = Cluster::start_with(2, open).await else { return };
    for (at, blocked, transport) in [
        (0, HERE, Tcp),
        (0, THERE, Tcp),
        (1, THERE, Tcp),
        (1, THERE, WebSocket),
        (0, THERE, WebSocket),
    ] {
        let (mut waits, mut comes, _) = pair_from(&cluster, transport).await;
        let network = json!({ "network": blocked.to_string() });
        let answer = cluster[at].post_json("/api/v1/blocklist", &network).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        read_to_end(&mut waits.socket).await;
        read_to_end(&mut comes.socket).await;
        drop((waits, comes));
        for node in 0..2 {
            cluster[node].delete(&format!("/api/v1/blocklist/{blocked}")).await;
        }
        cluster.until_quiet().await;
        // The block may have spread, and be lifted a little later where it has.
        eventually("both are let in again", async || {
            let mut all = true;
            for node in 0..2 {
                let path = format!("/api/v1/blocklist?address={blocked}");
                all &= cluster[node].get(&path).await.json()["total"] == 0;
            }
            all
        })
        .await;
    }
}

#[tokio::test]
async fn a_leg_is_throttled_by_its_clients_address() {
    let slow = |node: usize, config: &mut Config| {
        config.access.exempt.clear();
        config.bandwidth.throttled = BitRate::from_mbit(8);
        if node == 0 {
            config.access.throttle_list = vec![IpAddr::from(THERE).into()];
        }
    };
    let Some(cluster) = Cluster::start_with(2, slow).await else { return };
    let (mut waits, comes, uuid) = pair_from(&cluster, Tcp).await;
    let sending = tokio::spawn(async move {
        let mut comes = comes;
        comes.socket.write_all(&vec![7; 2_000_000]).await.unwrap();
        comes.socket.shutdown().await.unwrap();
        comes
    });
    eventually("it is held back", async || relay(&cluster[0], &uuid).await["limited"] == true)
        .await;
    assert_eq!(read_to_end(&mut waits.socket).await, vec![7; 2_000_000]);
    sending.await.unwrap();
}

fn keys(config: &mut Config) {
    let key = |label: &str| KeyConfig {
        label: label.to_owned(),
        key: Secret::new(format!("for-{label}")),
        ..KeyConfig::default()
    };
    config.keys = vec![key("office"), key("guests")];
}

/// A leg with a key at each node; the first waits.
async fn with_keys(cluster: &Cluster, first: &str, second: &str) -> (Wire, Wire, String) {
    let uuid = unique("keys");
    let hello = |key: &str| request_relay(&uuid, "", key, ConnType::Default);
    let waits = leg_from(HERE, &cluster[0], Tcp, &hello(first)).await;
    cluster.until_claimed(0, &uuid).await;
    let comes = leg_from(THERE, &cluster[1], Tcp, &hello(second)).await;
    (waits, comes, uuid)
}

#[tokio::test]
async fn each_leg_keeps_its_key_and_a_months_traffic_is_counted_once() {
    let with_quota = |_, config: &mut Config| {
        keys(config);
        config.keys[1].monthly_traffic = Some(Size::from_bytes(1 << 30));
    };
    let Some(cluster) = Cluster::start_with(2, with_quota).await else { return };
    let (mut waits, mut comes, uuid) = with_keys(&cluster, "for-office", "for-guests").await;
    cluster[0].until_active(&uuid).await;
    let shown = relay(&cluster[0], &uuid).await;
    assert_eq!(shown["legs"][0]["key"], "office", "{shown}");
    assert_eq!(shown["legs"][1]["key"], "guests", "{shown}");
    comes.send(vec![1; 300_000]).await;
    comes.socket.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut waits.socket).await.len(), 300_000);
    drop((waits, comes));
    cluster.until_quiet().await;
    let carried = "relay_key_bytes_total{key=\"guests\"}";
    let sum = cluster[0].metric(carried).await + cluster[1].metric(carried).await;
    assert_eq!(sum, 300_000.0);
}

#[tokio::test]
async fn a_pair_too_many_is_refused_to_both_legs_at_once() {
    for by_key in [false, true] {
        let limited = |_, config: &mut Config| {
            keys(config);
            match by_key {
                true => config.keys[1].max_relays = Some(1),
                false => config.relay.max_active = 1,
            }
        };
        let Some(cluster) = Cluster::start_with(2, limited).await else { return };
        let (waits, comes, uuid) = with_keys(&cluster, "for-office", "for-guests").await;
        cluster[0].until_active(&uuid).await;
        for (first, second) in [("for-guests", "for-office"), ("for-office", "for-guests")] {
            let (mut one, mut other, _) = with_keys(&cluster, first, second).await;
            assert_eq!(read_to_end(&mut one.socket).await, b"");
            assert_eq!(read_to_end(&mut other.socket).await, b"");
        }
        drop((waits, comes));
        cluster.until_quiet().await;
        let (waits, comes, uuid) = with_keys(&cluster, "for-guests", "for-guests").await;
        match by_key {
            // Both legs have it, and it may have one relay: that is one.
            true => cluster[0].until_active(&uuid).await,
            false => cluster[0].until_active(&uuid).await,
        }
        drop((waits, comes));
        cluster.until_quiet().await;
    }
}

/// Its key is unknown where its peer waits: that node's keys are what counts, and no relay can be made.
#[tokio::test]
async fn a_leg_whose_key_the_other_node_does_not_have_is_refused() {
    let differ = |node: usize, config: &mut Config| {
        keys(config);
        config.keys.truncate(1 + node);
    };
    let Some(cluster) = Cluster::start_with(2, differ).await else { return };
    let (mut waits, mut comes, _) = with_keys(&cluster, "for-office", "for-guests").await;
    assert_eq!(read_to_end(&mut comes.socket).await, b"");
    assert_eq!(read_to_end(&mut waits.socket).await, b"");
    cluster.until_quiet().await;
}
