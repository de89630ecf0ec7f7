//! The program as people and scripts run it: its output, its exit codes, its files.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use mini_rust_desk_relay_server::wire::{
    frame,
    rendezvous::{ConnType, request_relay},
};
use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything here takes, shorter than a person's patience.
const PATIENCE: Duration = Duration::from_secs(30);

const TOKEN: &str = "a-token-for-tests-only";
const KEY: &str = "sesame-for-tests-only";

/// A server process in a directory of its own, killed when dropped.
struct Server {
    child: Child,
    addr: SocketAddr,
    dir: TempDir,
    log: Lines,
    stderr: Lines,
}

/// What a process prints, as it prints it.
struct Lines {
    coming: Receiver<String>,
    seen: Vec<String>,
}

/// What a process left behind.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Server {
    fn start(args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::start_on((Ipv4Addr::LOCALHOST, 0).into(), args, env)
    }

    fn start_on(addr: SocketAddr, args: &[&str], env: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = program(dir.path());
        command.args(["--listen", &addr.to_string(), "--log-format", "json"]).args(args);
        command.envs(env.iter().copied());
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut log = Lines::of(child.stdout.take().expect("a pipe"));
        let stderr = Lines::of(child.stderr.take().expect("a pipe"));
        let line = log.until("listening for relay and HTTP connections");
        let line: Value = serde_json::from_str(&line).expect("a line of JSON");
        let addr = line["address"].as_str().and_then(|text| text.parse().ok()).expect("an address");
        Self { child, addr, dir, log, stderr }
    }

    fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// `relays` with the right token.
    fn relays(&self, args: &[&str]) -> Ended {
        run_in(
            self.dir.path(),
            &[&["relays", "--url", &self.url(), "--token", TOKEN], args].concat(),
        )
    }

    fn probe(&self, args: &[&str]) -> Ended {
        probe(&self.addr.to_string(), args)
    }

    /// A leg over TCP that names `uuid`.
    fn leg(&self, uuid: &str, target: &str) -> TcpStream {
        let mut socket = TcpStream::connect(self.addr).expect("the relay accepts");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let hello = request_relay(uuid, target, "", ConnType::Default);
        socket.write_all(&frame::encode(&hello).expect("a frame")).expect("the relay reads");
        socket
    }

    /// Two legs that are paired: a byte has crossed.
    fn pair(&self, uuid: &str) -> (TcpStream, TcpStream) {
        let (mut first, mut second) = (self.leg(uuid, "123456789"), self.leg(uuid, ""));
        second.write_all(b"!").expect("the relay reads");
        first.read_exact(&mut [0]).expect("the byte crosses");
        (first, second)
    }

    /// Ends it; everything that it ever printed.
    fn end(mut self) -> (String, String) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
        (self.log.all(), self.stderr.all())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Lines {
    fn of(pipe: impl std::io::Read + Send + 'static) -> Self {
        let (send, coming) = mpsc::channel();
        thread::spawn(move || {
            let lines = BufReader::new(pipe).lines().map_while(Result::ok);
            lines.take_while(|line| send.send(line.clone()).is_ok()).for_each(drop);
        });
        Self { coming, seen: Vec::new() }
    }

    /// The first line with `part` in it, once it comes.
    fn until(&mut self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.coming.recv_timeout(left) {
                Ok(line) => self.seen.push(line.clone()),
                Err(_) => panic!("no {part:?} came, but:\n{}", self.seen.join("\n")),
            }
            if let Some(line) = self.seen.last().filter(|line| line.contains(part)) {
                return line.clone();
            }
        }
    }

    /// Every line, to the end of the process.
    fn all(&mut self) -> String {
        self.seen.extend(self.coming.iter());
        self.seen.join("\n")
    }
}

impl Ended {
    #[track_caller]
    fn well(self) -> String {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self.stdout
    }

    /// What it said on standard error before it failed, in one line for each thing.
    #[track_caller]
    fn badly(self, parts: &[&str]) -> String {
        assert_eq!(self.code, Some(1), "{}\n{}", self.stdout, self.stderr);
        says(&self.stderr, parts);
        self.stdout + &self.stderr
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.stdout).expect("JSON")
    }
}

