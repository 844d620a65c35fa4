//! What every answer carries, and what no other origin may cause: a page elsewhere on the network must not make a
//! clinician's browser fetch a study or read one (Fetch Metadata; browsers of the last years all send it).
//! Not here: who the user is; this node's pages are for its own house, and sign-in stands before them.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

const COMMON: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

pub async fn same_origin(request: Request, next: Next) -> Response {
    let mut response = if is_foreign(&request) {
        let text = "this address answers only pages of its own; open it in the browser directly\n";
        (StatusCode::FORBIDDEN, text).into_response()
    } else {
        next.run(request).await
    };
    for (name, value) in COMMON {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    // What is not marked as cacheable concerns a patient.
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Sent on behalf of another origin's page, and more than the opening of one of our pages.
fn is_foreign(request: &Request) -> bool {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let opens_page = header("sec-fetch-mode") == Some("navigate")
        && request.method() == Method::GET
        && !request.uri().path().starts_with("/dicom-web");
    matches!(header("sec-fetch-site"), Some("cross-site" | "same-site")) && !opens_page
}
