//! The picture.

use super::model::{DeadlineList, Figures, Model, came};
use crate::cli::printed;
use crate::redis::listing::LiveKey;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Sparkline};
use std::time::{Duration, Instant, SystemTime};

/// From this width on two lists stand side by side, in columns.
const WIDE: u16 = 76;
/// Fewer lines leave no room for the chart, and still fewer none for deadlines below each other.
const HIGH: u16 = 18;

/// Colours, or none.
struct Paint(bool);

impl Paint {
    fn of(&self, colour: Color) -> Style {
        if self.0 { Style::new().fg(colour) } else { Style::new() }
    }

    fn quiet(&self) -> Style {
        self.of(Color::DarkGray)
    }
}

pub fn draw(frame: &mut Frame<'_>, model: &mut Model, colours: bool) {
    let paint = Paint(colours);
    let area = frame.area();
    let counts = counts(model, area.width, &paint);
    let chart = if area.height >= HIGH { 4 } else { 0 };
    let rows = [
        Constraint::Length(1),
        Constraint::Length(counts.len() as u16),
        Constraint::Length(chart),
        Constraint::Min(0),
        Constraint::Length(1),
    ];
    let [head, numbers, rate, lists, foot] = Layout::vertical(rows).areas(area);
    frame.render_widget(headline(model, &paint), head);
    frame.render_widget(Paragraph::new(counts), numbers);
    if chart > 0 {
        draw_rate(frame, model, rate, &paint);
    }
    draw_lists(frame, model, lists, &paint);
    frame.render_widget(footline(model, &paint), foot);
}

fn headline(model: &Model, paint: &Paint) -> Line<'static> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let link = match (&model.link, &model.stats) {
        (Err(why), _) => Span::styled(format!("not connected: {}", plain(why)), paint.of(Color::Red)),
        (Ok(()), Some(Figures { redis_up: false, cause, .. })) => {
            let cause = cause.as_deref().unwrap_or("what is shown may be out of date");
            Span::styled(format!("Redis down: {}", plain(cause)), paint.of(Color::Red))
        }
        (Ok(()), _) => Span::styled("live, Redis up", paint.of(Color::Green)),
    };
    Line::from(vec![
        Span::styled("keybeat top  ", bold),
        link,
        Span::raw("  "),
        Span::raw(plain(&model.from)),
    ])
}

fn counts(model: &Model, width: u16, paint: &Paint) -> Vec<Line<'static>> {
    let Some(stats) = &model.stats else { return vec![Line::raw("nothing is known yet")] };
    let groups = model.groups.iter().map(|(group, (online, members))| {
        (format!("group {}", plain(group)), format!("{online} of {members} online"))
    });
    let pairs = figures(stats, model.rate()).into_iter().map(|(name, value)| (name.to_owned(), value));
    in_lines(pairs.chain(groups), width, paint)
}

fn figures(stats: &Figures, rate: Option<f64>) -> Vec<(&'static str, String)> {
    let [p50, p99, max] = stats.lag_ms.map(|lag| lag.map_or("-".into(), ms));
    let rate = rate.map_or("-".into(), |rate| format!("{rate:.1}"));
    let mut pairs = vec![
        ("users online", stats.users.to_string()),
        ("sessions", stats.sessions.to_string()),
        ("transitions/s", rate),
        ("lag p50", p50),
        ("p99", p99),
        ("max", max),
    ];
    pairs.extend(stats.watchers.map(|watchers| ("watchers", watchers.to_string())));
    pairs.extend([("gaps", stats.gaps.to_string()), ("repairs", stats.repairs.to_string())]);
    pairs
}

/// As many names and values to a line as fit.
fn in_lines(pairs: impl Iterator<Item = (String, String)>, width: u16, paint: &Paint) -> Vec<Line<'static>> {
    let (mut lines, mut used) = (vec![Line::default()], 0);
    for (name, value) in pairs {
        let length = name.len() + 1 + value.len() + 3;
        if used > 0 && used + length > usize::from(width) {
            lines.push(Line::default());
            used = 0;
        }
        used += length;
        let value = Span::styled(value, Style::new().add_modifier(Modifier::BOLD));
        let spans = [Span::styled(format!("{name} "), paint.quiet()), value, Span::raw("   ")];
        if let Some(line) = lines.last_mut() {
            spans.into_iter().for_each(|span| line.push_span(span));
        }
    }
    lines
}

fn draw_rate(frame: &mut Frame<'_>, model: &Model, area: Rect, paint: &Paint) {
    // The newest at the right; in tenths, so that slow ones are seen.
    let width = usize::from(area.width);
    let newest = model.rates.iter().skip(model.rates.len().saturating_sub(width));
    let mut bars = vec![0; width.saturating_sub(model.rates.len())];
    bars.extend(newest.map(|rate| (rate * 10.0) as u64));
    let block = titled("transitions per second", paint);
    frame.render_widget(Sparkline::default().data(bars).style(paint.of(Color::Green)).block(block), area);
}