/// The program, with nothing of this process's environment.
fn program(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mini_rust_desk_relay_server"));
    command.current_dir(dir).env_clear();
    command
}

fn run(command: &mut Command) -> Ended {
    let Output { status, stdout, stderr } =
        assert_cmd::Command::from_std(std::mem::replace(command, Command::new("")))
            .timeout(PATIENCE)
            .output()
            .expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ended { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

fn run_in(dir: &Path, args: &[&str]) -> Ended {
    run(program(dir).args(args))
}

fn run_anywhere(args: &[&str]) -> Ended {
    let nowhere = tempfile::tempdir().expect("a directory");
    run_in(nowhere.path(), args)
}

/// A probe that knows no configuration.
fn probe(address: &str, args: &[&str]) -> Ended {
    run_anywhere(&[&["probe", address], args].concat())
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}

// --- probe ---

#[test]
fn a_relay_is_probed_over_each_transport() {
    let server = Server::start(&["-k", KEY], &[]);
    for transport in ["tcp", "websocket", "mixed"] {
        let said = server.probe(&["-k", KEY, "--quick", "--transport", transport]).well();
        says(&said, &["connect first leg", "  pair ", "round trip", "  close ", "\nhealthy\n"]);
        assert!(!said.contains("throughput") && !said.contains(KEY), "{said}");
    }
}

#[test]
fn a_whole_probe_reports_what_it_measured() {
    let server = Server::start(&[], &[]);
    let report = server.probe(&["--json", "--transport", "all", "--timeout", "30s"]).json();
    assert_eq!(report["healthy"], true, "{report:#}");
    let probes = report["probes"].as_array().unwrap();
    let transports: Vec<_> = probes.iter().map(|probe| probe["transports"].to_string()).collect();
    let expected = [r#"["tcp","tcp"]"#, r#"["websocket","websocket"]"#, r#"["tcp","websocket"]"#];
    assert_eq!(transports, expected);
    for probe in probes {
        assert!(probe["pairing_ms"].as_f64().unwrap() > 0.0);
        assert!(probe["round_trip"]["rounds"].as_u64().unwrap() > 0);
        assert!(probe["throughput"]["bytes"].as_u64().unwrap() > 0);
        assert_eq!(probe["steps"].as_array().unwrap().len(), 8, "{probe:#}");
        assert!(probe["failure"].is_null());
    }
}

#[test]
fn a_probe_takes_the_key_from_where_the_relay_has_it() {
    let server = Server::start(&["-k", "_"], &[]);
    let here = |args: &[&str], env: &[(&str, &str)]| {
        let address = server.addr.to_string();
        let mut command = program(server.dir.path());
        run(command.args(["probe", &address, "--quick"]).args(args).envs(env.iter().copied()))
    };
    here(&["-k", "_"], &[]).well();
    here(&[], &[("RELAY__KEY", "-")]).well();
    here(&[], &[("RELAY__KEY_FILE", "id_ed25519")]).well();
    here(&[], &[("RELAY__KEY_FILE", "id_ed25519.pub")]).well();
    let secret = fs::read_to_string(server.dir.path().join("id_ed25519")).unwrap();
    here(&[], &[("KEY", &secret)]).well();
    fs::write(server.dir.path().join("config.toml"), "key = '_'").unwrap();
    here(&[], &[]).well();
}

#[test]
fn a_probe_makes_no_key_pair() {
    let dir = tempfile::tempdir().unwrap();
    let ended = run_in(dir.path(), &["probe", "127.0.0.1:1", "-k", "_"]);
    ended.badly(&["there is no id_ed25519 here", "-k"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_wrong_key_is_named_as_the_cause_and_not_shown() {
    let server = Server::start(&["-k", KEY], &[]);
    for transport in ["tcp", "websocket", "mixed"] {
        let wrong = ["--transport", transport, "-k", "open-for-tests-only"];
        let said = server.probe(&wrong).badly(&["first message", "the key is probably wrong"]);
        assert!(!said.contains("for-tests-only"), "{said}");
        server.probe(&["--transport", transport]).badly(&["no key was sent", "-k"]);
    }
    let report = server.probe(&["--json"]);
    assert_eq!(report.code, Some(1));
    assert_eq!(report.stderr, "");
    let report = report.json();
    assert_eq!(report["healthy"], false);
    says(report["probes"][0]["failure"]["cause"].as_str().unwrap(), &["no key was sent"]);
}

#[test]
fn a_port_where_nothing_listens_is_told() {
    // Bound and not listening: nobody else can get the port meanwhile.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap().to_string();
    probe(&addr, &[]).badly(&["connect first leg", "nothing listens at", &addr, "not running"]);
    let url = format!("http://{addr}");
    let list = ["relays", "list", "--token", TOKEN, "--url", &url];
    run_anywhere(&list).badly(&["nothing listens at", "start the relay", "--url"]);
}

#[test]
fn a_server_that_is_no_relay_is_told() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.expect("a connection");
            // One after the other, so that the first leg is answered before the second.
            let _ = socket.read(&mut [0; 1024]);
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    probe(&addr, &[]).badly(&["bytes of its own", "it is no relay"]);
    let websocket = probe(&addr, &["--transport", "websocket"]);
    websocket.badly(&["400 Bad Request", "instead of upgrading", "--websocket-port 21119"]);
    let url = format!("http://{addr}");
    let list = ["relays", "list", "--token", TOKEN, "--url", &url];
    run_anywhere(&list).badly(&["400 Bad Request", "is --url right?"]);
}

#[test]
fn a_server_that_stays_silent_is_told() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    // The kernel accepts, and nobody ever answers.
    probe(&addr, &["--timeout", "300ms"]).badly(&["pair: nothing came in time", "no relay"]);
    let websocket = probe(&addr, &["--timeout", "300ms", "--transport", "websocket"]);
    websocket.badly(&["connect first leg", "no answer from"]);
}

#[test]
fn ipv6_addresses_are_written_either_way() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        println!("SKIPPED: this machine has no IPv6");
        return;
    }
    let server = Server::start_on((Ipv6Addr::LOCALHOST, 0).into(), &[], &[]);
    server.probe(&["--quick", "--transport", "all"]).well();
    let refused = probe("::1", &["--websocket-port", "1", "--transport", "websocket"]);
    refused.badly(&["nothing listens at [::1]:1:"]);
}

#[test]
fn a_probe_is_known_by_its_target() {
    let mut server = Server::start(&[], &[]);
    server.probe(&["--quick"]).well();
    let line: Value = serde_json::from_str(&server.log.until(" closed")).unwrap();
    assert_eq!(line["target_id"], "probe");
    assert_eq!(line["conn_type"], "default");
    says(line["uuid"].as_str().unwrap(), &["probe-"]);
}

// --- relays ---

#[test]
fn relays_are_listed_shown_and_closed() {
    let server = Server::start(&[], &[("RELAY__ADMIN__TOKEN", TOKEN)]);
    assert_eq!(server.relays(&["list"]).well(), "0 of 0 relays\n");
    let uuid = "what a/client ?sends%20é";
    let (mut first, mut second) = server.pair(uuid);
    let _other = server.pair("other");

    let table = server.relays(&["list", "--sort", "uuid"]).well();
    says(
        &table,
        &["UUID", "FIRST LEG", "123456789", "127.0.0.1:", " tcp ", "/s\n", "2 of 2 relays"],
    );
    assert!(!table.contains('é'), "what a client chose is escaped: {table}");
    let page = server.relays(&["list", "--json", "--limit", "1", "--offset", "1", "--sort=-uuid"]);
    let page = page.json();
    assert_eq!((&page["total"], &page["items"][0]["uuid"]), (&2.into(), &"other".into()));
    let filtered = server.relays(&["list", "--uuid", uuid, "--transport", "tcp"]).well();
    says(&filtered, &["1 of 1 relay\n"]);
    let none = ["list", "--target-id", "1", "--connection-type", "rdp", "--address", "192.0.2.1"];
    assert_eq!(server.relays(&none).well(), "0 of 0 relays\n");

    let shown = server.relays(&["show", uuid]).well();
    says(&shown, &["target id", "123456789", "second leg", "age", "idle", "moved"]);
    assert_eq!(server.relays(&["show", uuid, "--json"]).json()["uuid"], uuid);

    assert_eq!(server.relays(&["list", "--key", "office"]).well(), "0 of 0 relays\n");
    let closed = server.relays(&["close", uuid]).well();
    says(&closed, &[r"closed 1 relay with the uuid what\u{20}a/client"]);
    assert_eq!(first.read(&mut [0]).unwrap(), 0);
    assert_eq!(second.read(&mut [0]).unwrap(), 0);
    server.relays(&["close", "no-such"]).badly(&["no active relay", "no-such", "`relays list`"]);
    server.relays(&["show", "no-such"]).badly(&["no active relay", "no-such", "`relays list`"]);
    server.relays(&["list", "--sort", "colour"]).badly(&["colour", "target_id"]);
    server.relays(&["list", "--limit", "0"]).badly(&["limit must be between 1 and 1000"]);
}

#[test]
fn the_configuration_says_where_the_relay_is_and_what_its_token_is() {
    let server = Server::start(&[], &[("RELAY__ADMIN__TOKEN", TOKEN)]);
    let dir = tempfile::tempdir().unwrap();
    let toml = format!(
        "listen = ['192.0.2.1:1']\nadmin = {{ listen = ['{}'], token_file = 'token' }}",
        server.addr
    );
    fs::write(dir.path().join("relay.toml"), toml).unwrap();
    fs::write(dir.path().join("token"), format!("{TOKEN}\n")).unwrap();
    run_in(dir.path(), &["relays", "-c", "relay.toml", "list"]).well();
    run_in(dir.path(), &["relays", "list", "-c", "relay.toml"]).well();
    let url = server.url();
    run_in(dir.path(), &["relays", "list", "--url", &url, "--token-file", "token"]).well();
    let list = ["relays", "list"];
    run(program(dir.path()).args(list).envs([
        ("RELAY__LISTEN", server.addr.to_string().as_str()),
        ("RELAY__ADMIN__TOKEN", TOKEN),
    ]))
    .well();
    run_in(dir.path(), &list).badly(&["no admin token", "--token", "RELAY__ADMIN__TOKEN"]);
    let port_0 = ["relays", "list", "--token", TOKEN];
    run(program(dir.path()).args(port_0).env("RELAY__LISTEN", "[::]:0")).badly(&["give --url"]);
}

#[test]
fn a_wrong_token_is_told_with_the_way_out_and_not_shown() {
    let server = Server::start(&[], &[("RELAY__ADMIN__TOKEN", TOKEN)]);
    let url = server.url();
    for act in [&["list"][..], &["show", "u"], &["close", "u"]] {
        let wrong =
            [&["relays", "--url", &url, "--token", "another-token-for-tests"], act].concat();
        let said = run_anywhere(&wrong).badly(&["refuses this admin token", "at its start"]);
        assert!(!said.contains("for-tests"), "{said}");
        assert_eq!(said.lines().count(), 1, "one sentence: {said}");
    }
}

#[test]
fn a_url_that_will_not_do_is_told() {
    let list = |url| run_anywhere(&["relays", "list", "--token", TOKEN, "--url", url]);
    for url in ["relay.example.com:21117", "ftp://a", "", "http://", "/api"] {
        list(url).badly(&["--url must be like http://HOST:PORT"]);
    }
    list("http://user@host").badly(&["without a user"]);
    // A front door whose admin API is elsewhere.
    let server = Server::start(&["--admin-listen", "127.0.0.1:0"], &[]);
    list(&server.url()).badly(&["no admin API at", "admin.listen", "--url"]);
}

// --- serve ---

#[test]
fn the_generated_token_is_printed_once_and_works() {
    let mut server = Server::start(&["--log-level", "trace"], &[]);
    let line = server.stderr.until("admin token for this run: ");
    let token = line.split(' ').find(|word| word.len() == 64).expect("a token").to_owned();
    let list = ["relays", "list", "--url", &server.url(), "--token", &token];
    run_anywhere(&list).well();
    server.log.until("OPEN RELAY");
    let (log, stderr) = server.end();
    assert_eq!(stderr.matches(&token).count(), 1, "{stderr}");
    assert!(!log.contains(&token), "{log}");
}

#[test]
fn two_on_one_port_is_told() {
    let server = Server::start(&[], &[]);
    let second = run_anywhere(&["--listen", &server.addr.to_string()]);
    let said = second.badly(&["cannot listen on", "something listens there already", "-p"]);
    assert!(!said.contains("admin token for this run"), "{said}");
}

#[test]
fn usage_errors_are_told_before_anything_starts() {
    for (args, parts) in [
        (&["-p", "70000"][..], &["--port", "70000", "65535"][..]),
        (&["--prot", "1"], &["--prot", "--port"]),
        (&["--log-format", "xml"], &["expected pretty or json"]),
        (&["--drain-timeout", "30"], &["30s"]),
        (&["relays"], &["Usage: ", "list"]),
        (&["relays", "show", ""], &["UUID"]),
        (&["probe"], &["HOST[:PORT]"]),
        (&["probe", "http://a"], &["not a URL"]),
        (&["probe", "a", "--transport", "udp"], &["tcp, websocket, mixed, all"]),
        (&["relays", "list", "--token", "a", "--token-file", "b"], &["cannot be used with"]),
    ] {
        let ended = run_anywhere(args);
        assert_eq!(ended.code, Some(2), "{args:?}");
        says(&ended.stderr, parts);
    }
    run_anywhere(&["-p", "65534"]).badly(&["--port", "found 65534", "65533"]);
}

// --- check ---

#[test]
fn check_passes_what_serve_would_run_with() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("key"), KEY).unwrap();
    fs::write(dir.path().join("token"), TOKEN).unwrap();
    let toml = "key_file = 'key'\nadmin.token_file = 'token'\nlisten = ['[::]:7']";
    fs::write(dir.path().join("config.toml"), toml).unwrap();
    let ended = run_in(dir.path(), &["check"]);
    assert_eq!(ended.stderr, "");
    let shown = ended.well();
    says(&shown, &["key_file = \"key\" # from config.toml", "listen = [\"[::]:7\"]"]);
    assert!(!shown.contains("for-tests-only"), "{shown}");
    let flag = run_in(dir.path(), &["check", "-k", "other-for-tests-only"]).well();
    says(&flag, &["key = \"***\" # from the command line", "key_file = \"\" # from the command"]);
    says(&run_anywhere(&["check"]).stderr, &["warning: no key is set"]);
}

