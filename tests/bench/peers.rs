//! Yardsticks that other people wrote: byte forwarders to one fixed back end. They know no
//! pairing, so only what follows pairing is compared.

use std::{
    env, fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

const NGINX_STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Where a program is, in `PATH` or where servers are.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|file| {
        file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

/// HAProxy that forwards TCP, by splice(2) always.
pub(crate) fn haproxy(dir: &Path, addr: SocketAddr, to: SocketAddr) -> anyhow::Result<Command> {
    let config = format!(
        "global\n maxconn 2000\n\
         defaults\n mode tcp\n option splice-request\n option splice-response\n\
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

/// nginx that forwards TCP, a worker a core.
pub(crate) fn nginx(dir: &Path, addr: SocketAddr, to: SocketAddr) -> anyhow::Result<Command> {
    let module = if Path::new(NGINX_STREAM_MODULE).exists() {
        format!("load_module {NGINX_STREAM_MODULE};\n")
    } else {
        String::new()
    };
    let config = format!(
        "{module}daemon off;\nworker_processes auto;\npid {dir}/nginx.pid;\n\
         error_log {dir}/nginx.log;\nevents {{ worker_connections 2000; }}\n\
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
