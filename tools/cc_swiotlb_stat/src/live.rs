// SPDX-License-Identifier: GPL-2.0

//! The live view, and the same over a log.

use crate::sample::Sample;
use crate::screen::screen;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::crossterm::{execute, terminal};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Stylize;
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Wrap};
use ratatui::{TerminalOptions, Viewport};
use std::error::Error;
use std::io;
use std::time::{Duration, Instant};

/// The number of samples of a running guest that are kept.
const HISTORY: usize = 600;
const KEYS: &str = "q quit  space pause, go on  left, right, home, end";

/// Gives the next sample of a running guest.
pub type Next<'a> = dyn Fn() -> Result<Sample, String> + 'a;

/// Shows samples, at least one, until the user quits. Without `next`, they are those of a log.
pub fn live(
    mut samples: Vec<Sample>,
    next: Option<&Next<'_>>,
    interval: Duration,
) -> Result<(), Box<dyn Error>> {
    let viewport = match terminal::size() {
        Ok((1.., 1..)) => Viewport::Fullscreen,
        // A serial console does not report its size.
        _ => Viewport::Fixed(Rect::new(0, 0, 80, 24)),
    };
    let mut terminal = ratatui::try_init_with_options(TerminalOptions { viewport })?;
    let mut show = || {
        execute!(io::stdout(), terminal::EnterAlternateScreen)?;
        terminal.clear()?;
        let (mut at, mut paused) = (0, next.is_none());
        let mut due = Instant::now() + interval;
        loop {
            let last = samples.len() - 1;
            let how = if paused { "  PAUSED" } else { "" };
            let footer = Line::raw(format!("{KEYS}  {}/{}{how}", at + 1, last + 1));
            terminal.draw(|frame| {
                let rows = [Constraint::Min(0), Constraint::Length(1)];
                let [top, bottom] = Layout::vertical(rows).areas(frame.area());
                let lines = Paragraph::new(screen(&samples[..=at], top.width.into()));
                frame.render_widget(lines.wrap(Wrap { trim: false }), top);
                frame.render_widget(footer.reversed(), bottom);
            })?;
            if !event::poll(due.saturating_duration_since(Instant::now()))? {
                due = Instant::now() + interval;
                if paused {
                    continue;
                }
                if let Some(next) = next {
                    samples.push(next()?);
                    samples.drain(..samples.len().saturating_sub(HISTORY));
                }
                at = (at + 1).min(samples.len() - 1);
            } else if let Event::Key(key) = event::read()? {
                (at, paused) = match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                    KeyCode::Char('c') if key.modifiers == KeyModifiers::CONTROL => return Ok(()),
                    KeyCode::Char(' ') => (at, !paused),
                    KeyCode::Left => (at.saturating_sub(1), true),
                    KeyCode::Right => ((at + 1).min(last), true),
                    KeyCode::Home => (0, true),
                    KeyCode::End => (last, true),
                    _ => (at, paused),
                };
            }
        }
    };
    let result = show();
    ratatui::restore();
    result
}
