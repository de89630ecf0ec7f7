//! One question to many nodes: asked at once, within one deadline, and each answer of bounded size.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{self, Method, StatusCode, Uri, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use tower::ServiceExt as _;

use super::{Header, Missing, View, name, nodes};
use crate::{
    http::{NodeAnswer, NodeStatus, Problem, admin::MAX_BODY, between},
    relay::entrance::Arrival,
};

/// How long other nodes are waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The same for what may take its time: a reload, and a new process' start.
pub(super) const LONG: Duration = Duration::from_secs(60);

/// How many nodes are asked at once.
const AT_ONCE: usize = 64;

/// What is asked, without the words that are for who asks others.
pub(super) struct Question {
    method: Method,
    path: String,
    /// Without `scope` and `node`, and as it was said.
    query: Vec<String>,
    body: Bytes,
    content_type: Header,
    /// Who asks.
    operator: SocketAddr,
}

/// What a node answered.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) content_type: Header,
    pub(super) allow: Header,
    pub(super) body: Bytes,
}

/// RFC 9457, as far as it is of use here.
#[derive(Deserialize)]
struct ProblemDocument {
    detail: String,
}

impl Question {
    pub(super) async fn of(request: Request) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, MAX_BODY).await.map_err(|error| {
            let detail = format!("the body cannot be read, or is too large: {error}");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
        })?;
        let words = parts.uri.query().unwrap_or_default().split('&');
        let words = words.filter(|word| !word.is_empty() && !is_named(word, &["scope", "node"]));
        let operator = parts.extensions.get::<Arrival>().map(|arrival| arrival.peer);
        Ok(Self {
            query: words.map(ToOwned::to_owned).collect(),
            method: parts.method,
            path: parts.uri.path().to_owned(),
            body,
            content_type: parts.headers.get(header::CONTENT_TYPE).cloned(),
            // Both doors say who it is.
            operator: operator.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0))),
        })
    }

    /// Whether the answer may take its time.
    pub(super) fn is_long(&self) -> bool {
        ["/reload", "/upgrade"].iter().any(|end| self.path.ends_with(end))
    }

    /// As it is asked of one node.
    pub(super) fn request(&self) -> http::Request<Bytes> {
        self.with_query(&self.query)
    }

    /// The same for one page of a list.
    pub(super) fn page(&self, limit: usize, offset: usize) -> http::Request<Bytes> {
        let words = self.query.iter().filter(|word| !is_named(word, &["limit", "offset"]));
        let mut words: Vec<_> = words.cloned().collect();
        words.extend([format!("limit={limit}"), format!("offset={offset}")]);
        self.with_query(&words)
    }

    fn with_query(&self, words: &[String]) -> http::Request<Bytes> {
        let query = if words.is_empty() { String::new() } else { format!("?{}", words.join("&")) };
        let uri = format!("{}{query}", self.path).parse::<Uri>();
        let mut request = http::Request::new(self.body.clone());
        *request.method_mut() = self.method.clone();
        // It is made of parts of one.
        *request.uri_mut() = uri.unwrap_or_default();
        if let Some(content_type) = &self.content_type {
            request.headers_mut().insert(header::CONTENT_TYPE, content_type.clone());
        }
        between::introduce(&mut request, self.operator);
        request
    }
}

fn is_named(word: &str, names: &[&str]) -> bool {
    names.contains(&word.split('=').next().unwrap_or_default())
}

impl Reply {
    /// What `here` answers.
    pub(super) async fn of_here(
        here: &Router,
        request: http::Request<Bytes>,
    ) -> Result<Self, String> {
        let mut request = request.map(Body::from);
        between::arrives(&mut request, None);
        let Ok(response) = here.clone().oneshot(request).await;
        Self::of(response).await
    }

    async fn of(response: Response) -> Result<Self, String> {
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, between::MAX_ANSWER).await;
        let body = body.map_err(|error| format!("its answer is too large: {error}"))?;
        Ok(Self::from(NodeAnswer { status: parts.status, headers: parts.headers, body }))
    }

    /// What is said in it, if all went well; else why it did not.
    pub(super) fn read<T: for<'a> Deserialize<'a>>(&self) -> Result<T, String> {
        if !self.status.is_success() {
            return Err(self.fault());
        }
        serde_json::from_slice(&self.body)
            .map_err(|_| "it answers something else, as another version may".to_owned())
    }

    /// What is wrong, in its own words.
    pub(super) fn fault(&self) -> String {
        let problem = serde_json::from_slice::<ProblemDocument>(&self.body);
        let detail = problem.map(|problem| problem.detail).unwrap_or_default();
        format!("it answers {}: {detail}", self.status)
    }
}

impl From<NodeAnswer> for Reply {
    fn from(NodeAnswer { status, headers, body }: NodeAnswer) -> Self {
        let header = |name| headers.get(name).cloned();
        let (content_type, allow) = (header(header::CONTENT_TYPE), header(header::ALLOW));
        Self { status, content_type, allow, body }
    }
}

/// A node, and how it is asked.
pub(super) struct Target<'a> {
    view: &'a View,
    status: NodeStatus,
    this: bool,
}

impl Target<'_> {
    pub(super) async fn ask(&self, request: http::Request<Bytes>) -> Result<Reply, String> {
        if self.this {
            return Reply::of_here(&self.view.here, request).await;
        }
        self.view.admin.nodes.ask(&self.status.node, request).await.map(Reply::from)
    }
}

impl View {
    /// Asks every node in its own way, and takes each answer as it comes; who has given none until
    /// the deadline is missing.
    pub(super) async fn each<'a, T, A: Future<Output = Result<T, String>>>(
        &'a self,
        ask: impl Fn(Target<'a>) -> A,
        mut take: impl FnMut(Arc<str>, T),
    ) -> Vec<Missing> {
        let deadline = Instant::now() + PATIENCE;
        let ask = &ask;
        let asked = nodes::all(&self.admin).into_iter().map(|(status, this)| async move {
            let node = name(&status);
            let answer = timeout_at(deadline, ask(Target { view: self, status, this })).await;
            let late = || Err(format!("it has not answered within {} s", PATIENCE.as_secs()));
            (node, answer.unwrap_or_else(|_| late()))
        });
        let mut answers = stream::iter(asked).buffer_unordered(AT_ONCE);
        let mut missing = Vec::new();
        while let Some((node, answer)) = answers.next().await {
            match answer {
                Ok(answer) => take(node, answer),
                Err(why) => missing.push(Missing { node: node.to_string(), why }),
            }
        }
        missing.sort_by(|a, b| a.node.cmp(&b.node));
        missing
    }

    /// The same question to all.
    pub(super) async fn all(
        &self,
        question: &Question,
        take: impl FnMut(Arc<str>, Reply),
    ) -> Vec<Missing> {
        self.each(async |target| target.ask(question.request()).await, take).await
    }
}
