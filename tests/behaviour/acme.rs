//! Certificates by ACME, of a real authority: Debian's pebble, which connects to the relay to see
//! each name proved.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    sync::Arc,
};

use mini_rust_desk_relay_server::wire::Transport::Tcp;
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};

use crate::{
    process::Process,
    requirement::program,
    servers::{Server, free_addr},
    support::{parse_answer, unique},
    tls::{Kind, Peer, shake_hands},
};

/// An authority whose certificates are valid for so many seconds, and which looks for proofs at
/// one port of `localhost`.
struct Authority {
    server: Server,
    management: SocketAddr,
    /// The certificate that it shows itself is made for it here.
    roots: RootCertStore,
    files: tempfile::TempDir,
}

/// Everything that a relay keeps between two starts.
struct Home {
    cache: tempfile::TempDir,
    listen: SocketAddr,
}

impl Authority {
    async fn start(validity: u32, looks_at: SocketAddr) -> Option<Self> {
        let program = program("pebble", "Debian: pebble")?;
        let files = tempfile::tempdir().expect("a directory");
        let names = ["localhost", "127.0.0.77"].map(str::to_owned);
        let own = rcgen::generate_simple_self_signed(names).expect("a certificate");
        fs::write(files.path().join("cert.pem"), own.cert.pem()).expect("a file");
        fs::write(files.path().join("key.pem"), own.signing_key.serialize_pem()).expect("a file");
        let (directory, management) = (free_addr(), free_addr());
        let config = serde_json::json!({ "pebble": {
            "listenAddress": directory, "managementListenAddress": management,
            "certificate": files.path().join("cert.pem"),
            "privateKey": files.path().join("key.pem"),
            "httpPort": 1, "tlsPort": looks_at.port(),
            "certificateValidityPeriod": validity,
        }});
        fs::write(files.path().join("pebble.json"), config.to_string()).expect("a file");
        let log = fs::File::create(files.path().join("log")).expect("a file");
        let server = Server::start_saying(directory, log.into(), |_| {
            let mut command = Command::new(program);
            command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0");
            command.arg("-config").arg(files.path().join("pebble.json"));
            command
        })
        .await;
        let roots = roots(&own.cert.pem());
        Some(Self { server, management, roots, files })
    }

    /// A client that trusts what the authority issues.
    async fn client(&self) -> ClientConfig {
        let socket = TcpStream::connect(self.management).await.expect("it accepts");
        let name = ServerName::try_from("localhost").expect("a name");
        let connector = TlsConnector::from(Arc::new(client(self.roots.clone())));
        let mut stream = connector.connect(name, socket).await.expect("a handshake");
        let request = b"GET /roots/0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.expect("it reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an answer");
        client(roots(&parse_answer(&String::from_utf8(answer).expect("text")).body))
    }

    /// How many accounts it has made.
    fn accounts(&self) -> usize {
        self.said("accounts in memory")
    }

    /// How many orders it has taken.
    fn orders(&self) -> usize {
        self.said("Added order ")
    }

    fn said(&self, what: &str) -> usize {
        let log = fs::read_to_string(self.files.path().join("log")).expect("a log");
        log.lines().filter(|line| line.contains(what)).count()
    }

    fn directory(&self) -> String {
        format!("https://{}/dir", self.server.addr)
    }
}

fn roots(pem: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate"))
        .expect("a root");
    roots
}

fn client(roots: RootCertStore) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

impl Home {
    fn new() -> Self {
        let cache = tempfile::tempdir().expect("a directory");
        Self { cache, listen: SocketAddr::from((Ipv4Addr::LOCALHOST, free_addr().port())) }
    }

    /// A relay that asks `directory` for its certificate.
    async fn relay(&self, directory: &str, directory_ca: &Path) -> Process {
        let dir = tempfile::tempdir().expect("a directory");
        let config = format!(
            "[tls.acme]\ndomains = ['localhost']\nemail = 'admin@example.org'\ncache_dir = '{}'\n\
             directory = '{directory}'\ndirectory_ca = '{}'\n",
            self.kept("").display(),
            directory_ca.display(),
        );
        fs::write(dir.path().join("config.toml"), config).expect("a file");
        Process::start_in(dir, &["--listen", &self.listen.to_string()]).await
    }

