//! Somebody between two nodes, through whom all that they say goes.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To the host.
    Up,
    /// To the caller.
    Down,
}

/// What he does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    None,
    /// Lets so many bytes pass one way, and then ends both.
    Cut {
        way: Way,
        at: usize,
    },
    /// Changes one bit of a byte.
    Flip {
        way: Way,
        at: usize,
    },
    /// Passes the host's first word on, and answers the caller with its own words.
    Reflect,
}

impl Change {
    pub(super) const fn way(&self) -> Option<Way> {
        match self {
            Self::Cut { way, .. } | Self::Flip { way, .. } => Some(*way),
            Self::None | Self::Reflect => None,
        }
    }
}

/// He, for one connection.
pub(super) struct Between {
    pub(super) addr: SocketAddr,
    work: JoinHandle<[Vec<u8>; 2]>,
}

impl Drop for Between {
    fn drop(&mut self) {
        self.work.abort();
    }
}

impl Between {
    pub(super) async fn start(host: &str, change: Change) -> Self {
        let (listener, host) =
            (TcpListener::bind("127.0.0.1:0").await.expect("it works"), host.to_owned());
        let addr = listener.local_addr().expect("it works");
        let work = tokio::spawn(async move {
            let (caller, _) = listener.accept().await.expect("it works");
            let host = TcpStream::connect(host).await.expect("it works");
            let ((from_caller, to_caller), (from_host, to_host)) =
                (caller.into_split(), host.into_split());
            if matches!(change, Change::Reflect) {
                return reflect(from_caller, to_caller, from_host).await;
            }
            let up = pass(from_caller, to_host, change, Way::Up);
            let down = pass(from_host, to_caller, change, Way::Down);
            if !matches!(change, Change::Cut { .. }) {
                let (up, down) = tokio::join!(up, down);
                return [up, down];
            }
            // Whichever ends first ends the other.
            tokio::select! { _ = up => {} _ = down => {} }
            [vec![], vec![]]
        });
        Self { addr, work }
    }

    /// A host that says what was recorded, whatever it hears.
    pub(super) async fn play(recorded: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("it works");
        let addr = listener.local_addr().expect("it works");
        let work = tokio::spawn(async move {
            let (mut caller, _) = listener.accept().await.expect("it works");
            let _ = caller.write_all(&recorded).await;
            let mut heard = Vec::new();
            let _ = caller.read_to_end(&mut heard).await;
            [heard, recorded]
        });
        Self { addr, work }
    }

    /// All that went up, and down, once both have ended.
    pub(super) async fn recorded(&mut self) -> [Vec<u8>; 2] {
        (&mut self.work).await.expect("it works")
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    change: Change,
    way: Way,
) -> Vec<u8> {
    let mut passed = Vec::new();
    let mut bytes = [0; 16 << 10];
    loop {
        if matches!(change, Change::Cut { way: cut, at } if cut == way && at == passed.len()) {
            return passed;
        }
        let Ok(len) = from.read(&mut bytes).await else { return passed };
        let mut read = &mut bytes[..len];
        let at = passed.len();
        match change {
            Change::Cut { way: cut, at: end } if cut == way => {
                let most = len.min(end - at);
                read = &mut read[..most];
            }
            Change::Flip { way: flipped, at: index }
                if flipped == way && (at..at + len).contains(&index) =>
            {
                read[index - at] ^= 1 << (index % 8);
            }
            _ => {}
        }
        passed.extend_from_slice(read);
        if len == 0 || to.write_all(read).await.is_err() {
            let _ = to.shutdown().await;
            return passed;
        }
    }
}

async fn reflect(
    mut from_caller: OwnedReadHalf,
    mut to_caller: OwnedWriteHalf,
    mut from_host: OwnedReadHalf,
) -> [Vec<u8>; 2] {
    let mut header = [0; 3];
    from_host.read_exact(&mut header).await.expect("it works");
    let mut greeting = vec![0; usize::from(u16::from_be_bytes([header[0], header[1]]))];
    from_host.read_exact(&mut greeting).await.expect("it works");
    to_caller.write_all(&header).await.expect("it works");
    to_caller.write_all(&greeting).await.expect("it works");
    // The hello is the first of its frames; what is sealed behind it comes back alone.
    from_caller.read_exact(&mut header).await.expect("it works");
    let mut hello = vec![0; usize::from(u16::from_be_bytes([header[0], header[1]]))];
    from_caller.read_exact(&mut hello).await.expect("it works");
    let mut bytes = [0; 4096];
    let len = from_caller.read(&mut bytes).await.expect("it works");
    let _ = to_caller.write_all(&bytes[..len]).await;
    let mut rest = Vec::new();
    let _ = from_caller.read_to_end(&mut rest).await;
    [hello, greeting]
}
