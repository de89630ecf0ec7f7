//! `[front_door]`: what a connection may do before it has said who it is.

use serde::{Deserialize, Serialize};

use super::{Duration, Size, rules::Rules};

/// The `[front_door]` section.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FrontDoorConfig {
    /// The whole time from accept to a complete first message, HTTP head and upgrade included.
    pub first_frame_timeout: Duration,
    /// The largest first message that is read, in bytes.
    pub max_first_frame: Size,
    /// How many connections may be open at once; lowered to what the process may open.
    pub max_connections: usize,
}

impl Default for FrontDoorConfig {
    fn default() -> Self {
        Self {
            first_frame_timeout: Duration::from_secs(10),
            max_first_frame: Size::from_kib(4),
            max_connections: 65_536,
        }
    }
}

impl FrontDoorConfig {
    pub(super) fn validate(&self, rules: &mut Rules) {
        rules.timeout("front_door.first_frame_timeout", self.first_frame_timeout);
        // Less than 128 bytes holds no request; more than 64 KiB is somebody else's protocol.
        let (least, most) = (Size::from_bytes(128), Size::from_kib(64));
        rules.between("front_door.max_first_frame", self.max_first_frame, least, most);
        rules.at_least_one("front_door.max_connections", self.max_connections);
    }
}
