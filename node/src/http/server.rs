//! The connections of browsers and scripts: how many there are at once, and how long each may take to say what it wants
//! and to take what it gets.
//!
//! Bounds: [`Limits::connections_max`] connections, half of them from one address (behind a proxy all have one); a
//! request's head within [`Limits::request_patience`], which is also how long a connection may idle, and its body, which
//! is small, within the same again. A client that takes nothing of what was sent for [`Limits::answer_patience`], or that
//! has vanished, is cut off by the kernel. Beyond the bounds a connection is closed; the node goes on.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};

use crate::connections::{ACCEPT_PAUSE, Place, Places, TurnedAway};

/// Bytes of a request's body: a form.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Bytes of a request's head; hyper's own bound is some 400 KiB.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Bytes that the kernel takes of an answer before it has sent what it took earlier.
const UNSENT_BYTES: u32 = 256 << 10;

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub connections_max: usize,
    pub request_patience: Duration,
    pub answer_patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 512,
            request_patience: Duration::from_secs(20),
            answer_patience: Duration::from_secs(60),
        }
    }
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, routes: Router, limits: Limits) {
    let places = Places::new(limits.connections_max, limits.connections_max.div_ceil(2));
    let turned_away = TurnedAway::from("HTTP");
    let routes = routes.layer(from_fn_with_state(limits, whole_request));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "an HTTP connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match places.take(peer.ip()) {
            Ok(place) => drop(tokio::spawn(answer(stream, peer, routes.clone(), limits, place))),
            Err(full) => turned_away.tell(peer, &full),
        }
    }
}

async fn answer(stream: TcpStream, peer: SocketAddr, routes: Router, limits: Limits, _place: Place) {
    if let Err(error) = cut_off_after(&stream, limits.answer_patience) {
        tracing::debug!(%peer, %error, "an HTTP connection without a timeout of its own");
    }
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request_patience)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .await;
    // A client that leaves in the midst, or whose time is over.
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "an HTTP connection ended");
    }
}

/// Of what was sent nothing was acknowledged for so long (RFC 5482), or the other machine no longer answers. What the
/// client has not taken waits here and not in the kernel, which would hide for minutes that a slow one is taking it.
fn cut_off_after(stream: &TcpStream, patience: Duration) -> std::io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(patience))?;
    socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(patience).with_interval(patience))?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)
}

/// Takes the whole body before anything is done for the request.
async fn whole_request(
    axum::extract::State(limits): axum::extract::State<Limits>,
    request: Request,
    next: Next,
) -> Response {
    let (head, body) = request.into_parts();
    match tokio::time::timeout(limits.request_patience, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(head, Body::from(body))).await,
        Ok(Err(_)) => {
            (StatusCode::PAYLOAD_TOO_LARGE, "a request has 64 KiB at most; this one has more, or broke off\n")
                .into_response()
        }
        Err(_) => (StatusCode::REQUEST_TIMEOUT, "the request did not come whole in time\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);
    const LITTLE: Duration = Duration::from_millis(300);
    const LARGE: usize = 64 << 20;

    /// A server with two places for this machine.
    async fn server(request_patience: Duration, answer_patience: Duration) -> SocketAddr {
        let routes = Router::new()
            .route("/small", get(|| async { "here" }))
            .route("/large", get(|| async { vec![0_u8; LARGE] }))
            .route("/form", post(|body: String| async { body }));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(serve(listener, routes, Limits { connections_max: 4, request_patience, answer_patience }));
        address
    }

    async fn sends(address: SocketAddr, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(text.as_bytes()).await.expect("sent");
        stream
    }

    /// What comes until the server closes; one that closes with unread bytes resets the connection.
    async fn hears(mut stream: TcpStream) -> String {
        let mut heard = Vec::new();
        let closed = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut heard)).await.expect("it is closed");
        drop(closed);
        String::from_utf8_lossy(&heard).into_owned()
    }

    async fn asks(address: SocketAddr) -> String {
        hears(sends(address, "GET /small HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n").await).await
    }

    async fn is_answered_again(address: SocketAddr) {
        let answered = async {
            while !asks(address).await.ends_with("here") {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(DEADLINE, answered).await.expect("a place is free again");
    }

    #[tokio::test]
    async fn who_does_not_say_what_it_wants_loses_its_place() {
        let address = server(LITTLE, DEADLINE).await;
        let _half = [sends(address, "GET /small HTTP/1.1\r\nHost:").await, sends(address, "").await];
        assert_eq!(asks(address).await, "", "both places are taken");
        is_answered_again(address).await;
    }

    #[tokio::test]
    async fn a_body_that_trickles_or_is_too_large_is_refused() {
        let head = "POST /form HTTP/1.1\r\nHost: it\r\nConnection: close\r\nContent-Length: ";
        let patient = server(DEADLINE, DEADLINE).await;
        let (whole, large) = (format!("{head}4\r\n\r\nform"), format!("{head}65537\r\n\r\n{}", "0".repeat(65_537)));
        assert!(hears(sends(patient, &whole).await).await.ends_with("form"));
        let refused = hears(sends(patient, &large).await).await;
        assert!(refused.starts_with("HTTP/1.1 413"), "{refused}");
        let hasty = server(LITTLE, DEADLINE).await;
        let refused = hears(sends(hasty, &format!("{head}4\r\n\r\nf")).await).await;
        assert!(refused.starts_with("HTTP/1.1 408"), "{refused}");
    }

    #[tokio::test]
    async fn who_takes_nothing_of_its_answer_loses_its_place() {
        let address = server(DEADLINE, LITTLE).await;
        let large = "GET /large HTTP/1.1\r\nHost: it\r\n\r\n";
        let _idle = [sends(address, large).await, sends(address, large).await];
        is_answered_again(address).await;
    }
}
