//! Authentication: the flags of the daemon, and the tokens of the commands that call a daemon.

use super::{Usage, environment, values};
use crate::config::Access;
use crate::web::access::origin::Origins;
use anyhow::{Context, Result, bail};
use clap::{ArgAction, Parser};
use jsonwebtoken::dangerous::insecure_decode_claims;
use std::net::SocketAddr;
use std::path::PathBuf;
use tracing::warn;

/// The environment variable that contains a token, not the name of a file.
const TOKEN: &str = "KEYBEAT_TOKEN";

#[derive(Parser, Clone)]
pub struct AccessArgs {
    /// Disable authentication: everyone may read and write everything
    /// [default: only on a loopback --listen without --jwt-key, --jwt-secret and --service-token]
    #[arg(long, env = "KEYBEAT_NO_AUTH", action = ArgAction::SetTrue, value_parser = values::boolean)]
    no_auth: bool,
    /// File that verifies clients' tokens: public keys in PEM (RSA, P-256, Ed25519), or a JWKS
    #[arg(long, env = "KEYBEAT_JWT_KEY", value_name = "FILE")]
    jwt_key: Option<PathBuf>,
    /// File that verifies clients' tokens with HS256: a secret, one line of 32 bytes or more; with --jwt-key too, the alg of a
    /// token selects
    #[arg(long, env = "KEYBEAT_JWT_SECRET", value_name = "FILE")]
    jwt_secret: Option<PathBuf>,
    /// Required audience: the aud of a client's token must contain it
    #[arg(long, env = "KEYBEAT_JWT_AUDIENCE", value_name = "TEXT")]
    jwt_audience: Option<String>,
    /// Required issuer: the iss of a client's token must equal it
    #[arg(long, env = "KEYBEAT_JWT_ISSUER", value_name = "TEXT")]
    jwt_issuer: Option<String>,
    /// File with bearer tokens of backends, one per line: TOKEN, which may do everything, or NAME:SCOPES:TOKEN with the scopes
    /// read, write, admin; # begins a comment
    #[arg(long, env = "KEYBEAT_SERVICE_TOKEN", value_name = "FILE")]
    service_token: Option<PathBuf>,
    /// File with the sub or jti of clients' tokens that are refused from the next SIGHUP on, one per line
    #[arg(long, env = "KEYBEAT_REVOKED", value_name = "FILE")]
    revoked: Option<PathBuf>,
    /// Origins of web pages that may call the daemon, such as https://app.example, https://*.app.example, http://localhost:* or
    /// capacitor://localhost; several separated by commas; * allows any
    #[arg(long, env = "KEYBEAT_ALLOW_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    allow_origin: Vec<String>,
    /// Host names by which clients may call a daemon that requires no token; several separated by commas
    /// [default: IP addresses, names without a dot, *.localhost, hosts of --allow-origin]
    #[arg(long, env = "KEYBEAT_ALLOW_HOST", value_name = "NAME", value_delimiter = ',')]
    allow_host: Vec<String>,
}

impl AccessArgs {
    /// The rights to read and write.
    pub fn access(&self) -> Access {
        Access {
            jwt_key: self.jwt_key.clone(),
            jwt_secret: self.jwt_secret.clone(),
            audience: self.jwt_audience.clone(),
            issuer: self.jwt_issuer.clone(),
            service_token: self.service_token.clone(),
            revoked: self.revoked.clone(),
            origins: self.allow_origin.clone(),
            hosts: self.allow_host.clone(),
        }
    }

    /// Warns if everyone on the network may read and write everything.
    pub fn warn(&self, listen: SocketAddr) {
        if self.no_auth && !listen.ip().is_loopback() {
            warn!(
                "--no-auth on {listen}: anyone who can reach this address may read and write everybody's presence"
            );
        }
    }

