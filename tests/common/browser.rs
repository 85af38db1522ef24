//! A headless Chromium, controlled through chromedriver.

use super::{PATIENCE, free_port, until};
use serde_json::{Value, json};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Keys by their WebDriver codes: <https://www.w3.org/TR/webdriver2/#keyboard-actions>.
pub const ENTER: &str = "\u{E007}";
pub const ESCAPE: &str = "\u{E00C}";
pub const LEFT: &str = "\u{E012}";
pub const RIGHT: &str = "\u{E014}";
pub const DOWN: &str = "\u{E015}";

pub struct Browser {
    port: u16,
    driver: Child,
    session: String,
    /// The browser's process; `driver` is chromedriver.
    pid: Option<u32>,
    http: reqwest::Client,
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser with a window of this size in pixels.
    pub async fn start(width: u32, height: u32) -> Browser {
        let (port, profile) = (free_port(), tempfile::tempdir().expect("a folder"));
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            // Chromium leaves files in the temporary folder; its profile is deleted with the browser.
            .env("TMPDIR", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver must be installed: see tests/setup.sh");
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE * 3).build().expect("a client");
        let mut browser =
            Browser { port, driver, session: String::new(), pid: None, http, _profile: profile };
        until("chromedriver answers", async || TcpStream::connect(("127.0.0.1", port)).ok()).await;
        let folder = browser._profile.path().display();
        let args = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            format!("--window-size={width},{height}"),
            format!("--user-data-dir={folder}"),
        ];
        let levels = json!({"browser": "WARNING"});
        let options = json!({"goog:chromeOptions": {"args": args}, "goog:loggingPrefs": levels});
        let capabilities = json!({"capabilities": {"alwaysMatch": options}});
        let started = browser.post("session", capabilities).await;
        let pid = started["capabilities"]["goog:processID"].as_u64();
        browser.pid = pid.and_then(|pid| pid.try_into().ok());
        assert!(browser.pid.is_some(), "{started}");
        browser.session =
            started["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {started}")).to_owned();
        browser
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let url = format!("http://127.0.0.1:{}/{path}", self.port);
        let answer = self.http.post(url).json(&body).send().await.expect("chromedriver answers");
        let mut answer: Value = answer.json().await.expect("JSON");
        answer["value"].take()
    }

    pub async fn open(&self, url: &str) {
        let done = self.post(&format!("session/{}/url", self.session), json!({"url": url})).await;
        assert!(done.is_null(), "{url}: {done}");
    }

    /// Runs a function's body in the page and returns its result.
    pub async fn run(&self, script: &str) -> Value {
        let path = format!("session/{}/execute/sync", self.session);
        self.post(&path, json!({"script": script, "args": []})).await
    }

    /// Runs a statement that leaves the page, after the script that starts it has returned. Chromedriver runs
    /// a script again when a navigation ends the script's page: `history.back()` then goes back twice.
    pub async fn navigate(&self, statement: &str) {
        self.run(&format!("setTimeout(() => {{ {statement}; }}, 0)")).await;
    }

    /// Sets the media features of the page, such as `("prefers-color-scheme", "dark")`.
    pub async fn media(&self, features: &[(&str, &str)]) {
        let features: Vec<_> =
            features.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        let command = json!({"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}});
        let done = self.post(&format!("session/{}/goog/cdp/execute", self.session), command).await;
        assert_eq!(done, json!({}));
    }

    /// The browser's warnings and errors since the last call, such as violations of a page's policy.
    pub async fn complaints(&self) -> Vec<Value> {
        let logged = self.post(&format!("session/{}/se/log", self.session), json!({"type": "browser"})).await;
        logged.as_array().unwrap_or_else(|| panic!("no log: {logged}")).clone()
    }

    /// Types into the focused element. Keys without a letter have a WebDriver code, such as [`ENTER`].
    pub async fn press(&self, keys: &str) {
        let each = keys.chars().flat_map(|key| {
            [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})]
        });
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": each.collect::<Vec<_>>()});
        let done =
            self.post(&format!("session/{}/actions", self.session), json!({"actions": [keyboard]})).await;
        assert!(done.is_null(), "{keys:?}: {done}");
    }

    /// Moves the mouse to the middle of the first element that a selector finds. Presses its button too if `click`.
    pub async fn point(&self, selector: &str, click: bool) {
        let middle = format!(
            "const one = document.querySelector({}); one.scrollIntoView({{ block: 'nearest' }});
             const {{ left, top, width, height }} = one.getBoundingClientRect(); return [left + width / 2, top + height / 2].map(Math.floor)",
            json!(selector)
        );
        let at = self.run(&middle).await;
        assert!(at[0].is_number(), "{selector}: {at}");
        let mut actions = vec![json!({"type": "pointerMove", "duration": 0, "x": at[0], "y": at[1]})];
        if click {
            actions.extend(["pointerDown", "pointerUp"].map(|kind| json!({"type": kind, "button": 0})));
        }
        let mouse = json!({"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": actions});
        let done = self.post(&format!("session/{}/actions", self.session), json!({"actions": [mouse]})).await;
        assert!(done.is_null(), "{selector}: {done}");
    }

    /// Waits until the text of the element with this id contains this part.
    pub async fn says(&self, id: &str, part: &str) {
        let text = format!("return document.getElementById({}).textContent", json!(id));
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let last = self.run(&text).await;
            if last.as_str().is_some_and(|last| last.contains(part)) {
                return;
            }
            assert!(tokio::time::Instant::now() < end, "{id} is {last} without {part:?}");
        }
    }

    /// Waits until a function's body returns `wanted`.
    pub async fn shows(&self, script: &str, wanted: Value) {
        let mut last = Value::Null;
        let end = tokio::time::Instant::now() + PATIENCE;
        while last != wanted {
            assert!(tokio::time::Instant::now() < end, "{script} is {last} and not {wanted}");
            last = self.run(script).await;
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Killing only chromedriver would leave its browser running.
        if let Some(pid) = self.pid {
            super::redis::signal(pid, "TERM");
            // The browser is chromedriver's child, so this process cannot wait for it by its id.
            let end = Instant::now() + Duration::from_secs(5);
            while Path::new(&format!("/proc/{pid}")).exists() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        drop(self.driver.kill().and_then(|()| self.driver.wait()));
    }
}
