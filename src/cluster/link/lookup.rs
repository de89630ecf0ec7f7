//! The names of nodes, looked up: a node may be reached by one. The system cannot be told to give a
//! lookup up, and has threads for them that others need too. So each has its place until it is really
//! over, though nobody may wait for it any more.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs as _},
    sync::Arc,
};

use tokio::{sync::Semaphore, task::spawn_blocking};

/// How many may be under way.
const AT_ONCE: usize = 16;

/// What looks names up.
pub(super) struct Lookups {
    places: Arc<Semaphore>,
    /// Blocks.
    look_up: LookUp,
}

type LookUp = Arc<dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

impl Default for Lookups {
    fn default() -> Self {
        Self::by(Arc::new(|name| Ok(name.to_socket_addrs()?.collect())))
    }
}

impl Lookups {
    fn by(look_up: LookUp) -> Self {
        Self { places: Arc::new(Semaphore::new(AT_ONCE)), look_up }
    }

    /// The addresses of a host and a port. How long that may take is the caller's affair.
    pub(super) async fn of(&self, host_and_port: &str) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host_and_port.parse() {
            return Ok(vec![address]);
        }
        let place = Arc::clone(&self.places).acquire_owned().await;
        let (look_up, name) = (Arc::clone(&self.look_up), host_and_port.to_owned());
        let looked_up = spawn_blocking(move || {
            let _place = place;
            look_up(&name)
        });
        looked_up.await?
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Condvar, Mutex},
        time::Duration,
    };

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn an_address_is_none_that_has_to_be_looked_up_and_a_name_is() {
        let lookups = Lookups::by(Arc::new(|name| {
            assert_eq!(name, "node:7");
            Ok(vec![([192, 0, 2, 1], 7).into(), ([192, 0, 2, 2], 7).into()])
        }));
        assert_eq!(lookups.of("[::1]:9").await.unwrap(), ["[::1]:9".parse().unwrap()]);
        assert_eq!(lookups.of("node:7").await.unwrap().len(), 2);
    }

    /// As when the resolver does not answer.
    #[tokio::test]
    async fn lookups_that_hang_are_no_more_than_there_may_be_though_nobody_waits_for_them() {
        let hang = Arc::new((Mutex::new((0, true)), Condvar::new()));
        let gate = Arc::clone(&hang);
        let lookups = Lookups::by(Arc::new(move |_| {
            let (state, changed) = &*gate;
            let mut state = state.lock().unwrap();
            state.0 += 1;
            drop(changed.wait_while(state, |(_, hangs)| *hangs).unwrap());
            Ok(vec![([192, 0, 2, 1], 7).into()])
        }));
        let hopeless = async || timeout(Duration::from_millis(1), lookups.of("node:7")).await;
        for _ in 0..5 * AT_ONCE {
            assert!(hopeless().await.is_err());
        }
        assert!(hang.0.lock().unwrap().0 <= AT_ONCE);
        hang.0.lock().unwrap().1 = false;
        hang.1.notify_all();
        assert_eq!(lookups.of("node:7").await.unwrap(), [([192, 0, 2, 1], 7).into()]);
    }
}
