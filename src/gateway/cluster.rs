//! This node among others: made when `cluster.redis` is set, plugged into the relay, and run.

use std::{path::Path, pin::Pin, sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    GatewayError,
    company::Company,
    nodes::{self, Linked},
    secrets::{SecretError, read_cluster_secret},
};
use crate::{
    cluster::{
        directory::{Event, Instance, Node, redis::RedisDirectory},
        host::Host,
        link::{Door, Links, NoKey, Purpose, Visit},
        peers::Others,
        redis::{Health, RedisConfigError},
        router::{self, Come, Intake, Router},
    },
    config::{ClusterConfig, Config, RedisUrl},
    http::{self, AdminState, Nodes},
    metrics::Metrics,
    net::{
        inherited::{self, Inherited},
        listener::Listener,
        liveness::Liveness,
        tls::mutual::{MutualTls, MutualTlsError},
    },
    relay::{Core, Parts, plane::LightTasks, route::Route},
    shutdown::Shutdown,
};

/// How long what was claimed may take to be given back at the end.
const GIVE_BACK: Duration = Duration::from_secs(1);

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The secret is not to be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Redis could never be reached.
    #[error(transparent)]
    Redis(#[from] RedisConfigError),
    /// Nothing can be derived from the secret.
    #[error(transparent)]
    Key(#[from] NoKey),
    /// The certificates are not to be had.
    #[error(transparent)]
    Tls(#[from] MutualTlsError),
    /// The system gave no random bytes.
    #[error("cannot draw a number for this start of the node: {0}")]
    Random(getrandom::Error),
}

/// A node that is set up, and does not run yet.
pub(super) struct Cluster {
    me: Arc<Node>,
    directory: RedisDirectory,
    company: Company,
    events: mpsc::Receiver<Event>,
    driver: Pin<Box<dyn Future<Output = ()> + Send>>,
    links: Arc<Links>,
    tls: Option<Arc<MutualTls>>,
    listeners: Vec<Listener>,
    intake: Arc<Intake>,
    come: Come,
    /// Where Redis is, without its password.
    place: String,
}

impl Cluster {
    /// The node that `config` wants; `None` on a single one.
    pub(super) fn set_up(
        config: &Config,
        dir: &Path,
        parts: &Parts,
        inherited: &mut Inherited,
    ) -> Result<Option<Self>, GatewayError> {
        if !config.cluster.is_on() {
            return Ok(None);
        }
        let liveness = Liveness::of(&config.relay);
        let purpose = inherited::Purpose::Cluster;
        let listeners =
            Listener::inherit_or_bind(&config.cluster.listen, purpose, inherited, liveness)?;
        let me = Arc::new(me(&config.cluster, &listeners)?);
        let secret = read_cluster_secret(config, dir).map_err(ClusterError::from)?;
        let patience = config.cluster.handover_timeout.get();
        let tls = MutualTls::load(&config.cluster.tls, dir).map_err(ClusterError::from)?;
        let links = Links::new(Arc::clone(&me), &secret, tls.clone(), patience, liveness);
        let links = Arc::new(links.map_err(ClusterError::from)?);
        let redis = RedisDirectory::new(&config.cluster, dir, &me).map_err(ClusterError::from)?;
        let (directory, events, driver) = redis;
        let company = Company::new(&config.cluster, &directory.redis(), &me, parts);
        let (intake, come) = router::intake();
        let driver = Box::pin(driver);
        let place = config.cluster.redis.expose().parse::<RedisUrl>();
        let place = place.map(|url| url.to_string()).unwrap_or_default();
        Ok(Some(Self {
            me,
            directory,
            company,
            events,
            driver,
            links,
            tls,
            listeners,
            intake,
            come,
            place,
        }))
    }

    /// Who is told of legs that wait.
    pub(super) fn route(&self) -> Arc<dyn Route> {
        Arc::clone(&self.intake) as Arc<dyn Route>
    }

    /// Where the other nodes connect to.
    pub(super) fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// The others, as the admin API asks for them.
    pub(super) fn nodes(&self) -> Arc<dyn Nodes> {
        let (me, links) = (Arc::clone(&self.me), Arc::clone(&self.links));
        let Company { members, blocks, .. } = self.company.clone();
        Arc::new(Linked { me, links, members, blocks, health: self.directory.health() })
    }

    /// Runs until the very end, what leads legs to other nodes and takes theirs in on the threads
    /// `light` in turn. The listeners are open until `back` is cancelled: others may want to see how
    /// the drain goes.
    pub(super) fn start(
        self,
        core: &Core,
        admin: &Arc<AdminState>,
        shutdown: &Shutdown,
        back: &CancellationToken,
        light: &[Handle],
    ) {
        let Self {
            me, directory, company, events, driver, links, tls, listeners, come, place, ..
        } = self;
        let Node { name, address, instance } = &*me;
        let instance = format_args!("{:x}", instance.0);
        tracing::info!(node = %name, %address, %instance, redis = place, "a node of a cluster");
        let parts = &admin.parts;
        let tracker = shutdown.tracker();
        if let Some(tls) = tls {
            tracker.spawn(tls.watch_until(shutdown.hard().clone()));
        }
        let health = watch_health(directory.health(), Arc::clone(&parts.metrics));
        let others = Others::new(Arc::clone(&links), core, parts);
        let (room, metrics) = (Arc::clone(&parts.room), Arc::clone(&parts.metrics));
        // Not waited for: each ends by itself once its leg has left.
        let tasks = LightTasks::new(TaskTracker::new(), light);
        let (router, drive) = Router::new(come, me, directory, others, room, metrics, tasks);
        let (hard, kept) = (shutdown.hard().clone(), parts.clone());
        tracker.spawn(async move {
            let over = async {
                hard.cancelled().await;
                let farewell =
                    async { tokio::join!(router.until_idle(), company.members.goodbye()) };
                let _ = timeout(GIVE_BACK, farewell).await;
            };
            let company = company.keep(kept);
            tokio::select! {
                _ = async { tokio::join!(driver, drive.run(events), health, company) } => {}
                () = over => {}
            }
        });
        let tasks = LightTasks::new(tracker.clone(), light);
        open_doors(links, listeners, core, admin, shutdown, back, tasks);
    }
}

/// Lets the other nodes in.
fn open_doors(
    links: Arc<Links>,
    listeners: Vec<Listener>,
    core: &Core,
    admin: &Arc<AdminState>,
    shutdown: &Shutdown,
    back: &CancellationToken,
    tasks: LightTasks,
) {
    let (parts, tracker) = (&admin.parts, shutdown.tracker());
    let door = Door::new(links, &admin.connections, Arc::clone(&parts.refusals), tasks);
    let door = Arc::new(door);
    let (host, router) = (Arc::new(Host::new(core, parts)), http::for_nodes(admin));
    let hard = shutdown.hard().clone();
    let serve = move |visit: Visit| {
        let (host, router, hard) = (Arc::clone(&host), router.clone(), hard.clone());
        async move {
            let Visit { link, purpose, node, from, permit } = visit;
            match purpose {
                Purpose::Leg => host.take_in(link, &node, permit).await,
                Purpose::Api => {
                    let answered = http::answer_node(link.into_sealed(), router, from);
                    hard.run_until_cancelled(answered).await;
                }
            }
        }
    };
    for listener in listeners {
        let (door, stop, serve) = (Arc::clone(&door), back.clone(), serve.clone());
        let addr = listener.addr();
        tracker.spawn(async move {
            if let Err(error) = door.accept_until(listener, stop, serve).await {
                tracing::error!(%error, listener = %addr, "cannot wait for the other nodes");
            }
        });
    }
}

/// What this node is to the others.
fn me(config: &ClusterConfig, listeners: &[Listener]) -> Result<Node, ClusterError> {
    let instance = Instance(getrandom::u64().map_err(ClusterError::Random)?);
    let listens = listeners.first().map(|listener| listener.addr().to_string());
    let address = match &*config.advertise {
        "" => listens.unwrap_or_default().into(),
        advertised => advertised.into(),
    };
    Ok(Node { instance, name: nodes::name(config).into(), address })
}

/// Shows in the metrics whether the directory can be asked.
async fn watch_health(mut health: watch::Receiver<Health>, metrics: Arc<Metrics>) {
    loop {
        let is_up = *health.borrow_and_update() == Health::Up;
        metrics.cluster.degraded.set(if is_up { 0.0 } else { 1.0 });
        if health.changed().await.is_err() {
            return;
        }
    }
}
