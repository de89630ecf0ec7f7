//! The admin API's bearer token.

use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use std::{fmt::Write as _, sync::Arc};
use subtle::ConstantTimeEq as _;

use super::{AdminState, Problem, client::Client};
use crate::config::{Live, Secret};

/// What `Authorization: Bearer` must carry.
pub struct BearerToken(Live<Secret>);

impl BearerToken {
    /// A token that an operator chose.
    pub fn new(token: Secret) -> Self {
        Self(Live::new(token))
    }

    /// A fresh token of 256 random bits in hexadecimal.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Secret, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        let text = bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        });
        Ok(Secret::new(text))
    }

    /// Admits `token` from here on, and no other.
    pub fn replace(&self, token: Secret) {
        self.0.replace(token);
    }

    /// Whether it is `token` that it admits.
    pub fn is(&self, token: &Secret) -> bool {
        self.0.get().expose().as_bytes().ct_eq(token.expose().as_bytes()).into()
    }

    fn admits(&self, request: &Request) -> bool {
        let sent = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        let sent = sent.and_then(|value| value.split_at_checked(7));
        sent.is_some_and(|(scheme, token)| {
            scheme.eq_ignore_ascii_case(b"bearer ")
                && bool::from(token.ct_eq(self.0.get().expose().as_bytes()))
        })
    }
}

/// Lets requests pass that carry the token; who has sent it once does not give way to others.
pub(super) async fn require(
    State(admin): State<Arc<AdminState>>,
    request: Request,
    next: Next,
) -> Response {
    if admin.token.admits(&request) {
        if let Some(client) = request.extensions().get::<Client>() {
            client.shows_token();
        }
        return next.run(request).await;
    }
    let detail = "send the admin token as 'Authorization: Bearer …': it is admin.token or \
                  admin.token_file in the configuration, or was printed to stderr at start";
    let mut response = Problem::new(StatusCode::UNAUTHORIZED, detail).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}
