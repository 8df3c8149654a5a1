//! The anchor: the record's signed head, left where nobody who holds the machine can take it back.
//!
//! Whoever holds the key can rewrite the record and sign it again, and whoever can write the folder can put an earlier one
//! back: both are whole by themselves. A head that was left elsewhere must stand in the record at its place; `record verify
//! --anchor` compares (see [`super::record::verify`]).

mod settings;
pub mod stamp;
mod target;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use settings::{AnchorSettings, Syslog, TimeStamps};
pub use target::AnchorTarget;

use super::{Store, StoreError, record::signer::hex};
use crate::domain::hash::sha256;

/// The head of a record as it is left elsewhere: one line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchoredHead {
    /// The hash of the record's first entry: which record this is. 64 hexadecimal digits.
    pub store: String,
    /// The head's place.
    pub entry: i64,
    /// Its hash: 64 hexadecimal digits.
    pub hash: String,
    /// When it was signed (RFC 3339).
    pub time: String,
    /// Its signature: 128 hexadecimal digits.
    pub signature: String,
    /// A time-stamp authority's token about all this (RFC 3161), in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl AnchoredHead {
    /// Without a line's end.
    pub fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default() // strings and a number
    }

    /// Reads a line that ends with one, as a log may put its own words before it.
    pub fn read(line: &str) -> Option<Self> {
        serde_json::from_str(line.get(line.find('{')?..=line.rfind('}')?)?).ok()
    }

    /// What a time-stamp authority is asked to sign: SHA-256 of the line without a token, 64 hexadecimal digits.
    pub fn digest(&self) -> String {
        sha256(Self { token: None, ..self.clone() }.line().as_bytes())
    }
}

impl Store {
    /// The head as it now stands.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn anchored_head(&self) -> Result<AnchoredHead, StoreError> {
        let query = "SELECT (SELECT hash FROM record WHERE seq = 1), seq, hash, time, signature FROM head";
        let (first, entry, hash, time, signature): (Vec<u8>, i64, Vec<u8>, String, Vec<u8>) =
            sqlx::query_as(query).fetch_one(&self.database).await?;
        let [store, hash, signature] = [first, hash, signature].map(|bytes| hex(&bytes));
        Ok(AnchoredHead { store, entry, hash, time, signature, token: None })
    }

    /// The place of the newest entry that closes or signs off a lot; 0 for none.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn newest_lot_end(&self) -> Result<i64, StoreError> {
        let newest =
            "SELECT max(coalesce((SELECT max(seq) FROM record WHERE verdict IS NULL AND kind = 'lot_closed'), 0),
                          coalesce((SELECT max(seq) FROM record WHERE verdict IS NULL AND kind = 'signed_off'), 0))";
        Ok(sqlx::query_scalar(newest).fetch_one(&self.database).await?)
    }
}
