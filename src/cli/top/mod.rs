//! `keybeat top`: a full-screen live view.

mod draw;
mod feed;
mod model;

use super::{TopArgs, colour, logging, serve};
use anyhow::{Context, Result, bail};
use model::{Model, Press, Update};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

/// Time between two frames.
const FRAME: Duration = Duration::from_millis(100);
/// How often the thread that reads the keyboard checks whether it has to end.
const LOOK: Duration = Duration::from_millis(200);
/// Updates and key presses that may wait for the next frame; a sender of more waits.
const WAITING: usize = 64;

pub async fn run(args: TopArgs) -> Result<ExitCode> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        bail!("top draws on a terminal, and there is none; use keybeat watch --json, or GET /v1/stats");
    }
    // A log line would spoil the screen.
    logging::start_silent();
    let stop = serve::stop_signal()?;
    let (sender, updates) = mpsc::channel(WAITING);
    let feeds = feed::start(&args, sender)?;
    let model = Model::new(feeds.from.clone(), feeds.asks_for_deadlines);
    // It also makes a panic restore the terminal before it prints its message.
    let mut terminal = ratatui::try_init().context("the terminal cannot be drawn on")?;
    let ended = tokio::select! {
        ended = show(&mut terminal, model, updates, keyboard()) => ended,
        () = stop => Ok(()),
    };
    ratatui::try_restore().context("the terminal cannot be restored; type: reset")?;
    drop(feeds);
    ended.map(|()| ExitCode::SUCCESS)
}

/// Draws until a key quits, or a feed has ended for good.
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
                // A key press and a new size are shown at once.
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

fn meaning(key: &KeyEvent) -> Option<Press> {
    Some(match key.code {
        KeyCode::Up => Press::Up(1),
        KeyCode::Down => Press::Down(1),
        KeyCode::PageUp => Press::Up(10),
        KeyCode::PageDown => Press::Down(10),
        KeyCode::Home => Press::Up(usize::MAX),
        KeyCode::Enter => Press::Enter,
        KeyCode::Esc => Press::Escape,
        KeyCode::Backspace => Press::Backspace,
        KeyCode::Char(letter) if !key.modifiers.contains(KeyModifiers::CONTROL) => Press::Letter(letter),
        _ => return None,
    })
}

/// Key presses, and new sizes of the terminal.
fn keyboard() -> mpsc::Receiver<Event> {
    let (sender, keys) = mpsc::channel(WAITING);
    // A thread, since reading a terminal blocks. It ends when the receiver is dropped.
    std::thread::spawn(move || {
        while !sender.is_closed() {
            match event::poll(LOOK).and_then(|there| there.then(event::read).transpose()) {
                Ok(None) => {}
                Ok(Some(event)) => {
                    if sender.blocking_send(event).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    });
    keys
}
