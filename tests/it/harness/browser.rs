//! A real browser: Chromium without a window, driven over its own protocol.
//!
//! The protocol (DevTools, JSON with a zero byte after each message) runs over two pipes, so neither a port nor a driver
//! nor a library is needed. Nothing here is installed by a test: `tests/run.sh` does that. Where there is no Chromium, or
//! `MUSTERD_SKIP_BROWSER` is set, the tests say loudly that they are skipped; `MUSTERD_REQUIRE_BROWSER` forbids that.
//! With `MUSTERD_SCREENSHOTS` set to a directory, pictures are put there to look at.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{sys::stat::Mode, unistd::mkfifo};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

use super::{scratch::Scratch, wait::wait_until};

/// How long the browser may take for anything on a loaded machine.
const BOUND: Duration = Duration::from_secs(60);
const PROGRAMS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"];
const FLAGS: [&str; 12] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
];

/// A browser, and one page of it; ended when dropped.
#[derive(Debug)]
pub(crate) struct Browser {
    child: Child,
    questions: File,
    answers: mpsc::Receiver<Value>,
    session: String,
    last_id: u64,
    /// What the browser complained about: errors of scripts, breaches of the policy.
    complaints: Vec<String>,
    /// What it answers to a server that asks for HTTP Basic.
    password: String,
    /// Where it has sent requests, of a page that was opened with a password.
    requests: Vec<String>,
    _scratch: Scratch,
}

/// Where there is a browser; `None` if the test is to be skipped, which is then said.
fn program() -> Option<PathBuf> {
    let required = std::env::var_os("MUSTERD_REQUIRE_BROWSER").is_some();
    let skipped = std::env::var_os("MUSTERD_SKIP_BROWSER").is_some();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = std::env::split_paths(&path).flat_map(|dir| PROGRAMS.map(|name| dir.join(name)));
    let found = candidates.into_iter().find(|program| program.is_file()).filter(|_| !skipped);
    assert!(
        found.is_some() || !required,
        "MUSTERD_REQUIRE_BROWSER is set, but there is no Chromium: apt install chromium"
    );
    if found.is_none() {
        let why = if skipped { "MUSTERD_SKIP_BROWSER is set" } else { "there is no Chromium (apt install chromium)" };
        // Past the test runner, which would hide it: a skipped test must not look like one that passed.
        let _ = writeln!(std::io::stderr(), "\n!!! SKIPPED: the status page was not tried in a browser: {why}\n");
    }
    found
}

impl Browser {
    /// Opens a page; `None` if the test is to be skipped.
    pub(crate) async fn open(url: &str, width: u32, height: u32) -> Option<Self> {
        let mut browser = Self::start(width, height).await?;
        browser.navigate(url).await;
        Some(browser)
    }

    /// Opens a page of a server whose CA it does not know and that asks for a password. Notes where requests go.
    pub(crate) async fn open_with_password(url: &str, password: &str) -> Option<Self> {
        let mut browser = Self::start(1_280, 1_000).await?;
        password.clone_into(&mut browser.password);
        browser.call("Security.setIgnoreCertificateErrors", json!({"ignore": true})).await;
        browser.call("Fetch.enable", json!({"handleAuthRequests": true})).await;
        browser.navigate(url).await;
        Some(browser)
    }

    /// Where it has sent requests.
    pub(crate) fn requests(&self) -> &[String] {
        &self.requests
    }

    async fn start(width: u32, height: u32) -> Option<Self> {
        let program = program()?;
        let scratch = Scratch::on_disk();
        let (mut child, questions, answers) = spawn(&program, scratch.path());
        let answers = read(answers);
        if let Ok(Some(status)) = child.try_wait() {
            panic!("{} has ended: {status}", program.display());
        }
        let mut browser = Self {
            child,
            questions,
            answers,
            session: String::new(),
            last_id: 0,
            complaints: Vec::new(),
            password: String::new(),
            requests: Vec::new(),
            _scratch: scratch,
        };
        browser.open_tab("about:blank").await;
        browser.resize(width, height).await;
        Some(browser)
    }

