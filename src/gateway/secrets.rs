//! The admin token as the configuration asks for it: from itself, from a file, or drawn.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    config::{Config, Secret},
    http::BearerToken,
};

/// As `config` demands of a token that is set there.
const MIN_TOKEN: usize = 16;

/// The same of a cluster's secret, in characters.
const MIN_SECRET: usize = 32;

/// Why there is no admin token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The token's file.
    #[error("cannot read the admin token file {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The token's file holds no token to speak of.
    #[error("the admin token file {path} holds fewer than {min} characters", min = MIN_TOKEN)]
    Short {
        /// The file.
        path: PathBuf,
    },
    /// The system gave no random bytes.
    #[error("cannot draw random bytes for an admin token: {0}")]
    Random(getrandom::Error),
}

/// The admin token that `config` asks for, its file looked for in `dir`; `None` when each start
/// makes its own.
///
/// # Errors
/// When the file cannot be read, or holds no token to speak of.
pub fn read_token(config: &Config, dir: &Path) -> Result<Option<Secret>, TokenError> {
    let admin = &config.admin;
    if !admin.token.is_empty() {
        return Ok(Some(admin.token.clone()));
    }
    if admin.token_file.as_os_str().is_empty() {
        return Ok(None);
    }
    let path = dir.join(&admin.token_file);
    match fs::read_to_string(&path) {
        Ok(text) if text.trim().len() < MIN_TOKEN => Err(TokenError::Short { path }),
        Ok(text) => Ok(Some(Secret::new(text.trim()))),
        Err(source) => Err(TokenError::File { path, source }),
    }
}

/// Why there is no secret of the cluster.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The secret's file.
    #[error("cannot read the cluster's secret file {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The secret's file holds none to speak of.
    #[error(
        "the cluster's secret file {path} holds fewer than {min} characters: `openssl rand -base64 32` makes one that will do",
        min = MIN_SECRET
    )]
    Short {
        /// The file.
        path: PathBuf,
    },
}

/// What all nodes of the cluster know, its file looked for in `dir`.
///
/// # Errors
/// When the file cannot be read, or holds no secret to speak of.
pub fn read_cluster_secret(config: &Config, dir: &Path) -> Result<Secret, SecretError> {
    let cluster = &config.cluster;
    if cluster.secret_file.as_os_str().is_empty() {
        return Ok(cluster.secret.clone());
    }
    let path = dir.join(&cluster.secret_file);
    match fs::read_to_string(&path) {
        Ok(text) if text.trim().chars().count() < MIN_SECRET => Err(SecretError::Short { path }),
        Ok(text) => Ok(Secret::new(text.trim())),
        Err(source) => Err(SecretError::File { path, source }),
    }
}

/// Tells the operator a token that was drawn. On standard error and nowhere else: logs are kept,
/// and shipped.
pub fn tell_token(token: &Secret) {
    eprintln!(
        "admin token for this run: {} (set admin.token or admin.token_file to keep one)",
        token.expose()
    );
}

/// The token that is configured, or one that is drawn: that comes once more, to be told.
pub(super) fn admin_token(
    config: &Config,
    dir: &Path,
) -> Result<(Arc<BearerToken>, Option<Secret>), TokenError> {
    let (token, drawn) = match read_token(config, dir)? {
        Some(token) => (token, None),
        None => draw_token().map(|token| (token.clone(), Some(token)))?,
    };
    Ok((Arc::new(BearerToken::new(token)), drawn))
}

/// A token that nobody chose.
pub(super) fn draw_token() -> Result<Secret, TokenError> {
    BearerToken::generate().map_err(TokenError::Random)
}
