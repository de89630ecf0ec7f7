//! What a fault at a step probably means, and the way out.

use std::{io, time::Duration};

use super::{
    leg::Fault,
    run::{Plan, Step},
};
use crate::wire::Transport;

/// A leg that is closed before this was refused; later, its peer was waited for.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Everything that tells one cause from another.
pub(super) struct Symptom {
    pub(super) step: Step,
    pub(super) fault: Fault,
    /// Since the first message.
    pub(super) waited: Duration,
    pub(super) transports: [Transport; 2],
    pub(super) with_key: bool,
    /// Whether WebSocket legs go to a port of their own.
    pub(super) moved_port: bool,
}

/// What happened and why, for somebody who has to put it right.
pub(super) fn say(symptom: &Symptom, plan: &Plan) -> String {
    let at = plan.address.with_port(plan.port(symptom.transport()));
    match (&symptom.fault, symptom.step) {
        (Fault::Io(error), step) => io_fault(error, step, &at),
        (Fault::Tls(error), _) if error.kind() == io::ErrorKind::UnexpectedEof => {
            format!(
                "{at} closed the connection in the TLS handshake: TLS is probably not on there (tls.cert and tls.key)"
            )
        }
        (Fault::Tls(error), _) => format!(
            "no TLS with {at}: {error}. For a certificate of your own making give --ca FILE, and probe by the name that stands in it"
        ),
        (Fault::TimedOut, step) => timed_out(step, &at),
        (Fault::NoUpgrade(status), _) => {
            format!(
                "{at} answered {status} instead of upgrading to WebSocket: {}",
                symptom.elsewhere()
            )
        }
        (Fault::NoWebSocket, _) => {
            format!("what {at} answered is no WebSocket: {}", symptom.elsewhere())
        }
        (Fault::Closed, Step::ConnectFirst | Step::ConnectSecond) => {
            format!(
                "{at} closed the connection during the WebSocket handshake: {}",
                symptom.elsewhere()
            )
        }
        (Fault::Closed, Step::FirstMessage | Step::Pair) if symptom.waited < AT_ONCE => {
            format!(
                "closed right after the first message: {}; or the relay is shutting down, full, or refuses this address (a blocklist, or proxy.protocol, which may want a PROXY header from here); or {at} is no relay. The relay's log says which, some of it at --log-level debug",
                symptom.key()
            )
        }
        (Fault::Closed, Step::FirstMessage | Step::Pair) => format!(
            "closed after {} s without pairing: the two legs did not meet; do several relays stand behind {at}?",
            symptom.waited.as_secs()
        ),
        (Fault::Closed, _) => {
            "the relay closed the pair: it is shutting down, or an operator closed it".to_owned()
        }
        (Fault::NotOurs, Step::FirstMessage | Step::Pair) => {
            format!(
                "{at} answered with bytes of its own, which a relay never does: it is no relay, or the port is another server's"
            )
        }
        (Fault::NotOurs, _) => {
            "what arrived is not what was sent: something between the legs changes bytes".to_owned()
        }
    }
}

fn io_fault(error: &io::Error, step: Step, at: &str) -> String {
    match (error.kind(), step) {
        (io::ErrorKind::ConnectionRefused, _) => {
            format!(
                "nothing listens at {at}: the relay is not running, listens elsewhere, or a firewall refuses"
            )
        }
        (_, Step::Resolve) => {
            format!("the name cannot be resolved ({error}): check it, or give an address")
        }
        _ => format!("{error}: check the network on the way to {at}"),
    }
}

fn timed_out(step: Step, at: &str) -> String {
    match step {
        Step::Resolve => "the name was not resolved in time: check the DNS, or give an address".to_owned(),
        Step::ConnectFirst | Step::ConnectSecond => {
            format!("no answer from {at} in time: a firewall drops packets, or the address is wrong")
        }
        Step::FirstMessage | Step::Pair => format!(
            "nothing came in time: {at} is no relay, or the two legs reached different relays behind one address"
        ),
        Step::RoundTrip | Step::Throughput => {
            "not all that was sent came in time: the way is slow or blocked; try --quick or a longer --timeout".to_owned()
        }
        Step::Close => "the second leg was not told of the first one's end in time: the relay, or a proxy on the way, keeps dead connections open".to_owned(),
    }
}

impl Symptom {
    /// Of the leg that the step is about.
    fn transport(&self) -> Transport {
        match self.step {
            Step::ConnectSecond => self.transports[1],
            _ => self.transports[0],
        }
    }

    fn key(&self) -> &'static str {
        if self.with_key {
            "the key is probably wrong (compare it with the relay's public key)"
        } else {
            "no key was sent, and the relay probably has one (give it with -k)"
        }
    }

    fn elsewhere(&self) -> &'static str {
        if self.moved_port {
            "check --websocket-port and --path"
        } else {
            "check --path, and for hbbr, which has WebSocket two ports further on, give --websocket-port 21119"
        }
    }
}
