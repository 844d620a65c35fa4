//! The address under which the client reached this node, for the links in answers.
//!
//! Host and X-Forwarded-Proto are the client's (or its proxy's) word and go only into what that client gets back;
//! anything that is not a plain authority gives relative links.

use axum::http::{HeaderMap, header};

/// `http://host:port`, or empty.
pub fn of(headers: &HeaderMap) -> String {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(host) = text(header::HOST.as_str()).filter(|host| is_authority(host)) else { return String::new() };
    let scheme = text("x-forwarded-proto").filter(|scheme| *scheme == "https").unwrap_or("http");
    format!("{scheme}://{host}")
}

fn is_authority(host: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte);
    !host.is_empty() && host.len() <= 255 && host.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_authorities_stand_in_links() {
        let table = [
            ("127.0.0.1:8080", "", "http://127.0.0.1:8080"),
            ("[::1]:80", "", "http://[::1]:80"),
            ("pacs.example", "https", "https://pacs.example"),
            ("pacs.example", "javascript", "http://pacs.example"),
            ("evil\"onload=", "", ""),
            ("a/b", "", ""),
            ("", "", ""),
        ];
        for (host, proto, expected) in table {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().expect("a header value"));
            headers.insert("x-forwarded-proto", proto.parse().expect("a header value"));
            assert_eq!(of(&headers), expected, "{host}");
        }
    }
}
