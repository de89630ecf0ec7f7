//! Errors as RFC 9457 problem documents.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// An error answer. Its `detail` says what to do about it.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    problems: Vec<String>,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    /// An extension member (RFC 9457, section 3.2): each thing that is wrong, if there may be many.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    problems: &'a [String],
}

impl Problem {
    /// With an HTTP status and what to do about it.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), problems: Vec::new() }
    }

    /// With each thing that is wrong.
    pub fn with_problems(self, problems: Vec<String>) -> Self {
        Self { problems, ..self }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = Document {
            // RFC 9457: the status code says all there is to the type.
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            problems: &self.problems,
        };
        let mut response = (self.status, Json(document)).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

/// The answer to a path that does not exist.
pub(super) async fn not_found(uri: Uri) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        format!("there is nothing at {}; the admin API is under /api/v1", uri.path()),
    )
}

/// The answer to a method that a path does not have.
pub(super) async fn method_not_allowed() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path does not have that method; the Allow header lists those it has",
    )
}
