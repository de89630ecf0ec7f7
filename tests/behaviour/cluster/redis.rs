//! A Redis of a test's own: plain, with TLS, with Sentinels; and what may befall one.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard},
};

use redis::{Client, FromRedisValue, RedisResult, TlsCertificates, aio::MultiplexedConnection};
use rustix::process::{Pid, Signal, kill_process};

use crate::{requirement::program, servers::free_addr, support::eventually};

/// A running `redis-server`, killed when dropped.
pub(crate) struct Redis {
    /// `None` while it is stopped.
    child: Mutex<Option<Child>>,
    pub(crate) addr: SocketAddr,
    program: PathBuf,
    options: Vec<String>,
    /// Its certificate authority, if it speaks TLS.
    ca: Option<String>,
    dir: tempfile::TempDir,
}

impl Redis {
    /// An empty one that keeps nothing; `None` after saying that this test is skipped.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(&[]).await
    }

    /// The same with more options.
    pub(crate) async fn start_with(options: &[&str]) -> Option<Self> {
        Self::start_by(free_addr(), |addr, _| {
            let port = ["--port".to_owned(), addr.port().to_string()];
            port.into_iter().chain(options.iter().map(|&option| option.to_owned())).collect()
        })
        .await
    }

    /// One that speaks nothing but TLS; [`Self::ca`] is what it is checked by.
    pub(crate) async fn start_tls() -> Option<Self> {
        Self::start_tls_by(&authority()).await
    }

    async fn start_tls_by(ca: &Authority) -> Option<Self> {
        let started = Self::start_by(free_addr(), |addr, dir| {
            let settings = tls_settings(addr, dir, ca);
            settings.iter().flat_map(|(name, value)| [format!("--{name}"), value.clone()]).collect()
        });
        let mut redis = started.await?;
        redis.ca = Some(ca.pem());
        Some(redis)
    }

    /// One that other machines reach at this address.
    pub(crate) async fn start_at(ip: IpAddr) -> Option<Self> {
        let addr = SocketAddr::new(ip, free_addr().port());
        let options = |addr: SocketAddr| {
            ["--protected-mode", "no", "--port", &addr.port().to_string()].map(ToOwned::to_owned)
        };
        Self::start_by(addr, |addr, _| options(addr).into()).await
    }

    /// One that speaks TLS, and a Sentinel who does too and calls it `main`.
    pub(crate) async fn start_tls_watched() -> Option<(Self, Self)> {
        let ca = authority();
        let primary = Self::start_tls_by(&ca).await?;
        let sentinel = Self::start_by(free_addr(), |addr, dir| {
            let settings = tls_settings(addr, dir, &ca);
            let lines = settings.iter().map(|(name, value)| format!("{name} {value}\n"));
            let (host, port) = (primary.addr.ip(), primary.addr.port());
            let monitor = format!("tls-replication yes\nsentinel monitor main {host} {port} 1\n");
            sentinel_options(dir, &(lines.collect::<String>() + &monitor))
        });
        let mut sentinel = sentinel.await?;
        sentinel.ca = primary.ca.clone();
        Some((primary, sentinel))
    }

    async fn start_by(
        addr: SocketAddr,
        options: impl FnOnce(SocketAddr, &Path) -> Vec<String>,
    ) -> Option<Self> {
        let program = program("redis-server", "Debian: redis-server")?;
        let dir = tempfile::tempdir().expect("a directory");
        let options = options(addr, dir.path());
        let redis = Self { child: Mutex::new(None), addr, program, options, ca: None, dir };
        redis.restart().await;
        Some(redis)
    }

    /// Starts it anew where it was, without what it knew.
    pub(crate) async fn restart(&self) {
        self.stop();
        // A Sentinel writes to its own file, which it is started by.
        let file = self.options.first().filter(|option| !option.starts_with("--"));
        let mut command = Command::new(&self.program);
        command.env_clear().current_dir(self.dir.path()).args(&self.options);
        command.args(["--bind", &self.addr.ip().to_string()]);
        if file.is_none() {
            command.args(["--save", "", "--appendonly", "no"]);
        }
        let log = fs::File::create(self.dir.path().join("log")).expect("a file");
        let child = command.stdin(Stdio::null()).stdout(log).spawn().expect("it starts");
        *self.child() = Some(child);
        eventually("redis-server listens", async || {
            if let Some(status) = self.running(|child| child.try_wait().expect("our child")) {
                let said = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
                panic!("redis-server ended with {status}: {said}");
            }
            std::net::TcpStream::connect(self.addr).is_ok()
        })
        .await;
    }

    /// Kills it: every connection ends.
    pub(crate) fn stop(&self) {
        if let Some(mut child) = self.child().take() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// It answers no more, and its connections stay.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// It goes on.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// How it is named in a configuration.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.ca.is_some() { "rediss" } else { "redis" };
        format!("{scheme}://{}", self.addr)
    }

    /// A file with what its certificate is checked by.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A connection, to look what is in it.
    pub(crate) async fn connect(&self) -> MultiplexedConnection {
        let client = match &self.ca {
            None => Client::open(self.url()),
            Some(ca) => {
                let root_cert = Some(ca.clone().into_bytes());
                Client::build_with_tls(self.url(), TlsCertificates { client_tls: None, root_cert })
            }
        };
        client.expect("a URL").get_multiplexed_async_connection().await.expect("it accepts")
    }

    /// What it answers to a command: its words, without quotes.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &str) -> RedisResult<T> {
        let mut words = command.split(' ');
        let mut asked = redis::cmd(words.next().expect("a command"));
        for word in words {
            asked.arg(word);
        }
        asked.query_async(&mut self.connect().await).await
    }

    /// The keys that match.
    pub(crate) async fn keys(&self, pattern: &str) -> Vec<String> {
        self.ask(&format!("KEYS {pattern}")).await.expect("it answers")
    }

    /// How often each command was called since the start, or since `CONFIG RESETSTAT`. What a
    /// script calls counts too.
    pub(crate) async fn calls(&self) -> HashMap<String, u64> {
        let text: String = self.ask("INFO commandstats").await.expect("it answers");
        let of = |line: &str| {
            let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), figures.split(',').next()?.parse().ok()?))
        };
        text.lines().filter_map(of).collect()
    }

    /// A node holds a name.
    pub(crate) async fn until_claimed(&self, node: &str, uuid: &str) {
        let mut connection = self.connect().await;
        eventually(&format!("{node} holds {uuid}"), async || {
            let key = format!("relay:leg:{uuid}");
            let holder = redis::cmd("GET").arg(key).query_async(&mut connection).await;
            let holder: Option<String> = holder.expect("it answers");
            holder.is_some_and(|holder| holder.ends_with(&format!(" {node}")))
        })
        .await;
    }

    /// No leg is claimed any more.
    pub(crate) async fn until_nobody_waits(&self) {
        eventually("nothing is claimed", async || self.keys("relay:leg:*").await.is_empty()).await;
    }

    fn signal(&self, signal: Signal) {
        let pid = self.running(|child| Pid::from_child(child));
        kill_process(pid, signal).expect("it runs");
    }

    fn running<T>(&self, act: impl FnOnce(&mut Child) -> T) -> T {
        act(self.child().as_mut().expect("it was started"))
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().expect("no panic while it was held")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A primary, its replica, and a Sentinel who makes the one of the other when it has gone.
pub(crate) struct Watched {
    pub(crate) primary: Redis,
    pub(crate) replica: Redis,
    pub(crate) sentinel: Redis,
}

impl Watched {
    /// `None` after saying that this test is skipped.
    pub(crate) async fn start() -> Option<Self> {
        let primary = Redis::start_with(&["--repl-diskless-sync-delay", "0"]).await?;
        let (host, port) = (primary.addr.ip(), primary.addr.port());
        let of = [host.to_string(), port.to_string()];
        // Others would see it under the address that it dials from.
        let options = ["--replicaof", &of[0], &of[1], "--replica-announce-ip", &of[0]];
        let replica = Redis::start_with(&options).await?;
        let sentinel = Redis::start_by(free_addr(), |addr, dir| {
            let config = format!(
                "port {}\nsentinel monitor main {host} {port} 1\n\
                 sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n",
                addr.port()
            );
            sentinel_options(dir, &config)
        });
        let watched = Self { primary, replica, sentinel: sentinel.await? };
        eventually("the Sentinel knows the replica, and that is up to date", async || {
            let known: Vec<HashMap<String, String>> =
                watched.sentinel.ask("SENTINEL REPLICAS main").await.expect("it answers");
            let info: String = watched.replica.ask("INFO replication").await.expect("it answers");
            known.len() == 1
                && known[0]["flags"] == "slave"
                && known[0]["master-link-status"] == "ok"
                && info.contains("master_link_status:up")
        })
        .await;
        Some(watched)
    }

    /// How it is named in a configuration.
    pub(crate) fn url(&self) -> String {
        format!("redis+sentinel://{}/main", self.sentinel.addr)
    }
}

/// Who signs certificates.
type Authority = rcgen::CertifiedIssuer<'static, rcgen::KeyPair>;

fn authority() -> Authority {
    let mut params = rcgen::CertificateParams::new([]).expect("parameters");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    rcgen::CertifiedIssuer::self_signed(params, key()).expect("an authority")
}

/// The settings of one that speaks nothing but TLS, by files in its directory.
fn tls_settings(addr: SocketAddr, dir: &Path, ca: &Authority) -> Vec<(&'static str, String)> {
    let (server, key) = (rcgen::CertificateParams::new([addr.ip().to_string()]), key());
    let cert = server.expect("parameters").signed_by(&key, ca).expect("a certificate");
    fs::write(dir.join("ca.pem"), ca.pem()).expect("a file");
    fs::write(dir.join("cert.pem"), cert.pem()).expect("a file");
    fs::write(dir.join("key.pem"), key.serialize_pem()).expect("a file");
    let [ca, cert, key] = ["ca.pem", "cert.pem", "key.pem"].map(str::to_owned);
    vec![
        ("port", "0".to_owned()),
        ("tls-port", addr.port().to_string()),
        ("tls-auth-clients", "no".to_owned()),
        ("tls-ca-cert-file", ca),
        ("tls-cert-file", cert),
        ("tls-key-file", key),
    ]
}

/// A Sentinel is started by its file, which it writes to.
fn sentinel_options(dir: &Path, config: &str) -> Vec<String> {
    let file = dir.join("sentinel.conf");
    fs::write(&file, config).expect("a file");
    vec![file.display().to_string(), "--sentinel".to_owned()]
}

fn key() -> rcgen::KeyPair {
    rcgen::KeyPair::generate().expect("a key")
}
