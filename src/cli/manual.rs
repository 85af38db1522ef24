//! `keybeat completions` and `keybeat man`, generated from the definitions of the arguments.

use super::{Args, CompletionsArgs, ManArgs};
use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Prints the completion script of one shell.
pub fn completions(args: &CompletionsArgs) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "keybeat", &mut script);
    // Not directly to standard output: clap panics if the reader has closed it.
    std::io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes one page for keybeat and one for each command, and prints their paths.
pub fn man(args: &ManArgs) -> Result<ExitCode> {
    let advice = || format!("cannot write to {}; name a folder that is writable", args.folder.display());
    std::fs::create_dir_all(&args.folder).with_context(advice)?;
    let mut command = Args::command().disable_help_subcommand(true);
    command.build();
    let mut out = std::io::stdout().lock();
    for page in std::iter::once(&command).chain(command.get_subcommands()) {
        let path = write_page(page, &args.folder).with_context(advice)?;
        writeln!(out, "{}", path.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write_page(command: &Command, folder: &Path) -> Result<std::path::PathBuf> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let path = folder.join(format!("{name}.1"));
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    std::fs::write(&path, page)?;
    Ok(path)
}