#[test]
fn check_fails_where_serve_would() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("empty"), "\n").unwrap();
    for (toml, parts) in [
        ("key_file = 'gone'", &["cannot read the key file", "gone", "No such file"][..]),
        ("key_file = 'empty'", &["the key file", "is empty"]),
        ("admin.token_file = 'gone'", &["cannot read the admin token file", "gone"]),
        ("admin.token_file = 'empty'", &["the admin token file", "fewer than 16"]),
        ("key_file = 'gone'\nadmin.token_file = 'gone'", &["the key file", "the admin token file"]),
        ("keys_file = 'gone'", &["gone: the file of keys cannot be read: No such file"]),
        ("keys_file = 'empty'", &["the file of keys empty holds none", "unset keys_file"]),
        (
            "[[keys]]\nlabel = 'a'\nkey = 'swordfish'\n[[keys]]\nlabel = 'b'\nkey = 'swordfish'",
            &["the keys \"a\" and \"b\" are the same one"],
        ),
        (
            "[[keys]]\nlabel = 'a'\nkey_file = 'gone'",
            &["the key \"a\" is not", "read the key file"],
        ),
        ("usage_file = 'empty'", &["empty does not hold the keys' traffic", "move it away"]),
        ("kee = 'a'", &["config.toml: kee: unknown key: did you mean key?"]),
    ] {
        fs::write(dir.path().join("config.toml"), toml).unwrap();
        let said = run_in(dir.path(), &["check"]).badly(parts);
        assert!(!said.contains("swordfish"), "{said}");
        let serve = ["--listen", "127.0.0.1:0"];
        assert_eq!(run_in(dir.path(), &serve).code, Some(1), "serving with {toml}");
    }
}

