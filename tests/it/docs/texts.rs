//! The documents agree with the program: links lead to files and headings that exist, and every setting and metric is
//! documented.

use keybeat::metrics::Metrics;
use keybeat::presence::Cause;
use keybeat::presence::StreamCounts;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join("docs").join(name)).expect("a page of the book")
}

/// README.md and the other pages next to it, docs/ and examples/.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in [root().to_owned(), root().join("docs"), root().join("examples")] {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|ext| ext == "md") {
                found.push(path);
            }
        }
    }
    found
}

/// The lines of prose, without code blocks and code spans.
fn prose(text: &str) -> impl Iterator<Item = (usize, String)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(at, line)| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        let spans = line.split('`').enumerate();
        let outside: String = spans.filter(|(i, _)| i % 2 == 0).map(|(_, part)| part).collect();
        (!fenced && !is_fence).then_some((at + 1, outside))
    })
}

/// The targets of `[text](target)` and `![text](target)`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    let ends = line.match_indices("](").map(|(at, mark)| &line[at + mark.len()..]);
    ends.filter_map(|rest| rest.split([')', ' ']).next())
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> Vec<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        fenced ^= line.starts_with("```");
        let Some(title) = line.trim_start_matches('#').strip_prefix(' ') else { continue };
        if fenced || !line.starts_with('#') {
            continue;
        }
        let kept = title.trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let slug: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let before = seen.entry(slug.clone()).or_default();
        found.push(if *before == 0 { slug } else { format!("{slug}-{before}") });
        *before += 1;
    }
    found
}

/// The fault of a link of `document`; `None` for links to other sites.
fn broken(document: &Path, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = match path {
        "" => document.to_owned(),
        path => document.parent().expect("a folder").join(path),
    };
    if !file.exists() {
        return Some("the file does not exist".into());
    }
    if anchor.is_empty() {
        return None;
    }
    let text = std::fs::read_to_string(&file).ok()?;
    (!anchors(&text).iter().any(|found| found == anchor))
        .then(|| format!("the file has no heading #{anchor}"))
}

#[test]
fn links_lead_to_files_and_headings() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for document in documents() {
        let text = std::fs::read_to_string(&document).expect("a text");
        let shown = document.strip_prefix(root()).expect("inside").display().to_string();
        for (number, line) in prose(&text) {
            for target in targets(&line) {
                seen += 1;
                if let Some(why) = broken(&document, target) {
                    wrong.push(format!("{shown}:{number}: {target}: {why}"));
                }
            }
        }
    }
    assert!(seen > 20, "only {seen} links found: the test reads nothing");
    assert!(wrong.is_empty(), "links that lead nowhere:\n{}", wrong.join("\n"));
}

#[test]
fn index_lists_every_page() {
    let index = page("README.md");
    for document in documents().iter().filter(|path| path.parent() == Some(&root().join("docs"))) {
        let name = document.file_name().and_then(|name| name.to_str()).expect("a name");
        assert!(name == "README.md" || index.contains(&format!("({name})")), "docs/README.md lacks {name}");
    }
}

#[test]
fn settings_list_every_argument() {
    let asked = Command::new(env!("CARGO_BIN_EXE_keybeat")).args(["serve", "--help"]).output();
    let help = String::from_utf8(asked.expect("keybeat serve --help").stdout).expect("text");
    let settings = page("SETTINGS.md");
    let arguments = help.lines().filter_map(|line| line.trim_start().strip_prefix("--"));
    let names: Vec<&str> = arguments.filter_map(|rest| rest.split_whitespace().next()).collect();
    assert!(names.len() > 20, "only {} arguments found in:\n{help}", names.len());
    for name in names {
        let described = ['`', ' '].iter().any(|end| settings.contains(&format!("`--{name}{end}")));
        assert!(described, "docs/SETTINGS.md lacks --{name}");
    }
}

#[test]
fn each_attack_has_a_test() {
    let security = page("SECURITY.md");
    let (_, after) = security.split_once("| attack |").expect("a table of attacks");
    let rows: Vec<&str> = after.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 20, "only {} attacks found", rows.len());
    let mut sources = Vec::new();
    for folder in ["src", "tests"] {
        read_all(&root().join(folder), &mut sources);
    }
    for row in rows {
        let column = row.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap_or_default();
        let tests: Vec<&str> = column.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test in the row {row}");
        for test in tests {
            let heads = [format!("fn {test}("), format!("fn {test}<")];
            let exists = sources.iter().any(|text| heads.iter().any(|head| text.contains(head)));
            assert!(exists, "docs/SECURITY.md names {test}, which does not exist, in the row {row}");
        }
    }
}

/// The texts of all Rust files of a folder.
pub(super) fn read_all(folder: &Path, texts: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_all(&path, texts);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            texts.push(std::fs::read_to_string(path).expect("a text"));
        }
    }
}

#[test]
fn every_metric_is_documented() {
    let metrics = Metrics::new();
    // A family is not rendered before its first count.
    metrics
        .stream
        .add(StreamCounts::default(), StreamCounts { written: 1, takeovers: 1, ..StreamCounts::default() });
    metrics.webhooks.attempt("test");
    metrics.webhooks.set("https://test", 1, 1, Some(1));
    metrics.gap("test");
    metrics.repair("test");
    metrics.limited("test");
    metrics.refused("test");
    metrics.reloaded(true);
    metrics.http.route("test", true).answered("GET", 200, Duration::ZERO);
    let (text, operating) = (metrics.render(), page("OPERATING.md"));
    let types: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(types.len() > 20, "only {} metrics found in:\n{text}", types.len());
    for told in types {
        let (name, kind) = told.split_once(' ').expect("a name and a kind");
        let name = match kind {
            "counter" => format!("`{name}_total"),
            "info" => format!("`{name}_info"),
            _ => format!("`{name}"),
        };
        let row = ['`', '{'].iter().any(|end| operating.contains(&format!("{name}{end}")));
        assert!(row, "docs/OPERATING.md lacks {name}`");
    }
}

#[test]
fn each_cause_of_a_gap_is_described() {
    let operating = page("OPERATING.md");
    let (_, after) = operating.split_once("| cause of a gap |").expect("a table of causes");
    let rows = after.lines().skip(2).take_while(|line| line.starts_with('|'));
    let described: Vec<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
    let causes = Cause::ALL.into_iter().filter(|&cause| cause != Cause::Start).map(Cause::label);
    assert_eq!(described, causes.collect::<Vec<_>>(), "docs/OPERATING.md, in the order of the enum");
    let start = format!("the cause `{}`", Cause::Start.label());
    assert!(operating.contains(&start), "docs/OPERATING.md lacks {start}");
}

#[test]
fn packages_have_the_version_of_the_crate() {
    let version = env!("CARGO_PKG_VERSION");
    for (file, line) in [
        ("clients/js/package.json", format!("\"version\": \"{version}\"")),
        ("clients/python/pyproject.toml", format!("version = \"{version}\"")),
        ("CHANGELOG.md", format!("\n## [{version}] - ")),
    ] {
        let path = root().join(file);
        let text = std::fs::read_to_string(path).expect("a file of the project");
        assert!(text.contains(&line), "{file} has no {line:?}");
    }
}
