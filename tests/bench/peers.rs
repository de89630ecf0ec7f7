//! Yardsticks that other people wrote. All but one are byte forwarders to one fixed back end:
//! they know no pairing, so only what follows pairing is compared.

use std::{
    env, fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use crate::machine::descriptor_limit;

const NGINX_STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// One a direction of what is filled at once is more than any case needs.
const HAPROXY_PIPES: u64 = 256;

/// Debian's own Python has it; another one may come first in `PATH`.
const WORMHOLE: &str = "/usr/lib/python3/dist-packages/wormhole_transit_relay";
const TWISTD: &str = "/usr/bin/twistd3";

/// Where a program is, in `PATH` or where servers are.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|file| {
        file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

pub(crate) fn wormhole_is_here() -> bool {
    [WORMHOLE, TWISTD].iter().all(|path| Path::new(path).exists())
}

/// HAProxy that forwards TCP, by splice(2) always.
pub(crate) fn haproxy(dir: &Path, addr: SocketAddr, to: SocketAddr) -> anyhow::Result<Command> {
    // Two descriptors a connection, two a pipe; it refuses to start where it could not open them.
    let most = (descriptor_limit().saturating_sub(2 * HAPROXY_PIPES + 100) / 2).min(20_000);
    let config = format!(
        "global\n maxconn {most}\n maxpipes {HAPROXY_PIPES}\n\
         defaults\n mode tcp\n maxconn {most}\n option splice-request\n option splice-response\n\
         timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
         frontend relay\n bind {addr}\n default_backend generator\n\
         backend generator\n server generator {to}\n"
    );
    let file = dir.join("haproxy.cfg");
    fs::write(&file, config)?;
    let mut command = Command::new(find("haproxy").context("haproxy has gone")?);
    // In the foreground, one process with a thread a core.
    command.env_clear().arg("-db").arg("-f").arg(file);
    Ok(command)
}

/// HAProxy that answers every request itself: on `addr`, and with TLS on the port above it.
pub(crate) fn haproxy_that_answers(
    dir: &Path,
    addr: SocketAddr,
    certificate: &Path,
) -> anyhow::Result<Command> {
    let tls = tls_port(addr);
    let config = format!(
        "global\n maxconn 2000\n\
         defaults\n mode http\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n\
         frontend answers\n bind {addr}\n bind {tls} ssl crt {} alpn http/1.1\n\
         http-request return status 200 content-type text/plain string ok\n",
        certificate.display()
    );
    let file = dir.join("haproxy.cfg");
    fs::write(&file, config)?;
    let mut command = Command::new(find("haproxy").context("haproxy has gone")?);
    command.env_clear().arg("-db").arg("-f").arg(file);
    Ok(command)
}

/// Where [`haproxy_that_answers`] takes TLS.
pub(crate) const fn tls_port(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip(), addr.port() + 5_000)
}

/// nginx that forwards TCP, a worker a core.
pub(crate) fn nginx(dir: &Path, addr: SocketAddr, to: SocketAddr) -> anyhow::Result<Command> {
    let module = if Path::new(NGINX_STREAM_MODULE).exists() {
        format!("load_module {NGINX_STREAM_MODULE};\n")
    } else {
        String::new()
    };
    let most = descriptor_limit().saturating_sub(100).min(40_000);
    let config = format!(
        "{module}daemon off;\nworker_processes auto;\npid {dir}/nginx.pid;\n\
         error_log {dir}/nginx.log;\nevents {{ worker_connections {most}; }}\n\
         stream {{ server {{ listen {addr}; proxy_pass {to}; proxy_timeout 1h; \
         tcp_nodelay on; }} }}\n",
        dir = dir.display()
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, config)?;
    let mut command = Command::new(find("nginx").context("nginx has gone")?);
    command.env_clear().arg("-p").arg(dir).arg("-e").arg(dir.join("nginx.log"));
    command.arg("-c").arg(file);
    Ok(command)
}

/// socat, a process a connection.
pub(crate) fn socat(addr: SocketAddr, to: SocketAddr) -> anyhow::Result<Command> {
    let mut command = Command::new(find("socat").context("socat has gone")?);
    let (ip, port) = (addr.ip(), addr.port());
    command.env_clear().arg("-b65536").args([
        format!("TCP-LISTEN:{port},bind={ip},fork,reuseaddr,nodelay,backlog=4096"),
        format!("TCP:{to},nodelay"),
    ]);
    Ok(command)
}

/// magic-wormhole's transit relay.
pub(crate) fn wormhole(addr: SocketAddr) -> Command {
    let mut command = Command::new(TWISTD);
    let endpoint = format!("tcp:{}:interface={}", addr.port(), addr.ip());
    command.env_clear().env("PATH", "/usr/bin:/bin");
    command.args(["--nodaemon", "--pidfile=", "transitrelay", "--port", &endpoint]);
    command
}

/// What a leg says to the wormhole first; it answers [`WORMHOLE_READY`] once its peer is there.
pub(crate) fn wormhole_hello(uuid: &str, side: usize) -> Vec<u8> {
    let token = uuid.replace('-', "");
    format!("please relay {token}{token} for side {side:016x}\n").into_bytes()
}

pub(crate) const WORMHOLE_READY: &[u8] = b"ok\n";
