//! The end of a connection that is to be seen as one that broke.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{net::TcpStream, time::sleep};

use super::{Handle as _, Over, Stream};

/// How often it is looked whether a socket has sent everything: those that are to be broken off are
/// few.
const LOOK: Duration = Duration::from_millis(2);

impl Stream {
    /// Whether the other side has broken the connection off, though nobody reads or writes.
    pub fn is_gone(&self) -> bool {
        let socket = match &self.0 {
            Over::Plain(socket) => socket,
            Over::Tls(tls) => &tls.parts().socket,
        };
        let mut fd = [PollFd::new(socket, PollFlags::empty())];
        poll(&mut fd, Some(&Timespec::default())).is_ok_and(|seen| seen > 0)
    }

    /// Has the connection broken off when this is dropped, once all that was written has been sent:
    /// a reset throws away what has not. Until then this does not end.
    pub async fn break_off(&mut self) {
        let has_sent = |socket: &TcpStream| {
            let mut fd = [PollFd::new(socket, PollFlags::OUT)];
            poll(&mut fd, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
        };
        if let Over::Tls(tls) = &mut self.0 {
            // Nobody is to be told of an end in good order.
            self.0 = Over::Plain(tls.take().socket);
        }
        let Over::Plain(socket) = &self.0 else { return };
        // Writable is then what has sent everything. Elsewhere it is what has room.
        #[cfg(target_os = "linux")]
        let _ = socket.handle().set_tcp_notsent_lowat(1);
        while !has_sent(socket) {
            sleep(LOOK).await;
        }
        // It fails only when the connection is gone.
        let _ = socket.handle().set_linger(Some(Duration::ZERO));
    }
}
