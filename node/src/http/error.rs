//! What went wrong with a request, as a status and a plain sentence that says what to do. This is the one table from
//! outcome to HTTP status (PS3.18 section 8.5).
//!
//! The text of an internal failure goes to the log, not to the client: it may name files.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tessera_federation::retrieve::wire::v1::RefusalCode;

use tessera_storage::pixels::StoreError;

use super::HolderRefused;
use crate::archive::ArchiveError;
use crate::archive::catalogue::CatalogueError;

/// When a transfer is likely to have ended.
const BUSY_SECONDS: u32 = 5;

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    NotAcceptable(String),
    /// Something else here has the same name.
    #[error("{0}")]
    Conflict(String),
    /// This node may not show it; the reasons are in the text.
    #[error("{0}")]
    Refused(String),
    /// The holder of a study decided against it.
    #[error("{0}")]
    HolderRefused(HolderRefused),
    /// Another site, or the way to it, failed.
    #[error("{0}")]
    Elsewhere(String),
    /// The object's own bytes can't be given in this form.
    #[error("{0}")]
    Unprocessable(String),
    /// Nobody reads this.
    #[error("the client left")]
    ClientLeft,
    /// The object's bytes on this node's disk are damaged.
    #[error(
        "the object can't be shown: its bytes on this node's disk are damaged ({0}). Have it sent again by its device or \
         PACS, or ask the node's operator, whom `tessera status` tells what is damaged"
    )]
    Damaged(String),
    #[error("too many transfers are running; try again in a few seconds")]
    Busy,
    #[error("the archive could not be read; the node's log says why")]
    Internal(String),
}

impl HttpError {
    /// Only a decision is a *forbidden*: who can't decide now has forbidden nothing.
    fn of_refusal(refused: &HolderRefused) -> StatusCode {
        match refused.code {
            code if code.passes_in_s().is_some() => StatusCode::SERVICE_UNAVAILABLE,
            RefusalCode::DENIED | RefusalCode::NOT_A_MEMBER => StatusCode::FORBIDDEN,
            RefusalCode::NOT_HERE => StatusCode::NOT_FOUND,
            _ => StatusCode::BAD_GATEWAY,
        }
    }

    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::NotAcceptable(_) => StatusCode::NOT_ACCEPTABLE,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::Refused(_) => StatusCode::FORBIDDEN,
            Self::HolderRefused(refused) => Self::of_refusal(refused),
            Self::Elsewhere(_) => StatusCode::BAD_GATEWAY,
            Self::Unprocessable(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::ClientLeft => StatusCode::REQUEST_TIMEOUT,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) | Self::Damaged(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<ArchiveError> for HttpError {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Store(error) => error.into(),
            other => Self::Internal(other.to_string()),
        }
    }
}

impl From<CatalogueError> for HttpError {
    fn from(error: CatalogueError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<StoreError> for HttpError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Damaged { damage } => Self::Damaged(damage.to_string()),
            other => Self::Internal(other.to_string()),
        }
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        if let Self::Internal(cause) | Self::Damaged(cause) = &self {
            tracing::error!(cause, "a web request failed");
        }
        let mut response = (self.status(), format!("{self}\n")).into_response();
        let again = match self {
            Self::Busy => Some(BUSY_SECONDS),
            Self::HolderRefused(refused) => refused.code.passes_in_s(),
            _ => None,
        };
        if let Some(seconds) = again {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
