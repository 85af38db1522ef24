//! A file imports its own folder and lower floors, nothing else.

use std::path::{Path, PathBuf};

/// The floor of a module, by its first name.
fn floor(module: &str) -> Option<u32> {
    Some(match module {
        "presence" => 0,
        // The typed error is below the protocol, which encodes it.
        "error" => 1,
        "protocol" | "config" | "metrics" | "traces" => 2,
        "hub" | "redis" => 3,
        "driver" | "web" | "client" | "supervisor" => 4,
        "server" => 5,
        "cli" | "main" => 6,
        _ => return None,
    })
}

fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            files.push(path);
        }
    }
}

/// The modules of this crate that a line names: `use crate::hub::Hub` or `crate::error::shown(…)`.
fn named(line: &str) -> impl Iterator<Item = &str> {
    let code = line.split("//").next().unwrap_or(line);
    code.match_indices("crate::").map(move |(at, word)| {
        let rest = &code[at + word.len()..];
        rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(rest)
    })
}

#[test]
fn files_import_only_lower_floors() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut broken, mut seen) = (Vec::new(), Vec::new(), 0);
    rust_files(&src, &mut files);
    for file in files {
        let inside = file.strip_prefix(&src).expect("below src");
        let own =
            inside.iter().next().and_then(|first| first.to_str()).expect("a name").trim_end_matches(".rs");
        let Some(level) = floor(own) else { continue };
        let text = std::fs::read_to_string(&file).expect("a text");
        for (i, line) in text.lines().enumerate() {
            for module in named(line).filter(|&module| module != own) {
                seen += 1;
                if floor(module).is_none_or(|other| other >= level) {
                    broken.push(format!("{}:{}: {}", inside.display(), i + 1, line.trim()));
                }
            }
        }
    }
    assert!(seen > 50, "only {seen} imports found: the test reads nothing");
    assert!(
        broken.is_empty(),
        "a file imports its own folder and lower floors, nothing else:\n{}",
        broken.join("\n")
    );
}
