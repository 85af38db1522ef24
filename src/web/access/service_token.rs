//! The file of `--service-token`: bearer tokens of backends, each with a name and scopes if it has them.

use super::close_order;
use crate::error::shown;
use anyhow::{Context, Result, bail, ensure};
use ring::hmac;

/// Service tokens in one file: room for several backends, and for old and new tokens during a rotation.
const MAX_TOKENS: usize = 16;
/// The shortest service token, in bytes: a shorter one could be guessed.
const MIN_BYTES: usize = 16;
/// The longest name, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// The rights of a service token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Query, list and watch users.
    Read,
    /// Send heartbeats and delete users.
    Write,
    /// Administrative calls.
    Admin,
}

/// All scopes: those of a token without a name.
const ALL: [Scope; 3] = [Scope::Read, Scope::Write, Scope::Admin];

/// One service token.
#[derive(Debug, Clone)]
pub(super) struct ServiceToken {
    /// The token under a key of this process. Comparing tags takes the same time however many bytes are right, and the
    /// daemon does not keep the token itself.
    tag: hmac::Tag,
    /// Its name, for errors.
    pub(super) name: Option<String>,
    scopes: Vec<Scope>,
    /// Proves orders to other daemons.
    pub(super) order_key: hmac::Key,
}

impl ServiceToken {
    pub(super) fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// Is this the token that a request presents?
    pub(super) fn is(&self, presented: &str, key: &hmac::Key) -> bool {
        hmac::verify(key, presented.as_bytes(), self.tag.as_ref()).is_ok()
    }

    /// Is it the same token with the same scopes?
    pub(super) fn equals(&self, other: &ServiceToken) -> bool {
        self.tag.as_ref() == other.tag.as_ref() && self.scopes == other.scopes
    }
}

/// Reads the file. The error names the line, never the token.
pub(super) fn parse(file: &str, key: &hmac::Key) -> Result<Vec<ServiceToken>> {
    let mut tokens = Vec::new();
    for (number, line) in file.lines().enumerate() {
        let line = without_comment(line);
        if !line.is_empty() {
            let token = token(line, key).with_context(|| format!("line {}", number + 1))?;
            ensure!(
                tokens.iter().all(|other: &ServiceToken| other.tag.as_ref() != token.tag.as_ref()),
                "line {} repeats the token of an earlier line; make one for each: openssl rand -hex 32",
                number + 1
            );
            tokens.push(token);
        }
    }
    ensure!(!tokens.is_empty(), "it is empty; put a token there: openssl rand -hex 32");
    ensure!(tokens.len() <= MAX_TOKENS, "it has more than {MAX_TOKENS} lines");
    Ok(tokens)
}

/// A line without spaces around it and without its comment, which begins with `#` at the start or after a space.
fn without_comment(line: &str) -> &str {
    let line = line.trim_start_matches('\u{feff}');
    let is_comment = |at: &usize| line[..*at].ends_with(char::is_whitespace) || *at == 0;
    let comment = line.match_indices('#').map(|(at, _)| at).find(is_comment);
    line[..comment.unwrap_or(line.len())].trim()
}

/// `TOKEN`, or `NAME:SCOPES:TOKEN`.
fn token(line: &str, key: &hmac::Key) -> Result<ServiceToken> {
    let (name, scopes, token) = match line.split(':').collect::<Vec<_>>()[..] {
        [token] => (None, ALL.to_vec(), token),
        [name, scopes, token] => (Some(checked_name(name)?), parse_scopes(scopes)?, token),
        _ => bail!("it has a colon, and is not NAME:SCOPES:TOKEN"),
    };
    ensure!(!token.contains(char::is_whitespace), "its token has a space; write one token a line");
    ensure!(
        token.len() >= MIN_BYTES,
        "it has a token of {} bytes, which could be guessed; make a longer one: openssl rand -hex 32",
        token.len()
    );
    // Base64 may end in `=`, and a setting has its value after it.
    if let Some((_, value)) = token.split_once('=') {
        ensure!(
            value.bytes().all(|byte| byte == b'='),
            "it looks like a setting; write the token alone, or NAME:SCOPES:TOKEN"
        );
    }
    let (tag, order_key) = (hmac::sign(key, token.as_bytes()), close_order::key(token.as_bytes()));
    Ok(ServiceToken { tag, name, scopes, order_key })
}

fn checked_name(name: &str) -> Result<String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    ensure!(
        (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_allowed),
        "its name must have 1 to {MAX_NAME_BYTES} of A-Z, a-z, 0-9, '.', '_' and '-'"
    );
    Ok(name.to_owned())
}

fn parse_scopes(text: &str) -> Result<Vec<Scope>> {
    let scope = |word: &str| match word {
        "read" => Ok(Scope::Read),
        "write" => Ok(Scope::Write),
        "admin" => Ok(Scope::Admin),
        _ => bail!("its scope {} is unknown; write read, write, admin, with commas between", shown(word)),
    };
    text.split(',').map(scope).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn key() -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, b"key")
    }

    #[test]
    fn tokens_have_their_names_and_scopes() {
        let file = format!(
            "\u{feff}# backends\n\n  {TOKEN}==  # all scopes\nweb-1:read,write:{TOKEN}\r\n#{TOKEN}\nops:admin:x{TOKEN}\n"
        );
        let tokens = parse(&file, &key()).unwrap();
        let scopes: Vec<_> = tokens.iter().map(|token| (token.name.as_deref(), &token.scopes[..])).collect();
        let expected =
            [(None, &ALL[..]), (Some("web-1"), &[Scope::Read, Scope::Write]), (Some("ops"), &[Scope::Admin])];
        assert_eq!(scopes, expected);
        assert!(tokens[0].is(&format!("{TOKEN}=="), &key()) && tokens[1].is(TOKEN, &key()));
        for wrong in ["# backends", &format!("#{TOKEN}"), &format!("web-1:read,write:{TOKEN}"), ""] {
            assert!(!tokens.iter().any(|token| token.is(wrong, &key())), "{wrong}");
        }
    }

    #[test]
    fn bad_line_is_named_and_its_token_is_not() {
        for (line, why) in [
            ("0123456789abcde".to_owned(), "15 bytes"),
            (format!("{TOKEN}:"), "NAME:SCOPES:TOKEN"),
            (format!("web:{TOKEN}"), "NAME:SCOPES:TOKEN"),
            (format!("web:read:{TOKEN}:"), "NAME:SCOPES:TOKEN"),
            (format!("web:reed:{TOKEN}"), "reed"),
            (format!("web::{TOKEN}"), "scope"),
            (format!("w b:read:{TOKEN}"), "name"),
            (format!(":read:{TOKEN}"), "name"),
            (format!("SERVICE_TOKEN={TOKEN}"), "setting"),
            (format!("{TOKEN} {TOKEN}"), "space"),
        ] {
            let error = format!("{:#}", parse(&format!("# tokens\n{line}\n"), &key()).unwrap_err());
            assert!(error.contains("line 2") && error.contains(why), "{line}: {error}");
            assert!(!error.contains(TOKEN), "{error}");
        }
        assert!(parse("# nothing\n", &key()).unwrap_err().to_string().contains("empty"));
    }
}
