//! A new configuration for a gateway that runs: read from where the first came from, prepared in
//! full, and only then applied.
//!
//! What can fail, fails in [`Reloader::prepare`], before anything has changed; [`Prepared::apply`]
//! cannot. A room that has settings to change offers a constructor that may fail for the one, and
//! a `replace` that may not for the other.

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use super::{
    capacity::max_connections,
    secrets::{draw_token, read_token},
};
use crate::{
    config::{
        Config, FrontDoorConfig, Live, Loaded, PairingConfig, Problems, ProxyConfig, RelayConfig,
        Secret, ShutdownConfig,
    },
    http::{BearerToken, ReloadError, Reloaded},
    key_ring::{KeyRing, Keys},
    net::{
        access::Access,
        listener::{ConnectionLimit, Listener},
        liveness::Liveness,
        tls::files::{self, CertificateFiles},
    },
    relay::{Parts, registry::ActiveRelays, throttle::Throttle},
    service_manager,
    shutdown::Shutdown,
    telemetry::{Filter, LogLevel},
};

/// Reads the configuration again.
type Read = Box<dyn Fn() -> Result<Loaded, Problems> + Send + Sync>;

/// Changes a gateway's settings while it runs.
pub struct Reloader {
    dir: PathBuf,
    read: OnceLock<Read>,
    log_level: OnceLock<LogLevel>,
    rooms: Rooms,
    /// Held for the whole of a reload: two at once are one after the other.
    configs: Mutex<Configs>,
}

/// Where settings are in force.
pub(super) struct Rooms {
    pub(super) front_door: Live<FrontDoorConfig>,
    pub(super) proxies: Live<ProxyConfig>,
    pub(super) pairing: Live<PairingConfig>,
    pub(super) relay: Live<RelayConfig>,
    pub(super) shutdown: Live<ShutdownConfig>,
    pub(super) throttle: Arc<Throttle>,
    pub(super) relays: Arc<ActiveRelays>,
    pub(super) access: Arc<Access>,
    pub(super) ring: Arc<KeyRing>,
    pub(super) token: Arc<BearerToken>,
    pub(super) certificates: Arc<CertificateFiles>,
    pub(super) connections: Arc<ConnectionLimit>,
    /// Copies of the listeners, until none accepts any more.
    pub(super) listeners: Mutex<Vec<Listener>>,
}

impl Rooms {
    pub(super) fn of(
        config: &Config,
        parts: &Parts,
        token: &Arc<BearerToken>,
        certificates: &Arc<CertificateFiles>,
        connections: &Arc<ConnectionLimit>,
        listeners: Vec<Listener>,
    ) -> Self {
        Self {
            front_door: Live::new(config.front_door.clone()),
            proxies: parts.proxies.clone(),
            pairing: parts.room.limits().clone(),
            relay: parts.limits.clone(),
            shutdown: Live::new(config.shutdown.clone()),
            throttle: Arc::clone(&parts.throttle),
            relays: Arc::clone(&parts.relays),
            access: Arc::clone(&parts.access),
            ring: Arc::clone(&parts.ring),
            token: Arc::clone(token),
            certificates: Arc::clone(certificates),
            connections: Arc::clone(connections),
            listeners: Mutex::new(listeners),
        }
    }
}

struct Configs {
    /// What the process was started with: in force where a change waits for the next.
    started: Config,
    /// What was last applied: in force everywhere else.
    applied: Config,
}

/// A configuration of which nothing can fail any more.
struct Prepared {
    config: Config,
    keys: Keys,
    token: Token,
    certificate: Option<files::Prepared>,
    filter: Filter,
}

/// The admin token that will do.
enum Token {
    /// The one that does.
    Same,
    Chosen(Secret),
    /// Drawn, since none is configured any more: the operator has to be told.
    Drawn(Secret),
}

impl Reloader {
    pub(super) fn new(config: &Config, dir: &Path, rooms: Rooms) -> Self {
        let configs = Configs { started: config.clone(), applied: config.clone() };
        Self {
            dir: dir.to_owned(),
            read: OnceLock::new(),
            log_level: OnceLock::new(),
            rooms,
            configs: Mutex::new(configs),
        }
    }

    /// Where the configuration is read again. Only the first call counts.
    pub fn reads(&self, read: impl Fn() -> Result<Loaded, Problems> + Send + Sync + 'static) {
        let _ = self.read.set(Box::new(read));
    }

    /// What `log.level` changes. Only the first call counts; without one it waits for a restart.
    pub fn changes_log_level(&self, level: LogLevel) {
        let _ = self.log_level.set(level);
    }

    /// Reads, prepares and applies; logs what came of it.
    pub(super) fn reload(&self, shutdown: &Shutdown) -> Result<Reloaded, ReloadError> {
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        service_manager::reloading();
        let done = if shutdown.is_draining() || shutdown.succeeded().is_cancelled() {
            Err(ReloadError::Draining)
        } else {
            self.attempt(&mut configs)
        };
        service_manager::ready();
        match &done {
            Ok(done) => log_success(done),
            Err(ReloadError::Refused(problems)) => {
                for problem in problems {
                    tracing::error!("reload refused: {problem}");
                }
                tracing::error!(
                    problems = problems.len(),
                    "nothing was reloaded: the settings stay as they were"
                );
            }
            Err(error) => tracing::warn!("{error}"),
        }
        done
    }

