//! Draws the part of a history that no order explains: as text for a terminal, and as a piece of HTML for a report.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::entry::{APPLIED, Entry, Hints, Input, Item, LATE, Output, Seen};
use super::model::{Life, Phase, State};
use super::search::Stuck;
use crate::history::Op;
use crate::time::Micros;

/// So many of the operations that could be placed are shown, and so many of those that could not.
const SHOWN: usize = 14;
const WIDTH: f64 = 1100.0;
const LEFT: f64 = 90.0;
const ROW: f64 = 26.0;

/// What is drawn.
pub(super) struct Drawing<'a> {
    pub(super) name: &'a str,
    pub(super) ops: &'a [Op],
    pub(super) entries: &'a [Entry],
    pub(super) stuck: &'a Stuck,
    pub(super) hints: Hints,
}

impl Drawing<'_> {
    /// For a terminal.
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "not linearizable: no order explains circuit {} beyond {} of {} operations\n",
            self.name,
            self.stuck.path.len(),
            self.entries.len()
        );
        if self.hints == Hints::Taken {
            text.push_str("      with what nobody answered where the event log has it; without that, there was too much to try\n");
        }
        for n in self.last_placed() {
            let _ = writeln!(text, "      fits  {}", self.line(*n));
        }
        let _ = writeln!(
            text,
            "      then the circuit is {}",
            show_state(&self.stuck.state)
        );
        for n in self.stuck.blocked.iter().take(SHOWN) {
            let _ = writeln!(text, "      DOES NOT FIT  {}", self.line(*n));
        }
        for n in self.doubtful() {
            let _ = writeln!(text, "      in doubt, and no help  {}", self.line(n));
        }
        text.trim_end().to_owned()
    }

    /// For a page: a figure with the operations as bars, one row a client.
    pub(super) fn html(&self) -> String {
        let placed = self.last_placed();
        let blocked = &self.stuck.blocked[..self.stuck.blocked.len().min(SHOWN)];
        let doubtful = self.doubtful();
        let certain = || placed.iter().chain(blocked).map(|n| &self.entries[*n]);
        let from = certain().map(|entry| entry.call).min().unwrap_or(0);
        let until = certain()
            .filter(|entry| entry.certain)
            .map(|entry| entry.until)
            .max()
            .unwrap_or(from + 1);
        let scale = Scale {
            from,
            until: until.max(from + 1),
        };
        let mut rows: BTreeMap<u32, usize> = BTreeMap::new();
        for n in placed.iter().chain(blocked).chain(&doubtful) {
            rows.entry(self.client(*n)).or_default();
        }
        for (row, place) in rows.values_mut().enumerate() {
            *place = row;
        }
        let height = ROW * (rows.len() as f64 + 1.0);
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {height}\" width=\"100%\" font-family=\"sans-serif\" font-size=\"11\">\n"
        );
        for (client, row) in &rows {
            let y = ROW * (*row as f64 + 1.0) - 9.0;
            let _ = writeln!(svg, "<text x=\"4\" y=\"{y}\">client {client}</text>");
        }
        let first = self.stuck.path.len() - placed.len();
        for (position, n) in placed.iter().enumerate() {
            let label = format!("{}", first + position + 1);
            self.bar(&mut svg, &scale, &rows, *n, ("#2b8a3e", &label));
        }
        for n in &doubtful {
            self.bar(&mut svg, &scale, &rows, *n, ("#adb5bd", "?"));
        }
        for n in blocked {
            self.bar(&mut svg, &scale, &rows, *n, ("#c92a2a", "does not fit"));
        }
        svg.push_str("</svg>\n");
        let mut list = String::new();
        for (position, n) in placed.iter().enumerate() {
            let line = escape(&self.line(*n));
            let _ = writeln!(list, "<li value=\"{}\">{line}</li>", first + position + 1);
        }
        let mut problems = String::new();
        for n in blocked {
            let _ = writeln!(problems, "<li>{}</li>", escape(&self.line(*n)));
        }
        format!(
            "<figure class=\"linear\">\n<figcaption>Circuit {}: {} of {} operations have an order; then the circuit is {}</figcaption>\n{svg}<ol>\n{list}</ol>\n<p>None of these can be next:</p>\n<ul>\n{problems}</ul>\n</figure>\n",
            escape(self.name),
            self.stuck.path.len(),
            self.entries.len(),
            escape(&show_state(&self.stuck.state)),
        )
    }

    fn bar(
        &self,
        svg: &mut String,
        scale: &Scale,
        rows: &BTreeMap<u32, usize>,
        n: usize,
        (color, label): (&str, &str),
    ) {
        let entry = &self.entries[n];
        let row = rows.get(&self.client(n)).copied().unwrap_or(0) as f64;
        let (from, until) = (scale.x(entry.call), scale.x(entry.until));
        let width = (until - from).max(3.0);
        let y = ROW * row + 4.0;
        let dash = if entry.certain {
            ""
        } else {
            " stroke-dasharray=\"4 3\""
        };
        let _ = writeln!(
            svg,
            "<g><title>{}</title><rect x=\"{from:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"18\" rx=\"3\" fill=\"{color}\" fill-opacity=\"0.25\" stroke=\"{color}\"{dash}/><text x=\"{:.1}\" y=\"{}\">{}</text></g>",
            escape(&self.line(n)),
            from + 3.0,
            y + 13.0,
            escape(label),
        );
    }

    fn last_placed(&self) -> &[usize] {
        let path = &self.stuck.path;
        &path[path.len().saturating_sub(SHOWN)..]
    }

    /// Those in doubt that were under way and could have helped.
    fn doubtful(&self) -> Vec<usize> {
        let first = self.stuck.blocked.first().map(|n| &self.entries[*n]);
        let Some(blocked) = first else {
            return Vec::new();
        };
        let is_free = |n: &usize| {
            !self.entries[*n].certain
                && !self.stuck.path.contains(n)
                && self.entries[*n].call <= blocked.until
        };
        let free = (0..self.entries.len()).filter(is_free);
        let mut latest: Vec<_> = free.filter(|n| self.entries[*n].until >= blocked.call).collect();
        latest.reverse();
        latest.truncate(SHOWN);
        latest
    }

    fn client(&self, n: usize) -> u32 {
        self.ops.get(self.entries[n].op).map_or(0, |op| op.client)
    }

    fn line(&self, n: usize) -> String {
        let entry = &self.entries[n];
        let until = if entry.until == Micros::MAX {
            "...".to_owned()
        } else {
            entry.until.to_string()
        };
        format!(
            "operation {} of client {} ({} to {until} us): {} -> {}",
            entry.op,
            self.client(n),
            entry.call,
            show_input(&entry.input),
            entry.output.as_ref().map_or("?".to_owned(), show_output)
        )
    }
}

