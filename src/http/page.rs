//! Lists in pages: which part of the matches is wanted, and how the answer says so. And what is
//! asked for by query, path and body, whose faults are answered as problems.

use axum::{
    Json,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{StatusCode, request::Parts},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::Problem;

/// How many entries a page has unless asked, and at most.
const DEFAULT_LIMIT: usize = 100;
pub(super) const MAX_LIMIT: usize = 1000;

/// Which page of a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page {
    limit: usize,
    offset: usize,
}

/// One page of a list, and how long the whole is.
#[derive(Debug, Serialize)]
pub(super) struct Paged<T> {
    /// How many match, on all pages.
    total: usize,
    limit: usize,
    offset: usize,
    items: Vec<T>,
}

impl Page {
    /// The page that `limit` and `offset` ask for.
    pub(super) fn new(limit: Option<usize>, offset: Option<usize>) -> Result<Self, Problem> {
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            let detail = format!("limit must be between 1 and {MAX_LIMIT}");
            return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
        }
        Ok(Self { limit, offset: offset.unwrap_or(0) })
    }

    /// How many entries it has at most.
    pub(super) const fn limit(self) -> usize {
        self.limit
    }

    /// How many come before it.
    pub(super) const fn offset(self) -> usize {
        self.offset
    }

    /// How many there are up to its end.
    pub(super) const fn end(self) -> usize {
        self.offset.saturating_add(self.limit)
    }

    /// This page of `all`.
    pub(super) fn of<T>(self, all: Vec<T>) -> Paged<T> {
        let Self { limit, offset } = self;
        let total = all.len();
        let items = all.into_iter().skip(offset).take(limit).collect();
        Paged { total, limit, offset, items }
    }
}

/// A query string whose faults are answered as a [`Problem`].
pub(super) struct Checked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Checked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Query::from_request_parts(parts, state)
            .await
            .map(|Query(query)| Self(query))
            .map_err(|rejection| Problem::new(StatusCode::BAD_REQUEST, rejection.body_text()))
    }
}

/// No query at all: a parameter is refused rather than passed over.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoParameters {}

/// A JSON body whose faults are answered as a [`Problem`].
pub(super) struct Said<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Said<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        Json::from_request(request, state)
            .await
            .map(|Json(said)| Self(said))
            .map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))
    }
}

/// The uuid in the path.
pub(super) struct Named(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Path::from_request_parts(parts, state)
            .await
            .map(|Path(uuid)| Self(uuid))
            .map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))
    }
}

/// The order of a list: a field's name, `-` before it for the largest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order<F> {
    pub(super) field: F,
    pub(super) descending: bool,
}

impl<'de, F: Deserialize<'de>> Deserialize<'de> for Order<F> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::value::{Error as ValueError, StringDeserializer};
        let text = String::deserialize(deserializer)?;
        let (name, descending) = match text.strip_prefix('-') {
            Some(name) => (name, true),
            None => (text.as_str(), false),
        };
        let name: StringDeserializer<ValueError> =
            serde::de::IntoDeserializer::into_deserializer(name.to_owned());
        F::deserialize(name)
            .map(|field| Self { field, descending })
            .map_err(serde::de::Error::custom)
    }
}
