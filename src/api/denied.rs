//! Why somebody is not let in.
//!
//! Invariant: a refusal says what its caller lacks, and never repeats a token.

use crate::tokens::{Role, TokenRefusal};

/// Why somebody is not let in.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Denied {
    /// No token came along.
    #[error("a token is needed: send `Authorization: Bearer …`, or log in on the page")]
    NoToken,
    /// Nobody holds this token.
    #[error("this token is not known; it may have been revoked")]
    Unknown,
    /// Its time is over.
    #[error("this token has expired")]
    Expired,
    /// The token's role may not do this.
    #[error("this needs the role {needs}; `{name}` is {has}")]
    Role {
        /// Whose token it is.
        name: String,
        /// Its role.
        has: Role,
        /// The least role that may.
        needs: Role,
    },
    /// An order in somebody else's name.
    #[error("orders are given in one's own name: this token is `{name}`, not `{said}`; leave `by` out")]
    OtherName {
        /// Whose token it is.
        name: String,
        /// Whom the order names.
        said: String,
    },
    /// A page of another site asked a browser to change something here.
    #[error("this request comes from a page of another site")]
    CrossSite,
    /// The `Host` is not this machine's.
    #[error("no token is set, so only requests to localhost are answered; make a token for anything else")]
    Host,
}

impl Denied {
    /// The metric's label.
    pub(in crate::api) fn name(&self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::Unknown => "unknown_token",
            Self::Expired => "expired_token",
            Self::Role { .. } => "role",
            Self::OtherName { .. } => "other_name",
            Self::CrossSite => "cross_site",
            Self::Host => "host",
        }
    }
}

impl From<TokenRefusal> for Denied {
    fn from(refused: TokenRefusal) -> Self {
        match refused {
            TokenRefusal::Unknown => Self::Unknown,
            TokenRefusal::Expired => Self::Expired,
        }
    }
}
