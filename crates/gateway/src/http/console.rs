//! The demo page, embedded in the binary: plain files without a build step. Served with a policy that lets it load and
//! reach nothing but this gateway.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use rust_embed::{EmbeddedFile, RustEmbed};

use super::{input::Name, problem::Problem};

#[derive(RustEmbed)]
#[folder = "assets/console/"]
struct Files;

const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; object-src 'none'; \
    base-uri 'none'; frame-ancestors 'none'; form-action 'self'";

/// `GET /`
pub(crate) fn page() -> Response {
    file("index.html", None)
}

/// `GET /console/{path}`
pub(crate) async fn asset(Name(path): Name, request: Request) -> Response {
    file(&path, request.headers().get(header::IF_NONE_MATCH))
}

fn file(path: &str, known: Option<&HeaderValue>) -> Response {
    let Some(EmbeddedFile { data, metadata }) = Files::get(path) else {
        return Problem::not_found("the page has no such file").into_response();
    };
    let digest = crate::hex::first(16, &metadata.sha256_hash());
    let tag = HeaderValue::try_from(format!("\"{digest}\"")).expect("hex digits are a header value");
    let mut response = if known == Some(&tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Response::new(Body::from(data.into_owned()))
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type(path)));
    headers.insert(header::ETAG, tag);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn media_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}
