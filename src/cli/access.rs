//! Who may do what: the flags of the daemon, and the tokens of the commands that speak to one.

use super::Usage;
use crate::config::Access;
use anyhow::{Context, Result, bail};
use clap::builder::FalseyValueParser;
use clap::{ArgAction, Parser};
use std::net::SocketAddr;
use std::path::PathBuf;
use tracing::warn;

/// The environment variable that holds a token itself.
const TOKEN: &str = "KEYBEAT_TOKEN";

#[derive(Parser, Clone)]
pub struct AccessArgs {
    /// Everyone may do everything [default: only on a loopback address, with neither key nor service token]
    #[arg(long, env = "KEYBEAT_NO_AUTH", action = ArgAction::SetTrue, value_parser = FalseyValueParser::new())]
    no_auth: bool,
    /// Verifies clients' tokens: an HS256 secret, public keys in PEM (RSA, P-256, Ed25519), or a JWKS
    #[arg(long, env = "KEYBEAT_JWT_KEY", value_name = "FILE")]
    jwt_key: Option<PathBuf>,
    /// What the aud of a client's token has to name
    #[arg(long, env = "KEYBEAT_JWT_AUDIENCE", value_name = "TEXT", requires = "jwt_key")]
    jwt_audience: Option<String>,
    /// What the iss of a client's token has to be
    #[arg(long, env = "KEYBEAT_JWT_ISSUER", value_name = "TEXT", requires = "jwt_key")]
    jwt_issuer: Option<String>,
    /// The bearer tokens of backends, which may do everything: one a line
    #[arg(long, env = "KEYBEAT_SERVICE_TOKEN", value_name = "FILE")]
    service_token: Option<PathBuf>,
    /// Web pages of another origin that may speak to the daemon: https://HOST; several with commas; * is any
    #[arg(long, env = "KEYBEAT_ALLOW_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    allow_origin: Vec<String>,
}

impl AccessArgs {
    /// What was meant, or why the daemon must not start so.
    pub fn access(&self, listen: SocketAddr) -> Result<Access> {
        let access = Access {
            jwt_key: self.jwt_key.clone(),
            audience: self.jwt_audience.clone(),
            issuer: self.jwt_issuer.clone(),
            service_token: self.service_token.clone(),
            origins: self.allow_origin.clone(),
        };
        if self.no_auth && !access.is_open() {
            let text = "--no-auth lets everyone do everything, and --jwt-key or --service-token ask for tokens; \
                        give one or the other";
            bail!(Usage(text.into()));
        }
        if access.is_open() && !listen.ip().is_loopback() {
            if !self.no_auth {
                bail!(Usage(format!(
                    "{listen} is not a loopback address, so others could read and write everybody's presence. \
                     Listen on 127.0.0.1; or ask for tokens: --jwt-key FILE, --service-token FILE; or, where \
                     something in front keeps others out, say so: --no-auth"
                )));
            }
            warn!(
                "--no-auth on {listen}: whoever reaches this address may read and write everybody's presence"
            );
        }
        Ok(access)
    }
}

/// The token of a command that speaks to a daemon. Never an argument: the process list shows those.
#[derive(Parser, Clone)]
pub struct TokenArgs {
    /// A file with the token for the daemon; KEYBEAT_TOKEN in the environment is a token itself
    #[arg(long, env = "KEYBEAT_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Show none.
    #[arg(skip)]
    silent: bool,
}

impl TokenArgs {
    /// No token, whatever the environment holds.
    pub fn none() -> TokenArgs {
        TokenArgs { token_file: None, silent: true }
    }

    /// Reads the token, anew each time: a file may be renewed.
    pub fn token(&self) -> Result<Option<String>> {
        if self.silent {
            return Ok(None);
        }
        match &self.token_file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("--token-file {} cannot be read", path.display()))?;
                Ok(Some(text.trim().to_owned()))
            }
            None => Ok(std::env::var(TOKEN).ok().filter(|token| !token.is_empty())),
        }
    }
}
