//! A gateway on a port of its own, and the clients that talk to it.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use mini_rust_desk_relay_server::{
    config::{Config, Loaded, Origins, Secret},
    gateway::Gateway,
    shutdown::Shutdown,
    wire::{
        Transport, frame,
        rendezvous::{ConnType, request_relay},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, error::ProtocolError},
};

use crate::far::Far;

/// Longer than anything here takes, shorter than a person's patience.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const TOKEN: &str = "a-token-for-tests-only";

/// A started gateway, ended when dropped.
pub(crate) struct TestGateway {
    pub(crate) addr: SocketAddr,
    pub(crate) admin_addr: SocketAddr,
    pub(crate) shutdown: Shutdown,
    pub(crate) running: JoinHandle<()>,
    /// What a reload reads.
    config: Arc<Mutex<Config>>,
    dir: tempfile::TempDir,
    /// The other node, where there are two.
    pub(crate) far: Option<Box<Far>>,
}

/// A client's end of a leg.
pub(crate) enum Client {
    Tcp(TcpStream),
    WebSocket(Box<WebSocketStream<TcpStream>>),
}

/// What a gateway answered to an HTTP request.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl TestGateway {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_after(change, async |_| {}).await.0
    }

    /// A gateway whose clients have come before it runs.
    pub(crate) async fn start_after<T>(
        change: impl FnOnce(&mut Config),
        come: impl AsyncFnOnce(SocketAddr) -> T,
    ) -> (Self, T) {
        let mut config = Config {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
            ..Config::default()
        };
        config.admin.token = Secret::new(TOKEN);
        change(&mut config);
        let far = Far::start(&mut config).await;
        let (mut gateway, came) = Self::run(config, come).await;
        gateway.far = far;
        (gateway, came)
    }

    /// One that runs, of this configuration.
    pub(crate) async fn run<T>(
        config: Config,
        come: impl AsyncFnOnce(SocketAddr) -> T,
    ) -> (Self, T) {
        let dir = tempfile::tempdir().expect("a directory");
        let written = Arc::new(Mutex::new(config.clone()));
        let gateway = Gateway::bind(config, dir.path()).expect("the gateway starts");
        let addr = gateway.addrs()[0];
        let admin_addr = gateway.admin_addrs().first().copied().unwrap_or(addr);
        let shutdown = gateway.shutdown().clone();
        let config = Arc::clone(&written);
        gateway.control().reloader().reads(move || {
            let config = written.lock().expect("no panic").clone();
            Ok(Loaded { config, warnings: Vec::new(), origins: Origins::default() })
        });
        let came = come(addr).await;
        let running = tokio::spawn(gateway.run());
        (Self { addr, admin_addr, shutdown, running, config, dir, far: None }, came)
    }

    /// A gateway that runs elsewhere, in `dir`: to be talked to like one that runs here.
    pub(crate) fn elsewhere(
        addr: SocketAddr,
        admin_addr: SocketAddr,
        dir: tempfile::TempDir,
    ) -> Self {
        let running = tokio::spawn(async {});
        let (shutdown, config) = (Shutdown::default(), Arc::default());
        Self { addr, admin_addr, shutdown, running, config, dir, far: None }
    }

    /// Changes the configuration of a gateway that runs here, and has it reloaded. The token
    /// with which it is asked stays the one that it was.
    pub(crate) async fn reload_with(&self, change: impl FnOnce(&mut Config)) -> Answer {
        change(&mut self.config.lock().expect("no panic"));
        if let Some(far) = &self.far {
            let changed = self.config.lock().expect("no panic").clone();
            far.gateway.set(changed);
            Box::pin(far.gateway.post("/api/v1/reload")).await;
        }
        self.post("/api/v1/reload").await
    }

    /// What it reads next, but for what makes it a node.
    fn set(&self, changed: Config) {
        let mut config = self.config.lock().expect("no panic");
        *config = Config { cluster: config.cluster.clone(), ..changed };
    }

    /// Asks for something to be done, with the token.
    pub(crate) async fn post(&self, path: &str) -> Answer {
        let headers = format!("Authorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n");
        self.request("POST", path, &headers).await
    }

    /// Where the gateway looks for, and makes, its files.
    pub(crate) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        self.connect_for(None).await
    }

    /// The connection of a leg that will name this uuid.
    pub(crate) async fn connect_for(&self, uuid: Option<&str>) -> TcpStream {
        let addr = self.landing(uuid).await;
        let socket = TcpStream::connect(addr).await.expect("the gateway accepts");
        socket.set_nodelay(true).expect("an option");
        socket
    }

    /// A leg that names `uuid`, without a key.
    pub(crate) async fn leg(&self, transport: Transport, uuid: &str) -> Client {
        let hello = request_relay(uuid, "", "", ConnType::Default);
        Client::greeting(self.connect_for(Some(uuid)).await, transport, &hello).await
    }

    /// A leg whose first message is `payload`.
    pub(crate) async fn leg_with(&self, transport: Transport, payload: &[u8]) -> Client {
        Client::greeting(self.connect().await, transport, payload).await
    }

    pub(crate) async fn websocket(&self, path: &str) -> WebSocketStream<TcpStream> {
        upgrade(self.connect().await, path).await
    }

    /// Two legs that are paired: the one that waited, and the one that came.
    pub(crate) async fn pair(&self, first: Transport, second: Transport) -> (Client, Client) {
        let uuid = unique("pair");
        let first = self.leg(first, &uuid).await;
        self.until_waiting(&uuid).await;
        let second = self.leg(second, &uuid).await;
        self.until_active(&uuid).await;
        (first, second)
    }

    pub(crate) async fn until_waiting(&self, uuid: &str) {
        eventually("the leg waits", async || {
            self.get("/api/v1/waiting?limit=1000").await.body.contains(uuid)
        })
        .await;
        if let Some(far) = &self.far {
            far.redis.until_claimed("near", uuid).await;
        }
    }

    pub(crate) async fn until_active(&self, uuid: &str) {
        eventually("the relay is active", async || {
            self.get(&format!("/api/v1/relays/{uuid}")).await.status == 200
        })
        .await;
    }

    /// Asks with the token.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &format!("Authorization: Bearer {TOKEN}\r\n")).await
    }

    /// Asks with the token and a body.
    pub(crate) async fn post_json(&self, path: &str, body: &serde_json::Value) -> Answer {
        let body = body.to_string();
        let headers = format!(
            "Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.request("POST", path, &headers).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.request("DELETE", path, &format!("Authorization: Bearer {TOKEN}\r\n")).await
    }

    pub(crate) async fn request(&self, method: &str, path: &str, headers: &str) -> Answer {
        let answer = http(self.admin_addr, method, path, headers).await;
        if answer.status != 404 {
            return answer;
        }
        self.asked_there(method, path, headers).await.unwrap_or(answer)
    }

    /// The value of one series, named as in the text format; of two nodes the sum.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let here = self.metric_here(series).await;
        let Some(far) = &self.far else { return here };
        // Whoever asks is a connection at each.
        let twice = if series == "relay_connections_open" { 1.0 } else { 0.0 };
        here + far.gateway.metric_here(series).await - twice
    }

    async fn metric_here(&self, series: &str) -> f64 {
        let text = self.get("/metrics").await.body;
        let line = text
            .lines()
            .find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        let line = line.unwrap_or_else(|| panic!("no series {series} in\n{text}"));
        line[series.len()..].trim().parse().expect("a number")
    }

    pub(crate) async fn until_metric(&self, series: &str, value: f64) {
        eventually(&format!("{series} is {value}"), async || {
            (self.metric(series).await - value).abs() < f64::EPSILON
        })
        .await;
    }
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        self.shutdown.end();
    }
}

