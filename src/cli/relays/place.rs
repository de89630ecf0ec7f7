//! Where the admin API is and which token opens it: as the command line says, or else as the
//! relay's own configuration does.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use crate::{
    cli::Settings,
    config::{Config, Secret},
    gateway::read_token,
};

/// Where, and with what.
pub(super) struct Place {
    pub(super) url: String,
    pub(super) token: Secret,
}

impl Place {
    /// The configuration is read only for what the command line leaves open.
    pub(super) fn find(
        url: Option<String>,
        token: Option<String>,
        token_file: Option<PathBuf>,
        config: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let token = match token_file {
            Some(path) => Some(from_file(&path)?),
            None => token.map(Secret::new),
        };
        let (url, token) = match (url, token) {
            (Some(url), Some(token)) => (url, token),
            (url, token) => {
                let config = Settings { config, ..Settings::default() }.load()?.config;
                let url = url.map_or_else(|| url_of(&config), Ok)?;
                (url, token.map_or_else(|| token_of(&config), Ok)?)
            }
        };
        Ok(Self { url, token })
    }
}

fn from_file(path: &Path) -> anyhow::Result<Secret> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read the admin token file {}", path.display()))?;
    if text.trim().is_empty() {
        bail!("the admin token file {} is empty: write the token into it", path.display());
    }
    Ok(Secret::new(text.trim()))
}

fn token_of(config: &Config) -> anyhow::Result<Secret> {
    let token = read_token(config, Path::new("."))?;
    token.context(
        "no admin token is given or configured: give the one that the relay printed to standard error at its start, with --token-file, --token or RELAY__ADMIN__TOKEN",
    )
}

fn url_of(config: &Config) -> anyhow::Result<String> {
    let Some(&listener) = config.admin.listen.first().or(config.listen.first()) else {
        bail!("the configuration names no listener: give --url");
    };
    if listener.port() == 0 {
        bail!(
            "the configuration leaves the port to the system: give --url with the port in the relay's log"
        );
    }
    Ok(format!("http://{}", reachable(listener)))
}

/// An address to connect to. `[::]` takes IPv4 too, also where there is no IPv6.
fn reachable(listener: SocketAddr) -> SocketAddr {
    let ip = listener.ip();
    let ip = if ip.is_unspecified() { IpAddr::from(Ipv4Addr::LOCALHOST) } else { ip };
    SocketAddr::new(ip, listener.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_an_address_to_connect_to() {
        let listening = |listen: &[&str], admin: &[&str]| {
            let mut config = Config::default();
            let all = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
            (config.listen, config.admin.listen) = (all(listen), all(admin));
            url_of(&config).ok()
        };
        let at = |url: &str| Some(url.to_owned());
        assert_eq!(listening(&["[::]:1", "[::]:3"], &[]), at("http://127.0.0.1:1"));
        assert_eq!(listening(&["[::]:1"], &["[::1]:2"]), at("http://[::1]:2"));
        assert_eq!(listening(&["[::]:1"], &["0.0.0.0:2"]), at("http://127.0.0.1:2"));
        assert_eq!(listening(&["[::]:0"], &[]), None);
    }
}
