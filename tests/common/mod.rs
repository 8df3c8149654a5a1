//! What tests share: services, other programs and browsers beside a test, and what a machine may lack.
#![allow(clippy::unwrap_used, dead_code)] // no test binary uses everything

pub mod browser;
pub mod disk;
pub mod peers;
pub mod pictures;
pub mod process;
pub mod served;
pub mod server;
pub mod shown;

/// Whether a program is there that `deploy/setup --test` installs; where it is not, [`missing`] says so.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !there {
        missing(program);
    }
    there
}

/// Says that a test is skipped for want of something that `deploy/setup --test` installs. Where `CI` is set, that fails
/// the test: there everything is installed, and a skipped test would prove nothing.
pub fn missing(what: &str) {
    let why = format!("{what}: not installed; deploy/setup --test installs it");
    assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "{why}");
    println!("skipped: {why}");
}

/// Kills at random moments: `usual`, or as many as `BELTSIGHT_KILLS` says.
pub fn kills(usual: usize) -> usize {
    std::env::var("BELTSIGHT_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}
