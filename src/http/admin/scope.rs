//! `scope=cluster` and `node=NAME`: any node answers for all of them, or has another one answer.
//!
//! What is asked of a node by another is asked of the routes below this, which know neither word:
//! so nothing is asked on.

mod ask;
mod exposition;
mod relays;
mod rows;
mod sums;

use std::sync::Arc;

use axum::{
    Router,
    extract::{MatchedPath, Query, Request, State},
    http::{HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};

use self::ask::{LONG, PATIENCE, Question, Reply};
use super::nodes;
use crate::http::{AdminState, NodeStatus, Problem};

/// Who answers for others.
#[derive(Clone)]
pub(super) struct View {
    pub(super) admin: Arc<AdminState>,
    /// What this node answers for itself.
    pub(super) here: Router,
}

/// Whose answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Scope {
    Node,
    Cluster,
}

/// What of the query is looked at here.
#[derive(Debug, Deserialize)]
struct Asked {
    scope: Option<Scope>,
    node: Option<String>,
    sort: Option<String>,
    limit: Option<usize>,
    offset: Option<usize>,
}

/// A node that is not in an answer.
#[derive(Debug, Serialize)]
struct Missing {
    node: String,
    why: String,
}

/// Lets requests pass that are for this node, and answers the others.
pub(super) async fn look(State(view): State<View>, request: Request, next: Next) -> Response {
    let answered = match Asked::of(request.uri()) {
        Ok(None) => return next.run(request).await,
        Ok(Some(asked)) => view.answer(asked, request).await,
        Err(problem) => Err(problem),
    };
    answered.unwrap_or_else(Problem::into_response)
}

impl Asked {
    /// `None` where it is this node's own affair.
    fn of(uri: &Uri) -> Result<Option<Self>, Problem> {
        let ours = |pair: &str| pair.starts_with("scope=") || pair.starts_with("node=");
        if !uri.query().is_some_and(|query| query.split('&').any(ours)) {
            return Ok(None);
        }
        let asked = Query::<Self>::try_from_uri(uri);
        let Query(asked) = asked
            .map_err(|rejection| Problem::new(StatusCode::BAD_REQUEST, rejection.body_text()))?;
        if asked.scope.is_some() && asked.node.is_some() {
            let detail = "scope and node are both given: leave one of them out";
            return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
        }
        Ok(Some(asked))
    }
}

impl View {
    async fn answer(&self, asked: Asked, request: Request) -> Result<Response, Problem> {
        let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
        let method = request.method().clone();
        let question = Question::of(request).await?;
        if let Some(name) = &asked.node {
            return self.of_node(name, &question).await;
        }
        if asked.scope == Some(Scope::Node) {
            return Ok(self.of_this(&question).await?.into_response());
        }
        let method = if method == Method::HEAD { Method::GET } else { method };
        let path = path.unwrap_or_default();
        let path = path.strip_prefix("/api/v1").unwrap_or(&path);
        match (method.as_str(), path) {
            (
                "GET",
                "/relays" | "/carried" | "/waiting" | "/addresses" | "/blocklist" | "/throttlelist",
            ) => self.rows(path, &asked, &question).await,
            ("GET", "/keys") => self.keys(&asked, &question).await,
            ("GET", "/stats") => self.stats(&question).await,
            ("GET", "/bandwidth") => self.bandwidth(&question).await,
            ("GET", "/metrics") => self.metrics(&question).await,
            ("GET", "/nodes") => Ok(self.of_this(&question).await?.into_response()),
            ("GET" | "PATCH", "/relays/{uuid}") => self.relay(&question).await,
            ("DELETE", "/relays/{uuid}" | "/relays") => self.close(&question).await,
            _ => {
                let detail = "scope=cluster is for what is shown, and for relays by their uuid or \
                              key: name the node that is to do this with node=NAME";
                Err(Problem::new(StatusCode::BAD_REQUEST, detail))
            }
        }
    }

    /// What a node of this name answers.
    async fn of_node(&self, name: &str, question: &Question) -> Result<Response, Problem> {
        let all = nodes::all(&self.admin);
        let Some((status, this)) = all.iter().find(|(status, _)| *status.node.name == *name) else {
            let names: Vec<_> = all.iter().map(|(status, _)| &*status.node.name).collect();
            let detail = format!(
                "there is no node of this name: there is {}, see /api/v1/nodes",
                names[..names.len().min(20)].join(", ")
            );
            return Err(Problem::new(StatusCode::NOT_FOUND, detail));
        };
        if *this {
            return Ok(self.of_this(question).await?.into_response());
        }
        let patience = if question.is_long() { LONG } else { PATIENCE };
        let asked = self.admin.nodes.ask(&status.node, question.request());
        let answer = match tokio::time::timeout(patience, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("it has not answered within {} s", patience.as_secs())),
        };
        answer.map(|answer| Reply::from(answer).into_response()).map_err(|why| {
            let detail = format!("the node {} cannot be asked: {why}", status.node.name);
            Problem::new(StatusCode::BAD_GATEWAY, detail)
        })
    }

    /// What this node answers.
    async fn of_this(&self, question: &Question) -> Result<Reply, Problem> {
        Reply::of_here(&self.here, question.request()).await.map_err(|why| {
            tracing::error!(why, "an answer of this node's own was lost");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer was lost: see the log")
        })
    }
}

/// JSON, as it is everywhere here.
fn json(body: &impl Serialize) -> Response {
    axum::Json(body).into_response()
}

impl Reply {
    /// As the node itself gave it.
    fn into_response(self) -> Response {
        let mut response = (self.status, self.body).into_response();
        // Without one it has no body either.
        match self.content_type {
            Some(content_type) => response.headers_mut().insert(header::CONTENT_TYPE, content_type),
            None => response.headers_mut().remove(header::CONTENT_TYPE),
        };
        if let Some(allow) = self.allow {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        response
    }
}

/// Every node's name, for a label and for an answer.
fn name(status: &NodeStatus) -> Arc<str> {
    Arc::clone(&status.node.name)
}

/// What is not said of a header.
type Header = Option<HeaderValue>;
