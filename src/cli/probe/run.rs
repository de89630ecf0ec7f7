//! One probe: two legs that name one uuid, from the first connection to the close.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout_at},
};
use zeroize::Zeroizing;

use super::{
    address::Address,
    advice::{self, Symptom},
    leg::{Fault, Leg},
    report::{Finding, Report},
    traffic::{self, SMALL},
};
use crate::{
    cli::tls::{ClientStream, TlsClient},
    wire::{
        Transport,
        rendezvous::{ConnType, request_relay},
    },
};

/// What all probes of a command have in common.
pub(super) struct Plan {
    /// If the legs are in TLS.
    pub(super) tls: Option<TlsClient>,
    pub(super) address: Address,
    pub(super) websocket_port: u16,
    pub(super) path: String,
    pub(super) licence_key: Zeroizing<String>,
    pub(super) quick: bool,
    pub(super) deadline: Instant,
}

/// A part of a probe that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Resolve,
    ConnectFirst,
    FirstMessage,
    ConnectSecond,
    Pair,
    RoundTrip,
    Throughput,
    Close,
}

/// A probe under way.
pub(super) struct Run<'a> {
    plan: &'a Plan,
    report: &'a mut Report,
    finding: Finding,
    step: Step,
    since: Instant,
    /// When the first leg said what it wants.
    greeted: Option<Instant>,
}

impl<'a> Run<'a> {
    pub(super) fn new(plan: &'a Plan, report: &'a mut Report, finding: Finding) -> Self {
        report.begin(&finding);
        Self { plan, report, finding, step: Step::Resolve, since: Instant::now(), greeted: None }
    }

    /// Takes every step, or those up to the one that fails.
    pub(super) async fn run(mut self) -> Finding {
        let steps = timeout_at(self.plan.deadline, self.steps()).await;
        if let Err(fault) = steps.unwrap_or(Err(Fault::TimedOut)) {
            let symptom = Symptom {
                step: self.step,
                fault,
                waited: self.greeted.map(|at| at.elapsed()).unwrap_or_default(),
                transports: self.finding.transports,
                with_key: !self.plan.licence_key.is_empty(),
                moved_port: self.plan.websocket_port != self.plan.address.port,
            };
            self.finding.fail(self.step, advice::say(&symptom, self.plan));
            self.report.failed(&self.finding);
        }
        self.finding
    }

    async fn steps(&mut self) -> Result<(), Fault> {
        let ips = self.resolve().await?;
        let (mut first, ip) = self.connect_first(&ips).await?;
        let uuid = self.greet(&mut first).await?;
        let mut second = self.connect_second(&mut first, ip).await?;
        self.pair(&uuid, &mut first, &mut second).await?;
        self.measure(&mut first, &mut second).await?;
        self.close(&mut first, &mut second).await
    }

    async fn resolve(&mut self) -> Result<Vec<IpAddr>, Fault> {
        self.begin(Step::Resolve);
        let Address { host, port } = &self.plan.address;
        let found = lookup_host((host.as_str(), *port)).await.map_err(Fault::Io)?;
        let mut ips: Vec<_> = found.map(|addr| addr.ip()).collect();
        ips.dedup();
        let shown: Vec<_> = ips.iter().map(IpAddr::to_string).collect();
        self.done(shown.join(", "));
        Ok(ips)
    }

    /// Of several addresses the first that answers; both legs must go to the same.
    async fn connect_first(&mut self, ips: &[IpAddr]) -> Result<(Leg, IpAddr), Fault> {
        self.begin(Step::ConnectFirst);
        let mut failed = Fault::Closed;
        for &ip in ips {
            match self.plan.connect(self.finding.transports[0], ip).await {
                Ok(leg) => {
                    self.done(self.plan.way(&leg, ip));
                    return Ok((leg, ip));
                }
                Err(fault) => failed = fault,
            }
        }
        Err(failed)
    }

    async fn greet(&mut self, first: &mut Leg) -> Result<String, Fault> {
        self.begin(Step::FirstMessage);
        let mut uuid = "probe-".to_owned();
        for byte in traffic::random::<16>()? {
            // Writing to a String cannot fail.
            let _ = write!(uuid, "{byte:02x}");
        }
        self.greeted = Some(self.since);
        first.send(&self.plan.hello(&uuid, "probe")).await?;
        self.done(format!("uuid {uuid}"));
        Ok(uuid)
    }

    async fn connect_second(&mut self, first: &mut Leg, ip: IpAddr) -> Result<Leg, Fault> {
        self.begin(Step::ConnectSecond);
        let connected = tokio::select! {
            connected = self.plan.connect(self.finding.transports[1], ip) => connected,
            // A relay that wants the leg says nothing until it has a peer.
            said = first.receive() => {
                self.step = Step::FirstMessage;
                return Err(unasked(said));
            }
        };
        let second = connected?;
        self.done(self.plan.way(&second, ip));
        Ok(second)
    }

