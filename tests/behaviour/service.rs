//! The relay as a service: what it tells the service manager, and the sockets that it is given.

use std::{
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixDatagram,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::Instant,
};

use mini_rust_desk_relay_server::wire::Transport::Tcp;
use rustix::process::Signal;

use crate::{
    process::Process,
    requirement,
    support::{PATIENCE, eventually, http},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_mini_rust_desk_relay_server");

/// A service manager's ear.
pub(crate) struct Manager(Arc<Mutex<Vec<String>>>);

impl Manager {
    /// Listens at `path`, for as long as the test lives.
    pub(crate) fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("a socket");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&heard);
        thread::spawn(move || {
            let mut message = [0; 4096];
            while let Ok(len) = socket.recv(&mut message) {
                let text = String::from_utf8_lossy(&message[..len]).into_owned();
                list.lock().expect("no panic").push(text);
            }
        });
        Self(heard)
    }

    pub(crate) fn heard(&self) -> Vec<String> {
        self.0.lock().expect("no panic").clone()
    }

    /// Which message, from the `from`th on, has this line.
    pub(crate) async fn until(&self, from: usize, line: &str) -> usize {
        let mut at = None;
        eventually(&format!("{line} in {:?}", self.heard()), async || {
            let heard = self.heard();
            at = (from..heard.len()).find(|&n| heard[n].lines().any(|one| one.starts_with(line)));
            at.is_some()
        })
        .await;
        at.expect("just seen")
    }
}

#[tokio::test]
async fn a_service_manager_hears_that_it_is_ready_reloads_lives_and_stops() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notify");
    let manager = Manager::listen(&path);
    let mut command = Command::new(PROGRAM);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let mut process = Process::start_by(command, dir, &["--admin-listen", "127.0.0.1:0"]).await;

    let ready = manager.until(0, "READY=1").await;
    let own = format!("MAINPID={}", process.pid().as_raw_nonzero());
    assert!(manager.heard()[ready].contains(&own), "{:?}", manager.heard());
    manager.until(0, "STATUS=serving: 0 relays, 0 legs waiting").await;
    let alive = manager.until(0, "WATCHDOG=1").await;
    manager.until(alive + 1, "WATCHDOG=1").await;

    process.signal(Signal::HUP);
    let reloading = manager.until(ready, "RELOADING=1").await;
    assert!(manager.heard()[reloading].contains("MONOTONIC_USEC="), "{:?}", manager.heard());
    manager.until(reloading, "READY=1").await;

    let pair = process.gateway.pair(Tcp, Tcp).await;
    process.signal(Signal::TERM);
    let stopping = manager.until(reloading, "STOPPING=1").await;
    // The drain takes as long as the relay does, and the manager is to be patient.
    manager.until(stopping, "EXTEND_TIMEOUT_USEC=").await;
    let alive = manager.until(stopping, "WATCHDOG=1").await;
    manager.until(alive + 1, "WATCHDOG=1").await;
    drop(pair);
    assert_eq!(process.ended().await, 0);
}

/// An address that nobody else has, for now.
fn free() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    socket.local_addr().expect("an address")
}

/// Starts the program with inherited listeners. systemd-socket-activate starts it with the first
/// connection, which is then served: nothing that came before the start is lost.
async fn activated(
    listeners: &[SocketAddr],
    names: Option<&str>,
    args: &[&str],
) -> Option<(Process, std::net::TcpStream)> {
    let hint = "it is in Debian's systemd package";
    let activate = requirement::program("systemd-socket-activate", hint)?;
    let mut command = Command::new(activate);
    for addr in listeners {
        command.arg("-l").arg(addr.to_string());
    }
    command.args(names.map(|names| format!("--fdname={names}")));
    command.args(["-E", &format!("RELAY__ADMIN__TOKEN={}", crate::support::TOKEN), "--", PROGRAM]);
    let first = listeners[0];
    let coming = tokio::task::spawn_blocking(move || {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match std::net::TcpStream::connect(first) {
                Err(error) if Instant::now() > deadline => panic!("nobody listens: {error}"),
                Err(_) => thread::yield_now(),
                Ok(socket) => return socket,
            }
        }
    });
    let dir = tempfile::tempdir().expect("a directory");
    let process = Process::start_by(command, dir, args).await;
    Some((process, coming.await.expect("it came")))
}

#[tokio::test]
async fn inherited_sockets_are_used_for_the_addresses_that_settings_name() {
    let (relay, admin, stray) = (free(), free(), free());
    let (listen, admin_listen) = (relay.to_string(), admin.to_string());
    let args = ["--listen", &*listen, "--admin-listen", &*admin_listen];
    let Some((process, first)) = activated(&[relay, admin, stray], None, &args).await else {
        return;
    };
    assert_eq!((process.gateway.addr, process.gateway.admin_addr), (relay, admin));
    let said = process.line("an inherited socket listens where").await;
    assert!(said.contains(&stray.to_string()), "{said}");
    drop(first);
    process.gateway.pair(Tcp, Tcp).await;
    // The admin API is where its own socket is, and only there.
    assert_eq!(http(relay, "GET", "/api/v1/stats", "").await.status, 404);
}

#[tokio::test]
async fn inherited_sockets_have_names_for_what_no_setting_says() {
    let (relay, admin) = (free(), free());
    let Some((process, _first)) = activated(&[relay, admin], Some("relay:admin"), &[]).await else {
        return;
    };
    let other = process.gateway.addr;
    assert_ne!(other, relay, "what the settings name is listened on too");
    for address in [relay, admin] {
        process.line(&address.to_string()).await;
    }
    assert_eq!(http(relay, "GET", "/api/v1/stats", "").await.status, 404);
    assert_eq!(http(admin, "GET", "/api/v1/stats", "").await.status, 401);
}
