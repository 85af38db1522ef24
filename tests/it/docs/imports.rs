//! Reads which file of `src/` imports which, from `use` lines and from paths such as `crate::error::shown`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The path of a module below the crate: `["web", "access", "auth"]`; empty for lib.rs.
pub type Module = Vec<String>;

/// All files of `src/` by their modules, without tests.
pub struct Tree {
    files: BTreeMap<Module, Source>,
}

struct Source {
    /// Below `src/`.
    path: PathBuf,
    /// The names that the file uses, as written: `crate::hub::Hub`, `super::Key`, `names::Names`.
    imports: Vec<Vec<String>>,
    /// The names of its `pub use` lines, and where each comes from.
    exports: BTreeMap<String, Vec<String>>,
}

/// One file imports another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    /// The file with the `use` line.
    pub from: Module,
    /// The file that defines what it imports.
    pub to: Module,
}

impl Tree {
    /// Reads the folder `src`.
    pub fn read(src: &Path) -> Tree {
        let (mut paths, mut texts, mut tests) = (Vec::new(), Vec::new(), BTreeSet::new());
        rust_files(src, &mut paths);
        for path in paths {
            let text = std::fs::read_to_string(&path).expect("a Rust file is UTF-8");
            let path = path.strip_prefix(src).expect("it is below src").to_owned();
            let module = module_of(&path);
            tests.extend(test_files(&text).map(|name| [&module[..], &[name.to_owned()]].concat()));
            texts.push((module, path, text));
        }
        let is_test = |module: &Module| (1..=module.len()).any(|depth| tests.contains(&module[..depth]));
        let product = texts.into_iter().filter(|(module, ..)| !is_test(module));
        Tree { files: product.map(|(module, path, text)| (module, Source::parse(path, &text))).collect() }
    }

    /// The file of a module, below `src/`.
    pub fn path(&self, module: &Module) -> String {
        self.files[module].path.display().to_string()
    }

    /// All modules that are files.
    pub fn modules(&self) -> impl Iterator<Item = &Module> {
        self.files.keys()
    }

    /// All imports between two files, sorted, each once.
    pub fn imports(&self) -> Vec<Import> {
        let of_file = |(from, source): (&Module, &Source)| {
            let targets = source.imports.iter().filter_map(|path| self.resolve(from, path, 0));
            let targets: BTreeSet<Module> = targets.filter(|to| to != from).collect();
            targets.into_iter().map(|to| Import { from: from.clone(), to }).collect::<Vec<_>>()
        };
        self.files.iter().flat_map(of_file).collect()
    }

    /// The file that defines what `path` names, seen from the file of `from`; none outside of this crate.
    fn resolve(&self, from: &Module, path: &[String], depth: usize) -> Option<Module> {
        let first = path.first()?.as_str();
        let (mut at, mut rest) = match first {
            "crate" => (crate_of(from), &path[1..]),
            "self" => (from.clone(), &path[1..]),
            "super" => (from[..from.len().checked_sub(1)?].to_vec(), &path[1..]),
            _ => (from.clone(), path),
        };
        while rest.first().is_some_and(|name| name == "super") {
            at.pop()?;
            rest = &rest[1..];
        }
        let start = (at.len(), rest.len());
        while let Some(name) = rest.first() {
            let child = [&at[..], std::slice::from_ref(name)].concat();
            if !self.files.contains_key(&child) {
                break;
            }
            (at, rest) = (child, &rest[1..]);
        }
        let is_ours = matches!(first, "crate" | "self" | "super") || (at.len(), rest.len()) != start;
        let source = self.files.get(&at).filter(|_| is_ours)?;
        match rest.first().and_then(|name| source.exports.get(name)) {
            Some(origin) if depth < 8 => self.resolve(&at, origin, depth + 1).or(Some(at)),
            _ => Some(at),
        }
    }
}

impl Source {
    fn parse(path: PathBuf, text: &str) -> Source {
        let text = without_tests(text);
        let mut source = Source { path, imports: Vec::new(), exports: BTreeMap::new() };
        let mut code = String::new();
        let mut lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
        while let Some(line) = lines.next() {
            let Some((visibility, start)) = use_line(line) else {
                code.push_str(line);
                code.push('\n');
                continue;
            };
            let mut tree = start.to_owned();
            while !tree.contains(';') {
                tree.push_str(lines.next().expect("a use ends with a semicolon"));
            }
            for (path, name) in expand(tree.split(';').next().unwrap_or_default()) {
                match visibility {
                    "" => source.imports.push(path),
                    _ => drop(source.exports.insert(name, path)),
                }
            }
        }
        source.imports.extend(paths_in(&code));
        source
    }
}

