//! Servers of other people that stand around a gateway.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::{requirement::program, support::eventually};

/// Where they listen: an address of loopback's that nobody else here uses, so that a port which was
/// free still is when the server takes it.
const HOST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 77);

/// Whence proxies dial: the address that a gateway is to trust, or not.
pub(crate) const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

/// A running server, killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) addr: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Server {
    /// Starts what `command` makes of its directory, and waits until it listens.
    pub(crate) async fn start(addr: SocketAddr, command: impl FnOnce(&Path) -> Command) -> Self {
        Self::start_saying(addr, Stdio::null(), command).await
    }

    /// The same, and what it says goes to `output`.
    pub(crate) async fn start_saying(
        addr: SocketAddr,
        output: Stdio,
        command: impl FnOnce(&Path) -> Command,
    ) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut child = command(dir.path())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(fs::File::create(dir.path().join("stderr")).expect("a file"))
            .spawn()
            .expect("the server starts");
        eventually("the server listens", async || {
            if let Some(status) = child.try_wait().expect("our child") {
                let said = fs::read_to_string(dir.path().join("stderr")).unwrap_or_default();
                panic!("the server ended with {status}: {said}");
            }
            TcpStream::connect(addr).is_ok()
        })
        .await;
        Self { child, addr, _dir: dir }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that is free.
pub(crate) fn free_addr() -> SocketAddr {
    let listener = TcpListener::bind((HOST, 0)).expect("an address of loopback's");
    listener.local_addr().expect("an address")
}

/// HAProxy between a port of its own and `to`, whose `server` line ends with `options`; `None`
/// where there is none.
pub(crate) async fn haproxy(mode: &str, to: SocketAddr, options: &str) -> Option<Server> {
    let server = haproxy_with(|addr| {
        format!(
            "global\n maxconn 100\n\
             defaults\n {mode}\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
             timeout tunnel 1h\n\
             frontend clients\n bind {addr}\n default_backend relay\n\
             backend relay\n source {PROXY}\n server relay {to} {options}\n"
        )
    });
    server.await
}

/// HAProxy with a configuration in which the address is where it is to listen; `None` where there
/// is none.
pub(crate) async fn haproxy_with(
    configuration: impl FnOnce(SocketAddr) -> String,
) -> Option<Server> {
    let program = program("haproxy", "Debian: haproxy")?;
    let addr = free_addr();
    let server = Server::start(addr, |dir| {
        let file = dir.join("haproxy.cfg");
        fs::write(&file, configuration(addr)).expect("a file");
        let mut command = Command::new(program);
        // In the foreground.
        command.env_clear().arg("-db").arg("-f").arg(file);
        command
    });
    Some(server.await)
}

/// nginx with these directives, in which `{addr}` is where it is to listen; `None` where there is
/// none.
pub(crate) async fn nginx(directives: impl FnOnce(SocketAddr) -> String) -> Option<Server> {
    const STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let program = program("nginx", "Debian: nginx, libnginx-mod-stream")?;
    let addr = free_addr();
    let directives = directives(addr);
    let server = Server::start(addr, |dir| {
        // Built in elsewhere.
        let module = match Path::new(STREAM).exists() {
            true => format!("load_module {STREAM};\n"),
            false => String::new(),
        };
        let config = format!(
            "{module}daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr;\n\
             events {{}}\n{directives}\n"
        );
        let file = dir.join("nginx.conf");
        fs::write(&file, config).expect("a file");
        let mut command = Command::new(program);
        command.env_clear().arg("-p").arg(dir).args(["-e", "stderr", "-c"]).arg(file);
        command
    });
    Some(server.await)
}

/// The `http` block of nginx that passes `/ws/relay` on with these headers.
pub(crate) fn websocket_location(addr: SocketAddr, to: SocketAddr, headers: &str) -> String {
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|path| format!("{path}_temp_path {path};\n"))
        .collect();
    format!(
        "http {{\naccess_log off;\n{paths}\
         server {{\nlisten {addr};\nlocation /ws/relay {{\nproxy_pass http://{to};\n\
         proxy_bind {PROXY};\nproxy_http_version 1.1;\n\
         proxy_set_header Upgrade $http_upgrade;\nproxy_set_header Connection \"upgrade\";\n\
         proxy_read_timeout 1h;\nproxy_buffering off;\n{headers}}}\n}}\n}}"
    )
}
