//! The floors of `src/`: a file imports its own folder and lower floors, nothing else. The same holds between the rooms of a
//! folder, and there is no import circle.

use super::imports::{Import, Module, Tree};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The top folders and files, from the lowest floor to the highest.
const FLOORS: [&str; 7] = [
    "presence",
    // The error type is below the protocol, which sends its codes.
    "error lock certificates panics",
    "protocol config metrics traces",
    "hub redis",
    "driver web client supervisor sinks",
    "server",
    "cli main",
];

/// The rooms of a folder, from the lowest floor to the highest. The folder's mod.rs is `mod`; without a line of its own it is
/// above all rooms.
const ROOMS: [(&str, &[&str]); 3] = [
    (
        "presence",
        &[
            "time key renewals fnv",
            "change slots pattern reads last_seen",
            "table",
            "roster detector",
            "tracker stream delivery",
        ],
    ),
    (
        "redis",
        &[
            "glob tls url retry_delay channel password_file",
            "names address_map",
            "target",
            "resp",
            "info scan server_config private",
            "sentinel",
            "cluster",
            "link listing vendor",
            "inspect raw usage writer",
            "directory last_seen",
            "stream",
        ],
    ),
    (
        "web",
        &[
            "failure tls describe shutdown protective_headers query_string pace",
            "limits console",
            "refused_head",
            "access answers middleware parameters listen sessions",
            "audit bell",
            "app",
            "api stream",
        ],
    ),
];

/// In these folders a file may not even import the mod.rs that declares it.
const STRICT: [&str; 1] = ["web"];

fn tree() -> Tree {
    Tree::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

fn floor(floors: &[&str], room: &str) -> Option<usize> {
    floors.iter().position(|rooms| rooms.split(' ').any(|other| other == room))
}

fn line(tree: &Tree, import: &Import) -> String {
    format!("{} imports {}", tree.path(&import.from), tree.path(&import.to))
}

#[test]
fn file_imports_own_folder_and_lower_floors() {
    let tree = tree();
    let top = |module: &Module| module.first().and_then(|name| floor(&FLOORS, name));
    let between = |import: &Import| !import.from.is_empty() && import.from.first() != import.to.first();
    let imports: Vec<Import> = tree.imports().into_iter().filter(between).collect();
    assert!(imports.len() > 50, "only {} imports between folders: the test reads nothing", imports.len());
    let broken: Vec<String> = imports
        .iter()
        .filter(|import| match (top(&import.from), top(&import.to)) {
            (Some(from), Some(to)) => to >= from,
            _ => true,
        })
        .map(|import| line(&tree, import))
        .collect();
    assert!(broken.is_empty(), "these imports lead to the same floor or up:\n{}", broken.join("\n"));
}

#[test]
fn rooms_of_a_folder_import_lower_rooms() {
    let tree = tree();
    let mut broken = Vec::new();
    for (folder, floors) in ROOMS {
        let room = |module: &Module| module.get(1).map_or("mod".to_owned(), String::clone);
        let level = |room: &str| floor(floors, room).or((room == "mod").then_some(floors.len()));
        let inside = |module: &&Module| module.first().is_some_and(|name| name == folder);
        let rooms: BTreeSet<String> = tree.modules().filter(inside).map(room).collect();
        let unknown = rooms.iter().filter(|room| level(room).is_none());
        broken.extend(unknown.map(|room| format!("{folder}/{room} has no floor in ROOMS")));
        let gone = floors.iter().flat_map(|rooms| rooms.split(' ')).filter(|&room| !rooms.contains(room));
        broken.extend(gone.map(|room| format!("ROOMS has {folder}/{room}, which does not exist")));
        for import in tree.imports() {
            let (from, to) = (room(&import.from), room(&import.to));
            if inside(&&import.from) && inside(&&import.to) && from != to && level(&to) >= level(&from) {
                broken.push(line(&tree, &import));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "a room imports lower rooms of its folder, nothing else:\n{}",
        broken.join("\n")
    );
}

#[test]
fn files_import_each_other_without_circles() {
    let tree = tree();
    // A file may use what the mod.rs that declares it defines, for example to implement its type.
    let counts = |import: &Import| {
        let is_own_mod = import.from.len() > import.to.len() && import.from.starts_with(&import.to);
        !is_own_mod || import.from.first().is_some_and(|folder| STRICT.contains(&folder.as_str()))
    };
    let mut reached: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    let imports: Vec<Import> = tree.imports().into_iter().filter(counts).collect();
    for Import { from, to } in &imports {
        reached.entry(from.clone()).or_default().insert(to.clone());
    }
    let direct = reached.clone();
    loop {
        let further = |to: &BTreeSet<Module>| {
            to.iter().filter_map(|next| direct.get(next)).flatten().cloned().collect()
        };
        let before: usize = reached.values().map(BTreeSet::len).sum();
        for to in reached.values_mut() {
            let more: Vec<Module> = further(to);
            to.extend(more);
        }
        if reached.values().map(BTreeSet::len).sum::<usize>() == before {
            break;
        }
    }
    let circles: Vec<String> = imports
        .iter()
        .filter(|import| reached.get(&import.to).is_some_and(|to| to.contains(&import.from)))
        .map(|import| line(&tree, import))
        .collect();
    assert!(circles.is_empty(), "these imports form circles:\n{}", circles.join("\n"));
}
