//! `--stream` and `--webhook`: a Redis Stream with an entry for each transition, and URLs that receive its entries.

use super::{Usage, values};
use crate::config::{DEFAULT_STREAM_MAXLEN, StreamSettings};
use crate::presence::KeyPattern;
use crate::redis::directory::DirectoryNames;
use crate::redis::stream::StreamNames;
use crate::sinks::webhooks::{Endpoint, Secret};
use clap::{ArgAction, Parser};
use std::collections::HashSet;
use std::path::PathBuf;

/// Why a webhook alone is wrong usage.
pub const NO_STREAM: &str = "--webhook receives the entries of a stream; add --stream NAME";

#[derive(Parser, Clone)]
pub struct StreamArgs {
    /// Redis Stream with one entry for each transition, however many daemons run; all of them need the same name
    /// [default: none]
    #[arg(long, env = "KEYBEAT_STREAM", value_name = "NAME")]
    stream: Option<String>,
    /// Number of entries that the stream keeps, about; older ones are deleted
    #[arg(long, env = "KEYBEAT_STREAM_MAXLEN", value_name = "N", default_value_t = DEFAULT_STREAM_MAXLEN, value_parser = values::whole(1..=u64::MAX))]
    stream_maxlen: u64,
    /// URL that receives each entry of the stream by POST, https:// or http:// for a private address; several separated by
    /// commas; needs --stream and --webhook-secret
    #[arg(long, env = "KEYBEAT_WEBHOOK", value_name = "URL", value_delimiter = ',', hide_env_values = true)]
    webhook: Vec<String>,
    /// File with the secret that signs what webhooks receive: one line, whsec_ and 24 to 64 bytes in base64
    #[arg(long, env = "KEYBEAT_WEBHOOK_SECRET", value_name = "FILE")]
    webhook_secret: Option<PathBuf>,
    /// Whether https:// webhooks may have private addresses
    #[arg(long, env = "KEYBEAT_WEBHOOK_ALLOW_PRIVATE", action = ArgAction::SetTrue, value_parser = values::boolean)]
    webhook_allow_private: bool,
}

impl StreamArgs {
    /// The stream, if one is named.
    pub fn settings(&self) -> Option<StreamSettings> {
        Some(StreamSettings {
            name: self.stream.clone()?,
            maxlen: self.stream_maxlen,
            webhooks: self.webhook.clone(),
            webhook_secret: self.webhook_secret.clone(),
            webhook_private: self.webhook_allow_private,
        })
    }

    /// Each reason why these settings cannot be used.
    pub fn faults(&self, pattern: &KeyPattern, directory: &DirectoryNames) -> Vec<Usage> {
        let mut faults = Vec::new();
        if let Some(stream) = &self.stream {
            faults.extend(StreamNames::new(stream, pattern, directory).err());
        } else if !self.webhook.is_empty() {
            faults.push(NO_STREAM.into());
        }
        match (&self.webhook_secret, self.webhook.is_empty()) {
            (None, false) => faults.push(
                "--webhook needs a secret that signs what it receives; add --webhook-secret FILE, with a line whsec_…".into(),
            ),
            (Some(file), _) => faults.extend(Secret::read(file).err().map(|why| format!("{why:#}"))),
            (None, true) => {}
        }
        let parsed = |url: &String| Endpoint::parse(url, self.webhook_allow_private).err();
        faults.extend(self.webhook.iter().filter_map(parsed).map(|why| format!("--webhook: {why:#}")));
        let mut known = HashSet::new();
        let repeated = self.webhook.iter().filter(|url| !known.insert(*url));
        faults.extend(repeated.map(|_| "--webhook has the same URL twice; remove one".into()));
        faults.into_iter().map(Usage).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhooks_need_a_stream_and_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let secret = secret.to_str().unwrap();
        let faults = |args: &[&str]| {
            let args = StreamArgs::parse_from([&["keybeat"], args].concat());
            let directory = DirectoryNames { status: String::new(), group: String::new() };
            args.faults(&"presence:<user>".parse().unwrap(), &directory).len()
        };
        let all = ["--stream", "events", "--webhook-secret", secret, "--webhook", "https://hooks.example/a"];
        assert_eq!([faults(&[]), faults(&all), faults(&all[..4])], [0, 0, 0]);
        assert_eq!(faults(&all[2..]), 1, "no stream");
        assert_eq!(faults(&["--stream", "events", "--webhook", "https://hooks.example/a"]), 1, "no secret");
        assert_eq!(faults(&[&all[..], &["--webhook", "https://hooks.example/a"]].concat()), 1, "twice");
        assert_eq!(faults(&[&all[..], &["--webhook", "https://10.0.0.1/"]].concat()), 1, "private");
        assert_eq!(
            faults(&[&all[..], &["--webhook", "https://10.0.0.1/", "--webhook-allow-private"]].concat()),
            0
        );
        assert_eq!(faults(&["--stream", "presence:x"]), 1);
    }
}