fn draw_lists(frame: &mut Frame<'_>, model: &mut Model, area: Rect, paint: &Paint) {
    let halves = if area.width >= WIDE {
        Layout::horizontal([Constraint::Percentage(45), Constraint::Fill(1)]).spacing(2).split(area)
    } else if model.asks_for_deadlines && area.height >= 10 {
        Layout::vertical([Constraint::Percentage(40), Constraint::Fill(1)]).split(area)
    } else {
        return draw_transitions(frame, model, area, paint);
    };
    draw_deadlines(frame, model, halves[0], paint);
    draw_transitions(frame, model, halves[1], paint);
}

fn draw_deadlines(frame: &mut Frame<'_>, model: &Model, area: Rect, paint: &Paint) {
    let (title, lines) = match &model.deadlines {
        _ if !model.asks_for_deadlines => {
            let lines =
                vec![Line::raw("a daemon does not list them;"), Line::raw("name its Redis: --redis URL")];
            ("soonest deadlines".to_owned(), lines)
        }
        None => ("soonest deadlines".to_owned(), vec![Line::raw("reading all keys")]),
        Some(Err(why)) => {
            ("soonest deadlines".to_owned(), vec![Line::styled(plain(why), paint.of(Color::Red))])
        }
        Some(Ok(DeadlineList { keys, total, read })) => {
            let shown = keys.iter().filter(|key| model.is_shown(key.key.user()));
            let lines = shown.take(usize::from(area.height)).map(|key| deadline(key, *read, paint));
            (format!("soonest deadlines, of {total} keys"), lines.collect())
        }
    };
    frame.render_widget(Paragraph::new(lines).block(titled(&title, paint)), area);
}

fn deadline(key: &LiveKey, read: Instant, paint: &Paint) -> Line<'static> {
    let left = match key.left_ms {
        None => "   no TTL".to_owned(),
        Some(ms) => {
            let left = Duration::from_millis(ms).saturating_sub(read.elapsed());
            format!("{:>7.1} s", left.as_secs_f64())
        }
    };
    let session = key.key.session().map(|session| format!("#{}", plain(session))).unwrap_or_default();
    let name = Span::raw(format!("  {}", plain(key.key.user())));
    Line::from(vec![Span::styled(left, paint.of(Color::Yellow)), name, Span::styled(session, paint.quiet())])
}

fn draw_transitions(frame: &mut Frame<'_>, model: &mut Model, area: Rect, paint: &Paint) {
    let count = model.transitions().count();
    model.scroll = model.scroll.min(count.saturating_sub(1));
    let title = if model.filter.is_empty() {
        "newest transitions".to_owned()
    } else {
        format!("newest transitions with {:?}", model.filter)
    };
    let shown = model.transitions().skip(model.scroll).take(usize::from(area.height));
    let lines = shown.map(|transition| {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(transition.at_ms);
        let at = humantime::format_rfc3339_millis(at).to_string();
        let (mark, state, colour) = if came(transition) {
            ("●", "online ", Color::Green)
        } else {
            ("○", "offline", Color::DarkGray)
        };
        let reason = format!("  {:?}", transition.reason).to_lowercase();
        Line::from(vec![
            // Of the day, only the time; in UTC, as everywhere.
            Span::styled(at.get(11..23).unwrap_or_default().to_owned(), paint.quiet()),
            Span::styled(format!("  {mark} {state}"), paint.of(colour)),
            Span::raw(format!("  {}", plain(&transition.user))),
            Span::styled(reason, paint.quiet()),
            Span::raw(
                model.status(&transition.user).map_or(String::new(), |status| format!("  {}", plain(status))),
            ),
        ])
    });
    let lines: Vec<Line<'static>> = lines.collect();
    frame.render_widget(Paragraph::new(lines).block(titled(&title, paint)), area);
}

fn footline(model: &Model, paint: &Paint) -> Line<'static> {
    if model.is_typing() {
        return Line::raw(format!("names with: {}_   Enter keeps, Esc clears", model.filter));
    }
    Line::styled("q quit   ↑ ↓ PgUp PgDn scroll   / filter   Esc all again", paint.quiet())
}

fn titled(title: &str, paint: &Paint) -> Block<'static> {
    Block::new().borders(Borders::TOP).border_style(paint.quiet()).title(format!(" {title} "))
}

fn ms(ms: f64) -> String {
    if ms < 1_000.0 { format!("{ms:.1} ms") } else { format!("{:.1} s", ms / 1_000.0) }
}

/// Without control characters, which the terminal would obey.
fn plain(text: &str) -> String {
    printed::text(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    #[test]
    fn no_size_is_too_small() {
        for (asks, width, height) in
            (0..40).flat_map(|size| [(true, 3 * size, size), (false, size, 40 - size), (true, 80, size)])
        {
            let backend = TestBackend::new(width, height);
            let mut terminal = Terminal::new(backend).unwrap();
            let mut model = Model::new("http://127.0.0.1:7400".into(), asks);
            model.stats = Some(Figures { users: 7, ..Figures::default() });
            model.link = Ok(());
            terminal.draw(|frame| draw(frame, &mut model, true)).unwrap();
            let text: String =
                terminal.backend().buffer().content().iter().map(|cell| cell.symbol()).collect();
            // Below that there is room for nothing; above, what counts is there.
            let enough = width >= 15 && height >= 3;
            assert!(!enough || text.contains("users online 7"), "{width}x{height}: {text}");
        }
    }
}
