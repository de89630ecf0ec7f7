//! The composition root: everything is made and plugged together here, and run until it has
//! drained.

mod admin_door;
mod capacity;
mod certificates;
mod control;
mod keys;
mod light;
mod lists;
mod reload;
mod secrets;
mod service;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::Router;
use jiff::Timestamp;
use metrics_exporter_prometheus::BuildError;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::task::TaskTracker;

use self::{
    admin_door::AdminDoor,
    capacity::connection_limit,
    certificates::Certificates,
    light::{Light, accept},
    reload::Rooms,
    secrets::draw_token,
    service::{Pulse, tell_status, with_time},
};
pub use self::{
    control::Control,
    reload::Reloader,
    secrets::{TokenError, read_token, tell_token},
};
use crate::{
    acme::AcmeSetupError,
    config::{Config, FrontDoorConfig, Live, Secret},
    front_door::FrontDoor,
    http::{self, AdminState, BearerToken, Upgrades},
    key_ring::{KeyRingError, UsageError},
    metrics::{self, Exposition, Metrics},
    net::{
        access::Access,
        inherited::{Inherited, Purpose},
        listener::{ListenError, Listener},
        liveness::Liveness,
        refusals::Refusals,
        tls::files::TlsError,
    },
    relay::{
        self, Parts, entrance::Entrance, pairing::WaitingRoom, plane::BulkPlane,
        registry::ActiveRelays, throttle::Throttle,
    },
    service_manager,
    shutdown::Shutdown,
    telemetry,
};

/// How often rates are taken.
const SAMPLE: Duration = Duration::from_secs(1);

/// How many samples between two upkeeps of the metrics.
const UPKEEP_EVERY: u32 = 5;

/// How long relays that are cut short may take to say so.
const FAREWELL: Duration = Duration::from_secs(3);

