//! What the command line overrides. Parsing the flags is `cli`'s business.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use super::{
    Duration, LogFormat, Secret,
    hbbr::{addresses, rebound},
    problem::{Origin, Problem},
    setting::{Reading, Setting},
};

/// The strongest layer: what was said on the command line; `None` for what was not.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--port N`: listen on N, and for WebSocket on N+2, as hbbr does. 0: two free ports.
    pub port: Option<u16>,
    /// `--bind`: the address of these ports, or of those that are configured.
    pub bind: Option<IpAddr>,
    /// `--listen`: every listener in full, instead of `--port` and `--bind`.
    pub listen: Option<Vec<SocketAddr>>,
    /// `--key`.
    pub key: Option<Secret>,
    /// `--key-file`.
    pub key_file: Option<PathBuf>,
    /// `--admin-listen`.
    pub admin_listen: Option<Vec<SocketAddr>>,
    /// `--log-level`.
    pub log_level: Option<String>,
    /// `--log-format`.
    pub log_format: Option<LogFormat>,
    /// `--drain-timeout`.
    pub drain_timeout: Option<Duration>,
}

impl Overrides {
    /// The settings that the flags amount to, over the listeners that weaker sources gave.
    /// `hbbr_bind` is hbbr's `BIND`, which goes with its `--port` too.
    pub(super) fn settings(&self, below: &[SocketAddr], hbbr_bind: Option<IpAddr>) -> Reading {
        let mut reading = Reading::default();
        self.listeners(below, hbbr_bind, &mut reading);
        let mut set = |key: &str, value: Option<figment::value::Value>, flag| {
            let setting = value.map(|value| Setting::new(key, value, Origin::CommandLine(flag)));
            reading.settings.extend(setting);
        };
        set("key", self.key.as_ref().map(|key| key.expose().into()), "--key");
        let admin_listen = self.admin_listen.as_deref().map(addresses);
        set("admin.listen", admin_listen.map(Into::into), "--admin-listen");
        set("log.level", self.log_level.as_deref().map(Into::into), "--log-level");
        let format = self.log_format.map(|format| match format {
            LogFormat::Pretty => "pretty",
            LogFormat::Json => "json",
        });
        set("log.format", format.map(Into::into), "--log-format");
        let drain = self.drain_timeout.map(|timeout| timeout.to_string());
        set("shutdown.drain_timeout", drain.map(Into::into), "--drain-timeout");
        match self.key_file.as_ref().map(|path| path.to_str().ok_or(path)) {
            Some(Ok(path)) => set("key_file", Some(path.into()), "--key-file"),
            Some(Err(path)) => {
                let what = format!("{} is not UTF-8: rename the file", path.display());
                let flag = Origin::CommandLine("--key-file");
                reading.problems.push(Problem::at(flag, "key_file", what));
            }
            None => {}
        }
        reading
    }

    fn listeners(&self, below: &[SocketAddr], hbbr_bind: Option<IpAddr>, reading: &mut Reading) {
        let (listeners, flag) = match (&self.listen, self.port, self.bind) {
            (None, None, None) => return,
            (Some(listen), None, None) => (listen.clone(), "--listen"),
            (Some(_), _, _) => {
                let what = "this says it all, so leave --port and --bind out";
                let flag = Origin::CommandLine("--listen");
                return reading.problems.push(Problem::at(flag, "listen", what));
            }
            (None, None, Some(bind)) => (rebound(below, bind), "--bind"),
            (None, Some(port), bind) => {
                let ip = bind.or(hbbr_bind).unwrap_or(Ipv6Addr::UNSPECIFIED.into());
                let second = if port == 0 { Some(0) } else { port.checked_add(2) };
                let Some(second) = second else {
                    let what = format!(
                        "found {port}, expected a port up to 65533 (the relay listens on it, and \
                         for WebSocket two further on): choose a lower one, or use --listen"
                    );
                    let flag = Origin::CommandLine("--port");
                    return reading.problems.push(Problem::at(flag, "listen", what));
                };
                (vec![(ip, port).into(), (ip, second).into()], "--port")
            }
        };
        let value = addresses(&listeners);
        reading.settings.push(Setting::new("listen", value, Origin::CommandLine(flag)));
    }
}
