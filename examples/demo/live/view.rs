//! What the live view looks like.

use std::time::Duration;

use multidb::{CircuitState, MemberView, Snapshot, Verdict};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Gauge, Paragraph, Row, Sparkline, Table};
use tokio::time::Instant;

use super::{FAULT_KEYS, Stand};
use crate::grouped;
use crate::load::{Class, Counts};
use crate::screen::Paint;
use crate::stage::{Fault, NAMES};
use crate::timeline::Moment;

pub(super) fn draw(frame: &mut Frame<'_>, stand: &Stand) {
    let snapshot = stand.client.snapshot();
    let moments = stand.screen.moments();
    let [top, databases, figures, events, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(NAMES.len() as u16 + 3),
        Constraint::Length(8),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let [rate, numbers] =
        Layout::horizontal([Constraint::Min(20), Constraint::Length(36)]).areas(figures);
    draw_progress(frame, top, stand);
    draw_databases(frame, databases, stand, &snapshot);
    draw_rate(frame, rate, &moments);
    draw_numbers(frame, numbers, &moments);
    draw_events(frame, events, stand);
    draw_keys(frame, keys, stand);
}

fn draw_progress(frame: &mut Frame<'_>, area: Rect, stand: &Stand) {
    let time = stand.screen.elapsed().as_secs_f64();
    let (ratio, text) = match stand.screen.progress() {
        Some((0, _)) => (0.0, format!("{time:.1} s   warming up")),
        Some((step, steps)) => {
            let fault = stand.faults.get(step - 1);
            let fault = fault.map_or_else(String::new, Fault::to_string);
            let ratio = step as f64 / steps.max(1) as f64;
            (
                ratio,
                format!("{time:.1} s   step {step} of {steps}: {fault}"),
            )
        }
        None => (1.0, format!("{time:.1} s   by hand")),
    };
    let gauge = Gauge::default()
        .ratio(ratio)
        .label(text)
        .gauge_style(Style::new().fg(Color::Blue).bg(Color::Black));
    frame.render_widget(gauge, area);
}

fn draw_databases(frame: &mut Frame<'_>, area: Rect, stand: &Stand, snapshot: &Snapshot) {
    let title = format!(
        " databases: generation {}, {:?} ",
        snapshot.generation, snapshot.status
    );
    let rows = NAMES.iter().enumerate().filter_map(|(index, name)| {
        let member = snapshot.member(name)?;
        let mut row = database(member);
        if index == stand.selected {
            row = row.style(Style::new().add_modifier(Modifier::REVERSED));
        }
        Some(row)
    });
    let widths = [
        Constraint::Length(2),
        Constraint::Length(6),
        Constraint::Length(7),
        Constraint::Length(20),
        Constraint::Length(11),
        Constraint::Min(12),
    ];
    let header = Row::new(["", "name", "weight", "circuit", "round trip", "last probe"]);
    let table = Table::new(rows, widths)
        .header(header.style(Style::new().add_modifier(Modifier::DIM)))
        .block(Block::bordered().title(title));
    frame.render_widget(table, area);
}

fn database(member: &MemberView) -> Row<'static> {
    let (circuit, color) = match member.circuit {
        CircuitState::Closed => ("closed".to_owned(), Color::Green),
        CircuitState::HalfOpen => ("half-open".to_owned(), Color::Yellow),
        CircuitState::Open => {
            let left = member.circuit_opens_until.map(|until| {
                let left = until.saturating_duration_since(Instant::now());
                format!("open, {:.1} s left", left.as_secs_f64())
            });
            (left.unwrap_or_else(|| "held open".to_owned()), Color::Red)
        }
    };
    let probe = match &member.verdict {
        Some(Verdict::Healthy) => "healthy".to_owned(),
        Some(Verdict::Unhealthy(fault)) => fault.to_string(),
        Some(other) => format!("{other:?}"),
        None => "not asked yet".to_owned(),
    };
    let connected = if member.connected {
        ""
    } else {
        ", not connected"
    };
    Row::new([
        Line::from(if member.active { "▶" } else { "" }),
        Line::from(member.id.to_string()),
        Line::from(member.weight.to_string()),
        Line::from(Span::styled(circuit, Style::new().fg(color))),
        Line::from(member.round_trip.map_or_else(String::new, time)),
        Line::from(format!("{probe}{connected}")),
    ])
}

