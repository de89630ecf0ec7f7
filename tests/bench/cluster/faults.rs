//! Pairs that come steadily while Redis, or a node, is killed and replaced: which of them are lost.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail, ensure};
use mini_rust_desk_relay_server::wire::{
    Transport::Tcp,
    rendezvous::{ConnType, request_relay},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime,
    task::JoinSet,
    time::{interval, timeout},
};

use super::{Cluster, Crossing};
use crate::{
    case::{Case, Column, Plan, Sample, Workload},
    client::{incoming, outgoing, unique_uuid},
    delays::micros,
    kind::Kind,
};

const NODES: usize = 3;

/// Pairs that begin in a second: so few that the machine has time for all.
const A_SECOND: u32 = 500;

/// How long a client waits for its peer, as the relay lets it.
const PATIENCE: Duration = Duration::from_secs(30);

/// From one fault to the next, and how long each lasts.
const PACE: Duration = Duration::from_secs(4);
const AWAY: Duration = Duration::from_secs(1);

/// A client whose balancer knows of a dead node tries the next one after so long.
const NEXT: Duration = Duration::from_millis(10);

const PAYLOAD: &[u8] = b"sixteen bytes it";

/// What happens meanwhile, again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// It is killed, has lost all it knew, and comes back.
    Redis,
    /// It is killed, and another process takes its place.
    Node,
}

/// When a node died, and which.
type Deaths = Arc<Mutex<Vec<(usize, Instant)>>>;

pub(crate) fn workload(plan: &Plan) -> Workload {
    let pairs = plan.scale.pairs;
    let mut cases = Vec::new();
    for variant in plan.variants.iter().copied() {
        let faults = [
            (Fault::None, "nothing happens"),
            (Fault::Redis, "Redis is killed and restarted"),
            (Fault::Node, "a node is killed and replaced"),
        ];
        for (fault, task) in faults {
            let kind = Kind::Cluster(variant, NODES);
            cases.push(Case::new(task, kind, move |subject| {
                measure(subject.cluster()?, fault, pairs)
            }));
        }
    }
    Workload {
        name: "cluster-faults",
        title: format!(
            "{pairs} pairs, {A_SECOND} a second, while every {} s something is away for {} s",
            PACE.as_secs(),
            AWAY.as_secs()
        ),
        columns: vec![
            Column::new("lost", "lost", 0),
            Column::new("own", "lost with a leg at the node when it was killed", 0),
            Column::new("faults", "faults", 0),
            Column::new("p50_ms", "ms p50", 1),
            Column::new("p99_ms", "ms p99", 1),
            Column::new("most_ms", "the slowest", 0),
        ],
        yardsticks: vec![],
        rounds: 1,
        fresh: true,
        cases,
        notes: "Lost: not paired within 30 s, or broken off. A client that is refused a connection \
                tries the next node, as behind a balancer. From the first leg's dialing until both \
                have heard each other.",
    }
}

fn measure(cluster: &Cluster, fault: Fault, pairs: usize) -> anyhow::Result<Sample> {
    let deaths = Deaths::default();
    let addrs: Arc<[SocketAddr]> = cluster.nodes.iter().map(|node| node.addr).collect();
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (came, faults) = thread::scope(|scope| {
        let (addrs, known) = (Arc::clone(&addrs), Arc::clone(&deaths));
        let coming = scope.spawn(move || runtime.block_on(come(addrs, pairs, &known)));
        let mut faults = 0;
        let end = Duration::from_secs_f64(pairs as f64 / f64::from(A_SECOND));
        let since = Instant::now();
        while fault != Fault::None && since.elapsed() + PACE < end {
            thread::sleep(PACE - AWAY);
            strike(cluster, fault, faults, &deaths)?;
            faults += 1;
        }
        let came = coming.join().map_err(|_| anyhow!("the generator panicked"))??;
        Ok::<_, anyhow::Error>((came, faults))
    })?;
    let Came { mut took, lost, own } = came;
    ensure!(took.len() + lost + own == pairs, "some pairs are unaccounted for");
    let [p50, p99, most] = micros(&mut took, [0.5, 0.99, 0.999_999]);
    Ok(vec![
        ("lost", lost as f64),
        ("own", own as f64),
        ("faults", faults as f64),
        ("p50_ms", p50 / 1e3),
        ("p99_ms", p99 / 1e3),
        ("most_ms", most / 1e3),
    ])
}

