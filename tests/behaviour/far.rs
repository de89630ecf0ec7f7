//! A second node behind a gateway of a test: with [`ACROSS`](crate::ACROSS) whoever comes while its
//! peer waits lands there, so that the tests of one node are tests of two.

use mini_rust_desk_relay_server::config::{Config, Secret};

use crate::{
    cluster::redis::Redis,
    support::{Answer, TestGateway},
};

/// The second node.
pub(crate) struct Far {
    pub(crate) gateway: TestGateway,
    pub(crate) redis: Redis,
}

impl Far {
    /// Makes a node of what `config` is for, and starts another like it; `None` on one node, or after
    /// saying that a test of two is none.
    pub(crate) async fn start(config: &mut Config) -> Option<Box<Self>> {
        if !crate::ACROSS {
            return None;
        }
        let redis = Redis::start().await?;
        config.cluster.redis = Secret::new(redis.url());
        config.cluster.listen = vec!["127.0.0.1:0".parse().expect("an address")];
        config.cluster.secret = Secret::new("what-only-the-nodes-of-a-test-know");
        config.cluster.node = "far".to_owned();
        let gateway = TestGateway::run(config.clone(), async |_| {}).await.0;
        config.cluster.node = "near".to_owned();
        Some(Box::new(Self { gateway, redis }))
    }
}

impl TestGateway {
    /// Where whoever comes now lands: the one for which a leg waits goes to the other node.
    pub(crate) async fn landing(&self, uuid: Option<&str>) -> std::net::SocketAddr {
        let Some(far) = &self.far else { return self.addr };
        let waiting = self.get("/api/v1/waiting?limit=1000").await.json();
        let waiting = waiting["items"].as_array().expect("a list");
        let is_met = match uuid {
            Some(uuid) => waiting.iter().any(|leg| leg["uuid"] == uuid),
            None => !waiting.is_empty(),
        };
        if is_met { far.gateway.addr } else { self.addr }
    }

    /// What is not known here may be known there.
    pub(crate) async fn asked_there(
        &self,
        method: &str,
        path: &str,
        headers: &str,
    ) -> Option<Answer> {
        let far = self.far.as_ref().filter(|_| path.starts_with("/api/v1/relays/"))?;
        Some(Box::pin(far.gateway.request(method, path, headers)).await)
    }
}
