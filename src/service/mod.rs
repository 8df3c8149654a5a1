//! The service: start, wire, ordered stop.
//!
//! | queue | from → to | capacity | when full |
//! |---|---|---|---|
//! | frames | camera → line | 2 frames | the oldest is dropped and counted: the newest picture matters |
//! | belt items | line → worker | `infer.belt_queue` | the item is rejected (fault `overloaded`) |
//! | HTTP items | API → worker | `infer.http_queue` | 429 |
//! | admission | network → API | `api.max_in_flight` | 429; the body is thrown away as it comes |
//! | records | line, API → store | `record.queue` | dropped and counted: the line never waits for the disk; HTTP leaves the belt a quarter |
//! | orders | line → eject | `eject.queue` | the command is late and acted on as configured |
//! | commands | eject → output | 64 commands | the same |
//! | recorded | store → streams | 1,024 verdicts | slow readers skip |
//! | live | line → page | 1 frame of each camera | the newest replaces the old |

mod line;
mod record;
mod start;
mod stop;
pub mod tasks;

use anyhow::Result;

use crate::config::Config;

/// Runs the service until SIGINT or SIGTERM; returns after everything recorded is on disk.
///
/// # Errors
/// Whatever keeps the service from starting.
pub fn serve(config: Config) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info,ort=warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let service = start::start(config).await?;
        stop::wait_for_signal().await;
        service.stop().await
    })
}