fn strike(cluster: &Cluster, fault: Fault, number: usize, deaths: &Deaths) -> anyhow::Result<()> {
    match fault {
        Fault::None => {}
        Fault::Redis => {
            cluster.redis.kill();
            thread::sleep(AWAY);
            cluster.redis.revive()?;
        }
        Fault::Node => {
            let node = number % cluster.nodes.len();
            deaths.lock().unwrap_or_else(PoisonError::into_inner).push((node, Instant::now()));
            cluster.kill(node);
            thread::sleep(AWAY);
            cluster.revive(node)?;
        }
    }
    Ok(())
}

/// What became of all pairs.
#[derive(Default)]
struct Came {
    took: Vec<Duration>,
    lost: usize,
    own: usize,
}

async fn come(addrs: Arc<[SocketAddr]>, pairs: usize, deaths: &Deaths) -> anyhow::Result<Came> {
    let (mut tasks, mut came) = (JoinSet::new(), Came::default());
    let mut pace = interval(Duration::from_secs(1) / A_SECOND);
    for number in 0..pairs {
        pace.tick().await;
        let (addrs, deaths) = (Arc::clone(&addrs), Arc::clone(deaths));
        tasks.spawn(async move {
            let (since, mut landed) = (Instant::now(), Vec::new());
            let result = timeout(PATIENCE, pair(&addrs, number, &mut landed)).await;
            let result = result.context("too late").flatten();
            (since, result, is_hit(&landed, &deaths))
        });
    }
    while let Some(done) = tasks.join_next().await {
        let (since, result, is_own) = done?;
        match result {
            Ok(done) => came.took.push(done - since),
            Err(_) if is_own => came.own += 1,
            Err(error) => {
                eprintln!("lost pair: {error:#}");
                came.lost += 1;
            }
        }
    }
    Ok(came)
}

/// Whether one of these nodes was killed while the pair had a leg there.
fn is_hit(landed: &[(usize, Instant)], deaths: &Deaths) -> bool {
    let deaths = deaths.lock().unwrap_or_else(PoisonError::into_inner);
    // The kill is noted before it is done: a leg may have landed in between.
    let is_hit = |(node, at): &(usize, Instant), (dead, when): &(usize, Instant)| {
        node == dead && *at <= *when + NEXT
    };
    landed.iter().any(|leg| deaths.iter().any(|death| is_hit(leg, death)))
}

/// Connects both, and a message each way; the moment when that is done. Where each has landed, and
/// when, is in `landed`.
async fn pair(
    addrs: &[SocketAddr],
    number: usize,
    landed: &mut Vec<(usize, Instant)>,
) -> anyhow::Result<Instant> {
    let request = outgoing(Tcp, &request_relay(&unique_uuid(), "", "", ConnType::Default))?;
    let (says, hears) = (outgoing(Tcp, PAYLOAD)?, incoming(Tcp, PAYLOAD)?);
    let [first, second] = Crossing::Natural.nodes(number, addrs.len());
    let mut first = arrive(addrs, first, &request, landed).await?;
    first.write_all(&says).await?;
    let mut second = arrive(addrs, second, &request, landed).await?;
    second.write_all(&says).await?;
    let mut heard = vec![0; hears.len()];
    for leg in [&mut second, &mut first] {
        leg.read_exact(&mut heard).await.context("broken off")?;
        ensure!(heard == hears, "a message arrives changed");
    }
    Ok(Instant::now())
}

async fn arrive(
    addrs: &[SocketAddr],
    node: usize,
    request: &[u8],
    landed: &mut Vec<(usize, Instant)>,
) -> anyhow::Result<TcpStream> {
    for node in (node..).take(2 * addrs.len()).map(|node| node % addrs.len()) {
        match TcpStream::connect(addrs[node]).await {
            Ok(mut leg) => {
                landed.push((node, Instant::now()));
                leg.write_all(request).await.context("broken off")?;
                return Ok(leg);
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                tokio::time::sleep(NEXT).await;
            }
            Err(error) => return Err(error).context("no connection"),
        }
    }
    bail!("no node takes a connection")
}
