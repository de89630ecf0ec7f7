//! The least that a relay can do: the lower bound to compare with. One epoll a thread, no limits,
//! timers, logs, keys or accounts, and no WebSocket. Runs in a process of its own: the benchmark's
//! own program, called anew.

mod pair;

use std::{
    collections::{HashMap, VecDeque},
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use mini_rust_desk_relay_server::wire::frame::FrameHeader;
use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
};

use self::pair::{Pair, Turn};

const BUFFER: usize = 256 << 10;
const BACKLOG: i32 = 4_096;
const LISTENER: u64 = u64::MAX;
const INBOX: u64 = u64::MAX - 1;

/// Two sockets that belong together, and what was read of each already.
type Matched = [(TcpStream, Vec<u8>); 2];

/// One thread: it moves bytes, and the first of them also accepts and pairs.
struct Worker {
    epoll: OwnedFd,
    slots: Vec<Option<Pair>>,
    free: Vec<usize>,
    /// Pairs that have more to do.
    ready: VecDeque<usize>,
    inbox: Receiver<Matched>,
    bell: UnixStream,
    buffer: Vec<u8>,
}

/// What only the first worker has.
struct Door {
    listener: TcpListener,
    /// By the whole first frame: both legs of a pair send the same one here.
    waiting: HashMap<Vec<u8>, (TcpStream, Vec<u8>)>,
    /// Connections whose first frame is not whole yet, by number.
    fresh: HashMap<u64, (TcpStream, Vec<u8>)>,
    next_fresh: u64,
    workers: Vec<(Sender<Matched>, UnixStream)>,
    turn: usize,
}

/// Relays on `addr` until standard input ends, which it does when the benchmark is gone.
pub(crate) fn run(addr: SocketAddr, threads: usize) -> anyhow::Result<()> {
    let listener = TcpListener::bind(addr)?;
    // A second time: std's own queue is too short for a burst.
    rustix::net::listen(&listener, BACKLOG)?;
    listener.set_nonblocking(true)?;
    let (mut workers, mut inboxes) = (Vec::new(), Vec::new());
    for _ in 0..threads.max(1) {
        let (sender, inbox) = channel();
        let (bell, ring) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        ring.set_nonblocking(true)?;
        workers.push((sender, ring));
        inboxes.push(Worker::new(inbox, bell)?);
    }
    let door = Door {
        listener,
        waiting: HashMap::new(),
        fresh: HashMap::new(),
        next_fresh: 1 << 62,
        workers,
        turn: 0,
    };
    let mut door = Some(door);
    for worker in inboxes {
        let door = door.take();
        thread::spawn(move || worker.run(door));
    }
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

impl Worker {
    fn new(inbox: Receiver<Matched>, bell: UnixStream) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &bell, EventData::new_u64(INBOX), EventFlags::IN)?;
        Ok(Self {
            epoll,
            slots: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            inbox,
            bell,
            buffer: vec![0; BUFFER],
        })
    }

    fn run(mut self, mut door: Option<Door>) -> io::Result<()> {
        if let Some(door) = &door {
            epoll::add(&self.epoll, &door.listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        }
        let mut events: Vec<Event> = Vec::with_capacity(256);
        loop {
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let patience = (!self.ready.is_empty()).then_some(&now);
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), patience) {
                Err(rustix::io::Errno::INTR) => {}
                waited => _ = waited?,
            }
            for event in &events {
                match (event.data.u64(), &mut door) {
                    (INBOX, _) => self.take_in()?,
                    (LISTENER, Some(door)) => self.accept(door),
                    (fresh, Some(door)) if door.fresh.contains_key(&fresh) => {
                        self.read_on(door, fresh);
                    }
                    (token, _) => {
                        let slot = token as usize / 2;
                        if let Some(Some(pair)) = self.slots.get_mut(slot) {
                            pair.note(token as usize % 2, event.flags);
                            self.turn(slot);
                        }
                    }
                }
            }
            for _ in 0..self.ready.len() {
                if let Some(slot) = self.ready.pop_front() {
                    self.turn(slot);
                }
            }
        }
    }

    fn turn(&mut self, slot: usize) {
        let Some(Some(pair)) = self.slots.get_mut(slot) else { return };
        match pair.turn(&mut self.buffer) {
            Ok(Turn::Blocked) => {}
            Ok(Turn::More) if self.ready.contains(&slot) => {}
            Ok(Turn::More) => self.ready.push_back(slot),
            Ok(Turn::Done) | Err(_) => {
                self.slots[slot] = None;
                self.free.push(slot);
            }
        }
    }

    fn take_in(&mut self) -> io::Result<()> {
        let _ = self.bell.read(&mut [0; 64]);
        while let Ok(matched) = self.inbox.try_recv() {
            self.adopt(matched)?;
        }
        Ok(())
    }

    fn adopt(&mut self, matched: Matched) -> io::Result<()> {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let pair = Pair::new(matched);
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        for (side, socket) in pair.sockets().iter().enumerate() {
            let token = EventData::new_u64((slot * 2 + side) as u64);
            epoll::add(&self.epoll, socket, token, flags)?;
        }
        self.slots[slot] = Some(pair);
        self.turn(slot);
        Ok(())
    }

    fn accept(&mut self, door: &mut Door) {
        while let Ok((socket, _)) = door.listener.accept() {
            if socket.set_nodelay(true).and_then(|()| socket.set_nonblocking(true)).is_ok() {
                self.first_frame(door, socket, Vec::new());
            }
        }
    }

    fn read_on(&mut self, door: &mut Door, number: u64) {
        if let Some((socket, head)) = door.fresh.remove(&number) {
            // Its registration ends here; failing, it would only be woken for nothing.
            let _ = epoll::delete(&self.epoll, &socket);
            self.first_frame(door, socket, head);
        }
    }

    fn first_frame(&mut self, door: &mut Door, mut socket: TcpStream, mut head: Vec<u8>) {
        let mut bytes = [0; 1024];
        match socket.read(&mut bytes) {
            Ok(0) => return,
            Ok(len) => head.extend_from_slice(&bytes[..len]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
        let frame = FrameHeader::parse(&head).map(|head| head.header_len() + head.payload_len());
        let Some(len) = frame.filter(|len| *len <= head.len()) else {
            door.next_fresh += 1;
            let token = EventData::new_u64(door.next_fresh);
            if epoll::add(&self.epoll, &socket, token, EventFlags::IN).is_ok() {
                door.fresh.insert(door.next_fresh, (socket, head));
            }
            return;
        };
        let early = head.split_off(len);
        match door.waiting.remove(&head) {
            None => _ = door.waiting.insert(head, (socket, early)),
            Some(first) => self.hand_over(door, [first, (socket, early)]),
        }
    }

    fn hand_over(&mut self, door: &mut Door, matched: Matched) {
        door.turn = (door.turn + 1) % door.workers.len();
        if door.turn == 0 {
            // The first worker is this one. A pair that cannot be watched is dropped.
            let _ = self.adopt(matched);
        } else {
            let (sender, bell) = &mut door.workers[door.turn];
            if sender.send(matched).is_ok() {
                // Full, it rings already.
                let _ = bell.write(&[1]);
            }
        }
    }
}
