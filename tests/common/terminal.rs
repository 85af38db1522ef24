//! A terminal without a window: tmux with its own socket.

use super::PATIENCE;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::time::sleep;

/// The text on the screen before the program starts, and again after a full-screen program has ended.
pub const BEFORE: &str = "the screen before";

pub struct Terminal {
    folder: TempDir,
}

impl Terminal {
    /// Runs a program in a terminal of this size. After its end the screen shows `exit code N`.
    pub fn run(columns: u16, lines: u16, env: &[(&str, &str)], program: &[&str]) -> Terminal {
        let terminal = Terminal { folder: tempfile::tempdir().expect("a folder") };
        let (columns, lines) = (columns.to_string(), lines.to_string());
        // Then the shell waits for input, so that the screen stays. It ends with its terminal.
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

    /// The text on the screen.
    pub fn screen(&self) -> String {
        self.tmux(&[], &["capture-pane", "-p"])
    }

    /// The text on the screen with its colour sequences.
    pub fn painted(&self) -> String {
        self.tmux(&[], &["capture-pane", "-p", "-e"])
    }

    /// Presses keys: letters, or names such as `Enter` and `C-c`.
    pub fn press(&self, keys: &[&str]) {
        self.tmux(&[], &[&["send-keys"], keys].concat());
    }

    pub fn resize(&self, columns: u16, lines: u16) {
        let (columns, lines) = (columns.to_string(), lines.to_string());
        self.tmux(&[], &["resize-window", "-x", &columns, "-y", &lines]);
    }

    /// Waits until `check` accepts the screen, and returns the screen.
    pub async fn until(&self, what: &str, check: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if check(&screen) {
                return screen;
            }
            assert!(Instant::now() < end, "not in time: {what}; the screen:\n{}", screen.trim_end());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the screen contains this text, and returns the screen.
    pub async fn shows(&self, text: &str) -> String {
        self.until(&format!("the screen shows {text:?}"), |screen| screen.contains(text)).await
    }
}

/// True if the text contains green, of the 16 or of the 256 colours.
pub fn is_green(painted: &str) -> bool {
    ["\u{1b}[32m", "\u{1b}[38;5;2m"].iter().any(|green| painted.contains(green))
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Ends tmux and its program. tmux may have ended already.
        let socket = self.folder.path().join("tmux");
        drop(Command::new("tmux").arg("-S").arg(socket).arg("kill-server").output());
    }
}