    /// Each reason why the daemon must not start like this.
    pub fn faults(&self, listen: SocketAddr) -> Vec<Usage> {
        let is_open = self.access().is_open();
        let mut faults = Vec::new();
        if self.jwt_key.is_none() && self.jwt_secret.is_none() {
            let flags = [
                (self.jwt_audience.is_some(), "--jwt-audience"),
                (self.jwt_issuer.is_some(), "--jwt-issuer"),
                (self.revoked.is_some(), "--revoked"),
            ];
            faults.extend(flags.into_iter().filter(|(given, _)| *given).map(|(_, flag)| {
                format!("{flag} checks clients' tokens; add --jwt-key FILE or --jwt-secret FILE")
            }));
        }
        if self.no_auth && !is_open {
            let text = "--no-auth disables authentication, but --jwt-key, --jwt-secret or --service-token requires \
                        tokens; remove one of them";
            faults.push(text.into());
        }
        if is_open && !self.no_auth && !listen.ip().is_loopback() {
            faults.push(format!(
                "--listen {listen} is not a loopback address, so anyone on the network could read and write \
                 everybody's presence. Listen on 127.0.0.1, require tokens (--jwt-key FILE, \
                 --jwt-secret FILE, --service-token FILE), or, if a proxy or firewall protects the port, add --no-auth"
            ));
        }
        // An origin or host that can never match is refused.
        let lists = [(&self.allow_origin[..], &[][..]), (&[], &self.allow_host)];
        let refused =
            lists.into_iter().filter_map(|(origins, hosts)| Origins::new(origins, hosts, false).err());
        faults.extend(refused.map(|why| format!("{why:#}")));
        faults.into_iter().map(Usage).collect()
    }
}

/// The token of a command that calls a daemon. It is never an argument, because the process list shows arguments.
#[derive(Parser, Clone)]
pub struct TokenArgs {
    /// File with the token for the daemon; KEYBEAT_TOKEN in the environment is the token itself
    #[arg(long, env = "KEYBEAT_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Send no token.
    #[arg(skip)]
    silent: bool,
}

impl TokenArgs {
    /// No token, whatever the environment contains.
    pub fn none() -> TokenArgs {
        TokenArgs { token_file: None, silent: true }
    }

    /// Whether the token comes from a file, whose next content may be a newer token.
    pub fn is_file(&self) -> bool {
        !self.silent && self.token_file.is_some()
    }

    /// Reads the token, each time again: another program may have renewed the file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn token(&self) -> Result<Option<String>> {
        if self.silent {
            return Ok(None);
        }
        let (token, place) = match &self.token_file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("--token-file {} cannot be read", path.display()))?;
                (Some(text.trim().to_owned()), format!("--token-file {}", path.display()))
            }
            None => (environment::value(TOKEN)?, TOKEN.to_owned()),
        };
        if token.as_ref().is_some_and(|token| token.contains(':')) {
            bail!(
                "{place} has a whole line of a --service-token file, NAME:SCOPES:TOKEN; the token is the text after the last \
                 colon alone"
            );
        }
        Ok(token)
    }

    /// Whether the token names a user, for whom a socket with it speaks.
    pub fn names_user(&self) -> bool {
        #[derive(serde::Deserialize)]
        struct Claims {
            sub: Option<String>,
        }
        let token = self.token().ok().flatten().unwrap_or_default();
        // The daemon verifies it; this only reads what it says.
        insecure_decode_claims::<Claims>(token).is_ok_and(|claims| claims.sub.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The arguments with a file that contains this token.
    fn with(token: &str) -> (TokenArgs, tempfile::NamedTempFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), token).unwrap();
        (TokenArgs { token_file: Some(file.path().into()), silent: false }, file)
    }

    #[test]
    fn line_of_a_service_token_file_is_no_token() {
        let (args, _file) = with("chat:read:5bdc9a2c0f1f4f8c8f6f1d1f6f2a7a39\n");
        let why = args.token().unwrap_err().to_string();
        assert!(
            why.contains("whole line") && why.contains("after the last colon") && !why.contains("5bdc"),
            "{why}"
        );
        let (args, _file) = with("5bdc9a2c0f1f4f8c8f6f1d1f6f2a7a39\n");
        assert_eq!(args.token().unwrap().as_deref(), Some("5bdc9a2c0f1f4f8c8f6f1d1f6f2a7a39"));
    }

    #[test]
    fn client_token_names_its_user() {
        // The claims {"sub":"alice"} and {"watch":"*"}
        for (token, names) in [
            ("eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhbGljZSJ9.AAAA", true),
            ("eyJhbGciOiJFZERTQSJ9.eyJ3YXRjaCI6IioifQ.AAAA", false),
            ("5bdc9a2c0f1f4f8c8f6f1d1f6f2a7a39", false),
            ("", false),
        ] {
            assert_eq!(with(token).0.names_user(), names, "{token}");
        }
    }
}
