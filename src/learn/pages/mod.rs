//! What a run tells people: pages of HTML and contact sheets.

pub mod comparison;
pub mod html;
pub mod report;
pub mod sheet;
