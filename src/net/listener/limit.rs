//! How many connections may be open, and the place that each has among them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::Connection;
use crate::{
    metrics::Metrics,
    net::{
        access::AddressPermit,
        refusals::Refusals,
        strangers::{SentAway, Stranger, Strangers},
        stream::PlainStream,
    },
};

/// How many connections may be open, and how many are; and who gives way to one more.
pub struct ConnectionLimit {
    max: Arc<AtomicUsize>,
    /// What this door has beyond the others'.
    reserve: usize,
    open: Arc<AtomicUsize>,
    strangers: Arc<Strangers>,
    /// How many of them there may be, if that is bounded by itself.
    most_strangers: Option<usize>,
    /// Those of others, that give way before its own do.
    lesser: Option<Arc<Strangers>>,
    pub(super) metrics: Arc<Metrics>,
    refusals: Arc<Refusals>,
}

/// One of the connections that may be open; given back when dropped.
pub struct ConnectionPermit {
    /// `None`: it is not counted.
    all: Option<Arc<ConnectionLimit>>,
    /// Its place among those of its address.
    pub address: AddressPermit,
    /// Until it has said who it is, if that had to be waited for.
    stranger: Option<Arc<Stranger>>,
}

impl ConnectionLimit {
    /// Room for `max` connections.
    pub fn new(max: usize, metrics: Arc<Metrics>, refusals: Arc<Refusals>) -> Arc<Self> {
        let max = Arc::new(AtomicUsize::new(max));
        let (open, strangers) = (Arc::default(), Arc::default());
        let (reserve, most_strangers, lesser) = (0, None, None);
        Arc::new(Self { max, reserve, open, strangers, most_strangers, lesser, metrics, refusals })
    }

    /// Room for as many connections once more, of another kind, and for `more` of them; of all
    /// these `strangers` may not have said who they are.
    pub fn once_more(&self, more: usize, strangers: usize) -> Arc<Self> {
        Arc::new(Self {
            max: Arc::clone(&self.max),
            reserve: more,
            open: Arc::default(),
            strangers: Arc::default(),
            most_strangers: Some(strangers),
            lesser: None,
            metrics: Arc::clone(&self.metrics),
            refusals: Arc::clone(&self.refusals),
        })
    }

    /// The same connections, and room for `more` of them: for listeners that must answer when the
    /// others are full. The others' strangers give way to theirs, and theirs to nobody else's.
    pub fn with_reserve(&self, more: usize) -> Arc<Self> {
        Arc::new(Self {
            max: Arc::clone(&self.max),
            reserve: self.reserve.saturating_add(more),
            open: Arc::clone(&self.open),
            strangers: Arc::default(),
            most_strangers: self.most_strangers,
            lesser: Some(Arc::clone(&self.strangers)),
            metrics: Arc::clone(&self.metrics),
            refusals: Arc::clone(&self.refusals),
        })
    }

    /// Makes room for `max` from here on. Those that are open stay, however many they are.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed).saturating_add(self.reserve)
    }

    /// How many are open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Lets the oldest stranger give way, so that its place is free; `false` when nobody can.
    pub(super) fn make_room(&self) -> bool {
        let mut lines = self.lesser.iter().chain([&self.strangers]);
        let has_room = lines.any(|strangers| strangers.displace_oldest());
        if has_room {
            self.closed();
        }
        has_room
    }

    fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.metrics.connections_open.decrement(1.0);
    }

    /// Turns out those that have not said who they are, and come from where `is_unwanted` says.
    pub fn turn_out(&self, is_unwanted: impl Fn(IpAddr) -> bool) {
        self.strangers.turn_out(is_unwanted);
    }

    /// Counts a connection in, if there is room for it, or somebody who gives way to it.
    pub fn admit(
        self: &Arc<Self>,
        socket: PlainStream,
        peer: SocketAddr,
    ) -> Option<Connection<PlainStream>> {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        // Counted first: `permit` gives its place back also when there was none.
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        self.metrics.connections_open.increment(1.0);
        let (all, address) = (Some(Arc::clone(self)), AddressPermit::default());
        let permit = ConnectionPermit { all, address, stranger: None };
        let max = self.max();
        if before >= max && !self.make_room() {
            let why = format_args!(
                "{max} connections are open; raise front_door.max_connections, and ulimit -n, if this is no flood"
            );
            self.refusals.refuse(peer, "connection_limit", &why);
            return None;
        }
        let strange = self.most_strangers.is_some_and(|most| self.strangers.len() >= most);
        if strange && !self.make_room() {
            let why = "as many as may have not said who they are";
            self.refusals.refuse(peer, "connection_limit", &why);
            return None;
        }
        if !inherits_options() {
            // Only latency is at stake, so a refusal is no reason to close.
            let _ = socket.set_nodelay(true);
        }
        Some(Connection { socket, peer, permit })
    }
}

impl ConnectionPermit {
    /// That of a connection that was not accepted, but made from here: it has no place.
    pub fn uncounted() -> Self {
        Self { all: None, address: AddressPermit::default(), stranger: None }
    }

    /// The connection has to be waited for: from here on it may have to give way.
    pub fn wait(&mut self) -> Arc<Stranger> {
        let enter = || match &self.all {
            Some(all) => all.strangers.enter(),
            None => Arc::<Strangers>::default().enter(),
        };
        Arc::clone(self.stranger.get_or_insert_with(enter))
    }

    /// Who has to be waited for.
    pub const fn stranger(&self) -> Option<&Arc<Stranger>> {
        self.stranger.as_ref()
    }

    /// It has said who it is.
    ///
    /// # Errors
    /// When it had to go before.
    pub fn let_in(&mut self) -> Result<(), SentAway> {
        let sent_away = self.stranger.as_ref().filter(|stranger| !stranger.is_let_in());
        if let Some(why) = sent_away.and_then(|stranger| stranger.sent_away()) {
            return Err(why);
        }
        self.stranger = None;
        Ok(())
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let was_displaced = self.stranger.as_ref().is_some_and(|stranger| stranger.leave());
        // The place of who gave way was given to another.
        if let Some(all) = self.all.as_ref().filter(|_| !was_displaced) {
            all.closed();
        }
    }
}

impl std::fmt::Debug for ConnectionPermit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConnectionPermit")
    }
}

const fn inherits_options() -> bool {
    cfg!(target_os = "linux")
}
