//! `keybeat top`: a full-screen live view.

mod draw;
mod feed;
mod model;

use super::{TopArgs, colour, logging, serve};
use anyhow::{Context, Result, bail};
use model::{Key, Model, Update};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

/// How often what has come is drawn, and time left goes down.
const FRAME: Duration = Duration::from_millis(100);
/// How often the keyboard's reader looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(200);
/// Updates and keys that may wait for the next frame; whoever brings more waits.
const WAITING: usize = 64;

pub async fn run(args: TopArgs) -> Result<ExitCode> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        bail!("top draws on a terminal, and there is none; use keybeat watch --json, or GET /v1/stats");
    }
    // Nothing may be written into the picture.
    logging::start_silent();
    let stop = serve::stop_signal()?;
    let (tell, updates) = mpsc::channel(WAITING);
    let feeds = feed::start(&args, tell)?;
    let model = Model::new(feeds.from.clone(), feeds.asks_for_deadlines);
    // It also has a panic restore the terminal before its message is printed.
    let mut terminal = ratatui::try_init().context("the terminal cannot be drawn on")?;
    let ended = tokio::select! {
        ended = show(&mut terminal, model, updates, keyboard()) => ended,
        () = stop => Ok(()),
    };
    ratatui::try_restore().context("the terminal cannot be restored; type: reset")?;
    drop(feeds);
    ended.map(|()| ExitCode::SUCCESS)
}

/// Draws until a key says that it is enough, or a feed that it has ended for good.
async fn show(
    terminal: &mut ratatui::DefaultTerminal,
    mut model: Model,
    mut updates: mpsc::Receiver<Update>,
    mut keys: mpsc::Receiver<Event>,
) -> Result<()> {
    let colours = !colour::forbidden();
    let mut frames = interval(FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(update) = updates.recv() => model.take(update, Instant::now())?,
            key = keys.recv() => {
                let Some(key) = key else { bail!("the keyboard cannot be read any more") };
                if let Event::Key(key) = key && key.kind == KeyEventKind::Press {
                    if is_quit(&key, model.is_typing()) {
                        return Ok(());
                    }
                    if let Some(key) = meaning(&key) {
                        model.press(key);
                    }
                }
                // A key is answered at once; a new size, too.
                terminal.draw(|frame| draw::draw(frame, &mut model, colours))?;
            }
            _ = frames.tick() => {
                terminal.draw(|frame| draw::draw(frame, &mut model, colours))?;
            }
        }
    }
}

fn is_quit(key: &KeyEvent, typing: bool) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c') => control,
        KeyCode::Char('q') => !typing,
        _ => false,
    }
}

fn meaning(key: &KeyEvent) -> Option<Key> {
    Some(match key.code {
        KeyCode::Up => Key::Up(1),
        KeyCode::Down => Key::Down(1),
        KeyCode::PageUp => Key::Up(10),
        KeyCode::PageDown => Key::Down(10),
        KeyCode::Home => Key::Up(usize::MAX),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Char(letter) if !key.modifiers.contains(KeyModifiers::CONTROL) => Key::Letter(letter),
        _ => return None,
    })
}

/// What is typed, and each new size of the terminal.
fn keyboard() -> mpsc::Receiver<Event> {
    let (tell, keys) = mpsc::channel(WAITING);
    // A thread, since reading a terminal blocks; it ends with the receiver.
    std::thread::spawn(move || {
        while !tell.is_closed() {
            match event::poll(LOOK).and_then(|there| there.then(event::read).transpose()) {
                Ok(None) => {}
                Ok(Some(event)) => {
                    if tell.blocking_send(event).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    });
    keys
}
