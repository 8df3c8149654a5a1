//! The configuration: one TOML file, one struct per room, read once, unknown keys refused.
//!
//! Every key with its unit and default stands in `deploy/beltsight.toml`, which a test loads. An environment variable
//! `BELTSIGHT_<ROOM>_<KEY>` (for instance `BELTSIGHT_SERVER_LISTEN`) overrides a key of the rooms `server`, `model`
//! and `store`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use crate::{
    api,
    line::{camera, eject, infer, locate, record},
    rounds,
    service::tasks::challenges,
    store::Retention,
    student::engine::Device,
};

/// Most pictures in which an item is looked at.
const MOST_LOOKS: usize = 8;

/// The whole configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the HTTP API listens.
    pub server: Server,
    /// Limits of the HTTP API.
    pub api: api::ApiSettings,
    /// The student and where it runs.
    pub model: Model,
    /// The inference worker.
    pub infer: infer::Settings,
    /// Cameras over the belt; none for a pure HTTP service.
    pub camera: Vec<camera::CameraConfig>,
    /// Finding items in a frame.
    pub locate: locate::LocateConfig,
    /// Deadlines of the line.
    pub line: Line,
    /// Acting on verdicts; absent: nothing is moved.
    pub eject: Option<eject::Settings>,
    /// What is recorded, and how much may wait.
    pub record: record::Settings,
    /// When challenge tests are due.
    pub challenge: challenges::Settings,
    /// Where records are kept.
    pub store: Store,
    /// How long things are kept.
    pub retention: Retention,
    /// How people label.
    pub labels: api::LabelSettings,
    /// The learning beside the line.
    pub rounds: rounds::Settings,
}

/// Where the HTTP API listens.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Address and port; port 0 takes a free one, and the log says which.
    pub listen: SocketAddr,
    /// File of the access tokens; absent: `tokens.toml` in the store's folder.
    pub tokens: Option<PathBuf>,
    /// Most connections at once.
    pub max_connections: usize,
    /// How long a client may be silent: before and in a handshake, before and in a request's head, and while an answer
    /// is sent.
    #[serde(with = "humantime_serde")]
    pub client_timeout: Duration,
    /// Certificate and key of HTTPS; absent: plain HTTP.
    pub tls: Option<api::Tls>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            tokens: None,
            max_connections: 1024,
            client_timeout: Duration::from_secs(20),
            tls: None,
        }
    }
}

/// The student and where it runs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// Folder with a folder per version.
    pub root: PathBuf,
    /// The version that serves at start.
    pub version: String,
    /// `float32` or `int8`; absent: what the manifest says.
    pub precision: Option<String>,
    /// `auto`, `cpu`, `cuda[:n]` or `tensorrt`; anything but `auto` fails to start if it can't run.
    pub device: Device,
    /// Threads for inference: all in one session for a lone item, else a session each; 0: as many as the cgroup allows
    /// cores.
    pub threads: usize,
}

impl Default for Model {
    fn default() -> Self {
        Self { root: "models".into(), version: "belt-small".into(), precision: None, device: Device::Auto, threads: 0 }
    }
}

/// Deadlines of the line.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Line {
    /// From capture to verdict; an item without an answer by then is rejected.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
}

impl Default for Line {
    fn default() -> Self {
        Self { deadline: Duration::from_millis(50) }
    }
}

/// Where records are kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// Folder for the database and the frames.
    pub folder: PathBuf,
}

