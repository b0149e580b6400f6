//! Pages: metrics in their text formats, Summary and machine in JSON.

use axum::Router;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, StatusCode};

use super::Context;
use crate::node::Page;
use crate::pages;

/// The paths of all ports that serve pages.
pub(super) fn routes() -> Router<Context> {
    Router::new()
        .route("/metrics", metrics(Page::Metrics))
        .route("/metrics/slis", metrics(Page::Slis))
        .route("/metrics/cadvisor", metrics(Page::Cadvisor))
        .route("/metrics/resource", metrics(Page::Resource))
        .route("/metrics/probes", metrics(Page::Probes))
        .route("/stats/summary", get(summary).post(summary))
        .route("/spec", get(spec))
        .route("/spec/", get(spec))
}

fn metrics(page: Page) -> axum::routing::MethodRouter<Context> {
    get(
        move |State(context): State<Context>, headers: HeaderMap| async move {
            let permit = match context.pages.take(&headers) {
                Ok(permit) => permit,
                Err(busy) => return busy.into_response(),
            };
            match context.node.page(page).await {
                Ok(source) => pages::metrics(permit, &headers, source),
                Err(error) => error.into_response(),
            }
        },
    )
}

async fn json(context: Context, headers: HeaderMap, page: Page) -> Response {
    let permit = match context.pages.take(&headers) {
        Ok(permit) => permit,
        Err(busy) => return busy.into_response(),
    };
    match context.node.page(page).await {
        Ok(source) => pages::json(permit, source),
        Err(error) => error.into_response(),
    }
}

async fn summary(
    State(context): State<Context>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Response {
    let asked = query.iter().find(|(n, _)| n == "only_cpu_and_memory");
    let only_cpu_and_memory = match asked.map(|(_, v)| v.as_str()) {
        // Go's forms of a boolean.
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
        None | Some("" | "0" | "f" | "F" | "false" | "FALSE" | "False") => false,
        Some(other) => {
            let text = format!("only_cpu_and_memory={other:?} is neither true nor false\n");
            return (StatusCode::BAD_REQUEST, text).into_response();
        }
    };
    let page = Page::Summary {
        only_cpu_and_memory,
    };
    json(context, headers, page).await
}

async fn spec(State(context): State<Context>, headers: HeaderMap) -> Response {
    json(context, headers, Page::Spec).await
}

pub(super) async fn statusz(State(context): State<Context>, headers: HeaderMap) -> Response {
    json(context, headers, Page::Statusz).await
}
