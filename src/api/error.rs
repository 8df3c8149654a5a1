//! Errors → HTTP: the only file that knows status codes. Every error leaves the service as a problem document (RFC 9457,
//! `application/problem+json`).
//!
//! Invariant: inner rooms know no status codes. A client's mistake is explained to the client and counted by kind; what
//! went wrong inside is logged in full and told in short.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::denied::Denied;
use crate::{
    domain::Fault,
    line::swap::LoadError,
    picture::pixels::PixelError,
    rounds::keeper::OrderError,
    store::{StoreError, VerdictName},
    student::{manifest::ModelError, registry::RegistryError},
};

/// Why a request was not answered as asked.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Every place for work in progress was taken.
    #[error("the service is busy; try again in a second")]
    Busy,
    /// More streams than are allowed.
    #[error("every place for a stream is taken; try again later")]
    TooManyStreams,
    /// The body is larger than the limit.
    #[error("the body is larger than {limit} bytes")]
    BodyTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The body did not arrive whole, or a parameter can't be read.
    #[error("{0}")]
    Malformed(String),
    /// A tensor has the wrong name, type or shape.
    #[error("{0}")]
    Shape(String),
    /// A tensor holds NaN or infinity.
    #[error("the tensor holds a value that is not a finite number")]
    NotFinite,
    /// Who asks was not let in.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The picture was refused.
    #[error(transparent)]
    Pixels(#[from] PixelError),
    /// The item got no scores.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// The request's head is larger than the limit.
    #[error("the request's head is larger than {limit} bytes")]
    HeadTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The path exists, but not for this method; `Allow` says for which.
    #[error("this path does not answer that method")]
    Method,
    /// A model was refused; the one that serves goes on serving.
    #[error("{0}; the serving model was kept")]
    Model(#[from] ModelError),
    /// Another model is being loaded.
    #[error("another model is being loaded; try again later")]
    Loading,
    /// The registry of what serves refused.
    #[error(transparent)]
    Registry(RegistryError),
    /// A label names a class that nobody knows.
    #[error("there is no class `{class}`, only {known}; more can be added to labels.classes in the configuration")]
    Class {
        /// What was named.
        class: String,
        /// What there is.
        known: String,
    },
    /// The picture of this verdict was not kept.
    #[error("the picture of verdict {0} was not kept")]
    NoPicture(VerdictName),
    /// An order about learning can't be followed.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The request took longer than the deadline.
    #[error("the request was not answered before its deadline")]
    Deadline,
    /// Something of ours broke.
    #[error("{0}")]
    Internal(String),
}

impl From<LoadError> for ApiError {
    fn from(e: LoadError) -> Self {
        match e {
            LoadError::Busy => Self::Loading,
            LoadError::Model(e) => Self::Model(e),
        }
    }
}

impl From<RegistryError> for ApiError {
    fn from(e: RegistryError) -> Self {
        match e {
            RegistryError::Model(e) => Self::Model(e),
            e => Self::Registry(e),
        }
    }
}

/// An RFC 9457 problem document.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Names the kind of problem: `urn:beltsight:problem:<kind>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// This case in words.
    pub detail: String,
    /// The same, where the Open Inference Protocol's clients look for it.
    pub error: String,
}