    fn attempt(&self, configs: &mut Configs) -> Result<Reloaded, ReloadError> {
        let read = self.read.get().ok_or(ReloadError::Nowhere)?;
        let Loaded { config, warnings, .. } = read().map_err(|problems| {
            ReloadError::Refused(problems.iter().map(ToString::to_string).collect())
        })?;
        let prepared = self.prepare(config, &configs.applied).map_err(ReloadError::Refused)?;
        let reloaded = Reloaded { warnings, ..self.outcome(configs, &prepared) };
        configs.applied = prepared.apply(self);
        Ok(reloaded)
    }

    /// What will have changed. Files may have changed under names that did not.
    fn outcome(&self, configs: &Configs, prepared: &Prepared) -> Reloaded {
        let mut applied = configs.applied.changes(&prepared.config).live;
        let mut needs_restart = configs.started.changes(&prepared.config).restart;
        if self.log_level.get().is_none() && applied.contains(&"log.level") {
            applied.retain(|key| *key != "log.level");
            needs_restart.push("log.level");
        }
        let says_so = applied.iter().any(|key| key.starts_with("admin.token"));
        if !says_so && !matches!(prepared.token, Token::Same) {
            applied.push("admin.token_file");
        }
        Reloaded { applied, needs_restart, warnings: Vec::new() }
    }

    /// Does all that can fail. Nothing has changed when it fails, and every reason is told.
    fn prepare(&self, config: Config, applied: &Config) -> Result<Prepared, Vec<String>> {
        let mut problems = Vec::new();
        let keys = noted(Keys::read(&config, &self.dir), &mut problems);
        let token = noted(self.token(&config, applied), &mut problems);
        let certificate = self.rooms.certificates.prepare(&config.tls, &self.dir);
        let certificate = noted(certificate, &mut problems);
        let filter = noted(Filter::parse(&config.log.level), &mut problems);
        let (Some(keys), Some(token), Some(certificate), Some(filter)) =
            (keys, token, certificate, filter)
        else {
            return Err(problems);
        };
        // At last, since it may write a new key pair.
        match noted(keys.made(&self.dir), &mut problems) {
            Some(keys) => Ok(Prepared { config, keys, token, certificate, filter }),
            None => Err(problems),
        }
    }

    fn token(&self, config: &Config, applied: &Config) -> Result<Token, super::TokenError> {
        let had_none =
            applied.admin.token.is_empty() && applied.admin.token_file.as_os_str().is_empty();
        match read_token(config, &self.dir)? {
            Some(token) if self.rooms.token.is(&token) => Ok(Token::Same),
            Some(token) => Ok(Token::Chosen(token)),
            None if had_none => Ok(Token::Same),
            None => draw_token().map(Token::Drawn),
        }
    }

    /// The copies of the listeners that a change of their options goes through.
    pub(super) fn listeners(&self) -> MutexGuard<'_, Vec<Listener>> {
        self.rooms.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Prepared {
    /// Puts everything in force, and gives back what now is.
    fn apply(self, reloader: &Reloader) -> Config {
        let Self { config, keys, token, certificate, filter } = self;
        let rooms = &reloader.rooms;
        rooms.ring.replace(keys);
        rooms.access.replace(&config.access, &config.proxy);
        rooms.certificates.apply(certificate);
        rooms.front_door.replace(config.front_door.clone());
        rooms.proxies.replace(config.proxy.clone());
        rooms.pairing.replace(config.pairing.clone());
        rooms.relay.replace(config.relay.clone());
        rooms.shutdown.replace(config.shutdown.clone());
        // Even if unchanged: what an operator set by hand lasts until now.
        rooms.throttle.replace(config.bandwidth.clone());
        rooms.relays.limit_all();
        rooms.connections.set_max(max_connections(&config));
        for listener in reloader.listeners().iter() {
            if let Err(error) = listener.set_liveness(Liveness::of(&config.relay)) {
                tracing::warn!(%error, "relay.keepalive stays as it was for new connections");
            }
        }
        if let Some(level) = reloader.log_level.get() {
            level.replace(filter);
        }
        match token {
            Token::Same => {}
            Token::Chosen(token) => rooms.token.replace(token),
            Token::Drawn(token) => {
                super::tell_token(&token);
                rooms.token.replace(token);
            }
        }
        config
    }
}

/// What came of one preparation; a failure goes to the `problems`, with its causes.
fn noted<T, E: Error>(done: Result<T, E>, problems: &mut Vec<String>) -> Option<T> {
    done.map_err(|error| {
        let mut said = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let error_said = error.to_string();
            // Some end with their cause already.
            if !said.ends_with(&error_said) {
                said = format!("{said}: {error_said}");
            }
            cause = error.source();
        }
        problems.push(said);
    })
    .ok()
}

fn log_success(done: &Reloaded) {
    for warning in &done.warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!(applied = %list(&done.applied), "reloaded the configuration");
    if !done.needs_restart.is_empty() {
        tracing::warn!(
            keys = %list(&done.needs_restart),
            "these settings have changed, and wait for a restart or an upgrade"
        );
    }
}

fn list(keys: &[&str]) -> String {
    if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") }
}
