//! What a person sees: a line for each thing that happens, and below them, on a terminal, one line that lives.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// A colour, if the screen has any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    Plain,
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
    Cyan,
}

pub(crate) struct Screen {
    started: Instant,
    terminal: bool,
    colours: bool,
    live: String,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let colours = terminal && std::env::var_os("NO_COLOR").is_none();
        Self {
            started: Instant::now(),
            terminal,
            colours,
            live: String::new(),
        }
    }

    /// Whether there is a line that lives.
    pub(crate) fn is_live(&self) -> bool {
        self.terminal
    }

    pub(crate) fn paint(&self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Plain => return text.to_owned(),
            Colour::Bold => "1",
            Colour::Dim => "2",
            Colour::Red => "31",
            Colour::Green => "32",
            Colour::Yellow => "33",
            Colour::Cyan => "36",
        };
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// A line of its own, without a time.
    pub(crate) fn line(&self, text: &str) {
        self.above_live(text);
    }

    /// Something happened.
    pub(crate) fn tell(&self, colour: Colour, mark: char, text: &str) {
        self.tell_after(self.started.elapsed(), colour, mark, text);
    }

    fn tell_after(&self, since: Duration, colour: Colour, mark: char, text: &str) {
        let time = self.paint(Colour::Dim, &format!("{:5.1}s", since.as_secs_f64()));
        let mark = self.paint(colour, &mark.to_string());
        let text = self.paint(
            if colour == Colour::Dim {
                Colour::Dim
            } else {
                Colour::Plain
            },
            text,
        );
        self.above_live(&format!("  {time}  {mark}  {text}"));
    }

    /// Replaces the line that lives.
    pub(crate) fn live(&mut self, text: String) {
        if self.terminal {
            self.live = text;
            self.draw(&format!("\r\x1b[2K{}", self.live));
        }
    }

    /// The line that lives ends.
    pub(crate) fn end_live(&mut self) {
        if self.terminal && !self.live.is_empty() {
            self.live.clear();
            self.draw("\r\x1b[2K");
        }
    }

    fn above_live(&self, text: &str) {
        if self.terminal && !self.live.is_empty() {
            self.draw(&format!("\r\x1b[2K{text}\n{}", self.live));
        } else {
            self.draw(&format!("{text}\n"));
        }
    }

    /// Nobody looks any more when writing fails; the checks go on.
    fn draw(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}
