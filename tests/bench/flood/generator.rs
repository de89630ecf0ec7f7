//! Connections that say nothing, or a byte a second, and come again when they are closed. In a
//! process of its own: the benchmark's own program, called anew.

use std::{
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
};

use crate::dial;

/// How many begin to connect in a row.
const AT_ONCE: usize = 64;

/// The least time between two looks at who has something to say.
const TICK: Duration = Duration::from_millis(10);

/// How long one takes to say a byte.
const PACE: Duration = Duration::from_secs(1);

/// How long who was closed waits before it comes again.
const PAUSE: Duration = Duration::from_secs(2);

/// What a flood is to hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flood {
    pub(crate) silent: usize,
    pub(crate) slow: usize,
}

/// A flood that runs, until dropped.
pub(crate) struct Running(Child);

/// One of its connections.
struct Slow {
    socket: Option<TcpStream>,
    /// When to come again, or to say the next byte.
    due: Instant,
    said: usize,
    has_come: bool,
}

impl Flood {
    pub(crate) const fn count(self) -> usize {
        self.silent + self.slow
    }

    /// Starts it, and waits until all have come once.
    pub(crate) fn start(self, addr: SocketAddr) -> anyhow::Result<Running> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--flood")
            .args([addr.to_string(), self.silent.to_string(), self.slow.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("no process for a flood")?;
        let output = child.stdout.take().context("no pipe")?;
        let running = Running(child);
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line.trim() == "ready", "the flood does not get in");
        Ok(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `--flood` does.
pub(crate) fn run(addr: SocketAddr, flood: Flood) -> anyhow::Result<()> {
    crate::machine::raise_descriptor_limit();
    end_with_parent();
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let now = Instant::now();
    let new = || Slow { socket: None, due: now, said: 0, has_come: false };
    let mut all: Vec<_> = (0..flood.count()).map(|_| new()).collect();
    let (mut came, mut is_ready) = (0, false);
    let mut events: Vec<Event> = Vec::with_capacity(1024);
    loop {
        let since = Instant::now();
        let mut begun = 0;
        for (number, one) in all.iter_mut().enumerate() {
            if one.due > since {
                continue;
            }
            match &mut one.socket {
                Some(socket) if number >= flood.silent => {
                    // Where nothing is taken the end is near, and told of.
                    let _ = socket.write(&[next_byte(number, one.said)]);
                    one.said += 1;
                    one.due = since + PACE;
                }
                Some(_) => {}
                None if begun < AT_ONCE => {
                    begun += 1;
                    came += usize::from(!one.has_come);
                    one.has_come = true;
                    one.socket = Some(connect(addr, &epoll, number)?);
                    one.said = 0;
                    // Spread over the second.
                    one.due = since + PACE * (number % 100) as u32 / 100;
                }
                None => {}
            }
        }
        if !is_ready && came == all.len() {
            is_ready = true;
            println!("ready");
        }
        events.clear();
        let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
        epoll::wait(&epoll, spare_capacity(&mut events), Some(&tick))?;
        for event in &events {
            let one = &mut all[event.data.u64() as usize];
            if one.socket.as_mut().is_some_and(is_over) {
                one.socket = None;
                one.due = Instant::now() + PAUSE;
            }
        }
        thread::sleep(TICK.saturating_sub(since.elapsed()));
    }
}

fn connect(addr: SocketAddr, epoll: &OwnedFd, number: usize) -> anyhow::Result<TcpStream> {
    let socket = dial::begin(addr)?;
    socket.set_nodelay(true)?;
    let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
    epoll::add(epoll, &socket, EventData::new_u64(number as u64), flags)?;
    Ok(socket)
}

/// Half of them the head of a request that does not end, half a frame that is never whole.
fn next_byte(number: usize, said: usize) -> u8 {
    let start: &[u8] = match number % 2 {
        0 => b"GET / HTTP/1.1\r\nHost: relay\r\nX: ",
        _ => b"\x01\x20\x92\x01",
    };
    start.get(said).copied().unwrap_or(b'x')
}

fn is_over(socket: &mut TcpStream) -> bool {
    let mut nothing = [0; 64];
    match socket.read(&mut nothing) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// Nobody is left to end it when the benchmark was killed.
fn end_with_parent() {
    thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
}