/// Connections that the admin's own listeners take beyond `front_door.max_connections`: who looks
/// after a relay, and what watches its health, must get in when it is full.
const ADMIN_RESERVE: usize = 32;

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// An address is not to be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A key is not to be had.
    #[error(transparent)]
    Key(#[from] KeyRingError),
    /// The keys' traffic cannot be kept.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// The admin token is not to be had.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The certificate for TLS is not to be had.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Nor one by ACME, ever.
    #[error(transparent)]
    Acme(#[from] AcmeSetupError),
    /// A constant of ours was refused.
    #[error("the metrics cannot be set up")]
    Metrics(#[from] BuildError),
}

/// A relay that listens, and runs once it is told to.
pub struct Gateway {
    listeners: Vec<Listener>,
    /// The same for each further thread of the light plane.
    shared: Vec<Vec<Listener>>,
    admin_listeners: Vec<Listener>,
    door: Arc<FrontDoor>,
    certificates: Certificates,
    admin_router: Router,
    admin: Arc<AdminState>,
    generated_token: Option<Secret>,
    shutdown: Shutdown,
    /// The front door's connections; `Shutdown`'s own tracker has what serves the gateway itself.
    legs: TaskTracker,
    control: Arc<Control>,
}

impl Gateway {
    /// Listens. Keys are read from, or made in, `dir` where the configuration says so.
    ///
    /// # Errors
    /// When an address, the key or the admin token is not to be had.
    pub fn bind(config: Config, dir: &Path) -> Result<Self, GatewayError> {
        Self::bind_or_inherit(config, dir, Inherited::default())
    }

    /// The same with the listeners that were inherited; the others are bound.
    ///
    /// # Errors
    /// When an address, the key or the admin token is not to be had.
    pub fn bind_or_inherit(
        config: Config,
        dir: &Path,
        mut inherited: Inherited,
    ) -> Result<Self, GatewayError> {
        let (metrics, exposition) = metrics::start()?;
        let metrics = Arc::new(metrics);
        let shutdown = Shutdown::default();
        let legs = TaskTracker::new();
        let parts = parts(&config, dir, &metrics, &shutdown, &legs)?;
        let (token, generated_token) = match read_token(&config, dir)? {
            Some(token) => (token, None),
            None => draw_token().map(|token| (token.clone(), Some(token)))?,
        };
        let token = Arc::new(BearerToken::new(token));
        let certificates = Certificates::show(&config.tls, dir, &metrics)?;
        let mut bind = |addrs: &[SocketAddr], purpose| {
            let liveness = Liveness::of(&config.relay);
            Listener::inherit_or_bind(addrs, purpose, &mut inherited, liveness)
        };
        let listeners = bind(&config.listen, Purpose::Relay)?;
        let admin_listeners = bind(&config.admin.listen, Purpose::Admin)?;
        inherited.close_rest();
        let shared: Result<_, _> = (1..config.threads.light()).map(|_| share(&listeners)).collect();
        let connections = connection_limit(&config, &parts);
        let front_door = Live::new(config.front_door.clone());
        let rooms = Rooms {
            front_door: front_door.clone(),
            proxies: parts.proxies.clone(),
            pairing: parts.room.limits().clone(),
            relay: parts.limits.clone(),
            shutdown: Live::new(config.shutdown.clone()),
            throttle: Arc::clone(&parts.throttle),
            relays: Arc::clone(&parts.relays),
            access: Arc::clone(&parts.access),
            ring: Arc::clone(&parts.ring),
            token: Arc::clone(&token),
            certificates: Arc::clone(&certificates.files),
            connections: Arc::clone(&connections),
            listeners: Mutex::new(share(&listeners)?),
        };
        let control = Control::new(&config, dir, rooms, &shutdown, &parts.relays);
        let admin = Arc::new(AdminState {
            parts: parts.clone(),
            connections,
            exposition: Arc::new(exposition),
            token,
            control: Arc::clone(&control) as Arc<dyn http::Control>,
            started: Timestamp::now(),
            since: Instant::now(),
        });
        let with_admin = admin_listeners.is_empty();
        Ok(Self {
            listeners,
            shared: shared?,
            admin_listeners,
            door: Arc::new(open_door(front_door, &parts, &admin, &certificates, with_admin)),
            certificates,
            admin_router: http::admin_only(&admin),
            admin,
            generated_token,
            shutdown,
            legs,
            control,
        })
    }

    /// Where the front door listens, real ports where 0 was asked for.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(Listener::addr).collect()
    }

    /// Where the admin API listens, if it has listeners of its own.
    pub fn admin_addrs(&self) -> Vec<SocketAddr> {
        self.admin_listeners.iter().map(Listener::addr).collect()
    }

    /// The admin token, if it was made here because none was configured.
    pub const fn generated_token(&self) -> Option<&Secret> {
        self.generated_token.as_ref()
    }

    /// Whether clients need no key.
    pub fn is_open_relay(&self) -> bool {
        self.admin.parts.ring.is_open()
    }

    /// How it is told to reload.
    pub const fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// How it is told to drain, and to end.
    pub const fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Serves until it is told to drain, and has.
    pub async fn run(self) {
        let Self {
            listeners, shared, admin_listeners, door, admin, shutdown, legs, control, ..
        } = self;
        let tracker = shutdown.tracker();
        let room = Arc::clone(&admin.parts.room);
        let soft = shutdown.soft().clone();
        tracker.spawn(async move { room.sweep_until(soft).await });
        let throttle = Arc::clone(&admin.parts.throttle);
        let hard = shutdown.hard().clone();
        tracker.spawn(async move { throttle.serve_until(hard).await });
        self.certificates.look_after(&shutdown);
        tracker.spawn(sample(admin.parts.clone(), Arc::clone(&admin.exposition), shutdown.clone()));
        let pulse = Pulse::new(1 + shared.len());
        tracker.spawn(pulse.clone().watch(shutdown.hard().clone()));
        tracker.spawn(tell_status(Arc::clone(&admin), shutdown.hard().clone()));
        tracker.spawn(keys::look_after(
            Arc::clone(&admin.parts.ring),
            Arc::clone(&admin.parts.relays),
            shutdown.clone(),
        ));
        let connections = Arc::clone(&admin.connections);
        tracker.spawn(lists::keep(admin.parts.clone(), connections, shutdown.clone()));
        let light = Light {
            door: Arc::clone(&door),
            connections: Arc::clone(&admin.connections),
            shutdown: shutdown.clone(),
            legs: legs.clone(),
            pulse,
        };
        light.accept(0, listeners);
        for (index, listeners) in shared.into_iter().enumerate() {
            if let Err(error) = light.start(index + 1, listeners, FAREWELL) {
                light.pulse.excuse(index + 1);
                tracing::error!(%error, "a thread of the light plane does not start: the others serve");
            }
        }
        for listener in admin_listeners {
            // Until the very end: somebody may want to see how the drain goes.
            let stop = shutdown.hard().clone();
            let admin_door = AdminDoor {
                router: self.admin_router.clone(),
                door: Arc::clone(&door),
                shutdown: shutdown.clone(),
            };
            let serve = move |connection| admin_door.open(connection);
            let limit = admin.connections.with_reserve(ADMIN_RESERVE);
            tracker.spawn(accept(listener, stop, limit, serve));
        }
        service_manager::ready();
        shutdown.soft().cancelled().await;
        service_manager::stopping();
        control.reloader().listeners().clear();
        legs.close();
        with_time(drain(&shutdown, &legs, &admin, control.drain_timeout())).await;
        shutdown.end();
        tracker.close();
        // Those that are cut short say so; what does not end by itself ends with the runtime.
        let _ = timeout(FAREWELL, async { tokio::join!(legs.wait(), tracker.wait()) }).await;
        admin.parts.refusals.tell_all();
        keys::save_all(&admin.parts).await;
    }
}

async fn drain(shutdown: &Shutdown, legs: &TaskTracker, admin: &AdminState, limit: Duration) {
    let active = admin.parts.relays.count();
    tracing::info!(active, timeout_s = limit.as_secs(), "draining: no new connections");
    let drained = shutdown.hard().run_until_cancelled(timeout(limit, legs.wait())).await;
    match admin.parts.relays.count() {
        0 if matches!(drained, Some(Ok(()))) => tracing::info!("drained"),
        0 => tracing::warn!("closing the connections that are still open"),
        cut => tracing::warn!(cut, "closing the relays that are still active"),
    }
}

fn parts(
    config: &Config,
    dir: &Path,
    metrics: &Arc<Metrics>,
    shutdown: &Shutdown,
    legs: &TaskTracker,
) -> Result<Parts, GatewayError> {
    let throttle = Throttle::new(config.bandwidth.clone(), Arc::clone(metrics));
    let ring = keys::ring(config, dir)?;
    Ok(Parts {
        metrics: Arc::clone(metrics),
        refusals: Refusals::new(Arc::clone(metrics)),
        proxies: Live::new(config.proxy.clone()),
        access: Arc::new(Access::new(&config.access, &config.proxy, dir)),
        draining: shutdown.soft().clone(),
        room: WaitingRoom::new(
            Live::new(config.pairing.clone()),
            Arc::clone(&ring),
            Arc::clone(metrics),
        ),
        ring,
        relays: ActiveRelays::new(
            shutdown.hard().clone(),
            Arc::clone(&throttle),
            Arc::clone(metrics),
        ),
        throttle,
        limits: Live::new(config.relay.clone()),
        bulk: BulkPlane::new(&config.threads),
        legs: legs.clone(),
    })
}

fn open_door(
    limits: Live<FrontDoorConfig>,
    parts: &Parts,
    admin: &Arc<AdminState>,
    certificates: &Certificates,
    with_admin: bool,
) -> FrontDoor {
    let entrance = Entrance {
        stack: relay::stack(parts),
        metrics: Arc::clone(&parts.metrics),
        refusals: Arc::clone(&parts.refusals),
        access: Arc::clone(&parts.access),
        draining: parts.draining.clone(),
        limits,
        legs: parts.legs.clone(),
    };
    let upgrades = Upgrades { entrance: entrance.clone(), tracker: parts.legs.clone() };
    let router = http::front_door(upgrades, admin, with_admin);
    let tls = Arc::clone(certificates.files.terminator());
    FrontDoor::new(entrance, router, parts.proxies.clone(), tls)
}

/// The same sockets once more.
fn share(listeners: &[Listener]) -> Result<Vec<Listener>, ListenError> {
    listeners.iter().map(Listener::share).collect()
}

async fn sample(parts: Parts, exposition: Arc<Exposition>, shutdown: Shutdown) {
    let mut ticks = interval(SAMPLE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    for round in 0_u32.. {
        if shutdown.hard().run_until_cancelled(ticks.tick()).await.is_none() {
            return;
        }
        parts.relays.sample(last.elapsed());
        parts.refusals.tell();
        parts.metrics.log_lines_lost.absolute(telemetry::lost());
        last = Instant::now();
        if round.is_multiple_of(UPKEEP_EVERY) {
            exposition.upkeep();
            parts.access.sweep();
        }
    }
}
