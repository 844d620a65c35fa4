//! What every answer carries, and what no other origin may cause: a page elsewhere on the network must not make a
//! clinician's browser fetch a study or read one.
//!
//! - The Host header must name this node: a foreign name that was made to point here (DNS rebinding) is turned away.
//! - Browsers say on whose behalf they ask (Fetch Metadata); where they don't, since the line is neither TLS nor
//!   loopback, a browser's request must come from a page of ours, by its Origin or Referer.
//! - What is no browser (a PACS, a script) is not asked for either.
//!
//! Not here: who the user is; this node's pages are for its own house, and sign-in stands before them.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::config::HttpConfig;

const COMMON: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "same-origin"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// The names under which this node may be opened, whatever the port (some clients leave it out); empty: any, where
/// nothing listens.
#[derive(Clone, Debug, Default)]
pub struct Hosts(Arc<[String]>);

impl Hosts {
    pub fn of(config: &HttpConfig) -> Self {
        let Some(listen) = config.listen else { return Self::default() };
        let mut hosts: Vec<String> = config.hosts.iter().map(|host| without_port(host).to_owned()).collect();
        hosts.push(without_port(&listen.to_string()).to_owned());
        if listen.ip().is_loopback() || listen.ip().is_unspecified() {
            hosts.extend(["localhost", "127.0.0.1", "[::1]"].map(str::to_owned));
        }
        Self(hosts.into())
    }

    fn know(&self, host: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|known| known.eq_ignore_ascii_case(without_port(host)))
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

pub async fn same_origin(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let refused = if is_misdirected(&hosts, &request) {
        let text = "this node is not known under that name; add it to [http] hosts in its configuration\n";
        Some((StatusCode::MISDIRECTED_REQUEST, text))
    } else if is_foreign(&request) {
        Some((StatusCode::FORBIDDEN, "this address answers only pages of its own; open it in the browser directly\n"))
    } else {
        None
    };
    let mut response = match refused {
        Some(refused) => refused.into_response(),
        None => next.run(request).await,
    };
    for (name, value) in COMMON {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    // What is not marked as cacheable concerns a patient.
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn text<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.headers().get(name).and_then(|value| value.to_str().ok())
}

fn is_misdirected(hosts: &Hosts, request: &Request) -> bool {
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let host = authority.or_else(|| text(request, header::HOST.as_str()));
    host.is_some_and(|host| !hosts.know(host))
}

/// Sent on behalf of another origin's page, and more than the opening of one of our pages.
fn is_foreign(request: &Request) -> bool {
    let is_page = request.method() == Method::GET && !request.uri().path().starts_with("/dicom-web");
    match text(request, "sec-fetch-site") {
        Some("cross-site" | "same-site") => !(is_page && text(request, "sec-fetch-mode") == Some("navigate")),
        Some(_) => false,
        // A patient's page costs a lookup, so the bare browser opens only pages without a question.
        None => is_browser(request) && !is_from_our_page(request) && !(is_page && request.uri().query().is_none()),
    }
}

/// All browsers of the last decades call themselves so.
fn is_browser(request: &Request) -> bool {
    text(request, header::USER_AGENT.as_str()).is_some_and(|agent| agent.starts_with("Mozilla/"))
}

fn is_from_our_page(request: &Request) -> bool {
    let from = text(request, header::ORIGIN.as_str()).or_else(|| text(request, header::REFERER.as_str()));
    let from = from.and_then(|url| url.split_once("://")).map(|(_, rest)| rest.split('/').next().unwrap_or(rest));
    from.is_some() && from == text(request, header::HOST.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(listen: &str, also: &[&str]) -> Hosts {
        let hosts = also.iter().map(|host| (*host).to_owned()).collect();
        Hosts::of(&HttpConfig { listen: Some(listen.parse().expect("an address")), hosts, ..HttpConfig::default() })
    }

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request {
        let request = headers.iter().fold(Request::get(uri), |request, (name, value)| request.header(*name, *value));
        request.body(axum::body::Body::empty()).expect("a request")
    }

    #[test]
    fn only_names_of_this_node_are_answered() {
        let local = hosts("127.0.0.1:8042", &[]);
        let open = hosts("10.1.2.3:80", &["pacs.hospital.example", "pacs.hospital.example:443"]);
        let cases = [
            (&local, "127.0.0.1:8042", true),
            (&local, "localhost:8042", true),
            (&local, "LocalHost:8042", true),
            (&local, "evil.example:8042", false),
            (&local, "127.0.0.1", true),
            (&local, "[::1]:8042", true),
            (&local, "[::2]", false),
            (&open, "10.1.2.3", true),
            (&open, "pacs.hospital.example", true),
            (&open, "evil.example", false),
        ];
        for (hosts, host, known) in cases {
            assert_eq!(is_misdirected(hosts, &request("/", &[("host", host)])), !known, "{host}");
        }
        assert!(is_misdirected(&local, &request("http://evil.example:8042/", &[("host", "127.0.0.1:8042")])));
    }

    #[test]
    fn a_browser_that_does_not_say_on_whose_behalf_it_asks_must_come_from_our_page() {
        let (browser, host) = (("user-agent", "Mozilla/5.0 (X11)"), ("host", "10.1.2.3"));
        let (ours, theirs) = (("referer", "http://10.1.2.3/?id=x"), ("referer", "http://evil.example/10.1.2.3"));
        let cases = [
            ("/", vec![browser], false),
            ("/?id=resident:1", vec![browser], true),
            ("/?id=resident:1", vec![browser, theirs], true),
            ("/?id=resident:1", vec![browser, ours], false),
            ("/dicom-web/studies", vec![browser], true),
            ("/dicom-web/studies", vec![browser, ours], false),
            ("/dicom-web/studies", vec![browser, ("origin", "null"), ours], true),
            ("/dicom-web/studies", vec![("user-agent", "curl/8")], false),
            ("/dicom-web/studies", vec![browser, ("sec-fetch-site", "same-origin")], false),
        ];
        for (uri, mut headers, foreign) in cases {
            headers.push(host);
            assert_eq!(is_foreign(&request(uri, &headers)), foreign, "{uri} {headers:?}");
        }
    }
}
