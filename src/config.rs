//! The configuration: one TOML file, read once, one struct per room, unknown keys refused.
//!
//! A room's settings, with their defaults and the range of each, stand in that room. Here stand those of the rooms above,
//! and what holds between rooms.
//!
//! Every key with its unit and default stands in `deploy/beltsight.toml`, which a test loads. An environment variable
//! `BELTSIGHT_<ROOM>_<KEY>` (for instance `BELTSIGHT_SERVER_LISTEN`) overrides a key of the rooms `server`, `model`
//! and `store`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use crate::{
    api,
    line::{camera::CameraConfig, eject, infer, locate, record, settings::LineSettings},
    rounds,
    store::{PlannedChallenge, Retention, StoreSettings},
    student::settings::ModelSettings,
};

/// The whole configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the HTTP API listens.
    pub server: api::ServerSettings,
    /// Limits of the HTTP API.
    pub api: api::ApiSettings,
    /// The student that serves, and where it runs.
    pub model: ModelSettings,
    /// The inference worker.
    pub infer: infer::InferSettings,
    /// Cameras over the belt; none for a pure HTTP service.
    pub camera: Vec<CameraConfig>,
    /// Finding items in a frame.
    pub locate: locate::LocateConfig,
    /// Deadlines of the line.
    pub line: LineSettings,
    /// Acting on verdicts; absent: nothing is moved.
    pub eject: Option<eject::EjectSettings>,
    /// What is recorded, and how much may wait.
    pub record: record::RecordSettings,
    /// When challenge tests are due.
    pub challenge: ChallengeSettings,
    /// Where records are kept.
    pub store: StoreSettings,
    /// How long things are kept.
    pub retention: Retention,
    /// How people label.
    pub labels: api::LabelSettings,
    /// The learning beside the line.
    pub rounds: rounds::RoundSettings,
}

/// When challenge tests are due.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChallengeSettings {
    /// Longest time between two found challenge tests of a camera; zero: none is asked for.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
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

    /// The known wrong pieces that are to be sent through, each with its camera: a camera's own, or any piece as often as
    /// `challenge.every` says.
    pub fn planned_challenges(&self) -> Vec<(String, PlannedChallenge)> {
        let every = self.challenge.every;
        let any = (!every.is_zero()).then(|| PlannedChallenge { piece: String::new(), class: None, every });
        let of = |camera: &CameraConfig| {
            let name = camera.name().to_owned();
            let planned = any.iter().filter(|_| camera.challenge.is_empty()).chain(&camera.challenge).cloned();
            planned.map(move |planned| (name.clone(), planned)).collect::<Vec<_>>()
        };
        self.camera.iter().flat_map(of).collect()
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
        let mut config: Config = table.try_into().map_err(|e: toml::de::Error| e.to_string())?;
        for gate in config.eject.iter_mut().flat_map(|eject| &mut eject.gate) {
            if let Some(camera) = config.camera.iter().find(|camera| camera.name == gate.camera) {
                gate.seen_by(&camera.geometry).map_err(|why| format!("eject.gate {}: {why}", gate.name))?;
            }
        }
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        self.server.check()?;
        self.api.check()?;
        self.infer.check()?;
        self.locate.check()?;
        self.line.check()?;
        self.record.check()?;
        self.labels.check()?;
        self.rounds.check()?;
        for camera in &self.camera {
            camera.check(self.line.deadline)?;
            camera.located(&self.locate)?;
        }
        let mut names: Vec<_> = self.camera.iter().map(CameraConfig::name).collect();
        names.sort();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("two cameras are named {}", pair[0]));
        }
        for camera in &self.camera {
            self.check_looks(camera)?;
        }
        let Some(eject) = &self.eject else { return Ok(()) };
        eject.check(&names)?;
        eject.gate.iter().try_for_each(|gate| gate.check_reach(self.line.deadline))
    }

    /// Refuses looks at an item that take longer than its deadline, where the camera's pictures per second are known.
    fn check_looks(&self, camera: &CameraConfig) -> Result<(), String> {
        let looks = camera.located(&self.locate)?.looks;
        let Some(rate) = camera.frame_rate().filter(|_| looks > 1) else { return Ok(()) };
        let (takes, deadline) = ((looks - 1) as f64 / rate, self.line.deadline);
        if takes >= deadline.as_secs_f64() {
            return Err(format!(
                "camera {}: locate.looks = {looks} takes {:.0} ms at {rate} pictures per second, and line.deadline is \
                 {deadline:?}: the last looks would never count",
                camera.name(),
                takes * 1e3
            ));
        }
        Ok(())
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
    fn looks_that_take_longer_than_the_deadline_are_refused_by_camera_and_key() {
        let config = |looks: usize, deadline: &str| {
            let camera = "[[camera]]\nname = 'belt'\nsource = 'folder'\npath = '.'\nframe_rate = 25.0";
            let text = format!("{camera}\n[locate]\nlooks = {looks}\n[line]\ndeadline = '{deadline}'");
            Config::parse(&text, std::iter::empty()).map(drop)
        };
        assert_eq!((config(1, "50ms"), config(3, "100ms")), (Ok(()), Ok(())));
        let why = config(3, "80ms").unwrap_err();
        assert!(why.contains("camera belt: locate.looks = 3 takes 80 ms") && why.contains("line.deadline"), "{why}");
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
