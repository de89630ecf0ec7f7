//! How a connection to Redis is made: straight, through TLS, or to whom the Sentinels name.

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, PushInfo, RedisError, RedisResult,
    TlsCertificates, TlsMode,
    aio::{MultiplexedConnection, SendError},
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::IN_FLIGHT;
use crate::config::{ClusterConfig, RedisUrl};

/// Why there can be no connection, ever.
#[derive(Debug, thiserror::Error)]
pub enum RedisConfigError {
    /// The URL is none. It is not shown: it may have a password.
    #[error("cluster.redis: {0}")]
    Url(String),
    /// The roots cannot be read.
    #[error("cluster.redis_ca: {path} cannot be read")]
    Roots {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There are no roots.
    #[error("cluster.redis_ca: {0} holds no certificates: PEM is wanted")]
    NoRoots(String),
    /// The roots are none.
    #[error("cluster.redis_ca: no certificates that a server can be checked by")]
    NotRoots(#[source] RedisError),
}

/// Where to connect to.
pub(super) struct Target {
    url: RedisUrl,
    /// By what a server that speaks TLS is checked; the web's roots unless some are set.
    roots: TlsCertificates,
    /// How long each step may take.
    timeout: Duration,
}

impl Target {
    pub(super) fn new(config: &ClusterConfig, dir: &Path) -> Result<Self, RedisConfigError> {
        let url: RedisUrl = config.redis.expose().parse().map_err(RedisConfigError::Url)?;
        let root_cert = match &*config.redis_ca {
            none if none.as_os_str().is_empty() => None,
            file => Some(read(&dir.join(file))?),
        };
        let roots = TlsCertificates { client_tls: None, root_cert };
        let target = Self { url, roots, timeout: config.redis_timeout.get() };
        // So that roots that are none are found at the start.
        match &target.url {
            RedisUrl::Server(server) if target.url.is_tls() => {
                Client::build_with_tls(server.clone(), target.roots.clone()).map(drop)
            }
            RedisUrl::Server(_) => Ok(()),
            RedisUrl::Sentinels { .. } => target.sentinel().map(drop),
        }
        .map_err(RedisConfigError::NotRoots)?;
        Ok(target)
    }

    /// A connection that tells `told` what it is told unasked, and when it ends.
    pub(super) async fn connect(
        &self,
        told: Arc<dyn Fn(PushInfo) + Send + Sync>,
    ) -> RedisResult<MultiplexedConnection> {
        let client = match &self.url {
            RedisUrl::Server(server) if self.url.is_tls() => {
                Client::build_with_tls(server.clone(), self.roots.clone())?
            }
            RedisUrl::Server(server) => Client::open(server.clone())?,
            // Asked anew each time: what it said before is what has just failed.
            RedisUrl::Sentinels { .. } => self.sentinel()?.async_get_client().await?,
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            // Who asks sees to the time.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(IN_FLIGHT)
            .set_push_sender(move |push| {
                told(push);
                Ok::<_, SendError>(())
            });
        client.get_multiplexed_async_connection_with_config(&config).await
    }

    fn sentinel(&self) -> RedisResult<SentinelClient> {
        let RedisUrl::Sentinels { sentinels, sentinel_login, name, login } = &self.url else {
            unreachable!("only asked of Sentinels")
        };
        let is_tls = |addr: &ConnectionAddr| matches!(addr, ConnectionAddr::TcpTls { .. });
        let is_tls = sentinels.iter().all(is_tls);
        let mut builder =
            SentinelClientBuilder::new(sentinels.clone(), name, SentinelServerType::Master)?
                .set_client_to_redis_db(login.db())
                .set_client_to_redis_protocol(login.protocol());
        if let Some(user) = login.username() {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = login.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if let Some(user) = sentinel_login.username() {
            builder = builder.set_client_to_sentinel_username(user);
        }
        if let Some(password) = sentinel_login.password() {
            builder = builder.set_client_to_sentinel_password(password);
        }
        if is_tls {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_redis_certificates(self.roots.clone())
                .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_certificates(self.roots.clone());
        }
        builder.build()
    }

    /// How long [`Self::connect`] may take altogether: Sentinels are asked one after the other,
    /// then the server they name is asked whether it agrees.
    pub(super) fn patience(&self) -> Duration {
        match self.url {
            RedisUrl::Server(_) => self.timeout,
            RedisUrl::Sentinels { .. } => self.timeout * 3,
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, RedisConfigError> {
    let path = || file.display().to_string();
    let pem = fs::read(file).map_err(|source| RedisConfigError::Roots { path: path(), source })?;
    // With none, no server would ever be believed.
    if CertificateDer::pem_slice_iter(&pem).flatten().next().is_none() {
        return Err(RedisConfigError::NoRoots(path()));
    }
    Ok(pem)
}
