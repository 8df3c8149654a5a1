//! Times as they stand in files, entries and answers: RFC 3339, UTC.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// `time` as RFC 3339; empty for years past 9999, which cannot be written.
pub fn rfc3339(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_default()
}

/// The present moment as RFC 3339.
pub fn rfc3339_now() -> String {
    rfc3339(OffsetDateTime::now_utc())
}
