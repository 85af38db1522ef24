//! The file of `--audit`, written by a thread of its own: a slow disk delays no request.

use crate::lock::lock;
use crate::metrics::Metrics;
use anyhow::{Context, Result, ensure};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tracing::{error, info};

/// Lines that may wait for the disk. Further lines are lost, which is counted and logged as a failed write.
const WAITING: usize = 8_192;
/// How long the end of the daemon waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// An open audit file.
pub struct AuditLog {
    path: PathBuf,
    lines: Mutex<Option<SyncSender<String>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// The file that was opened again, until the writer takes it.
    reopened: Arc<Mutex<Option<File>>>,
    failures: Arc<Failures>,
}

/// Counts failed writes, and logs the first one of a series.
struct Failures {
    metrics: Arc<Metrics>,
    failing: Mutex<bool>,
}

impl Failures {
    fn count(&self, why: &str) {
        self.metrics.audit_failures.inc();
        if !std::mem::replace(&mut *lock(&self.failing), true) {
            error!("the audit file cannot be written, and lines are lost: {why}; requests are still served");
        }
    }

    fn end(&self) {
        if std::mem::take(&mut *lock(&self.failing)) {
            info!("the audit file can be written again");
        }
    }
}

impl AuditLog {
    /// Opens the file, or creates it for this user only, and appends to it.
    ///
    /// # Errors
    /// It cannot be opened, or there is no thread for it.
    pub fn open(path: PathBuf, metrics: Arc<Metrics>) -> Result<AuditLog> {
        let file = open(&path)?;
        let (lines, waiting) = sync_channel(WAITING);
        let reopened: Arc<Mutex<Option<File>>> = Arc::default();
        let failures = Arc::new(Failures { metrics, failing: Mutex::new(false) });
        let of_writer = (reopened.clone(), failures.clone());
        let writer = std::thread::Builder::new().name("audit".into());
        let writer = writer.spawn(move || write(&waiting, file, &of_writer.0, &of_writer.1))?;
        let (lines, writer) = (Mutex::new(Some(lines)), Mutex::new(Some(writer)));
        Ok(AuditLog { path, lines, writer, reopened, failures })
    }

    /// Opens the file again, for example after it was renamed, and returns what puts it into use.
    ///
    /// # Errors
    /// It cannot be opened; lines still go to the file that is open.
    pub fn prepare(&self) -> Result<impl FnOnce() + '_> {
        let file = open(&self.path)?;
        Ok(move || *lock(&self.reopened) = Some(file))
    }

    /// Appends a line. It never waits.
    pub(super) fn append(&self, line: String) {
        let lines = lock(&self.lines);
        if lines.as_ref().is_some_and(|lines| lines.try_send(line).is_err()) {
            self.failures.count("too many lines wait for the disk");
        }
    }

    /// Writes what waits, for at most a second, and closes the file.
    pub async fn close(&self) {
        drop(lock(&self.lines).take());
        let Some(writer) = lock(&self.writer).take() else { return };
        let end = tokio::task::spawn_blocking(move || writer.join());
        if tokio::time::timeout(LAST_LINES, end).await.is_err() {
            self.failures.count("the disk did not take the last lines");
        }
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).with_context(|| advice(path))
}

/// Checks that the file can be opened, without creating it: the daemon's user must own it.
///
/// # Errors
/// It cannot be opened, or there is no folder for it.
pub fn check(path: &Path) -> Result<()> {
    match OpenOptions::new().append(true).open(path) {
        Err(why) if why.kind() == ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new(".")).metadata().with_context(|| advice(path))?;
            ensure!(folder.is_dir() && !folder.permissions().readonly(), advice(path));
            Ok(())
        }
        opened => opened.map(drop).with_context(|| advice(path)),
    }
}

fn advice(path: &Path) -> String {
    format!("--audit {} cannot be opened; its folder must be writable by the daemon's user", path.display())
}

fn write(lines: &Receiver<String>, mut file: File, reopened: &Mutex<Option<File>>, failures: &Failures) {
    while let Ok(line) = lines.recv() {
        if let Some(next) = lock(reopened).take() {
            file = next;
        }
        match file.write_all(line.as_bytes()) {
            Ok(()) => failures.end(),
            Err(why) => failures.count(&why.to_string()),
        }
    }
}