impl Client {
    /// A leg whose first message is `payload`.
    async fn greeting(mut socket: TcpStream, transport: Transport, payload: &[u8]) -> Self {
        match transport {
            Transport::Tcp => {
                let frame = frame::encode(payload).expect("a frame");
                socket.write_all(&frame).await.expect("the gateway reads");
                Self::Tcp(socket)
            }
            Transport::WebSocket => {
                let mut socket = upgrade(socket, "/").await;
                socket.send(Message::binary(payload.to_vec())).await.expect("the gateway reads");
                Self::WebSocket(Box::new(socket))
            }
        }
    }

    /// Sends a message: a frame on TCP, Binary on a WebSocket.
    pub(crate) async fn send(&mut self, message: &[u8]) {
        let sent = async {
            match self {
                Self::Tcp(socket) => {
                    let frame = frame::encode(message).expect("a frame");
                    socket.write_all(&frame).await.expect("the gateway reads");
                }
                Self::WebSocket(socket) => {
                    let message = Message::binary(message.to_vec());
                    socket.send(message).await.expect("the gateway reads");
                }
            }
        };
        timeout(PATIENCE, sent).await.expect("the gateway takes it in time");
    }

    /// The next message; `None` at the end: a FIN on TCP, a Close on a WebSocket.
    pub(crate) async fn receive(&mut self) -> Option<Vec<u8>> {
        let received = async {
            match self {
                Self::Tcp(socket) => read_frame(socket).await,
                Self::WebSocket(socket) => loop {
                    match socket.next().await?.expect("a whole message") {
                        Message::Binary(bytes) => return Some(bytes.to_vec()),
                        Message::Close(_) => return None,
                        Message::Ping(_) | Message::Pong(_) => {}
                        other => panic!("the relay sends Binary only, not {other:?}"),
                    }
                },
            }
        };
        timeout(PATIENCE, received).await.expect("something comes in time")
    }

