//! What a client does instead of what it should.

use std::time::Duration;

use mini_rust_desk_relay_server::wire::Transport;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{error::Elapsed, timeout},
};

use crate::{by_hand::binary, raw_websocket::reset, support::PATIENCE};

/// A client's failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its process ends.
    Leaves,
    /// Its connection breaks.
    Resets,
    /// It reads nothing and says nothing any more, and stays.
    Stalls,
    /// It ends what it sends, and stays for the rest.
    HalfCloses,
    /// It sends as fast as it can and reads nothing.
    Floods,
    /// It sends what is no protocol.
    Garbles,
}

/// How long one that floods goes on.
const FLOOD: Duration = Duration::from_millis(300);

impl Fault {
    pub(super) const ALL: [Self; 6] =
        [Self::Leaves, Self::Resets, Self::Stalls, Self::HalfCloses, Self::Floods, Self::Garbles];

    /// Lets it happen to a client. Of one that stalls the relay has to let go: its connection is given
    /// back if it has a peer that is told, since it does not itself see an end behind what it does not
    /// read.
    pub(super) async fn befall(
        self,
        mut client: TcpStream,
        transport: Transport,
        has_peer: bool,
    ) -> Result<Option<TcpStream>, Elapsed> {
        match self {
            Self::Leaves => {}
            Self::Resets => reset(client),
            Self::Stalls if has_peer => return Ok(Some(client)),
            Self::Stalls => timeout(PATIENCE, is_over(&client)).await?,
            Self::HalfCloses => {
                // It may be over already.
                let _ = client.shutdown().await;
                timeout(PATIENCE, until_the_end(&mut client)).await?;
            }
            Self::Floods => {
                let message = match transport {
                    Transport::Tcp => vec![0x80; 64 << 10],
                    Transport::WebSocket => binary(&[7; 60 << 10]),
                };
                let flood = async { while client.write_all(&message).await.is_ok() {} };
                let _ = timeout(FLOOD, flood).await;
            }
            Self::Garbles => {
                let garbage: Vec<u8> =
                    (0..4096_u32).map(|at| ((at * at) >> 3) as u8 ^ 0xA5).collect();
                let _ = client.write_all(&garbage).await;
                let _ = client.shutdown().await;
                timeout(PATIENCE, until_the_end(&mut client)).await?;
            }
        }
        Ok(None)
    }
}

/// Reads all that comes. A reset is an end too.
async fn until_the_end(client: &mut TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while client.read(&mut buffer).await.is_ok_and(|len| len > 0) {}
}

/// Returns when the relay has closed it, which is seen without a read.
async fn is_over(client: &TcpStream) {
    let over = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        let mut fd = [PollFd::new(client, over)];
        if poll(&mut fd, Some(&now)).expect("a socket") > 0 && fd[0].revents().intersects(over) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