impl Default for Store {
    fn default() -> Self {
        Self { folder: "data".into() }
    }
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("the configuration {path} can't be read: {why}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        why: String,
    },
    /// A key or value is wrong.
    #[error("the configuration {path} is wrong: {why}")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl Config {
    /// Reads, overrides from the environment, and validates.
    ///
    /// # Errors
    /// [`ConfigError`], naming file and key.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|e| ConfigError::Read { path: path.into(), why: e.to_string() })?;
        Self::parse(&text, std::env::vars()).map_err(|why| ConfigError::Wrong { path: path.into(), why })
    }

    /// File of the access tokens.
    pub fn tokens(&self) -> PathBuf {
        self.server.tokens.clone().unwrap_or_else(|| self.store.folder.join("tokens.toml"))
    }

    fn parse(text: &str, environment: impl Iterator<Item = (String, String)>) -> Result<Self, String> {
        let mut table: toml::Table = text.parse().map_err(|e: toml::de::Error| e.to_string())?;
        for (name, value) in environment {
            let Some((room, key)) = name.strip_prefix("BELTSIGHT_").and_then(|rest| rest.split_once('_')) else {
                continue;
            };
            let (room, key) = (room.to_lowercase(), key.to_lowercase());
            if !matches!(room.as_str(), "server" | "model" | "store") {
                continue;
            }
            // A number or boolean where it reads as one, text otherwise.
            let value = value.parse::<toml::Value>().ok().filter(|v| !v.is_str()).unwrap_or(toml::Value::String(value));
            let room = table.entry(room).or_insert_with(|| toml::Table::new().into());
            if let Some(room) = room.as_table_mut() {
                room.insert(key, value);
            }
        }
        let config: Config = table.try_into().map_err(|e: toml::de::Error| e.to_string())?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.record.keep_share) {
            return Err("record.keep_share must lie between 0 and 1".into());
        }
        if self.record.keep_margin.is_nan() || self.record.keep_novelty.is_nan() {
            return Err("record.keep_margin and record.keep_novelty must be numbers".into());
        }
        if !(0.0..=1.0).contains(&self.labels.second_share) {
            return Err("labels.second_share must lie between 0 and 1".into());
        }
        if self.labels.classes.iter().any(|class| class.trim().is_empty()) {
            return Err("labels.classes holds a class without a name".into());
        }
        for (key, value) in [
            ("server.max_connections", self.server.max_connections),
            ("api.max_in_flight", self.api.max_in_flight),
            ("api.max_body", self.api.max_body),
            ("record.queue", self.record.queue),
            ("infer.max_batch", self.infer.max_batch),
            ("infer.belt_queue", self.infer.belt_queue),
            ("infer.http_queue", self.infer.http_queue),
        ] {
            if value == 0 {
                return Err(format!("{key} must be at least 1"));
            }
        }
        if !(0.05..=0.95).contains(&self.rounds.held_out_share) {
            return Err("rounds.held_out_share must lie between 0.05 and 0.95".into());
        }
        if self.rounds.train.is_empty() {
            return Err("rounds.train must name a method".into());
        }
        // Out of range the locator would see no items at all, and all would pass unjudged.
        if !(self.locate.threshold > 0.0 && self.locate.threshold < 1.0) {
            return Err("locate.threshold must lie between 0 and 1".into());
        }
        if !(1..=MOST_LOOKS).contains(&self.locate.looks) {
            return Err(format!("locate.looks must lie between 1 and {MOST_LOOKS}"));
        }
        if !(self.locate.min_area > 0.0 && self.locate.min_area < 0.5) {
            return Err("locate.min_area must lie between 0 and 0.5".into());
        }
        if self.server.client_timeout.is_zero() || self.server.client_timeout > Duration::from_secs(3600) {
            return Err("server.client_timeout must be longer than 0 and at most an hour".into());
        }
        if self.line.deadline.is_zero() || self.api.deadline.is_zero() {
            return Err("line.deadline and api.deadline must be longer than 0".into());
        }
        self.camera.iter().try_for_each(camera::CameraConfig::check)?;
        let mut names: Vec<_> = self.camera.iter().map(camera::CameraConfig::name).collect();
        names.sort();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("two cameras are named {}", pair[0]));
        }
        self.eject.as_ref().map_or(Ok(()), |eject| eject.check(&names))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_example_loads_and_its_defaults_are_the_real_ones() {
        let text = include_str!("../deploy/beltsight.toml");
        let mut config = Config::parse(text, std::iter::empty()).unwrap();
        assert_eq!(config.camera.len(), 1);
        config.camera.clear();
        assert_eq!(format!("{config:#?}"), format!("{:#?}", Config::default()));
    }

    #[test]
    fn the_example_of_acting_loads() {
        let text = include_str!("../deploy/beltsight.toml");
        let (before, after) = text.split_once("# [eject]\n").unwrap();
        let (example, after) = after.split_once("\n\n").unwrap();
        let example: String = example.lines().map(|l| l.trim_start_matches('#').to_string() + "\n").collect();
        let config = Config::parse(&format!("{before}[eject]\n{example}{after}"), std::iter::empty()).unwrap();
        assert_eq!(config.eject.unwrap().gate.len(), 1);
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let why = Config::parse("[server]\nlisten_on = '127.0.0.1:1'", std::iter::empty()).unwrap_err();
        assert!(why.contains("listen_on"), "{why}");
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let environment = [("BELTSIGHT_SERVER_LISTEN", "127.0.0.1:0"), ("BELTSIGHT_MODEL_THREADS", "3")];
        let environment = environment.into_iter().map(|(k, v)| (k.to_string(), v.to_string()));
        let config = Config::parse("[server]\nlisten = '127.0.0.1:9'", environment).unwrap();
        assert_eq!((config.server.listen.port(), config.model.threads), (0, 3));
    }

    #[test]
    fn a_queue_without_places_and_a_nan_share_are_refused() {
        for text in [
            "[infer]\nhttp_queue = 0",
            "[record]\nkeep_share = nan",
            "[labels]\nsecond_share = 1.5",
            "[line]\ndeadline = '0s'",
            "[locate]\nthreshold = 48.0",
        ] {
            assert!(Config::parse(text, std::iter::empty()).is_err(), "{text}");
        }
    }
}
