//! Lines of the log, errors and alarms in the documents are those of the program and of the shipped files.

use super::literals::{Literal, meant, of_source};
use crate::common::fault_list::FAULTS;
use serde_json::Value;
use std::path::Path;

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("a file of the project")
}

/// The cells of the rows of the table below this heading.
fn rows<'a>(page: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let (_, below) = page.split_once(&format!("\n## {heading}\n")).expect("the heading");
    let table = below.lines().skip_while(|line| !line.starts_with('|')).skip(2);
    let rows = table.take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches(['|', ' ']).split(" | ").map(str::trim).collect()).collect()
}

/// The texts between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The texts that the source does not have, or has at another level.
fn unknown<'a>(lines: impl Iterator<Item = (&'a str, &'a str)>, source: &[Literal]) -> Vec<String> {
    let fault = |(levels, line): (&str, &str)| {
        let found = meant(line, source);
        let logged: Vec<&str> = found.iter().filter_map(|literal| literal.level).collect();
        let fits =
            logged.is_empty() || levels.is_empty() || levels.split(", ").any(|level| logged.contains(&level));
        match (found.is_empty(), fits) {
            (true, _) => Some(format!("{line}: the source has no such text")),
            (_, false) => Some(format!("{line}: the source logs it as {logged:?}, not as {levels}")),
            _ => None,
        }
    };
    lines.filter_map(fault).collect()
}

#[test]
fn lines_of_the_log_are_those_printed() {
    let (operating, deploy, start) =
        (read("docs/OPERATING.md"), read("examples/deploy/README.md"), read("docs/GETTING_STARTED.md"));
    let source = of_source();
    assert!(source.len() > 1_000, "only {} texts found: the test reads nothing", source.len());
    let of_table = rows(&operating, "Logs");
    let messages = rows(&deploy, "The log");
    let lines = of_table.iter().flat_map(|row| quoted(row[1]).map(|line| (row[0], line)));
    let fields = messages.iter().flat_map(|row| {
        let level = row[1].split(',').next().unwrap_or_default();
        quoted(row[0]).map(move |line| (level, line))
    });
    let printed = start.lines().flat_map(|line| [line].into_iter().chain(quoted(line)));
    let printed = printed.filter_map(|line| {
        ["INFO ", "WARN "]
            .into_iter()
            .zip(["info", "warn"])
            .find_map(|(mark, level)| Some((level, line.strip_prefix(mark)?)))
    });
    let all: Vec<_> = lines.chain(fields).chain(printed).collect();
    assert!(all.len() > 40, "only {} lines found", all.len());
    let wrong = unknown(all.into_iter(), &source);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn errors_of_tokens_are_those_returned() {
    let page = read("docs/AUTHENTICATION.md");
    let rows = rows(&page, "Errors");
    let lines = rows.iter().flat_map(|row| quoted(row[2]).map(|line| ("", line)));
    let all: Vec<_> = lines.collect();
    assert!(all.len() > 12, "only {} errors found", all.len());
    let wrong = unknown(all.into_iter(), &of_source());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn alarms_are_those_of_the_shipped_rules() {
    let operating = read("docs/OPERATING.md");
    let rules: Value = serde_yaml_ng::from_str(&read("examples/deploy/alerts.yml")).expect("YAML");
    let rules = rules["groups"][0]["rules"].as_array().expect("rules");
    let shipped = rules.iter().map(|rule| {
        let wait = rule["for"].as_str().map(|wait| format!(" for {wait}")).unwrap_or_default();
        let text = |field: &str| rule[field].as_str().expect("a text").to_owned();
        format!(
            "`{}` | `{}`{wait} | {}",
            text("alert"),
            text("expr"),
            rule["labels"]["severity"].as_str().expect("a text")
        )
    });
    let documented = rows(&operating, "Alarms");
    let documented = documented.iter().map(|row| row[..3].join(" | "));
    assert_eq!(
        documented.collect::<Vec<_>>(),
        shipped.collect::<Vec<_>>(),
        "docs/OPERATING.md, in the order of alerts.yml"
    );
}

#[test]
fn each_measured_fault_is_explained() {
    let page = read("docs/FAULTS.md");
    let (_, measured) = page.split_once("\n| fault | steady users").expect("the table of outcomes");
    let measured = measured.lines().skip(2).take_while(|line| line.starts_with('|'));
    let measured = measured.filter_map(|row| row.trim_matches(['|', ' ']).split(" | ").next());
    let explained = rows(&page, "What each fault means");
    let names: Vec<&str> = explained.iter().map(|row| row[0]).collect();
    assert_eq!(names, measured.collect::<Vec<_>>(), "docs/FAULTS.md, in the order of the outcomes");
    assert_eq!(names, FAULTS.iter().map(|fault| fault.name).collect::<Vec<_>>(), "the faults of the tests");
    assert!(explained.iter().all(|row| row.len() == 3 && row.iter().all(|cell| !cell.is_empty())));
}