struct Scale {
    from: Micros,
    until: Micros,
}

impl Scale {
    fn x(&self, at: Micros) -> f64 {
        let part = at.clamp(self.from, self.until) - self.from;
        let whole = self.until - self.from;
        LEFT + (WIDTH - LEFT - 10.0) * (part as f64 / whole as f64)
    }
}

fn show_input(input: &Input) -> String {
    match input {
        Input::Register { update, .. } => format!("register{}", if *update { " (update)" } else { "" }),
        Input::Unregister => "unregister".into(),
        Input::Configure { .. } => "configure".into(),
        Input::ConfigureAll { .. } => "configure all".into(),
        Input::Report(items) => {
            let items: Vec<_> = items.iter().map(show_item).collect();
            format!("report {}", items.join(", "))
        }
        Input::Acquire { permit } => format!("acquire {permit:08x}"),
        Input::Open { lasts_ms, .. } => match lasts_ms {
            Some(Some(ms)) => format!("open for {ms} ms"),
            Some(None) => "open for ever".into(),
            None => "open".into(),
        },
        Input::Close { .. } => "close".into(),
        Input::Reset { .. } => "reset".into(),
        Input::Read => "read".into(),
    }
}

fn show_item(item: &Item) -> String {
    let outcomes: String = item
        .successes
        .iter()
        .map(|success| if *success { 'S' } else { 'F' })
        .collect();
    let generation = item
        .generation
        .map_or(String::new(), |generation| format!(" of generation {generation}"));
    let permit = item
        .permit
        .map_or(String::new(), |permit| format!(" with permit {permit:08x}"));
    format!("{outcomes}{generation}{permit}")
}

fn show_output(output: &Output) -> String {
    match output {
        Output::Absent => "no such circuit".into(),
        Output::Registered { created, seen } => {
            format!(
                "{}: {}",
                if *created { "new" } else { "was there" },
                show_seen(seen)
            )
        }
        Output::Unregistered { existed } => if *existed { "gone" } else { "there was none" }.into(),
        Output::Configured { changed, rules } => {
            format!("{}: {rules:?}", if *changed { "changed" } else { "was so" })
        }
        Output::Reported(items) => {
            let items = items.iter().map(|item| match item.result {
                APPLIED | LATE => format!(
                    "{}{} {} failures {}",
                    if item.result == LATE { "late, " } else { "" },
                    state_name(item.state),
                    item.generation,
                    item.failure_count
                ),
                _ => "not found".to_owned(),
            });
            items.collect::<Vec<_>>().join(", ")
        }
        Output::Admission {
            admitted,
            state,
            generation,
            permit,
        } => format!(
            "{}{}, {} {generation}",
            if *admitted { "admitted" } else { "rejected" },
            if *permit { " with the permit" } else { "" },
            state_name(*state)
        ),
        Output::Changed(seen) | Output::Seen(seen) => show_seen(seen),
        Output::Available {
            available,
            state,
            generation,
        } => format!("available {available}, {} {generation}", state_name(*state)),
    }
}

fn show_seen(seen: &Seen) -> String {
    format!(
        "{} {} failures {} openings {} totals {}/{} permits {} successes {} lasts {:?} us reason {:?} revision {}",
        state_name(seen.state),
        seen.generation,
        seen.failures,
        seen.openings,
        seen.totals.successes,
        seen.totals.failures,
        seen.permits,
        seen.successes,
        seen.lasts_us,
        seen.reason,
        seen.revision
    )
}

/// The circuit, for a person.
pub(super) fn show_state(state: &State) -> String {
    let Some(life) = &state.life else {
        return "not registered".into();
    };
    let Life {
        phase,
        generation,
        vague,
        failures,
        openings,
        totals,
        reason,
        ..
    } = life;
    let phase = match phase {
        Phase::Closed => "closed".to_owned(),
        Phase::Open { until, lasts_ms } => {
            let until = until.map_or("for ever".to_owned(), |until| {
                format!("at least until {until} us")
            });
            format!("open {until} (lasts {lasts_ms:?} ms)")
        }
        Phase::HalfOpen { successes, permits } => {
            format!(
                "half_open with {} permits and {successes} successes",
                permits.len()
            )
        }
    };
    format!(
        "{phase}, generation {}{generation}, failures {failures}, openings {openings}, totals {}/{}, reason {reason:?}; log at {} or later, time {} us or later",
        if *vague { "at least " } else { "" },
        totals.successes,
        totals.failures,
        state.revision,
        state.now
    )
}

fn state_name(state: i32) -> &'static str {
    match state {
        1 => "closed",
        2 => "open",
        3 => "half_open",
        _ => "unknown state",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