/// The kind of a refused input, left in the response for the metrics.
#[derive(Clone, Copy)]
pub(super) struct BadInput(pub &'static str);

/// Why who asked was not let in, left in the response for the metrics.
#[derive(Clone, Copy)]
pub(super) struct AccessDenied(pub &'static str);

/// Left in the response when the service had no room for the request.
#[derive(Clone, Copy)]
pub(super) struct NoRoom;

impl ApiError {
    /// Status, kind (part of the type URN and, for bad input, the metric's label) and title.
    fn facts(&self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        let picture = "The picture was refused";
        match self {
            Self::Busy | Self::Fault(Fault::Overloaded) => (S::TOO_MANY_REQUESTS, "busy", "Too many requests"),
            Self::TooManyStreams => (S::TOO_MANY_REQUESTS, "too_many_streams", "Too many streams"),
            Self::BodyTooLarge { .. } => (S::PAYLOAD_TOO_LARGE, "body_too_large", "The body is too large"),
            Self::Malformed(_) => (S::BAD_REQUEST, "malformed", "The request can't be read"),
            Self::Shape(_) => (S::BAD_REQUEST, "shape", "The tensor does not fit the model"),
            Self::NotFinite => (S::BAD_REQUEST, "not_finite", "The tensor is not finite"),
            Self::Denied(Denied::NoToken | Denied::Unknown | Denied::Expired) => {
                (S::UNAUTHORIZED, "unauthorized", "A valid token is needed")
            }
            Self::Denied(Denied::Role { .. } | Denied::OtherName { .. }) => (S::FORBIDDEN, "forbidden", "Not allowed"),
            Self::Denied(Denied::CrossSite) => (S::FORBIDDEN, "cross_site", "Not allowed from another site"),
            Self::Denied(Denied::Host) => (S::MISDIRECTED_REQUEST, "host", "Not this machine's name"),
            Self::Pixels(e) => {
                let status = match e {
                    PixelError::Empty => S::BAD_REQUEST,
                    PixelError::UnknownFormat => S::UNSUPPORTED_MEDIA_TYPE,
                    PixelError::TooLarge { .. } => S::PAYLOAD_TOO_LARGE,
                    PixelError::Unsupported(_) | PixelError::Damaged(_) => S::UNPROCESSABLE_ENTITY,
                };
                (status, e.name(), picture)
            }
            Self::Fault(Fault::Decode(_)) => (S::UNPROCESSABLE_ENTITY, "damaged", picture),
            Self::Fault(Fault::Inference(_)) => (S::INTERNAL_SERVER_ERROR, "inference", "Inference failed"),
            Self::Fault(fault @ (Fault::Timeout | Fault::NoModel | Fault::Stopping)) => {
                (S::SERVICE_UNAVAILABLE, fault.name(), "The service can't answer now")
            }
            Self::NotFound(_) => (S::NOT_FOUND, "not_found", "Not found"),
            Self::HeadTooLarge { .. } => {
                (S::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", "The request's head is too large")
            }
            Self::Method => (S::METHOD_NOT_ALLOWED, "method", "Method not allowed"),
            Self::Model(_) => (S::UNPROCESSABLE_ENTITY, "model", "The model was refused"),
            Self::Loading => (S::CONFLICT, "loading", "A model is being loaded"),
            Self::Registry(RegistryError::Serves(_) | RegistryError::First(_)) => {
                (S::CONFLICT, "registry", "Nothing to change")
            }
            Self::Registry(_) => (S::INTERNAL_SERVER_ERROR, "registry", "The registry can't be used"),
            Self::Class { .. } => (S::UNPROCESSABLE_ENTITY, "class", "The class is not known"),
            Self::NoPicture(_) => (S::CONFLICT, "no_picture", "There is no picture"),
            Self::Order(OrderError::Failed(_)) => (S::INTERNAL_SERVER_ERROR, "round", "The round could not be started"),
            Self::Order(_) => (S::CONFLICT, "round", "Not now"),
            Self::Store(StoreError::Refused(_)) => (S::CONFLICT, "refused", "That can't be done now"),
            Self::Store(_) => (S::SERVICE_UNAVAILABLE, "store", "The store can't answer now"),
            Self::Deadline => (S::SERVICE_UNAVAILABLE, "deadline", "The request took too long"),
            Self::Internal(_) => (S::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
        }
    }

    fn is_bad_input(&self) -> bool {
        use ApiError::{BodyTooLarge, Malformed, NotFinite, Pixels, Shape};
        matches!(self, BodyTooLarge { .. } | Malformed(_) | Shape(_) | NotFinite | Pixels(_))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, kind, title) = self.facts();
        let detail = match &self {
            told @ Self::Store(StoreError::Refused(_)) => told.to_string(),
            Self::Store(_) | Self::Internal(_) => {
                tracing::error!("{self}");
                "the details are in the service's log".into()
            }
            told => told.to_string(),
        };
        let problem = Problem {
            kind: format!("urn:beltsight:problem:{kind}"),
            title,
            status: status.as_u16(),
            error: detail.clone(),
            detail,
        };
        let mut response = (status, Json(problem)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if status == StatusCode::UNAUTHORIZED {
            let how = HeaderValue::from_static("Bearer realm=\"beltsight\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, how);
        }
        if let Self::Denied(denied) = &self {
            response.extensions_mut().insert(AccessDenied(denied.name()));
        }
        if self.is_bad_input() {
            response.extensions_mut().insert(BadInput(kind));
        }
        if status == StatusCode::TOO_MANY_REQUESTS {
            response.extensions_mut().insert(NoRoom);
        }
        response
    }
}

/// The answer of a handler that panicked; the client is told nothing of it.
pub(super) fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    ApiError::Internal(format!("a handler panicked: {}", words.unwrap_or("no words"))).into_response()
}
