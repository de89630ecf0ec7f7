//! Who may come in: lists, and the limits for one address. Clients here come from loopback
//! addresses of their own; the tests themselves ask from 127.0.0.1, which nothing applies to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mini_rust_desk_relay_server::{config::Config, wire::Transport::Tcp};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{TestGateway, read_to_end};

/// A client of this address.
const fn client(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 7, n)
}

/// Everybody but the tests themselves is subject to the limits.
async fn gateway(change: impl FnOnce(&mut Config)) -> TestGateway {
    TestGateway::start_with(|config| {
        config.access.exempt = vec![IpAddr::from(Ipv4Addr::LOCALHOST).into()];
        change(config);
    })
    .await
}

async fn connect(gateway: &TestGateway, from: Ipv4Addr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((from, 0))).expect("an address of loopback");
    socket.connect(gateway.addr).await.expect("the gateway accepts")
}

/// A connection that is closed at once, with nothing sent.
async fn is_turned_away(gateway: &TestGateway, from: Ipv4Addr) {
    let mut socket = connect(gateway, from).await;
    assert_eq!(read_to_end(&mut socket).await, b"");
}

/// Gets in: its open connection is one more than there were.
async fn is_let_in(gateway: &TestGateway, from: Ipv4Addr) -> TcpStream {
    let before = gateway.metric("relay_connections_open").await;
    let socket = connect(gateway, from).await;
    gateway.until_metric("relay_connections_open", before + 1.0).await;
    socket
}

#[tokio::test]
async fn who_is_blocked_gets_nothing_and_others_get_in() {
    let gateway = gateway(|config| {
        config.access.blocklist = vec!["127.0.7.0/31".parse().unwrap(), "::7".parse().unwrap()];
    })
    .await;
    for n in [0, 1, 0, 1] {
        is_turned_away(&gateway, client(n)).await;
    }
    assert_eq!(gateway.refusals("blocked").await, 4.0);
    let _other = is_let_in(&gateway, client(2)).await;
    gateway.pair(Tcp, Tcp).await;
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_gets_them_back() {
    let gateway = gateway(|config| config.access.connections_per_address = 3).await;
    for round in 1..=3_u32 {
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(is_let_in(&gateway, client(1)).await);
        }
        is_turned_away(&gateway, client(1)).await;
        assert_eq!(gateway.refusals("address_connections").await, f64::from(round));
        let other = is_let_in(&gateway, client(2)).await;
        drop((open, other));
        gateway.until_quiet().await;
    }
}

#[tokio::test]
async fn a_rate_lets_a_burst_in_and_a_probe_is_never_counted() {
    let gateway = gateway(|config| {
        config.access.connection_rate = 1;
        config.access.connection_burst = 3;
    })
    .await;
    for _ in 0..20 {
        drop(connect(&gateway, client(1)).await);
    }
    gateway.until_metric("relay_connections_total{protocol=\"none\"}", 20.0).await;
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(connect(&gateway, client(2)).await);
    }
    // What the second that this may take brings back is no more than a few.
    let refused = || async { gateway.refusals("address_rate").await };
    crate::support::eventually("most are refused", async || refused().await >= 10.0).await;
    assert!(refused().await <= 17.0);
    // Whose probes were not counted has all of its burst.
    for _ in 0..3 {
        open.push(is_let_in(&gateway, client(1)).await);
    }
}
