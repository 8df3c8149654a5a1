//! Programs beside a test, the ports on which they listen, and waiting for them.

use std::{
    fmt::Debug,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream, ToSocketAddrs},
    process::{Child, Command, ExitStatus},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Lines that a program wrote, each with its time.
type Lines = Arc<Mutex<Vec<(Instant, String)>>>;

/// A program whose lines are kept; it is killed when dropped.
pub struct Running {
    child: Child,
    lines: Lines,
    readers: Vec<JoinHandle<()>>,
}

impl Running {
    /// Starts it. What the command pipes of stdout and stderr is read to its end, so that the program never waits for a
    /// full pipe. Lines of stderr, a program's log, are printed as well: a failed test shows them.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let (lines, mut readers) = (Lines::default(), Vec::new());
        if let Some(out) = child.stdout.take() {
            readers.push(keep(out, lines.clone(), false));
        }
        if let Some(log) = child.stderr.take() {
            readers.push(keep(log, lines.clone(), true));
        }
        Self { child, lines, readers }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().iter().map(|(_, line)| line.clone()).collect()
    }

    /// When it wrote exactly this line.
    pub fn said(&self, line: &str) -> Vec<Instant> {
        self.lines.lock().unwrap().iter().filter(|(_, l)| l == line).map(|(at, _)| *at).collect()
    }

    /// How many lines start so.
    pub fn count(&self, start: &str) -> usize {
        self.lines.lock().unwrap().iter().filter(|(_, l)| l.starts_with(start)).count()
    }

    /// The newest line that starts so.
    pub fn last(&self, start: &str) -> Option<String> {
        self.lines.lock().unwrap().iter().rfind(|(_, l)| l.starts_with(start)).map(|(_, l)| l.clone())
    }

    /// Whether it will say nothing any more.
    pub fn silent(&self) -> bool {
        self.readers.iter().all(JoinHandle::is_finished)
    }

    /// Writes a line to its stdin, which the command pipes.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Sends a signal, as `kill` names it: `-STOP`.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(signal).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until it ends by itself, with all its lines read.
    pub fn wait(&mut self) -> ExitStatus {
        let status = self.child.wait().unwrap();
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        status
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn keep(stream: impl Read + Send + 'static, lines: Lines, print: bool) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if print {
                println!("{line}");
            }
            lines.lock().unwrap().push((Instant::now(), line));
        }
    })
}

/// Runs a program that must succeed; what it wrote to stdout.
pub fn succeeds(command: &mut Command) -> String {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&[done.stdout, done.stderr].concat()));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Runs a program that must fail; what it wrote to stderr.
pub fn fails(command: &mut Command) -> String {
    let done = command.output().unwrap();
    assert!(!done.status.success(), "{command:?} succeeded: {}", String::from_utf8_lossy(&done.stdout));
    String::from_utf8_lossy(&done.stderr).into_owned()
}

/// Our own program.
pub fn beltsight() -> Command {
    Command::new(env!("CARGO_BIN_EXE_beltsight"))
}

/// A free port for a program that can't choose one and say so, or that must have the same one when it is started again.
///
/// It lies below the ports that Linux hands out by itself, so that no other listener and no connection takes it while the
/// program is not there; a connection to oneself is impossible, too. Each process looks from a place of its own on.
pub fn free_port() -> u16 {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let place = std::process::id().wrapping_mul(8);
    (0..12_000)
        .map(|_| 20_000 + (place.wrapping_add(ASKED.fetch_add(1, Ordering::Relaxed)) % 12_000) as u16)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a port is free")
}

/// A bare connection; it waits 10 s for an answer.
pub fn connect(address: impl ToSocketAddrs) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// Waits until it holds; how long that took.
pub fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}

/// Asks again and again until the answer is as it is wanted; that answer.
pub async fn asked_until<T: Debug>(
    what: &str,
    limit: Duration,
    mut ask: impl AsyncFnMut() -> T,
    wanted: impl Fn(&T) -> bool,
) -> T {
    let start = Instant::now();
    loop {
        let answer = ask().await;
        if wanted(&answer) {
            return answer;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