/// The same of a node among others. Redis itself may be away at any start.
#[test]
fn check_fails_where_a_node_of_a_cluster_would() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("empty"), "\n").unwrap();
    let node = "[cluster]\nlisten = ['127.0.0.1:0']\nredis = 'rediss://:swordfish@127.0.0.1:1'\n";
    let secret = "secret = 'swordfish, swordfish, and swordfish'\n";
    for (toml, parts) in [
        ("secret_file = 'gone'".to_owned(), &["cannot read the cluster's secret file", "gone"][..]),
        ("secret_file = 'empty'".to_owned(), &["secret file", "fewer than 32", "openssl rand"]),
        (format!("{secret}redis_ca = 'gone'"), &["cluster.redis_ca", "gone", "cannot be read"]),
        (
            format!("{secret}redis_ca = 'empty'"),
            &["cluster.redis_ca", "empty holds no certificates"],
        ),
        (
            format!("{secret}[cluster.tls]\ncert = 'gone'\nkey = 'gone'\nca = 'gone'"),
            &["cluster.tls.cert", "gone"],
        ),
    ] {
        fs::write(dir.path().join("config.toml"), format!("{node}{toml}")).unwrap();
        let said = run_in(dir.path(), &["check"]).badly(parts);
        assert!(!said.contains("swordfish"), "{said}");
        let served = run_in(dir.path(), &["--listen", "127.0.0.1:0"]);
        assert_eq!(served.code, Some(1), "serving with {toml}");
        assert!(!served.stderr.contains("swordfish"), "{}", served.stderr);
    }
    let well = format!("{node}{secret}");
    fs::write(dir.path().join("config.toml"), well).unwrap();
    let shown = run_in(dir.path(), &["check"]).well();
    assert!(!shown.contains("swordfish"), "{shown}");
}

