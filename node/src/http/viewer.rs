//! The OHIF viewer's prebuilt files, served under this origin's root, where its scripts expect to be.
//!
//! The files are listed once, when the node starts, and only what is in the list is ever opened: no path of a request reaches
//! the file system. The viewer's configuration is generated, its service worker emptied (it would load code
//! from a public network), and a policy keeps it from asking any other host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

/// Files of a viewer; OHIF has about 200.
const FILES_MAX: usize = 20_000;
/// Folders below the viewer's.
const DEPTH_MAX: usize = 8;
/// Bytes of one file; OHIF's largest has some 7 MB.
const FILE_BYTES_MAX: u64 = 128 << 20;

/// What the viewer's own code needs, and no other host. `unsafe-eval`: its libraries compile shaders and WebAssembly.
const POLICY: &str = "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval' blob:; \
    worker-src 'self' blob:; connect-src 'self' blob: data:; img-src 'self' blob: data:; media-src 'self' blob:; \
    style-src 'self' 'unsafe-inline'; font-src 'self' data:; object-src 'none'; base-uri 'self'; \
    form-action 'self'; frame-ancestors 'none'";

/// Shared memory for the decoders needs both (cross-origin isolation).
const ISOLATION: [(HeaderName, &str); 3] = [
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-embedder-policy"), "require-corp"),
    (header::CONTENT_SECURITY_POLICY, POLICY),
];

const MISSING: &str = include_str!("viewer_missing.html");

/// The files by the path under which they are asked for.
pub struct Viewer {
    files: BTreeMap<String, PathBuf>,
    configuration: String,
}

impl Viewer {
    /// Lists the viewer's files; a folder that is not there or has no `index.html` is a viewer that is not installed.
    pub fn open(folder: Option<&Path>, title: &str) -> Arc<Self> {
        let mut files = BTreeMap::new();
        if let Some(folder) = folder {
            list(folder, "", 0, &mut files);
            if !files.contains_key("/index.html") {
                tracing::warn!(folder = %folder.display(), "no OHIF viewer there: the node serves everything but the viewer");
                files.clear();
            }
        }
        Arc::new(Self { files, configuration: configuration(title) })
    }

    pub fn routes(self: Arc<Self>) -> axum::Router {
        axum::Router::new().fallback(file).with_state(self)
    }

    async fn answer(&self, path: &str) -> Response {
        match path {
            "/app-config.js" => return script(self.configuration.clone()),
            "/sw.js" | "/init-service-worker.js" => {
                return script("// Emptied: the viewer is served by this node alone.\n".into());
            }
            _ if self.files.is_empty() => return missing(),
            _ => {}
        }
        // Paths without a dot are the viewer's own (its router reads them); a missing file stays missing.
        let is_file = path.rsplit('/').next().is_some_and(|name| name.contains('.'));
        let found = self
            .files
            .get_key_value(path)
            .or_else(|| if is_file { None } else { self.files.get_key_value("/index.html") });
        let Some((name, file)) = found else { return (StatusCode::NOT_FOUND, "no such file\n").into_response() };
        match read(file).await {
            Ok(bytes) => {
                let headers = [(header::CONTENT_TYPE, media_type(name)), (header::CACHE_CONTROL, caching(name))];
                (headers, bytes).into_response()
            }
            Err(error) => {
                tracing::error!(%error, name, "a file of the viewer can't be read");
                (StatusCode::INTERNAL_SERVER_ERROR, "a file of the viewer can't be read; the node's log says why\n")
                    .into_response()
            }
        }
    }
}