/// The text before `use` and after it, if the line begins a `use`.
fn use_line(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    let at =
        if line.starts_with("use ") { 0 } else { line.find(" use ").filter(|_| line.starts_with("pub"))? };
    let (visibility, rest) = line.split_at(at);
    Some((visibility, rest.trim_start().strip_prefix("use ")?))
}

/// The paths of a `use` tree, each with the name that it gives: `a::{b, c as d}` is `a::b` as `b`, and `a::c` as `d`.
fn expand(tree: &str) -> Vec<(Vec<String>, String)> {
    let tree = tree.trim();
    let Some((prefix, group)) = tree.split_once('{') else {
        let (path, alias) = tree.split_once(" as ").map_or((tree, None), |(path, alias)| (path, Some(alias)));
        let mut path: Vec<String> = path.split("::").map(|name| name.trim().to_owned()).collect();
        path.retain(|name| !name.is_empty() && name != "*");
        if path.len() > 1 && path.last().is_some_and(|name| name == "self") {
            path.pop();
        }
        let name =
            alias.map_or_else(|| path.last().cloned().unwrap_or_default(), |alias| alias.trim().to_owned());
        return vec![(path, name)];
    };
    let group = group.strip_suffix('}').expect("a group ends its tree");
    let parts = split_group(group).into_iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| expand(&format!("{prefix}{}", part.trim()))).collect()
}

/// The parts of a group between its commas, nested groups whole.
fn split_group(group: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&group[start..]);
    parts
}

/// The paths in code outside of `use` lines that begin with `crate::` or `super::`.
fn paths_in(code: &str) -> Vec<Vec<String>> {
    let of_word = |word: &'static str| {
        code.match_indices(word).filter_map(move |(at, _)| {
            let before = &code[..at];
            let inside = before.ends_with(|c: char| c.is_alphanumeric() || "_:$".contains(c))
                || before.ends_with("pub(in ");
            let end = code[at..].find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
            let path = &code[at..end.map_or(code.len(), |end| at + end)];
            (!inside).then(|| path.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect())
        })
    };
    of_word("crate::").chain(of_word("super::")).collect()
}

/// The files that the text declares as `#[cfg(test)] mod name;`.
fn test_files(text: &str) -> impl Iterator<Item = &str> {
    let declarations =
        text.lines().zip(text.lines().skip(1)).filter(|(line, _)| line.trim() == "#[cfg(test)]");
    declarations.filter_map(|(_, next)| next.trim().strip_prefix("mod ")?.strip_suffix(';'))
}

/// The text up to its `#[cfg(test)] mod tests {`.
fn without_tests(text: &str) -> &str {
    let tests = text.match_indices("#[cfg(test)]").find(|(at, word)| {
        let next = text[at + word.len()..].trim_start();
        next.starts_with("mod ") && next.lines().next().is_some_and(|line| line.ends_with('{'))
    });
    tests.map_or(text, |(at, _)| &text[..at])
}

/// The root of a module's crate. `presence/` is a crate of its own.
fn crate_of(module: &Module) -> Module {
    module.iter().take(1).filter(|name| *name == "presence").cloned().collect()
}

fn module_of(path: &Path) -> Module {
    let mut module: Module =
        path.with_extension("").iter().map(|name| name.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|name| name == "mod" || name == "lib") {
        module.pop();
    }
    module
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

#[test]
fn use_trees_expand_to_single_paths() {
    let expanded = |tree| -> Vec<String> {
        expand(tree).into_iter().map(|(path, name)| format!("{} as {name}", path.join("::"))).collect()
    };
    assert_eq!(expanded("crate::hub::Hub"), ["crate::hub::Hub as Hub"]);
    assert_eq!(
        expanded("super::{a::{self, B}, c as d, e::*}"),
        ["super::a as a", "super::a::B as B", "super::c as d", "super::e as e"]
    );
}