    /// Ends what this side sends: FIN on TCP, Close on a WebSocket.
    pub(crate) async fn finish(&mut self) {
        match self {
            Self::Tcp(socket) => socket.shutdown().await.expect("a FIN"),
            // Answering a Close that came is the client's own affair: it flushes its answer.
            Self::WebSocket(socket) => match socket.as_mut().close(None).await {
                Err(Error::Protocol(ProtocolError::SendAfterClosing)) => {
                    socket.flush().await.expect("a Close");
                }
                closed => closed.expect("a Close"),
            },
        }
    }

    pub(crate) fn tcp(self) -> TcpStream {
        match self {
            Self::Tcp(socket) => socket,
            Self::WebSocket(_) => panic!("not a TCP leg"),
        }
    }

    pub(crate) fn websocket(self) -> WebSocketStream<TcpStream> {
        match self {
            Self::WebSocket(socket) => *socket,
            Self::Tcp(_) => panic!("not a WebSocket leg"),
        }
    }
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }
}

async fn upgrade(socket: TcpStream, path: &str) -> WebSocketStream<TcpStream> {
    let host = socket.peer_addr().expect("connected");
    let connected = client_async(format!("ws://{host}{path}"), socket).await;
    connected.expect("the gateway upgrades").0
}

/// A name that no other test uses.
pub(crate) fn unique(what: &str) -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{what}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Asks again until it is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let asked = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(timeout(PATIENCE, asked).await.is_ok(), "in vain: {what}");
}

/// Everything until the peer's end, which must come in time. A reset counts as the end.
pub(crate) async fn read_to_end(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, socket.read_to_end(&mut bytes)).await;
    // A socket closed with bytes unread is reset; nothing else is allowed.
    if let Err(error) = read.expect("the end comes in time") {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    bytes
}

pub(crate) async fn http(addr: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    http_with_body(addr, method, path, headers, "").await
}

pub(crate) async fn http_with_body(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Answer {
    let mut socket = TcpStream::connect(addr).await.expect("the gateway accepts");
    let len =
        if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{len}{headers}\r\n{body}"
    );
    socket.write_all(head.as_bytes()).await.expect("the gateway reads");
    let bytes = read_to_end(&mut socket).await;
    parse_answer(&String::from_utf8(bytes).expect("text"))
}

pub(crate) fn parse_answer(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status");
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers: HashMap<_, _> =
        headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    let chunked = headers.get("transfer-encoding").is_some_and(|value| value == "chunked");
    let body = if chunked { dechunked(body) } else { body.to_owned() };
    Answer { status: status.parse().expect("a number"), headers, body }
}

fn dechunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((len, after)) = rest.split_once("\r\n") {
        let len = usize::from_str_radix(len, 16).expect("a length");
        body.push_str(&after[..len]);
        rest = after[len..].trim_start_matches("\r\n");
    }
    body
}

async fn read_frame(socket: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = vec![0; 1];
    if socket.read(&mut head).await.expect("the relay does not reset") == 0 {
        return None;
    }
    let header_len = frame::FrameHeader::len_from(head[0]);
    head.resize(header_len, 0);
    socket.read_exact(&mut head[1..]).await.expect("a whole header");
    let header = frame::FrameHeader::parse(&head).expect("a header");
    let mut payload = vec![0; header.payload_len()];
    socket.read_exact(&mut payload).await.expect("a whole frame");
    Some(payload)
}

impl TestGateway {
    /// Nothing is left of any leg or relay: what counts them says so, and only the connection
    /// that asks is open.
    pub(crate) async fn until_quiet(&self) {
        if let Some(far) = &self.far {
            Box::pin(far.gateway.until_quiet()).await;
            far.redis.until_nobody_waits().await;
        }
        eventually("nothing is left", async || {
            let stats = self.get("/api/v1/stats").await.json();
            let is = |name: &str, value: u64| stats[name].as_u64() == Some(value);
            is("connections_open", 1) && is("legs_waiting", 0) && is("relays_active", 0)
        })
        .await;
        self.until_metric("relay_waiting_legs", 0.0).await;
        self.until_metric("relay_connections_open", 1.0).await;
        for transport in ["tcp", "websocket", "mixed"] {
            let series = format!("relay_active_relays{{transport=\"{transport}\"}}");
            self.until_metric(&series, 0.0).await;
        }
    }

    /// A relay between two new legs, by its name.
    pub(crate) async fn named_pair(
        &self,
        uuid: &str,
        first: Transport,
        second: Transport,
    ) -> (Client, Client) {
        let first = self.leg(first, uuid).await;
        self.until_waiting(uuid).await;
        let second = self.leg(second, uuid).await;
        self.until_active(uuid).await;
        (first, second)
    }

    /// Bytes that the relay has taken from each leg of the relay `uuid`.
    pub(crate) async fn taken(&self, uuid: &str) -> [u64; 2] {
        let relay = self.get(&format!("/api/v1/relays/{uuid}")).await.json();
        [0, 1].map(|leg| relay["legs"][leg]["sent_bytes"].as_u64().expect("a number"))
    }
}