/// What all nodes know is in a file, with or without what an editor leaves around it.
#[test]
fn a_secret_of_the_cluster_is_read_from_a_file_and_shown_nowhere() {
    const SECRET: &str = "known-to-nodes-and-to-nobody-else";
    let dir = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();
    let cluster = "key = 'k'\nadmin.token_file = 'token'\n[cluster]\nlisten = ['127.0.0.1:0']\n\
                   redis = 'redis://:hunter-of-two@127.0.0.1:1'\nsecret_file = ";
    write("token", TOKEN);
    fs::create_dir(dir.path().join("directory")).unwrap();
    fs::write(dir.path().join("binary"), [0xFF; 64]).unwrap();
    write("short", &SECRET[..31]);
    write("padded", &format!("{}{}", &SECRET[..31], "\n".repeat(40)));
    for (file, parts) in [
        ("gone", &["cannot read the cluster's secret file", "gone", "No such file"][..]),
        ("directory", &["cannot read the cluster's secret file", "Is a directory"]),
        ("binary", &["cannot read the cluster's secret file", "UTF-8"]),
        ("short", &["the cluster's secret file", "fewer than 32 characters", "openssl rand"]),
        ("padded", &["the cluster's secret file", "fewer than 32 characters", "openssl rand"]),
    ] {
        write("config.toml", &format!("{cluster}'{file}'"));
        for args in [&["check"][..], &["--listen", "127.0.0.1:0"]] {
            let said = run_in(dir.path(), args).badly(parts);
            assert!(!said.contains(&SECRET[..16]) && !said.contains("hunter-of-two"), "{said}");
        }
    }
    write("secret", &format!(" \t{SECRET}\r\n\n"));
    write("config.toml", &format!("{cluster}'secret'"));
    let checked = run_in(dir.path(), &["check"]);
    assert_eq!(checked.stderr, "");
    let shown = checked.well();
    says(&shown, &["redis = \"***\"", "secret_file = \"secret\""]);
    assert!(!shown.contains(&SECRET[..16]) && !shown.contains("hunter-of-two"), "{shown}");
    write("config.toml", &format!("{cluster}'secret'\n[shutdown]\ndrain_timeout = '29s'"));
    let warned = run_in(dir.path(), &["check"]).stderr;
    says(&warned, &["warning: shutdown.drain_timeout (config.toml) is 29s, shorter than pairing"]);
}

