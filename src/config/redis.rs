//! Where Redis is: the URL of `cluster.redis`, one server's or that of the Sentinels who know it.

use std::{fmt, str::FromStr};

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo};

/// What a wrong URL should have been. The URL itself is never shown: it may have a password.
const EXPECTED: &str = "expected \"redis://HOST:6379\", \"rediss://…\" for TLS, or \
    \"redis+sentinel://HOST:26379,HOST:26379/NAME\", each with user:password@ before the host \
    where Redis asks for it";

/// The port of a Sentinel that is named without one.
const SENTINEL_PORT: u16 = 26379;

/// The most Sentinels that are taken.
const MOST_SENTINELS: usize = 16;

/// A parsed URL. Its `Debug` shows no password.
#[derive(Debug, Clone)]
pub enum RedisUrl {
    /// One server, or whatever stands behind its name.
    Server(ConnectionInfo),
    /// The server that the Sentinels call the primary.
    Sentinels {
        /// The Sentinels.
        sentinels: Vec<ConnectionAddr>,
        /// How one logs in to them.
        sentinel_login: RedisConnectionInfo,
        /// What they call the server.
        name: String,
        /// How one logs in to the server.
        login: RedisConnectionInfo,
    },
}

impl RedisUrl {
    /// Whether TLS is spoken, with the Sentinels too.
    pub fn is_tls(&self) -> bool {
        let is_tls = |addr: &ConnectionAddr| matches!(addr, ConnectionAddr::TcpTls { .. });
        match self {
            Self::Server(server) => is_tls(server.addr()),
            Self::Sentinels { sentinels, .. } => sentinels.iter().all(is_tls),
        }
    }
}

impl fmt::Display for RedisUrl {
    /// Where that is, and nothing by which one logs in there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(server) => write!(f, "{}", server.addr()),
            Self::Sentinels { sentinels, name, .. } => {
                write!(f, "{name} by the Sentinels")?;
                sentinels.iter().try_for_each(|sentinel| write!(f, " {sentinel}"))
            }
        }
    }
}

impl FromStr for RedisUrl {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or(EXPECTED)?;
        match scheme {
            "redis" | "rediss" | "valkey" | "valkeys" => Ok(Self::Server(server(scheme, rest)?)),
            "redis+sentinel" | "valkey+sentinel" => sentinels("redis", rest),
            "rediss+sentinel" | "valkeys+sentinel" => sentinels("rediss", rest),
            _ => Err(EXPECTED.to_owned()),
        }
    }
}

fn server(scheme: &str, rest: &str) -> Result<ConnectionInfo, String> {
    if rest.contains('#') {
        // `#insecure` would be one.
        return Err(format!("a fragment (#…) means nothing here: {EXPECTED}"));
    }
    let info = format!("{scheme}://{rest}").into_connection_info();
    let info = info.map_err(|error| format!("{}: {EXPECTED}", error.category()))?;
    // The third version of the protocol lets a connection be told things while it asks others.
    let login = info.redis_settings().clone().set_protocol(redis::ProtocolVersion::RESP3);
    Ok(info.set_redis_settings(login))
}

