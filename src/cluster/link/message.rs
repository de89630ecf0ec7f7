//! What nodes say to each other, as `proto/cluster.proto` has it.

// prost writes these types.
mod proto {
    #![expect(
        missing_docs,
        unreachable_pub,
        reason = "generated code, documented in proto/cluster.proto"
    )]
    include!(concat!(env!("OUT_DIR"), "/cluster.rs"));
}

pub use self::proto::{Go, Here, Nobody, Refused, Transport, Verdict, Want, verdict};
pub(super) use self::proto::{Greeting, Hello, Purpose as WirePurpose, Refusal, Why};

/// What a connection between two nodes is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A leg is handed over: [`Want`], [`Verdict`], [`Go`], and then its bytes.
    Leg,
    /// The admin API of the host: HTTP/1.1 within sealed records.
    Api,
}

impl Purpose {
    pub(super) const fn to_wire(self) -> WirePurpose {
        match self {
            Self::Leg => WirePurpose::Leg,
            Self::Api => WirePurpose::Api,
        }
    }

    pub(super) fn from_wire(value: i32) -> Option<Self> {
        match WirePurpose::try_from(value) {
            Ok(WirePurpose::Leg) => Some(Self::Leg),
            Ok(WirePurpose::Api) => Some(Self::Api),
            Ok(WirePurpose::Unknown) | Err(_) => None,
        }
    }
}

impl Verdict {
    /// The first leg is kept for the second.
    pub const fn here() -> Self {
        Self { verdict: Some(verdict::Verdict::Here(Here {})) }
    }

    /// No such leg waits here.
    pub const fn nobody() -> Self {
        Self { verdict: Some(verdict::Verdict::Nobody(Nobody {})) }
    }

    /// The pair is not to be, for a reason as metrics name it.
    pub fn refused(reason: &str) -> Self {
        let reason = reason.to_owned();
        Self { verdict: Some(verdict::Verdict::Refused(Refused { reason })) }
    }
}