#[test]
fn check_warns_of_a_key_that_has_expired() {
    let dir = tempfile::tempdir().unwrap();
    let config = "[[keys]]\nlabel = 'a'\nkey = 'b'\nexpires = 2020-01-01";
    fs::write(dir.path().join("config.toml"), config).unwrap();
    let checked = run_in(dir.path(), &["check"]);
    assert_eq!(checked.stderr, "warning: the key \"a\" has expired: it lets nobody in\n");
    checked.well();
}

#[test]
fn check_makes_no_key_pair() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.toml"), "usage_file = 'usage.json'").unwrap();
    for sign in ["_", "-"] {
        let ended = run_in(dir.path(), &["check", "-k", sign]);
        says(&ended.stderr, &["warning: there is no id_ed25519", "will be made"]);
        ended.well();
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the configuration alone");
    fs::write(dir.path().join("id_ed25519"), "not a key").unwrap();
    run_in(dir.path(), &["check", "-k", "_"]).badly(&["id_ed25519 is not base64", "restore it"]);
}

// --- keygen ---

#[test]
fn keygen_writes_a_private_pair_once() {
    let dir = tempfile::tempdir().unwrap();
    let said = run_in(dir.path(), &["keygen"]).well();
    let secret = fs::read_to_string(dir.path().join("id_ed25519")).unwrap();
    let public = fs::read_to_string(dir.path().join("id_ed25519.pub")).unwrap();
    says(&said, &[&public, "-k _"]);
    assert!(!said.contains(&secret));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(dir.path().join("id_ed25519")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let refused =
        run_in(dir.path(), &["keygen"]).badly(&["id_ed25519", "exists", "--dir", "--print"]);
    assert!(!refused.contains(&secret));
    assert_eq!(fs::read_to_string(dir.path().join("id_ed25519")).unwrap(), secret);
    assert_eq!(fs::read_to_string(dir.path().join("id_ed25519.pub")).unwrap(), public);
}

#[test]
fn keygen_prints_a_table_that_the_configuration_takes() {
    let dir = tempfile::tempdir().unwrap();
    let said = run_in(dir.path(), &["keygen", "--print", "--label", "office"]).well();
    let (_, table) = said.split_once("\n\n").expect("a table");
    fs::write(dir.path().join("config.toml"), table).unwrap();
    let checked = run_in(dir.path(), &["check"]).well();
    says(&checked, &["[[keys]] # from config.toml\n", "label = \"office\"\n"]);
    let refused = run_anywhere(&["keygen", "--label", "two words"]);
    says(&refused.stderr, &["a label is 1 to 64 letters"]);
    assert_eq!(refused.code, Some(2));
}

// --- help ---

#[test]
fn every_help_page_says_what_one_needs() {
    for (args, parts) in [
        (
            &["--help"][..],
            &["RELAY__SECTION__KEY", "config.toml", "-k _", "relays list", "probe"][..],
        ),
        (&["check", "--help"], &["secrets masked", "--config", "--key-file"]),
        (&["keygen", "--help"], &["id_ed25519.pub", "--dir", "--print"]),
        (&["relays", "--help"], &["list", "show", "close", "Examples:", "RELAY__ADMIN__TOKEN"]),
        (&["relays", "list", "--help"], &["--sort=-rate", "up to 1000", "port_forward", "--json"]),
        (&["relays", "show", "--help"], &["UUID", "--url"]),
        (&["relays", "close", "--help"], &["both sides are disconnected", "--token-file"]),
        (&["probe", "--help"], &["21117", "exit code", "--quick", "mixed", "21119", "Examples:"]),
    ] {
        says(&run_anywhere(args).well(), parts);
    }
    let version = run_anywhere(&["--version"]).well();
    assert_eq!(version, format!("mini_rust_desk_relay_server {}\n", env!("CARGO_PKG_VERSION")));
}

// --- TLS ---

/// A relay with a certificate of its own making, and where that is.
fn tls_server() -> (Server, tempfile::TempDir, String) {
    tls_server_with(rcgen::IsCa::NoCa, &["localhost", "127.0.0.1"])
}

fn tls_server_with(is_ca: rcgen::IsCa, names: &[&str]) -> (Server, tempfile::TempDir, String) {
    let files = tempfile::tempdir().expect("a directory");
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).expect("names");
    params.is_ca = is_ca;
    let pair = rcgen::KeyPair::generate().expect("a key pair");
    let made = params.self_signed(&pair).expect("a certificate");
    let (cert, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
    std::fs::write(&cert, made.pem()).expect("a file");
    std::fs::write(&key, pair.serialize_pem()).expect("a file");
    let cert = cert.display().to_string();
    let env = [
        ("RELAY__TLS__CERT", &cert[..]),
        ("RELAY__TLS__KEY", key.to_str().expect("text")),
        ("RELAY__ADMIN__TOKEN", TOKEN),
    ];
    (Server::start(&[], &env), files, cert)
}

#[test]
fn a_relay_is_probed_in_tls() {
    let (server, _files, cert) = tls_server();
    let all = ["--tls", "--quick", "--transport", "all"];
    let said = server.probe(&[&all[..], &["--ca", &cert]].concat()).well();
    says(&said, &[" in TLS", "in TLS, upgraded to WebSocket", "\nhealthy\n"]);
    server.probe(&[&all[..], &["--insecure"]].concat()).well();
    let untrusted = server.probe(&["--tls"]);
    untrusted.badly(&["connect first leg", "no TLS with 127.0.0.1", "--ca FILE"]);
    let report = server.probe(&["--tls", "--insecure", "--quick", "--json"]).json();
    assert_eq!((&report["tls"], &report["healthy"]), (&true.into(), &true.into()));
    server.probe(&["--tls", "--ca", "no-such.pem"]).badly(&["no-such.pem"]);
    let without = Server::start(&[], &[]);
    without.probe(&["--tls", "--insecure"]).badly(&["TLS is probably not on", "tls.cert"]);
}

/// As `openssl req -x509` makes it: an authority's.
#[test]
fn a_certificate_of_ones_own_is_believed_for_the_name_in_it() {
    let authority = || rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let (server, _files, cert) = tls_server_with(authority(), &["127.0.0.1"]);
    let believing = |cert: &str| server.probe(&["--tls", "--quick", "--ca", cert]);
    believing(&cert).well();
    server.probe(&["--tls", "--quick"]).badly(&["no TLS with 127.0.0.1", "--ca FILE"]);
    let (elsewhere, _theirs, other) = tls_server_with(authority(), &["relay.example"]);
    believing(&other).badly(&["no TLS with 127.0.0.1"]);
    let named_otherwise = elsewhere.probe(&["--tls", "--quick", "--ca", &other]);
    named_otherwise.badly(&["no TLS with 127.0.0.1", "the name that stands in it"]);
}

#[test]
fn relays_are_listed_over_https() {
    let (server, _files, cert) = tls_server();
    let _pair = server.pair("in-the-list");
    let url = server.url().replace("http:", "https:");
    let list = ["relays", "list", "--token", TOKEN, "--url", &url];
    let table = run_anywhere(&[&list[..], &["--ca", &cert]].concat()).well();
    says(&table, &["in-the-list", "1 of 1 relay"]);
    run_anywhere(&[&list[..], &["--insecure"]].concat()).well();
    run_anywhere(&list).badly(&["no TLS with https://127.0.0.1", "--ca FILE"]);
}

#[test]
fn check_finds_a_certificate_that_will_not_do() {
    let (_server, files, cert) = tls_server();
    let key = files.path().join("key.pem").display().to_string();
    let check = |cert: &str, key: &str| {
        let mut command = program(files.path());
        run(command.arg("check").env("RELAY__TLS__CERT", cert).env("RELAY__TLS__KEY", key))
    };
    check(&cert, &key).well();
    check(&key, &key).badly(&["tls.cert", "key.pem", "no certificate"]);
    check(&cert, &cert).badly(&["tls.key", "cert.pem", "no private key"]);
    check(&cert, "").badly(&["RELAY__TLS__KEY", "only one is set"]);
    let missing = check("missing.pem", &key).badly(&["tls.cert", "missing.pem"]);
    assert!(!missing.contains("because"), "said twice: {missing}");
}
