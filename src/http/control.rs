//! What the admin API may ask of the gateway that it is part of. The gateway answers; here is what
//! is asked, and how answers look.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use axum::{Json, body::Bytes, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};

use super::{
    AdminState, Problem,
    page::{Checked, NoParameters},
};
use crate::config;

/// The gateway's side.
pub trait Control: Send + Sync {
    /// Reads the configuration again and applies it. It reads files: not to be called where
    /// nothing may block.
    ///
    /// # Errors
    /// When nothing was changed, with every reason.
    fn reload(&self) -> Result<Reloaded, ReloadError>;

    /// Begins the drain, which gives relays `timeout`, or what the configuration says.
    fn drain(&self, timeout: Option<Duration>) -> Draining;

    /// Starts the program anew, and lets it take over.
    ///
    /// # Errors
    /// When it does not; this process goes on.
    fn upgrade(&self) -> Pin<Box<dyn Future<Output = Result<Upgraded, UpgradeError>> + Send>>;
}

/// What a reload did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// The keys whose new values are in force.
    pub applied: Vec<&'static str>,
    /// The keys whose new values wait for a new process.
    pub needs_restart: Vec<&'static str>,
    /// What the operator should know, though it stopped nothing.
    pub warnings: Vec<String>,
}

/// Why a reload changed nothing.
#[derive(Debug)]
pub enum ReloadError {
    /// The configuration is at fault, or what it names: everything that is, at once.
    Refused(Vec<String>),
    /// The gateway is going down, or another process has taken over.
    Draining,
    /// The gateway was started by a program that gave it settings and no place to read them again.
    Nowhere,
}

/// What a drain begins with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Draining {
    /// Relays that may go on.
    pub relays_active: usize,
    /// For how long.
    pub timeout_seconds: f64,
    /// Whether it had begun before.
    pub already: bool,
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(problems) => f.write_str(&problems.join("\n")),
            Self::Draining => f.write_str("this process is shutting down: nothing was reloaded"),
            Self::Nowhere => f.write_str("there is no configuration to be read again"),
        }
    }
}

impl std::error::Error for ReloadError {}

impl From<ReloadError> for Problem {
    fn from(error: ReloadError) -> Self {
        match error {
            ReloadError::Refused(problems) => {
                let detail = "nothing was changed: put these right and reload again";
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail).with_problems(problems)
            }
            other => Self::new(StatusCode::CONFLICT, other.to_string()),
        }
    }
}

/// `POST /reload`.
pub(super) async fn reload(
    State(admin): State<Arc<AdminState>>,
    Checked(NoParameters {}): Checked<NoParameters>,
) -> Result<Json<Reloaded>, Problem> {
    let reloaded = tokio::task::spawn_blocking(move || admin.control.reload()).await;
    let reloaded = reloaded.map_err(|error| {
        tracing::error!(%error, "a reload did not come to its end");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the reload failed: see the log")
    })?;
    Ok(Json(reloaded?))
}

/// What `POST /drain` may carry.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainRequest {
    timeout: Option<config::Duration>,
}

/// `POST /drain`.
pub(super) async fn drain(
    State(admin): State<Arc<AdminState>>,
    Checked(NoParameters {}): Checked<NoParameters>,
    body: Bytes,
) -> Result<(StatusCode, Json<Draining>), Problem> {
    let request: DrainRequest = if body.trim_ascii().is_empty() {
        DrainRequest::default()
    } else {
        serde_json::from_slice(&body).map_err(|error| {
            let detail = format!("send nothing, or {{\"timeout\": \"5m\"}}: {error}");
            Problem::new(StatusCode::BAD_REQUEST, detail)
        })?
    };
    let draining = admin.control.drain(request.timeout.map(config::Duration::get));
    Ok((StatusCode::ACCEPTED, Json(draining)))
}

/// Why another process did not take over: this one goes on as before.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// It goes down, or another process has taken over.
    #[error("this process is shutting down, or another one has taken over")]
    Draining,
    /// One request is under way, and one more waits.
    #[error("an upgrade is under way")]
    Busy,
    /// A container ends with its first process.
    #[error(
        "this is process 1, and everything else would end with it: start a new container or pod, and let this one drain"
    )]
    FirstProcess,
    /// The program cannot be started.
    #[error("the new process cannot be started: {0}")]
    Start(std::io::Error),
    /// The channel to it failed.
    #[error("the new process cannot be talked to: {0}")]
    Io(std::io::Error),
    /// It ended without a word.
    #[error("the new process ended before it was ready{}: its own output says more", status(.0.as_ref()))]
    Ended(Option<std::process::ExitStatus>),
    /// It said why it ends.
    #[error("the new process gave up: {0}")]
    Refused(String),
    /// It says what only another version understands.
    #[error("the new process is another version, which takes over differently: restart instead")]
    Stranger,
    /// It did not become ready.
    #[error("the new process was not ready after {} s, and has been ended", .0.as_secs())]
    TooLate(Duration),
}

/// What an upgrade did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Upgraded {
    /// The process that has taken over.
    pub pid: u32,
}

fn status(status: Option<&std::process::ExitStatus>) -> String {
    status.map(|status| format!(" ({status})")).unwrap_or_default()
}

impl From<UpgradeError> for Problem {
    fn from(error: UpgradeError) -> Self {
        let status = match error {
            UpgradeError::Draining | UpgradeError::Busy | UpgradeError::FirstProcess => {
                StatusCode::CONFLICT
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, format!("{error}; this process goes on as before"))
    }
}

/// `POST /upgrade`.
pub(super) async fn upgrade(
    State(admin): State<Arc<AdminState>>,
    Checked(NoParameters {}): Checked<NoParameters>,
) -> Result<Json<Upgraded>, Problem> {
    Ok(Json(admin.control.upgrade().await?))
}