async fn file(State(viewer): State<Arc<Viewer>>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if method != Method::GET && method != Method::HEAD {
        return (StatusCode::METHOD_NOT_ALLOWED, "files are only read here\n").into_response();
    }
    // A program that asks for data must not get a page instead.
    let wants_data =
        headers.get(header::ACCEPT).is_some_and(|accept| accept.as_bytes().starts_with(b"application/dicom"));
    if wants_data {
        return (StatusCode::NOT_FOUND, "DICOMweb is under /dicom-web\n").into_response();
    }
    let mut response = viewer.answer(uri.path()).await;
    for (name, value) in ISOLATION {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Lists files, not following links.
fn list(folder: &Path, prefix: &str, depth: usize, files: &mut BTreeMap<String, PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let (Ok(kind), Ok(name)) = (entry.file_type(), entry.file_name().into_string()) else { continue };
        let path = format!("{prefix}/{name}");
        if kind.is_dir() && depth < DEPTH_MAX {
            list(&entry.path(), &path, depth + 1, files);
        } else if kind.is_file() && files.len() < FILES_MAX {
            files.insert(path, entry.path());
        }
    }
}

async fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    let bytes = tokio::fs::metadata(file).await?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("{bytes} bytes are too many for a file of the viewer")));
    }
    tokio::fs::read(file).await
}

fn script(text: String) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/javascript; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
    (headers, text).into_response()
}

fn missing() -> Response {
    let headers = [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
    (StatusCode::NOT_FOUND, headers, MISSING).into_response()
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "wasm" => "application/wasm",
        "woff2" => "font/woff2",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// Names with a hash never change their content.
fn caching(name: &str) -> &'static str {
    let hashed = |part: &str| part.len() >= 16 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    if name.split(['/', '.']).any(hashed) { "public, max-age=31536000, immutable" } else { "no-cache" }
}

/// The viewer's settings, under this title.
fn configuration(title: &str) -> String {
    // Inside a script element as well as in a file of its own the title stays a title.
    let title = serde_json::Value::from(title).to_string().replace('<', "\\u003c");
    include_str!("viewer_config.js").replace("'{{title}}'", &title)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hashed_names_are_kept_by_browsers() {
        let table = [
            ("/app.bundle.096daabbdde29bd851ab.js", true),
            ("/17dd54813d5acc10bf8f.wasm", true),
            ("/app-config.js", false),
            ("/index.html", false),
            ("/assets/favicon.ico", false),
        ];
        for (name, kept) in table {
            assert_eq!(caching(name).contains("immutable"), kept, "{name}");
        }
    }

    #[test]
    fn a_title_stays_a_title() {
        let text = configuration("a'</script>\"\\ 县医院");
        assert!(text.contains(r#"friendlyName: "a'\u003c/script>\"\\ 县医院","#), "{text}");
    }

    #[tokio::test]
    async fn only_listed_files_are_served() {
        let folder = tempfile::tempdir().expect("a folder");
        let inside = folder.path().join("dist");
        std::fs::create_dir(&inside).expect("a folder");
        std::fs::write(folder.path().join("secret.js"), "secret").expect("a file");
        std::fs::write(inside.join("index.html"), "<p>viewer").expect("a file");
        std::fs::write(inside.join("a.js"), "1").expect("a file");
        std::os::unix::fs::symlink(folder.path().join("secret.js"), inside.join("link.js")).expect("a link");
        let viewer = Viewer::open(Some(&inside), "T");
        let table = [
            ("/a.js", 200, "1"),
            ("/viewer", 200, "<p>viewer"),
            ("/deep/path", 200, "<p>viewer"),
            ("/link.js", 404, "no such file\n"),
            ("/../secret.js", 404, "no such file\n"),
            ("/%2e%2e/secret.js", 404, "no such file\n"),
            ("/sw.js", 200, "// Emptied: the viewer is served by this node alone.\n"),
        ];
        for (path, status, body) in table {
            let response = viewer.answer(path).await;
            assert_eq!(response.status(), status, "{path}");
            let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("a body");
            assert_eq!(String::from_utf8_lossy(&bytes), body, "{path}");
        }
        let none = Viewer::open(None, "T").answer("/viewer").await;
        assert_eq!(none.status(), StatusCode::NOT_FOUND);
    }
}
