//! A pair's way from plane to plane. Its sockets, and whatever waits for them, go with it; the task
//! that the pair began in waits for it to come back, or for its end.

use std::{io, sync::Arc};

use super::{
    Leave, Splice,
    pace::{Pace, Plane},
};
use crate::relay::{plane::BulkPlane, request::End};

impl Splice {
    /// Runs on the bulk plane until it has calmed down, or ends.
    pub(super) async fn run_in_bulk(
        mut self: Box<Self>,
        bulk: &BulkPlane,
    ) -> Result<Box<Self>, End> {
        let Some(place) = bulk.place() else {
            self.pace = Pace::new(Plane::Only);
            return Ok(self);
        };
        self.pace = Pace::new(Plane::Bulk);
        let relay = Arc::clone(&self.relay);
        relay.set_in_bulk(true);
        let there = place.spawn(async move {
            let mut splice = self.moved().map_err(|_| End::Aborted)?;
            match splice.run().await {
                Leave::Ended(end) => Err(end),
                Leave::Moves => Ok(splice),
            }
        });
        let mut calm = there.await.unwrap_or(Err(End::Aborted))?;
        relay.set_in_bulk(false);
        calm.pace = Pace::new(Plane::Light);
        calm.moved().map_err(|_| End::Aborted)
    }

    /// Its sockets belong to the runtime that polls them.
    fn moved(self: Box<Self>) -> io::Result<Box<Self>> {
        let splice = *self;
        let [first, second] = splice.streams;
        let streams = [first.park()?.wake()?, second.park()?.wake()?];
        Ok(Box::new(Self { streams, ..splice }))
    }
}
