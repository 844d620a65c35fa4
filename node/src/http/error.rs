//! What went wrong with a request, as a status and a plain sentence that says what to do. This is the one table from
//! outcome to HTTP status (PS3.18 section 8.5).
//!
//! The text of an internal failure goes to the log, not to the client: it may name files.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::archive::ArchiveError;
use crate::archive::catalogue::CatalogueError;

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    NotAcceptable(String),
    /// The holder of a study decided against it; the reasons are in the text.
    #[error("{0}")]
    Refused(String),
    /// Another site, or the way to it, failed.
    #[error("{0}")]
    Elsewhere(String),
    /// The object's own bytes can't be given in this form.
    #[error("{0}")]
    Unprocessable(String),
    #[error("too many transfers are running; try again in a few seconds")]
    Busy,
    #[error("the archive could not be read; the node's log says why")]
    Internal(String),
}

impl HttpError {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::NotAcceptable(_) => StatusCode::NOT_ACCEPTABLE,
            Self::Refused(_) => StatusCode::FORBIDDEN,
            Self::Elsewhere(_) => StatusCode::BAD_GATEWAY,
            Self::Unprocessable(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<ArchiveError> for HttpError {
    fn from(error: ArchiveError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<CatalogueError> for HttpError {
    fn from(error: CatalogueError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<tessera_storage::pixels::StoreError> for HttpError {
    fn from(error: tessera_storage::pixels::StoreError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        if let Self::Internal(cause) = &self {
            tracing::error!(cause, "a web request failed");
        }
        let mut response = (self.status(), format!("{self}\n")).into_response();
        if matches!(self, Self::Busy) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}
