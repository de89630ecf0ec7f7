//! A Redis of a test's own.

use std::process::Command;

use redis::aio::MultiplexedConnection;

use crate::{
    requirement::program,
    servers::{Server, free_addr},
    support::eventually,
};

/// A running `redis-server`, killed when dropped.
pub(crate) struct Redis {
    server: Server,
}

impl Redis {
    /// An empty one that keeps nothing; `None` after saying that this test is skipped.
    pub(crate) async fn start() -> Option<Self> {
        let program = program("redis-server", "Debian: redis-server")?;
        let addr = free_addr();
        let server = Server::start(addr, |dir| {
            let mut command = Command::new(program);
            command.env_clear().current_dir(dir);
            command.args(["--bind", &addr.ip().to_string(), "--port", &addr.port().to_string()]);
            command.args(["--save", "", "--appendonly", "no"]);
            command
        });
        Some(Self { server: server.await })
    }

    /// How it is named in a configuration.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.server.addr)
    }

    /// A connection, to look what is in it.
    pub(crate) async fn connect(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.url()).expect("a URL");
        client.get_multiplexed_async_connection().await.expect("it accepts")
    }

    /// The keys that match.
    pub(crate) async fn keys(&self, pattern: &str) -> Vec<String> {
        let mut connection = self.connect().await;
        let keys = redis::cmd("KEYS").arg(pattern).query_async(&mut connection).await;
        keys.expect("it answers")
    }

    /// A node holds a name.
    pub(crate) async fn until_claimed(&self, node: &str, uuid: &str) {
        let mut connection = self.connect().await;
        eventually(&format!("{node} holds {uuid}"), async || {
            let key = format!("relay:leg:{uuid}");
            let holder = redis::cmd("GET").arg(key).query_async(&mut connection).await;
            let holder: Option<String> = holder.expect("it answers");
            holder.is_some_and(|holder| holder.ends_with(&format!(" {node}")))
        })
        .await;
    }

    /// No leg is claimed any more.
    pub(crate) async fn until_nobody_waits(&self) {
        eventually("nothing is claimed", async || self.keys("relay:leg:*").await.is_empty()).await;
    }
}
