//! The texts in the source, to compare with what documents quote. In a text of the source, `{…}` stands for anything; in a document, `…` does.

use std::path::Path;

/// A text in which `None` stands for anything.
type Pattern = Vec<Option<char>>;

/// A text of the source, and the macro of the log that it is in, if it is in one.
pub struct Literal {
    pattern: Pattern,
    /// What the pattern names.
    text: String,
    pub level: Option<&'static str>,
}

/// All texts of the files of `src/`.
pub fn of_source() -> Vec<Literal> {
    let mut texts = Vec::new();
    super::texts::read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut texts);
    texts.iter().flat_map(|text| literals(text)).collect()
}

/// The level of the log's macro that is open here: `info!(server, "` and the like.
fn level(before: &str) -> Option<&'static str> {
    let statement = before.rsplit([';', '{', '}']).next().unwrap_or_default();
    ["error", "warn", "info", "debug"].into_iter().find(|level| statement.contains(&format!("{level}!(")))
}

fn literals(text: &str) -> Vec<Literal> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['"', '/', '\'']) {
        let (before, here) = rest.split_at(at);
        rest = if here.starts_with("//") {
            here.split_once('\n').map_or("", |(_, after)| after)
        } else if here.starts_with("'\"'") || here.starts_with("'\\\"'") {
            here.split_once("\"'").map_or("", |(_, after)| after)
        } else if before.ends_with("r#") {
            here[1..].split_once("\"#").map_or("", |(_, after)| after)
        } else if let Some(inside) = here.strip_prefix('"') {
            let done = text.len() - here.len();
            let (pattern, after) = literal(inside);
            let named = pattern.iter().map(|c| c.unwrap_or('\0')).collect();
            found.push(Literal { pattern, text: named, level: level(&text[..done]) });
            after
        } else {
            &here[1..]
        };
    }
    found
}

/// Reads a text up to its closing quote, and returns what follows.
fn literal(text: &str) -> (Pattern, &str) {
    let mut pattern = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (pattern, &text[at + 1..]),
            '\\' => match chars.next() {
                Some((_, '\n')) => while chars.next_if(|(_, c)| c.is_whitespace()).is_some() {},
                Some((_, 'n' | 't' | 'r')) => pattern.push(Some(' ')),
                Some((_, other)) => pattern.push(Some(other)),
                None => {}
            },
            '{' if chars.next_if(|(_, c)| *c == '{').is_some() => pattern.push(Some('{')),
            '}' if chars.next_if(|(_, c)| *c == '}').is_some() => pattern.push(Some('}')),
            '{' => {
                pattern.push(None);
                while chars.next().is_some_and(|(_, c)| c != '}') {}
            }
            other => pattern.push(Some(other)),
        }
    }
    (pattern, "")
}

/// How many characters, of a text that fits both, both name; `None` if no text fits both.
fn shared(a: &[Option<char>], b: &[Option<char>]) -> Option<usize> {
    // Of the rests from i and j, from the ends to the starts.
    let mut next: Vec<Option<usize>> = vec![None; b.len() + 1];
    for i in (0..=a.len()).rev() {
        let mut row = vec![None; b.len() + 1];
        for j in (0..=b.len()).rev() {
            row[j] = match (a.get(i), b.get(j)) {
                (None, None) => Some(0),
                // Anything is nothing, or one character more of the other.
                (Some(None), Some(_)) => next[j].max(row[j + 1]),
                (Some(_), Some(None)) => row[j + 1].max(next[j]),
                (Some(None), None) => next[j],
                (None, Some(None)) => row[j + 1],
                (Some(x), Some(y)) if x == y => next[j + 1].map(|rest| rest + usize::from(*x != Some(' '))),
                _ => None,
            };
        }
        next = row;
    }
    next[0]
}

/// The texts of the source that a document may mean with this one: both name at least two fifths of it.
pub fn meant<'a>(quoted: &str, source: &'a [Literal]) -> Vec<&'a Literal> {
    // Fields follow a line of the log: `subscribed version=7.0.15`.
    let words: Vec<&str> = quoted.split(' ').take_while(|word| !word.contains('=')).collect();
    let words_of =
        |length: usize| words.iter().filter(move |word| word.len() >= length && !word.contains('…'));
    // Most texts of the source share no long word with it, and are not compared.
    let length = if words_of(5).next().is_some() { 5 } else { 1 };
    let quoted: Pattern = words.join(" ").trim().chars().map(|c| (c != '…').then_some(c)).collect();
    let named = quoted.iter().flatten().filter(|c| **c != ' ').count();
    let fits = |literal: &&Literal| {
        words_of(length).any(|word| literal.text.contains(word))
            && shared(&quoted, &literal.pattern).is_some_and(|both| 5 * both >= 2 * named)
    };
    source.iter().filter(fits).collect()
}

#[test]
fn quoted_texts_meet_those_of_the_source() {
    let source = literals(
        r#"
        // "a comment"
        info!(server, "{NAME} was {held:?}, is now {wanted:?} \
            until {{x}}");
        let quote = '"';
        bail!("gone");
        "#,
    );
    let texts: Vec<usize> = source.iter().map(|literal| literal.pattern.len()).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert_eq!(source[0].level, Some("info"));
    for (quoted, fits) in [
        ("events was \"\", is now \"E$\" until {x}", true),
        ("… was …, is now … until {x}", true),
        ("events was \"\" is now \"E$\" until {x}", false),
        ("gone", true),
        ("gone server=1", true),
        ("gone away", false),
        ("… other text of some length", false),
        ("a comment", false),
    ] {
        assert_eq!(!meant(quoted, &source).is_empty(), fits, "{quoted}");
    }
}
