//! The composition root: everything is made and plugged together here, and run until it has
//! drained.

mod admin_door;
mod capacity;
mod certificates;
mod cluster;
mod company;
mod control;
mod handover;
mod keys;
mod light;
mod limits;
mod lists;
mod nodes;
mod parts;
mod reload;
mod secrets;
mod service;
mod upkeep;
mod way_down;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use axum::Router;
use jiff::Timestamp;
use metrics_exporter_prometheus::BuildError;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::task::TaskTracker;

use self::{
    admin_door::AdminDoor,
    capacity::connection_limit,
    certificates::Certificates,
    cluster::Cluster,
    control::UpgradeRequest,
    handover::follow,
    light::{Light, accept},
    parts::parts,
    reload::Rooms,
    secrets::admin_token,
    service::Pulse,
    way_down::WayDown,
};
pub use self::{
    cluster::ClusterError,
    control::Control,
    handover::{Following, Predecessor, TakeoverError},
    reload::Reloader,
    secrets::{SecretError, TokenError, read_cluster_secret, read_token, tell_token},
};
use crate::{
    acme::AcmeSetupError,
    config::{Config, FrontDoorConfig, Live, Secret},
    front_door::FrontDoor,
    http::{self, AdminState, Upgrades},
    key_ring::{KeyRingError, UsageError},
    metrics,
    net::{
        inherited::{Inherited, Purpose},
        listener::{ListenError, Listener},
        liveness::Liveness,
        tls::files::TlsError,
    },
    relay::{self, Core, entrance::Entrance},
    service_manager,
    shutdown::Shutdown,
};

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
    /// This is no node of a cluster, though it is to be one.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
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
    /// None on a single node.
    cluster: Option<Cluster>,
    door: Arc<FrontDoor>,
    certificates: Certificates,
    admin_router: Router,
    admin: Arc<AdminState>,
    generated_token: Option<Secret>,
    shutdown: Shutdown,
    /// The relays; `Shutdown`'s own tracker has what serves the gateway itself.
    legs: TaskTracker,
    /// Those who let people in, and whoever has not said who it is.
    strangers: TaskTracker,
    core: Core,
    control: Arc<Control>,
    upgrades: mpsc::Receiver<UpgradeRequest>,
    /// The process from which this one takes over.
    following: Option<Following>,
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
        let (legs, strangers) = (TaskTracker::new(), TaskTracker::new());
        let mut parts = parts(&config, dir, &metrics, &shutdown, &legs)?;
        let (token, generated_token) = admin_token(&config, dir)?;
        let certificates = Certificates::show(&config.tls, dir, &metrics)?;
        let mut bind = |addrs: &[SocketAddr], purpose| {
            let liveness = Liveness::of(&config.relay);
            Listener::inherit_or_bind(addrs, purpose, &mut inherited, liveness)
        };
        let listeners = bind(&config.listen, Purpose::Relay)?;
        let admin_listeners = bind(&config.admin.listen, Purpose::Admin)?;
        let cluster = Cluster::set_up(&config, dir, &parts, &mut inherited)?;
        parts.route = cluster.as_ref().map(Cluster::route);
        inherited.close_rest();
        let shared: Result<_, _> = (1..config.threads.light()).map(|_| share(&listeners)).collect();
        let connections = connection_limit(&config, &parts);
        let others = cluster.iter().flat_map(Cluster::listeners);
        let listening = share(listeners.iter().chain(&admin_listeners).chain(others))?;
        let files = &certificates.files;
        let rooms = Rooms::of(&config, &parts, &token, files, &connections, listening);
        let front_door = rooms.front_door.clone();
        let (control, upgrades) = Control::new(&config, dir, rooms, &shutdown, &parts.relays);
        let admin = Arc::new(AdminState {
            parts: parts.clone(),
            connections,
            exposition: Arc::new(exposition),
            token,
            control: Arc::clone(&control) as Arc<dyn http::Control>,
            limits: front_door.clone(),
            nodes: nodes::of(&config.cluster, cluster.as_ref()),
            started: Timestamp::now(),
            since: Instant::now(),
        });
        let core = Core::new(&parts);
        let with_admin = admin_listeners.is_empty();
        let door = open_door(front_door, &core, &admin, &strangers, &certificates, with_admin);
        Ok(Self {
            listeners,
            shared: shared?,
            admin_listeners,
            cluster,
            door: Arc::new(door),
            certificates,
            admin_router: http::admin_only(&admin),
            admin,
            generated_token,
            shutdown,
            legs,
            strangers,
            core,
            control,
            upgrades,
            following: None,
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

    /// Takes on, once it runs, the legs of the process whose listeners it was given.
    pub fn follows(&mut self, predecessor: Following) {
        self.following = Some(predecessor);
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
            listeners,
            shared,
            admin_listeners,
            cluster,
            door,
            admin,
            shutdown,
            legs,
            strangers,
            core,
            control,
            upgrades,
            following,
            ..
        } = self;
        let pulse = Pulse::new(1 + shared.len());
        upkeep::start(&admin, self.certificates, &pulse, &shutdown);
        // The admin's until the very end: somebody may want to see how the drain goes.
        let (front, back) = (shutdown.soft().child_token(), shutdown.hard().child_token());
        let light = Light {
            door: Arc::clone(&door),
            connections: Arc::clone(&admin.connections),
            shutdown: shutdown.clone(),
            legs: legs.clone(),
            stop: front.clone(),
            strangers: strangers.clone(),
            pulse,
        };
        light.accept(0, listeners);
        let threads = light.start(shared, FAREWELL);
        let admin_door = AdminDoor { router: self.admin_router, door, shutdown: shutdown.clone() };
        for listener in admin_listeners {
            let admin_door = admin_door.clone();
            let serve = move |connection| admin_door.open(connection);
            let limit = admin.connections.with_reserve(ADMIN_RESERVE);
            shutdown.tracker().spawn(accept(listener, back.clone(), limit, serve));
        }
        if let Some(cluster) = cluster {
            cluster.start(&core, &admin, &shutdown, &back, &threads);
        }
        let links = TaskTracker::new();
        match following {
            None => service_manager::ready(),
            Some(following) => follow(following, &core, &admin, &links).await,
        }
        let way_down = WayDown {
            shutdown,
            admin,
            control,
            core,
            legs,
            strangers,
            links,
            front,
            back,
            upgrades,
        };
        way_down.go().await;
    }
}

fn open_door(
    limits: Live<FrontDoorConfig>,
    core: &Core,
    admin: &Arc<AdminState>,
    strangers: &TaskTracker,
    certificates: &Certificates,
    with_admin: bool,
) -> FrontDoor {
    let parts = &admin.parts;
    let entrance = Entrance {
        stack: relay::stack(core),
        metrics: Arc::clone(&parts.metrics),
        refusals: Arc::clone(&parts.refusals),
        access: Arc::clone(&parts.access),
        draining: parts.draining.clone(),
        limits,
        legs: strangers.clone(),
    };
    let upgrades = Upgrades { entrance: entrance.clone(), tracker: strangers.clone() };
    let router = http::front_door(upgrades, admin, with_admin);
    let tls = Arc::clone(certificates.files.terminator());
    FrontDoor::new(entrance, router, parts.proxies.clone(), tls)
}

/// The same sockets once more.
fn share<'a>(
    listeners: impl IntoIterator<Item = &'a Listener>,
) -> Result<Vec<Listener>, ListenError> {
    listeners.into_iter().map(Listener::share).collect()
}
