//! Headers that name a client: believed from trusted proxies alone, and what a client wrote itself, to
//! the left of what its proxy did, changes nothing.
#![no_main]

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use mini_rust_desk_relay_server::{
    config::ProxyConfig,
    http::fuzzing::{Named, named},
};

const NAMES: [&str; 3] = ["forwarded", "x-forwarded-for", "x-real-ip"];

fuzz_target!(|data: &[u8]| {
    let trusted = ["10.0.0.0/8", "2001:db8::/32"].map(|network| network.parse().expect("one"));
    let proxies = ProxyConfig { trusted: trusted.to_vec(), ..ProxyConfig::default() };
    let proxy = SocketAddr::from(([10, 0, 0, 1], 4000));
    let stranger = SocketAddr::from(([192, 0, 2, 1], 4000));
    // A line for each header, whose first byte says which.
    let lines = data.split(|&byte| byte == b'\n').take(8).filter_map(<[u8]>::split_first);
    let headers: Vec<_> =
        lines.map(|(&name, value)| (NAMES[usize::from(name) % 3], value)).collect();

    let Some(believed) = named(&headers, proxy, &proxies) else { return };
    assert_eq!(named(&headers, stranger, &proxies), Some(Named::Peer), "a stranger is believed");
    if let Named::Client(client) = believed {
        assert_eq!(client.ip(), client.ip().to_canonical());
    }
    // The list alone, and the same behind what its client claims.
    let mut list: Vec<_> = headers.into_iter().filter(|(name, _)| *name == NAMES[1]).collect();
    let alone = named(&list, proxy, &proxies);
    let Some(Named::Client(client)) = alone else { return };
    if !proxies.trusts(client.ip()) {
        let claimed = [b"198.51.100.66, ", list[0].1].concat();
        list[0].1 = &claimed;
        assert_eq!(named(&list, proxy, &proxies), alone, "a client names itself");
    }
});
