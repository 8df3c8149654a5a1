//! A headless Chromium, used as a person uses it: real keys, clicks and touches, through the DevTools protocol over a
//! pipe.

use std::{
    cell::RefCell,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{installed, process::Running};

/// How long a page may take to get somewhere on a machine that runs other tests beside it.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running browser; it ends when dropped.
pub struct Browser {
    _process: Running,
    pipe: RefCell<Pipe>,
    _profile: tempfile::TempDir,
}

struct Pipe {
    to: File,
    from: BufReader<File>,
    asked: u64,
    complaints: Vec<String>,
}

impl Browser {
    /// `None`, and a line that says so, where Chromium is not installed.
    pub fn start() -> Option<Self> {
        if !installed("chromium") {
            return None;
        }
        let profile = tempfile::tempdir().unwrap();
        let (to, from) = (profile.path().join("to"), profile.path().join("from"));
        assert!(Command::new("mkfifo").args([&to, &from]).status().unwrap().success());
        // A shell puts the pipes where Chromium looks for them: 3 and 4.
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"exec chromium "$@" 3<"$TO" 4>"$FROM""#, "chromium"])
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"])
            .args(["--remote-debugging-pipe", "--no-first-run"])
            .arg(format!("--user-data-dir={}", profile.path().join("profile").display()))
            .env("TO", &to)
            .env("FROM", &from)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = Running::start(&mut command);
        let to = OpenOptions::new().write(true).open(to).unwrap();
        let from = BufReader::new(File::open(from).unwrap());
        let pipe = RefCell::new(Pipe { to, from, asked: 0, complaints: vec![] });
        Some(Self { _process: process, pipe, _profile: profile })
    }

    /// A page of a person of their own: with its own storage, at `url`, `width × height` pixels.
    pub fn page(&self, url: &str, width: u32, height: u32) -> Page<'_> {
        let context = self.ask("", "Target.createBrowserContext", json!({}))["browserContextId"].clone();
        let target = self.ask("", "Target.createTarget", json!({"url": "about:blank", "browserContextId": context}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = self.ask("", "Target.attachToTarget", attach)["sessionId"].as_str().unwrap().to_owned();
        let page = Page { browser: self, session };
        page.ask("Runtime.enable", json!({}));
        page.ask("Page.enable", json!({}));
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        page.ask("Emulation.setDeviceMetricsOverride", size);
        page.go(url);
        page
    }

    fn ask(&self, session: &str, method: &str, params: Value) -> Value {
        self.try_ask(session, method, params).unwrap_or_else(|why| panic!("{method}: {why}"))
    }

    fn try_ask(&self, session: &str, method: &str, params: Value) -> Result<Value, String> {
        let mut pipe = self.pipe.borrow_mut();
        pipe.asked += 1;
        let id = pipe.asked;
        let mut message = json!({"id": id, "method": method, "params": params});
        if !session.is_empty() {
            message["sessionId"] = session.into();
        }
        pipe.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let mut bytes = Vec::new();
            pipe.from.read_until(0, &mut bytes).unwrap();
            bytes.pop();
            let answer: Value = serde_json::from_slice(&bytes).expect("chromium ended");
            if answer["method"] == "Runtime.exceptionThrown" {
                pipe.complaints.push(answer["params"]["exceptionDetails"].to_string());
            }
            if answer["id"] == id {
                return if answer["error"].is_null() { Ok(answer["result"].clone()) } else { Err(answer.to_string()) };
            }
        }
    }
}

/// One tab.
pub struct Page<'a> {
    browser: &'a Browser,
    session: String,
}

