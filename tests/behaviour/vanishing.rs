//! Peers that vanish without a word, as machines do that lose their power or their network: the
//! program runs in a network namespace, and the link to a leg goes down.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    time::{Duration, Instant},
};

use mini_rust_desk_relay_server::wire::{
    frame,
    rendezvous::{ConnType, request_relay},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    process::{PROGRAM, Process},
    requirement,
    support::unique,
};

/// A network namespace with two links to this one, so that one can go down.
struct Elsewhere {
    name: String,
    subnet: u8,
}

impl Elsewhere {
    /// `None` after saying that this test is skipped.
    fn new() -> Option<Self> {
        requirement::program("ip", "apt-get install iproute2")?;
        let id = std::process::id() % 50_000 * 10 + u32::from(unique_digit());
        let here = Self { name: format!("rd{id}"), subnet: (id % 200) as u8 + 20 };
        if let Err(why) = here.build() {
            let skipped = format!("SKIPPED: no network namespace can be made here ({why})");
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{skipped}");
            println!("{skipped}");
            return None;
        }
        Some(here)
    }

    fn build(&self) -> Result<(), String> {
        let name = &self.name;
        ip(&format!("netns add {name}"))?;
        for link in [Link::Steady, Link::Fragile] {
            let (near, far) = (self.near(link), self.far(link));
            ip(&format!("link add {near} type veth peer name {far} netns {name}"))?;
            ip(&format!("addr add {}/30 dev {near}", self.here(link)))?;
            ip(&format!("-n {name} addr add {}/30 dev {far}", self.there(link)))?;
            ip(&format!("link set {near} up"))?;
            ip(&format!("-n {name} link set {far} up"))?;
        }
        Ok(())
    }

    fn near(&self, link: Link) -> String {
        format!("{}{}", self.name, link as u8)
    }

    fn far(&self, link: Link) -> String {
        format!("{}p{}", self.name, link as u8)
    }

    fn here(&self, link: Link) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.subnet, 4 * link as u8 + 1)
    }

    fn there(&self, link: Link) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.subnet, 4 * link as u8 + 2)
    }

    /// The program in there, reached by either link.
    async fn start(&self, config: &str) -> Process {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("config.toml"), config).expect("a file");
        let mut command = Command::new("/usr/bin/env");
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.args(["ip", "netns", "exec", &self.name, PROGRAM]);
        let args = ["--listen", "0.0.0.0:21117"];
        let mut process = Process::start_by(command, dir, &args).await;
        process.gateway.addr = self.addr(Link::Steady);
        process.gateway.admin_addr = process.gateway.addr;
        process
    }

    fn addr(&self, link: Link) -> SocketAddr {
        SocketAddr::from((self.there(link), 21117))
    }

    /// Nothing comes through any more, and nobody is told.
    fn cut(&self, link: Link) {
        // Down at this end only: the other sees no carrier, and its packets are lost.
        ip(&format!("link set {} down", self.near(link))).expect("our own link");
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        for link in [Link::Steady, Link::Fragile] {
            let _ = ip(&format!("link del {}", self.near(link)));
        }
        let _ = ip(&format!("netns del {}", self.name));
    }
}

#[derive(Debug, Clone, Copy)]
enum Link {
    Steady = 0,
    Fragile = 1,
}

fn ip(args: &str) -> Result<(), String> {
    let done = Command::new("ip").args(args.split(' ')).output().map_err(|why| why.to_string())?;
    match done.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&done.stderr).trim().to_owned()),
    }
}

fn unique_digit() -> u8 {
    let name = unique("namespace");
    let number = name.rsplit('-').next().and_then(|number| number.parse::<u32>().ok());
    (number.expect("a number") % 10) as u8
}

async fn leg(addr: SocketAddr, uuid: &str) -> TcpStream {
    let mut socket = TcpStream::connect(addr).await.expect("the program accepts");
    let hello = frame::encode(&request_relay(uuid, "", "", ConnType::Default)).expect("a frame");
    socket.write_all(&hello).await.expect("the program reads");
    socket
}

/// Neither the relay's own limits nor its timeouts would find it in time.
const CONFIG: &str = "[relay]\nkeepalive = \"2s\"\nwrite_timeout = \"1s\"\nidle_timeout = \"1h\"\n";

/// Three probes, two seconds apart, after two quiet ones; and as long with data on its way.
const MISSED_AFTER: Duration = Duration::from_secs(8);

/// What is left to the machine this runs on.
const LATE: Duration = Duration::from_secs(10);

async fn is_missed(is_spoken_to: bool) {
    let Some(elsewhere) = Elsewhere::new() else { return };
    let process = elsewhere.start(CONFIG).await;
    let uuid = unique("vanishes");
    let mut vanishing = leg(elsewhere.addr(Link::Fragile), &uuid).await;
    process.gateway.until_waiting(&uuid).await;
    let mut staying = leg(elsewhere.addr(Link::Steady), &uuid).await;
    staying.write_all(b"there?").await.expect("the program reads");
    vanishing.read_exact(&mut [0; 6]).await.expect("the peer's bytes");
    elsewhere.cut(Link::Fragile);
    let since = Instant::now();
    if is_spoken_to {
        staying.write_all(b"still there?").await.expect("the program reads");
    }
    // The other leg hears of it as of any end.
    let read = tokio::time::timeout(MISSED_AFTER + LATE, staying.read(&mut [0; 1])).await;
    let took = since.elapsed();
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?} after {took:?}");
    println!("missed after {took:?}");
    let line = process.line("Relay of").await;
    assert!(line.contains("reset"), "{line}");
    process.gateway.until_metric("relay_connections_open", 1.0).await;
}

#[tokio::test]
async fn a_leg_that_vanishes_with_data_on_its_way_is_missed() {
    is_missed(true).await;
}

#[tokio::test]
async fn a_quiet_leg_that_vanishes_is_missed() {
    is_missed(false).await;
}

/// Who vanishes before it has said who it is has no more time than anybody.
#[tokio::test]
async fn a_stranger_that_vanishes_is_missed() {
    let Some(elsewhere) = Elsewhere::new() else { return };
    let process = elsewhere.start("[front_door]\nfirst_frame_timeout = \"1s\"\n").await;
    let mut strangers = Vec::new();
    for said in
        [&b""[..], b"\x16", b"GET / HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"]
    {
        let mut socket = TcpStream::connect(elsewhere.addr(Link::Fragile)).await.expect("accepts");
        socket.write_all(said).await.expect("the program reads");
        strangers.push(socket);
    }
    elsewhere.cut(Link::Fragile);
    process.gateway.until_metric("relay_connections_open", 1.0).await;
    drop(strangers);
}