    async fn relay_of(&self, authority: &Authority) -> Process {
        self.relay(&authority.directory(), &authority.files.path().join("cert.pem")).await
    }

    fn kept(&self, name: &str) -> std::path::PathBuf {
        self.cache.path().join("acme").join(name)
    }
}

async fn handshake(relay: &Process, client: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    shake_hands(relay.gateway.connect().await, client).await
}

/// A web client's leg and a desktop's are paired, and speak.
async fn serves_wss(relay: &Process, client: ClientConfig) {
    let uuid = unique("acme");
    let stream = handshake(relay, client).await.expect("a certificate that the client trusts");
    let mut web = Peer::greeting(Box::new(stream), Kind::Wss, &uuid).await;
    relay.gateway.until_waiting(&uuid).await;
    let mut desktop = relay.gateway.leg(Tcp, &uuid).await;
    web.send(b"over wss").await;
    assert_eq!(desktop.receive().await.as_deref(), Some(&b"over wss"[..]));
    desktop.send(b"and back").await;
    assert_eq!(web.receive().await.as_deref(), Some(&b"and back"[..]));
}

/// Nothing is amiss for those that need no certificate.
async fn serves_plain(relay: &Process) {
    let _pair = relay.gateway.pair(Tcp, Tcp).await;
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[tokio::test]
async fn a_certificate_is_fetched_once_and_kept() {
    let home = Home::new();
    let Some(authority) = Authority::start(90 * 24 * 3600, home.listen).await else { return };
    let mut relay = home.relay_of(&authority).await;
    relay.line("a new certificate by ACME").await;
    serves_wss(&relay, authority.client().await).await;
    relay.gateway.until_metric("relay_acme_orders_total{outcome=\"issued\"}", 1.0).await;
    assert!(relay.gateway.metric("relay_acme_last_issued_timestamp_seconds").await > 1e9);
    assert!(relay.gateway.metric("relay_tls_certificate_expiry_seconds").await > 89.0 * 86400.0);
    assert_eq!(mode(&home.kept("")), 0o700);
    assert_eq!(mode(&home.kept("account.json")), 0o600);
    assert_eq!(mode(&home.kept("certificate.json")), 0o600);
    relay.signal(Signal::TERM);
    relay.ended().await;
    assert!(!relay.log().join("\n").contains("PRIVATE"));

    let relay = home.relay_of(&authority).await;
    relay.line("the certificate by ACME that was kept").await;
    serves_wss(&relay, authority.client().await).await;
    assert_eq!(authority.orders(), 1);
    assert_eq!(authority.accounts(), 1);
}

#[tokio::test]
async fn a_certificate_is_renewed_before_it_expires_and_shown_until_then() {
    let home = Home::new();
    let Some(authority) = Authority::start(12, home.listen).await else { return };
    let relay = home.relay_of(&authority).await;
    relay.line("a new certificate by ACME").await;
    let client = authority.client().await;
    let shown = async || {
        let stream = handshake(&relay, client.clone()).await.expect("a valid certificate");
        stream.get_ref().1.peer_certificates().expect("some")[0].clone()
    };
    let first = shown().await;
    // At every moment there is one that clients take.
    crate::support::eventually("another is shown", async || shown().await != first).await;
    relay.gateway.until_metric("relay_acme_orders_total{outcome=\"issued\"}", 2.0).await;
    assert_eq!(relay.gateway.metric("relay_acme_orders_total{outcome=\"failed\"}").await, 0.0);
    // The account is that of before.
    assert_eq!(authority.accounts(), 1);
}

#[tokio::test]
async fn an_authority_that_is_not_there_takes_nothing_from_anybody() {
    let home = Home::new();
    let roots = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let ca = home.cache.path().join("ca.pem");
    fs::write(&ca, roots.cert.pem()).unwrap();
    let mut relay = home.relay("https://127.0.0.77:1/dir", &ca).await;
    let line = relay.line("no certificate by ACME").await;
    assert!(line.contains("127.0.0.77:1") && line.contains("retry_s"), "{line}");
    assert_eq!(relay.gateway.metric("relay_acme_orders_total{outcome=\"failed\"}").await, 1.0);
    assert!(relay.gateway.metric("relay_acme_last_failed_timestamp_seconds").await > 1e9);
    serves_plain(&relay).await;
    // There is nothing to show yet, which TLS says in its own way.
    handshake(&relay, client(self::roots(&roots.cert.pem()))).await.expect_err("no certificate");
    assert!(relay.is_running());
}

#[tokio::test]
async fn a_name_that_is_not_this_machines_is_told_of() {
    let home = Home::new();
    let elsewhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let Some(authority) = Authority::start(3600, elsewhere).await else { return };
    let relay = home.relay_of(&authority).await;
    let line = relay.line("no certificate by ACME").await;
    assert!(line.contains("does its port 443 lead here?"), "{line}");
    serves_plain(&relay).await;
}

#[tokio::test]
async fn the_old_certificate_is_shown_while_there_is_no_new_one() {
    let home = Home::new();
    let Some(authority) = Authority::start(15, home.listen).await else { return };
    let relay = home.relay_of(&authority).await;
    relay.line("a new certificate by ACME").await;
    let client = authority.client().await;
    drop(authority.server);
    let line = relay.line("no certificate by ACME").await;
    assert!(line.contains("has_certificate") && line.contains("true"), "{line}");
    if let Err(error) = handshake(&relay, client).await {
        // On a slow machine its time may be over by now: it is shown all the same.
        assert!(error.to_string().contains("expired"), "{error}");
    }
    serves_plain(&relay).await;
}

/// The reload says that tls.acme waits for a restart: until then it stands in for tls.cert.
#[tokio::test]
async fn a_certificate_of_files_takes_the_place_of_one_by_acme_and_gives_it_back() {
    let home = Home::new();
    let Some(authority) = Authority::start(6, home.listen).await else { return };
    let relay = home.relay_of(&authority).await;
    relay.line("a new certificate by ACME").await;
    let issued = tokio::time::Instant::now();
    let identity = crate::tls::Identity::new();
    identity.write(relay.gateway.dir());
    let config = relay.gateway.dir().join("config.toml");
    let by_acme = fs::read_to_string(&config).expect("a file");
    fs::write(&config, "[tls]\ncert = 'cert.pem'\nkey = 'key.pem'\n").expect("a file");
    relay.signal(Signal::HUP);
    crate::support::eventually("that of the files is shown, and counted down", async || {
        handshake(&relay, identity.client()).await.is_ok()
            && relay.gateway.metric("relay_tls_certificate_expiry_seconds").await > 1e6
    })
    .await;
    // Another is due, and its time is over: no order is begun, which would fail.
    tokio::time::sleep_until(issued + std::time::Duration::from_secs(8)).await;
    assert!(relay.gateway.metric("relay_tls_certificate_expiry_seconds").await > 1e6);
    let orders = authority.orders();
    fs::write(&config, by_acme).expect("a file");
    relay.signal(Signal::HUP);
    let client = authority.client().await;
    crate::support::eventually("one by ACME is shown again", async || {
        handshake(&relay, client.clone()).await.is_ok()
    })
    .await;
    assert!(authority.orders() > orders);
    assert_eq!(relay.gateway.metric("relay_acme_orders_total{outcome=\"failed\"}").await, 0.0);
}

#[tokio::test]
async fn what_was_kept_for_another_name_or_is_broken_is_ordered_anew() {
    let home = Home::new();
    let Some(authority) = Authority::start(3600, home.listen).await else { return };
    fs::create_dir(home.kept("")).unwrap();
    fs::write(home.kept("certificate.json"), "{").unwrap();
    let relay = home.relay_of(&authority).await;
    relay.line("will not do, a new one is ordered").await;
    relay.line("a new certificate by ACME").await;
    serves_wss(&relay, authority.client().await).await;
}