impl Page<'_> {
    fn ask(&self, method: &str, params: Value) -> Value {
        self.browser.ask(&self.session, method, params)
    }

    /// Opens an address and waits until it is there.
    pub fn go(&self, url: &str) {
        self.ask("Page.navigate", json!({"url": url}));
        self.until("document.readyState === 'complete'");
    }

    /// As the reload button does.
    pub fn reload(&self) {
        self.run("window.beforeReload = true");
        self.ask("Page.reload", json!({}));
        self.until("!window.beforeReload && document.readyState === 'complete'");
    }

    /// What an expression comes to.
    pub fn run(&self, expression: &str) -> Value {
        self.try_run(expression).unwrap_or_else(|why| panic!("{expression}: {why}"))
    }

    fn try_run(&self, expression: &str) -> Result<Value, String> {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.browser.try_ask(&self.session, "Runtime.evaluate", params)?;
        if answer["exceptionDetails"].is_null() {
            Ok(answer["result"]["value"].clone())
        } else {
            Err(answer.to_string())
        }
    }

    /// Text of the first element that fits the selector.
    pub fn text(&self, selector: &str) -> String {
        let text = self.run(&format!("document.querySelector({selector:?})?.innerText ?? ''"));
        text.as_str().unwrap().to_owned()
    }

    /// Waits until the expression is true.
    pub fn until(&self, expression: &str) {
        let start = Instant::now();
        // While a page goes, its expressions come to nothing.
        while self.try_run(&format!("Boolean({expression})")) != Ok(Value::Bool(true)) {
            if start.elapsed() > PATIENCE {
                let shot = std::env::temp_dir().join("beltsight-page.png");
                self.picture(&shot);
                panic!("not within {PATIENCE:?}: {expression}; see {}", shot.display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Presses a key and lets it go.
    pub fn key(&self, key: &str) {
        let named = json!({"type": "keyDown", "key": key, "text": if key == "Enter" { "\r" } else { key },
            "windowsVirtualKeyCode": if key == "Enter" { 13 } else { 0 }});
        self.ask("Input.dispatchKeyEvent", named);
        self.ask("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": key}));
    }

    /// Types a text.
    pub fn write(&self, text: &str) {
        text.chars().for_each(|c| self.key(&c.to_string()));
    }

    /// Middle of the first element that fits, as soon as it is visible and on top.
    fn middle(&self, selector: &str) -> (Value, Value) {
        self.until(&format!(
            "(() => {{ const e = document.querySelector({selector:?}); e.scrollIntoView({{block: 'nearest'}}); \
             const r = e.getBoundingClientRect(); const [x, y] = [r.x + r.width / 2, r.y + r.height / 2]; \
             window.middle = [x, y]; return e.contains(document.elementFromPoint(x, y)); }})()"
        ));
        let place = self.run("window.middle");
        (place[0].clone(), place[1].clone())
    }

    /// Clicks with the mouse.
    pub fn click(&self, selector: &str) {
        let (x, y) = self.middle(selector);
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1});
            self.ask("Input.dispatchMouseEvent", event);
        }
    }

    /// Touches with a finger.
    pub fn touch(&self, selector: &str) {
        let (x, y) = self.middle(selector);
        self.ask("Emulation.setTouchEmulationEnabled", json!({"enabled": true}));
        self.ask("Input.dispatchTouchEvent", json!({"type": "touchStart", "touchPoints": [{"x": x, "y": y}]}));
        self.ask("Input.dispatchTouchEvent", json!({"type": "touchEnd", "touchPoints": []}));
    }

    /// Writes what is seen as `name.png` to where `BELTSIGHT_SHOTS` says, if somebody wants to look at it.
    pub fn seen(&self, name: &str) {
        if let Some(folder) = std::env::var_os("BELTSIGHT_SHOTS") {
            self.picture(&Path::new(&folder).join(format!("{name}.png")));
        }
    }

    /// Writes what is seen as PNG.
    pub fn picture(&self, path: &Path) {
        let data = self.ask("Page.captureScreenshot", json!({"format": "png"}))["data"].as_str().unwrap().to_owned();
        std::fs::write(path, STANDARD.decode(data).unwrap()).unwrap();
    }

    /// Programs' errors that nobody caught, on any page so far.
    pub fn complaints(&self) -> Vec<String> {
        self.browser.pipe.borrow().complaints.clone()
    }
}