    async fn pair(&mut self, uuid: &str, first: &mut Leg, second: &mut Leg) -> Result<(), Fault> {
        self.begin(Step::Pair);
        let early: [u8; SMALL] = traffic::random()?;
        second.send(&self.plan.hello(uuid, "")).await?;
        second.send(&early).await?;
        tokio::select! {
            biased;
            // What the first leg hears says more about a server that is no relay.
            came = traffic::expect(first, &early) => came?,
            said = second.receive() => return Err(unasked(said)),
        }
        let took = self.done("the second leg's first bytes arrived at the first leg");
        self.finding.pairing_ms = Some(took);
        Ok(())
    }

    async fn measure(&mut self, first: &mut Leg, second: &mut Leg) -> Result<(), Fault> {
        self.begin(Step::RoundTrip);
        let trip = traffic::round_trip(first, second).await?;
        self.finding.round_trip = Some(trip);
        self.done(format!(
            "median {:.2} ms, least {:.2} ms of {} with {SMALL} B each way",
            trip.median_ms, trip.min_ms, trip.rounds
        ));
        if self.plan.quick {
            return Ok(());
        }
        self.begin(Step::Throughput);
        let moved = traffic::throughput(first, second).await?;
        self.finding.throughput = Some(moved);
        self.done(format!(
            "{:.0} MB/s one way: {:.1} MB, every byte verified",
            moved.megabytes_per_second,
            moved.bytes as f64 / 1e6
        ));
        Ok(())
    }

    async fn close(&mut self, first: &mut Leg, second: &mut Leg) -> Result<(), Fault> {
        self.begin(Step::Close);
        first.finish().await?;
        if second.receive().await?.is_some() {
            return Err(Fault::NotOurs);
        }
        self.done("the second leg saw the first one's end");
        // The relay is over for us; it may have gone already.
        let _ = second.finish().await;
        Ok(())
    }

    fn begin(&mut self, step: Step) {
        (self.step, self.since) = (step, Instant::now());
    }

    /// Reports the step; how long it took, in milliseconds.
    fn done(&mut self, detail: impl Into<String>) -> f64 {
        let took = self.since.elapsed().as_secs_f64() * 1e3;
        let done = self.finding.done(self.step, took, detail.into());
        self.report.step(done);
        took
    }
}

impl Plan {
    async fn connect(&self, transport: Transport, ip: IpAddr) -> Result<Leg, Fault> {
        let port = self.port(transport);
        let socket = TcpStream::connect(SocketAddr::new(ip, port)).await.map_err(Fault::Io)?;
        // Only the measured times are at stake.
        let _ = socket.set_nodelay(true);
        let stream = match &self.tls {
            None => ClientStream::Plain(socket),
            Some(tls) => tls.begin(&self.address.host, socket).await.map_err(Fault::Tls)?,
        };
        match transport {
            Transport::Tcp => Ok(Leg::tcp(stream)),
            Transport::WebSocket => {
                // The scheme is of no consequence here: the stream is what it is.
                let url = format!("ws://{}{}", self.address.with_port(port), self.path);
                Leg::websocket(stream, &url).await
            }
        }
    }

    /// Where legs of a transport go.
    pub(super) const fn port(&self, transport: Transport) -> u16 {
        match transport {
            Transport::Tcp => self.address.port,
            Transport::WebSocket => self.websocket_port,
        }
    }

    fn hello(&self, uuid: &str, target: &str) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(request_relay(uuid, target, &self.licence_key, ConnType::Default))
    }

    fn way(&self, leg: &Leg, ip: IpAddr) -> String {
        let (transport, upgraded) = match leg {
            Leg::Tcp(..) => (Transport::Tcp, String::new()),
            Leg::WebSocket(_) => {
                (Transport::WebSocket, format!(", upgraded to WebSocket at {}", self.path))
            }
        };
        let to = SocketAddr::new(ip, self.port(transport));
        let within = if self.tls.is_some() { " in TLS" } else { "" };
        match leg.local_addr() {
            Ok(from) => format!("{from} to {to}{within}{upgraded}"),
            Err(_) => format!("to {to}{within}{upgraded}"),
        }
    }
}

impl Step {
    /// Its name in reports.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::ConnectFirst => "connect first leg",
            Self::FirstMessage => "first message",
            Self::ConnectSecond => "connect second leg",
            Self::Pair => "pair",
            Self::RoundTrip => "round trip",
            Self::Throughput => "throughput",
            Self::Close => "close",
        }
    }
}

/// What it means that a leg without a peer heard something.
fn unasked(said: Result<Option<bytes::Bytes>, Fault>) -> Fault {
    match said {
        Ok(Some(_)) => Fault::NotOurs,
        Ok(None) => Fault::Closed,
        Err(fault) => fault,
    }
}
