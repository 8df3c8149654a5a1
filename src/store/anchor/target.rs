//! Where a head is left: each attempt ends within [`PATIENCE`], whatever does not answer.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UdpSocket},
    sync::oneshot,
    time::timeout,
};

use super::{AnchorSettings, AnchoredHead, Syslog, stamp};
use crate::line::eject::output::Mqtt;

/// One attempt may take so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// Facility 13, log audit; severity 5, notice.
const PRIORITY: u8 = 13 * 8 + 5;
/// Most bytes of a time-stamp authority's answer.
const ANSWER: usize = 64 << 10;

/// Where a head is left.
pub enum AnchorTarget {
    /// A file that gets a line.
    File(LineFile),
    /// A broker.
    Mqtt(Box<Mqtt>),
    /// A collector of logs.
    Syslog(Syslog),
    /// A time-stamp authority's address, and the file for its tokens.
    Tsa(String, LineFile),
}

/// A file that lines are added to by a thread, for what it lies on may not answer.
pub struct LineFile {
    path: PathBuf,
    /// A thread hangs in it.
    busy: Arc<AtomicBool>,
}

impl AnchorTarget {
    /// Their names in metrics.
    pub const NAMES: [&str; 4] = ["file", "mqtt", "syslog", "tsa"];

    /// Those that are set; `folder` is the store's.
    pub fn all(settings: &AnchorSettings, folder: &Path) -> Vec<Self> {
        let AnchorSettings { every: _, file, mqtt, syslog, tsa } = settings.clone();
        let line_file = |path| LineFile { path, busy: Arc::default() };
        let mut all = Vec::from_iter(file.map(|path| Self::File(line_file(path))));
        all.extend(mqtt.map(|mqtt| Self::Mqtt(Box::new(mqtt))));
        all.extend(syslog.map(Self::Syslog));
        let tokens = |path: Option<PathBuf>| line_file(path.unwrap_or_else(|| folder.join("anchors.jsonl")));
        all.extend(tsa.map(|tsa| Self::Tsa(tsa.url, tokens(tsa.tokens))));
        all
    }

    /// One of [`Self::NAMES`].
    pub fn name(&self) -> &'static str {
        match self {
            Self::File(_) => Self::NAMES[0],
            Self::Mqtt(_) => Self::NAMES[1],
            Self::Syslog(_) => Self::NAMES[2],
            Self::Tsa(..) => Self::NAMES[3],
        }
    }

    /// Leaves it there; returns when it is there, as far as that can be told.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn leave(&self, head: &AnchoredHead) -> Result<(), String> {
        timeout(PATIENCE, self.try_leave(head)).await.unwrap_or_else(|_| Err("no answer for ten seconds".into()))
    }

    async fn try_leave(&self, head: &AnchoredHead) -> Result<(), String> {
        match self {
            Self::File(file) => file.add(head.line()).await,
            Self::Mqtt(mqtt) => mqtt.retain(head.line()).await,
            Self::Syslog(syslog) => send(syslog, head).await.map_err(|e| format!("{}: {e}", syslog.address)),
            Self::Tsa(url, tokens) => {
                let answer = ask(url, stamp::request(&head.digest())?).await.map_err(|why| format!("{url}: {why}"))?;
                let token = stamp::token(&answer, &head.digest()).map_err(|why| format!("{url}: {why}"))?;
                tokens.add(AnchoredHead { token: Some(STANDARD.encode(token)), ..head.clone() }.line()).await
            }
        }
    }
}

impl LineFile {
    async fn add(&self, line: String) -> Result<(), String> {
        let refuse = |why: String| format!("{}: {why}", self.path.display());
        if self.busy.swap(true, Ordering::AcqRel) {
            return Err(refuse("the file system does not answer".into()));
        }
        let (done, added) = oneshot::channel();
        let (path, busy) = (self.path.clone(), self.busy.clone());
        // A thread of its own: one of the runtime's that hangs would keep the service from stopping.
        let thread = std::thread::Builder::new().name("anchor".into()).spawn(move || {
            let result = add_line(&path, &line);
            busy.store(false, Ordering::Release);
            let _ = done.send(result);
        });
        if let Err(e) = thread {
            self.busy.store(false, Ordering::Release);
            return Err(refuse(e.to_string()));
        }
        match added.await {
            Ok(result) => result.map_err(|e| refuse(e.to_string())),
            Err(_) => Err(refuse("the thread that writes it broke".into())),
        }
    }
}

/// Adds a line and flushes it to the disk; a line that was cut stays, and ours begins after it.
fn add_line(path: &Path, line: &str) -> io::Result<()> {
    let mut file: File = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    let mut whole = true;
    if file.metadata()?.len() > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        whole = last == *b"\n";
    }
    let start = if whole { "" } else { "\n" };
    file.write_all(format!("{start}{line}\n").as_bytes())?;
    file.sync_all()
}

async fn send(syslog: &Syslog, head: &AnchoredHead) -> io::Result<()> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().filter(char::is_ascii_graphic).take(255).collect();
    let host = if host.is_empty() { "-" } else { &host };
    let (time, process) = (&head.time, std::process::id());
    let message = format!("<{PRIORITY}>1 {time} {host} beltsight {process} anchor - {}", head.line());
    if syslog.tcp {
        let mut stream = TcpStream::connect(&syslog.address).await?;
        stream.write_all(format!("{} {message}", message.len()).as_bytes()).await?;
        return stream.shutdown().await;
    }
    let Some(to) = tokio::net::lookup_host(&syslog.address).await?.next() else {
        return Err(io::Error::other("the host has no address"));
    };
    let from = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(from).await?;
    socket.connect(to).await?; // so that a port that nobody listens on is told of, at the next message
    socket.send(message.as_bytes()).await.map(drop)
}

/// Asks a time-stamp authority.
async fn ask(url: &str, request: Vec<u8>) -> Result<Vec<u8>, String> {
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build();
    let client = client.map_err(|e| e.to_string())?;
    let post = client.post(url).header("content-type", "application/timestamp-query").body(request);
    let mut response = post.send().await.map_err(|e| e.to_string())?;
    if !response.status().is_success() {
        return Err(format!("answered {}", response.status()));
    }
    let mut answer = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|e| e.to_string())? {
        answer.extend_from_slice(&piece);
        if answer.len() > ANSWER {
            return Err("the answer is too long".into());
        }
    }
    Ok(answer)
}