    /// Opens another page beside those that are open, and goes on with that one.
    pub(crate) async fn open_tab(&mut self, url: &str) {
        self.session.clear();
        let target = self.call("Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = self.call("Target.attachToTarget", attach).await;
        self.session = session["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            self.call(&format!("{domain}.enable"), json!({})).await;
        }
        self.navigate(url).await;
    }

    /// Goes to another page.
    pub(crate) async fn navigate(&mut self, url: &str) {
        let answer = self.call("Page.navigate", json!({"url": url})).await;
        assert!(answer.get("errorText").is_none(), "{url}: {answer}");
    }

    /// Makes the page so large, in CSS pixels; under 500 wide it is a telephone.
    pub(crate) async fn resize(&mut self, width: u32, height: u32) {
        let mobile = width < 500;
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile});
        self.call("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// Prefers dark colours, or light ones.
    pub(crate) async fn prefer_dark(&mut self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        self.call("Emulation.setEmulatedMedia", features).await;
    }

    /// The value of a JavaScript expression.
    pub(crate) async fn eval(&mut self, expression: &str) -> Value {
        let question = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", question).await;
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// The text of an element as it is shown; empty if there is none.
    pub(crate) async fn text(&mut self, selector: &str) -> String {
        let selector = json!(selector);
        let text = self.eval(&format!("document.querySelector({selector})?.innerText ?? ''")).await;
        text.as_str().unwrap().to_owned()
    }

    /// Waits until a JavaScript expression is true.
    pub(crate) async fn wait_for(&mut self, what: &str, expression: &str) {
        wait_until(what, BOUND, async || match self.eval(expression).await {
            Value::Bool(true) => Ok(()),
            other => Err((other, self.eval("document.body?.innerText").await, self.complaints.clone())),
        })
        .await;
    }

    /// Clicks on an element.
    pub(crate) async fn click(&mut self, selector: &str) {
        let selector = json!(selector);
        self.eval(&format!("document.querySelector({selector}).click()")).await;
    }

    /// What the browser complained about so far.
    pub(crate) fn complaints(&self) -> &[String] {
        &self.complaints
    }

    /// Puts a picture where `MUSTERD_SCREENSHOTS` says, if it does.
    pub(crate) async fn screenshot(&mut self, name: &str) {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let Some(directory) = std::env::var_os("MUSTERD_SCREENSHOTS") else { return };
        let answer = self.call("Page.captureScreenshot", json!({"captureBeyondViewport": true})).await;
        let picture = STANDARD.decode(answer["data"].as_str().unwrap()).unwrap();
        std::fs::write(Path::new(&directory).join(format!("{name}.png")), picture).unwrap();
    }

    /// Sends a question; returns its number.
    fn send(&mut self, method: &str, params: Value) -> u64 {
        self.last_id += 1;
        let id = self.last_id;
        let mut question = json!({"id": id, "method": method, "params": params});
        if !self.session.is_empty() {
            question["sessionId"] = json!(self.session);
        }
        let mut bytes = question.to_string().into_bytes();
        bytes.push(0);
        self.questions.write_all(&bytes).unwrap();
        id
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.send(method, params);
        loop {
            let message = timeout(BOUND, self.answers.recv()).await;
            let message = message.unwrap_or_else(|_| panic!("{method}: no answer")).unwrap();
            if message["id"] == id {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].clone();
            }
            self.note(&message);
        }
    }

    fn note(&mut self, event: &Value) {
        let params = &event["params"];
        match event["method"].as_str() {
            Some("Fetch.requestPaused") => {
                self.requests.push(params["request"]["url"].as_str().unwrap().to_owned());
                self.send("Fetch.continueRequest", json!({"requestId": params["requestId"]}));
            }
            Some("Fetch.authRequired") => {
                let answer = json!({"response": "ProvideCredentials", "username": "any", "password": self.password});
                let answer = json!({"requestId": params["requestId"], "authChallengeResponse": answer});
                self.send("Fetch.continueWithAuth", answer);
            }
            _ => {}
        }
        let complaint = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Log.entryAdded") => params["entry"]["level"] == "error",
            Some("Runtime.consoleAPICalled") => params["type"] == "error",
            Some("Page.javascriptDialogOpening") => true,
            _ => false,
        };
        if complaint {
            self.complaints.push(params.to_string());
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a browser that reads questions from its descriptor 3 and answers on 4.
fn spawn(program: &Path, scratch: &Path) -> (Child, File, File) {
    let pipes = [scratch.join("questions"), scratch.join("answers")];
    for pipe in &pipes {
        mkfifo(pipe, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    }
    // Opened for both, a pipe does not wait for its other end.
    let [questions, answers] =
        pipes.each_ref().map(|pipe| OpenOptions::new().read(true).write(true).open(pipe).unwrap());
    let child = Command::new("sh")
        .args(["-c", r#"questions=$1 answers=$2; shift 2; exec "$@" 3<"$questions" 4>"$answers""#, "sh"])
        .args(&pipes)
        .arg(program)
        .args(FLAGS)
        .arg(format!("--user-data-dir={}", scratch.join("profile").display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    (child, questions, answers)
}

/// Reads answers and events as they come.
fn read(answers: File) -> mpsc::Receiver<Value> {
    let (sender, receiver) = mpsc::channel(1_024);
    std::thread::spawn(move || {
        for message in BufReader::new(answers).split(0) {
            let Ok(message) = message else { return };
            let Ok(message) = serde_json::from_slice(&message) else { continue };
            if sender.blocking_send(message).is_err() {
                return;
            }
        }
    });
    receiver
}
