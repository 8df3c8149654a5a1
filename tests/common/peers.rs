//! Programs of others to which the service speaks, or which speak to it.

use std::{
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use super::{
    installed,
    process::{Running, free_port, until},
};

/// Mosquitto on `port`, with more lines of configuration, once it listens; `None` where it is not installed.
pub fn mosquitto(port: u16, folder: &Path, more: &str) -> Option<Running> {
    if !installed("mosquitto") {
        return None;
    }
    let config = folder.join("mosquitto.conf");
    std::fs::write(&config, format!("listener {port} 127.0.0.1\npersistence false\n{more}\n")).unwrap();
    let running = Running::start(Command::new("mosquitto").arg("-c").arg(config).stderr(Stdio::null()));
    until("mosquitto listens", Duration::from_secs(10), || TcpStream::connect(("127.0.0.1", port)).is_ok());
    Some(running)
}

/// Prometheus with this configuration, and its base address; `None` where it is not installed.
pub fn prometheus(folder: &Path, config: &str) -> Option<(Running, String)> {
    if !installed("prometheus") {
        return None;
    }
    let file = folder.join("prometheus.yml");
    std::fs::write(&file, config).unwrap();
    let port = free_port(); // it can't say which one it took
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let running = Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
    Some((running, format!("http://127.0.0.1:{port}")))
}
