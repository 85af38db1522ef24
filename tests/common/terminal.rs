//! A terminal without a window: tmux with a socket of its own, read as a person would read it.

use super::PATIENCE;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::time::sleep;

/// What stands on the screen before the program begins, and again once it has given the screen back.
pub const BEFORE: &str = "the screen before";

pub struct Terminal {
    folder: TempDir,
}

impl Terminal {
    /// One of so many columns and lines, in which a program runs. After its end `exit code N` is on the screen.
    pub fn run(columns: u16, lines: u16, env: &[(&str, &str)], program: &[&str]) -> Terminal {
        let terminal = Terminal { folder: tempfile::tempdir().expect("a folder") };
        let (columns, lines) = (columns.to_string(), lines.to_string());
        // After it a shell waits, so that the screen stays; it ends with its terminal.
        let script = format!(r#"echo "{BEFORE}"; "$@"; echo "exit code $?"; read -r _"#);
        let mut args = vec!["-f", "/dev/null", "new-session", "-d", "-x", &columns, "-y", &lines];
        args.extend(["sh", "-c", &script, "sh"]);
        args.extend(program);
        terminal.tmux(env, &args);
        terminal
    }

    fn tmux(&self, env: &[(&str, &str)], args: &[&str]) -> String {
        let mut tmux = Command::new("tmux");
        for (name, _) in std::env::vars_os() {
            let shown = name.to_string_lossy();
            if shown.starts_with("KEYBEAT_") || shown.starts_with("TMUX") || shown == "NO_COLOR" {
                tmux.env_remove(&name);
            }
        }
        tmux.envs(env.iter().copied()).arg("-u").arg("-S").arg(self.folder.path().join("tmux"));
        let done = tmux.args(args).output().expect("tmux must be installed: see tests/setup.sh");
        assert!(done.status.success(), "tmux {args:?}: {done:?}");
        String::from_utf8(done.stdout).expect("UTF-8")
    }

    /// What stands on it.
    pub fn screen(&self) -> String {
        self.tmux(&[], &["capture-pane", "-p"])
    }

    /// The same, with the sequences that colour it.
    pub fn painted(&self) -> String {
        self.tmux(&[], &["capture-pane", "-p", "-e"])
    }

    /// Presses keys: letters, or such as `Enter` and `C-c`.
    pub fn press(&self, keys: &[&str]) {
        self.tmux(&[], &[&["send-keys"], keys].concat());
    }

    pub fn resize(&self, columns: u16, lines: u16) {
        let (columns, lines) = (columns.to_string(), lines.to_string());
        self.tmux(&[], &["resize-window", "-x", &columns, "-y", &lines]);
    }

    /// Waits until the screen is as it shall be, and gives it.
    pub async fn until(&self, what: &str, check: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if check(&screen) {
                return screen;
            }
            assert!(Instant::now() < end, "waited in vain until {what}; the screen:\n{}", screen.trim_end());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until this text stands on the screen.
    pub async fn shows(&self, text: &str) -> String {
        self.until(&format!("the screen shows {text:?}"), |screen| screen.contains(text)).await
    }
}

/// Is something green there? Of the sixteen colours by its number, or of 256.
pub fn is_green(painted: &str) -> bool {
    ["\u{1b}[32m", "\u{1b}[38;5;2m"].iter().any(|green| painted.contains(green))
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It and what runs in it; it may have ended by itself.
        let socket = self.folder.path().join("tmux");
        drop(Command::new("tmux").arg("-S").arg(socket).arg("kill-server").output());
    }
}