/// `[user:password@]host[:port],…/NAME[?db=N&sentinel_user=…&sentinel_password=…]`
fn sentinels(scheme: &str, rest: &str) -> Result<RedisUrl, String> {
    let (authority, name) =
        rest.split_once('/').ok_or("the Sentinels' name of the server is missing")?;
    let (name, query) = name.split_once('?').unwrap_or((name, ""));
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    if name.is_empty() || name.contains(['/', '#']) {
        return Err(format!("the Sentinels' name of the server is missing: {EXPECTED}"));
    }
    let (mut db, mut user, mut password) = ("0", "", "");
    for (key, value) in query.split('&').filter(|pair| !pair.is_empty()).map(pair) {
        match key {
            "db" => db = value,
            "sentinel_user" => user = value,
            "sentinel_password" => password = value,
            _ => {
                return Err(
                    "of what follows ? only db, sentinel_user and sentinel_password are known"
                        .into(),
                );
            }
        }
    }
    let hosts: Vec<_> = hosts.split(',').collect();
    if hosts.len() > MOST_SENTINELS {
        return Err(format!("expected at most {MOST_SENTINELS} Sentinels"));
    }
    let sentinels = hosts.iter().map(|host| {
        let port = if has_port(host) { String::new() } else { format!(":{SENTINEL_PORT}") };
        server(scheme, &format!("{host}{port}")).map(|info| info.addr().clone())
    });
    let sentinels = sentinels.collect::<Result<_, _>>()?;
    let with_login = |login: &str, db: &str| {
        let at = if login.is_empty() { "" } else { "@" };
        let info = server("redis", &format!("{login}{at}placeholder/{db}"))?;
        Ok::<_, String>(info.redis_settings().clone())
    };
    let sentinel_login = match (user, password) {
        ("", "") => String::new(),
        (user, password) => format!("{user}:{password}"),
    };
    Ok(RedisUrl::Sentinels {
        sentinels,
        sentinel_login: with_login(&sentinel_login, "0")?,
        name: name.to_owned(),
        login: with_login(login, db)?,
    })
}

fn pair(text: &str) -> (&str, &str) {
    text.split_once('=').unwrap_or((text, ""))
}

fn has_port(host: &str) -> bool {
    // `[::1]` has colons, but no port.
    host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<RedisUrl, String> {
        url.parse()
    }

    #[test]
    fn a_server_is_read_with_its_login_and_database() {
        for (url, addr, tls) in [
            ("redis://host", "host:6379", false),
            ("valkey://host:1", "host:1", false),
            ("rediss://[::1]:7/3", "::1:7", true),
        ] {
            let url = parse(url).unwrap();
            assert_eq!(url.is_tls(), tls);
            let RedisUrl::Server(server) = url else { panic!("{addr}") };
            assert_eq!(server.addr().to_string(), addr);
        }
        let Ok(RedisUrl::Server(server)) = parse("redis://me:p%40ss@host/2") else { panic!() };
        let login = server.redis_settings();
        assert_eq!((login.username(), login.password()), (Some("me"), Some("p@ss")));
        assert_eq!(login.db(), 2);
    }

    #[test]
    fn sentinels_are_read_with_both_logins() {
        let url = "rediss+sentinel://me:one@a,b:7,[::1]/main?db=2&sentinel_password=two";
        let url = parse(url).unwrap();
        assert!(url.is_tls());
        let RedisUrl::Sentinels { sentinels, sentinel_login, name, login } = url else { panic!() };
        let addrs: Vec<_> = sentinels.iter().map(ToString::to_string).collect();
        assert_eq!(addrs, ["a:26379", "b:7", "::1:26379"]);
        assert_eq!((name.as_str(), login.db()), ("main", 2));
        assert_eq!((login.username(), login.password()), (Some("me"), Some("one")));
        assert_eq!((sentinel_login.username(), sentinel_login.password()), (None, Some("two")));
    }

    #[test]
    fn a_wrong_url_is_told_without_its_password() {
        for url in [
            "hunter2",
            "http://:hunter2@host",
            "redis://:hunter2@",
            "redis://:hunter2@host:port",
            "redis://:hunter2@host/db",
            "rediss://:hunter2@host/#insecure",
            "redis+sentinel://:hunter2@host",
            "redis+sentinel://:hunter2@host/",
            "redis+sentinel://:hunter2@host/name?hunter2=1",
            "redis+sentinel://:hunter2@host/name?db=hunter2",
            "redis+sentinel://:hunter2@,/name",
            "unix:///hunter2",
        ] {
            let why = parse(url).unwrap_err();
            assert!(!why.contains("hunter2"), "{why}");
        }
        let shown = format!("{:?}", parse("redis+sentinel://:hunter2@host/n").unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
        let shown = format!("{:?}", parse("redis://:hunter2@host").unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