/// A bar for every tenth of a second.
fn draw_rate(frame: &mut Frame<'_>, area: Rect, moments: &[Moment]) {
    let bars: Vec<u64> = moments
        .chunks(PER_BAR)
        .map(|moments| rate(moments).round() as u64)
        .collect();
    let shown = bars.len().min(area.width.saturating_sub(2).into());
    let now = grouped(rate(last(moments, PER_SECOND)).round() as u64);
    let spark = Sparkline::default()
        .data(&bars[bars.len() - shown..])
        .style(Style::new().fg(Color::Cyan))
        .block(Block::bordered().title(format!(" {now} calls/s ")));
    frame.render_widget(spark, area);
}

fn draw_numbers(frame: &mut Frame<'_>, area: Rect, moments: &[Moment]) {
    let latest = last(moments, PER_SECOND);
    let worst = |of: fn(&Moment) -> Duration| latest.iter().map(of).max().unwrap_or_default();
    let median = {
        let mut medians: Vec<_> = latest.iter().map(|m| m.p50).collect();
        medians.sort();
        medians.get(medians.len() / 2).copied().unwrap_or_default()
    };
    let mut all = Counts::default();
    for moment in moments {
        all.add(&moment.counts);
    }
    let in_flight = latest.last().map_or(0, |m| m.in_flight);
    let mut lines = vec![
        Line::from(format!("latency     {:>9} median", time(median))),
        Line::from(format!(
            "            {:>9} 99 % below",
            time(worst(|m| m.p99))
        )),
        Line::from(format!("in flight   {in_flight:>9}")),
    ];
    for (class, count) in Class::ALL.iter().zip(all.failed) {
        if count > 0 {
            let text = format!("{:<12}{:>9}", class.name(), grouped(count));
            lines.push(Line::from(Span::styled(text, Style::new().fg(Color::Red))));
        }
    }
    let title = Block::bordered().title(" last second; failed calls ");
    frame.render_widget(Paragraph::new(lines).block(title), area);
}

fn draw_events(frame: &mut Frame<'_>, area: Rect, stand: &Stand) {
    let room = usize::from(area.height.saturating_sub(2));
    let lines = stand.screen.lines(room).into_iter().map(|line| {
        let color = match line.paint {
            Paint::Plain | Paint::Bold => Color::White,
            Paint::Dim => Color::DarkGray,
            Paint::Red => Color::Red,
            Paint::Green => Color::Green,
            Paint::Yellow => Color::Yellow,
            Paint::Cyan => Color::Cyan,
        };
        let at = format!("{:8.3} s  {:<5}  ", line.at.as_secs_f64(), line.kind);
        Line::from(vec![
            Span::styled(at, Style::new().fg(Color::DarkGray)),
            Span::styled(line.text, Style::new().fg(color)),
        ])
    });
    let events = Paragraph::new(lines.collect::<Vec<_>>());
    frame.render_widget(events.block(Block::bordered().title(" events ")), area);
}

/// All of them fit into eighty columns.
fn draw_keys(frame: &mut Frame<'_>, area: Rect, stand: &Stand) {
    let faults = FAULT_KEYS
        .iter()
        .filter(|(_, fault, _)| stand.faults.contains(fault))
        .map(|(key, _, name)| (key.to_string(), *name));
    let others = [
        ("r", "revive"),
        ("+-", "weight"),
        ("s", "switch"),
        ("u", "unpin"),
        ("⇥", "next"),
        ("q", "end"),
    ];
    let others = others.map(|(key, name)| (key.to_owned(), name));
    let dim = Style::new().add_modifier(Modifier::DIM);
    let spans = faults.chain(others).flat_map(|(key, name)| {
        let key = Span::styled(key, Style::new().fg(Color::Cyan));
        [key, Span::styled(format!(" {name} "), dim)]
    });
    frame.render_widget(Line::from_iter(spans), area);
}

/// Moments, 25 ms each, in a bar and in a second.
const PER_BAR: usize = 4;
const PER_SECOND: usize = 40;

fn last(moments: &[Moment], most: usize) -> &[Moment] {
    &moments[moments.len().saturating_sub(most)..]
}

fn rate(moments: &[Moment]) -> f64 {
    let acked: u64 = moments.iter().map(|m| m.counts.acked).sum();
    let lasted: Duration = moments.iter().map(|m| m.lasted).sum();
    match lasted.is_zero() {
        true => 0.0,
        false => acked as f64 / lasted.as_secs_f64(),
    }
}

fn time(span: Duration) -> String {
    match span.as_secs_f64() * 1e3 {
        ms if ms < 1.0 => format!("{:.0} µs", ms * 1e3),
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.0} ms"),
    }
}
