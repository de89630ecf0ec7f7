//! What a probe found: each step as it happens for people, one document at the end for programs.

use std::io::{self, Write};

use serde::{Serialize, Serializer};

use super::{
    address::Address,
    run::Step,
    traffic::{RoundTrip, Throughput},
};
use crate::wire::Transport;

/// All probes of a command.
#[derive(Serialize)]
pub(super) struct Report {
    relay: String,
    /// Whether the legs are in TLS.
    tls: bool,
    healthy: bool,
    probes: Vec<Finding>,
    #[serde(skip)]
    json: bool,
}

/// What one probe found.
#[derive(Serialize)]
pub(super) struct Finding {
    #[serde(serialize_with = "labels")]
    pub(super) transports: [Transport; 2],
    healthy: bool,
    steps: Vec<Done>,
    pub(super) pairing_ms: Option<f64>,
    pub(super) round_trip: Option<RoundTrip>,
    pub(super) throughput: Option<Throughput>,
    failure: Option<Failure>,
}

/// A step that went well.
#[derive(Serialize)]
pub(super) struct Done {
    step: &'static str,
    ms: f64,
    detail: String,
}

/// The step that did not.
#[derive(Serialize)]
struct Failure {
    step: &'static str,
    cause: String,
}

impl Report {
    pub(super) fn new(address: &Address, tls: bool, json: bool) -> Self {
        Self { relay: address.to_string(), tls, healthy: true, probes: Vec::new(), json }
    }

    /// A probe begins.
    pub(super) fn begin(&self, finding: &Finding) {
        let [first, second] = finding.transports.map(Transport::label);
        self.say(&format!("probing {}: first leg over {first}, second over {second}", self.relay));
    }

    /// A step went well.
    pub(super) fn step(&self, done: &Done) {
        let Done { step, ms, detail } = done;
        self.say(&format!("  {step:<18} {ms:>9.2} ms  {detail}"));
    }

    /// A step did not.
    pub(super) fn failed(&self, finding: &Finding) {
        if let Some(Failure { step, cause }) = &finding.failure
            && !self.json
        {
            eprintln!("error: {step}: {cause}");
        }
    }

    /// A probe is over.
    pub(super) fn add(&mut self, finding: Finding) {
        self.healthy &= finding.healthy;
        self.probes.push(finding);
    }

    /// Whether all went well; said at last, too.
    pub(super) fn finish(&self, out: &mut impl Write) -> bool {
        let verdict = if self.healthy { "healthy" } else { "not healthy" };
        let text = match serde_json::to_string_pretty(self) {
            Ok(document) if self.json => document,
            _ => verdict.to_owned(),
        };
        // The exit code says it too.
        let _ = writeln!(out, "{text}");
        self.healthy
    }

    fn say(&self, line: &str) {
        if !self.json {
            // A reader such as `head` may go before all is written.
            let _ = writeln!(io::stdout(), "{line}");
        }
    }
}

impl Finding {
    pub(super) const fn new(transports: [Transport; 2]) -> Self {
        Self {
            transports,
            healthy: true,
            steps: Vec::new(),
            pairing_ms: None,
            round_trip: None,
            throughput: None,
            failure: None,
        }
    }

    /// Notes a step that went well.
    pub(super) fn done(&mut self, step: Step, ms: f64, detail: String) -> &Done {
        // To the microsecond: more is noise.
        let ms = (ms * 1e3).round() / 1e3;
        self.steps.push(Done { step: step.name(), ms, detail });
        &self.steps[self.steps.len() - 1]
    }

    /// Notes the step that did not.
    pub(super) fn fail(&mut self, step: Step, cause: String) {
        self.healthy = false;
        self.failure = Some(Failure { step: step.name(), cause });
    }
}

fn labels<S: Serializer>(transports: &[Transport; 2], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(transports.iter().map(|transport| transport.label()))
}
