//! fred's connection, for programs that write without a daemon: to one server or to a Redis with Sentinels.

use crate::redis::target::{COMMAND, CONNECT, Target};
use anyhow::{Result, bail};
use fred::prelude::*;
use fred::types::config::{PerformanceConfig, UnresponsiveConfig};
use tokio_util::task::AbortOnDropHandle;

/// A connection for writes; dropped, it ends with all its tasks.
pub struct WriteConnection {
    client: Client,
    _task: AbortOnDropHandle<Result<(), Error>>,
}

impl WriteConnection {
    /// Connects. A connection that breaks stays broken: its owner connects again.
    ///
    /// # Errors
    /// The server cannot be reached, does not answer in time, or refuses the login.
    pub async fn open(target: &Target) -> Result<WriteConnection> {
        let client = builder(target)?.build()?;
        let mut task = None;
        // `wait_for_connect` has to run first, since fred reports the result only once. (`init` does that too,
        // but never returns if a server accepts the connection and then stays silent.)
        let begin = async { task = Some(AbortOnDropHandle::new(client.connect())) };
        let connected = async { tokio::join!(biased; client.wait_for_connect(), begin).0 };
        let waited = tokio::time::timeout(CONNECT, connected).await;
        let Some(task) = task else { bail!("the connection to {} was not started", target.shown()) };
        let connection = WriteConnection { client, _task: task };
        match waited {
            Ok(Ok(())) => Ok(connection),
            Ok(Err(why)) => Err(target.unreachable(&in_words(&why))),
            Err(_) => Err(target.silent()),
        }
    }

    /// A connection that reconnects by itself, for programs whose writes stand alone. It starts unconnected if the
    /// server is unreachable.
    ///
    /// # Errors
    /// fred does not accept the settings.
    pub fn persistent(target: &Target) -> Result<WriteConnection> {
        let mut builder = builder(target)?;
        builder.with_config(|config| config.fail_fast = false);
        // Without a policy, fred never stops waiting for the first connection.
        builder.set_policy(ReconnectPolicy::new_exponential(0, 50, 2_000, 2));
        let client = builder.build()?;
        let task = AbortOnDropHandle::new(client.connect());
        Ok(WriteConnection { client, _task: task })
    }

    /// fred's client.
    pub fn client(&self) -> &Client {
        &self.client
    }
}

fn builder(target: &Target) -> Result<Builder> {
    let password = target.login()?.map(|login| login.password);
    let mut builder = Builder::from_config(Config { password, ..target.config().clone() });
    builder.with_connection_config(|connection| {
        connection.connection_timeout = CONNECT;
        connection.internal_command_timeout = CONNECT;
        connection.max_command_attempts = 1;
        connection.tcp.nodelay = Some(true);
        connection.unresponsive = UnresponsiveConfig::default();
    });
    builder.set_performance_config(PerformanceConfig {
        default_command_timeout: COMMAND,
        ..PerformanceConfig::default()
    });
    Ok(builder)
}

/// fred's error text, without the debug output of a system error in it.
fn in_words(why: &Error) -> String {
    let details = why.details();
    let message = details.split_once("message: \"").and_then(|(_, rest)| rest.split_once('"'));
    message.map_or(details, |(message, _)| message).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_are_shown_in_words() {
        let system = r#"Os { code: 111, kind: ConnectionRefused, message: "Connection refused" }"#;
        assert_eq!(in_words(&Error::new(ErrorKind::IO, system)), "Connection refused");
        let redis = "NOAUTH Authentication required.";
        assert_eq!(in_words(&Error::new(ErrorKind::Auth, redis)), redis);
    }
}
