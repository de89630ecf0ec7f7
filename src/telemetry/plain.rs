//! How a line looks that no terminal colours: `TIME LEVEL span{fields}: message fields`, as
//! `tracing_subscriber` writes it, at half the cost.

use std::{
    cell::RefCell,
    fmt::{self, Debug, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use jiff::Timestamp;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, format::Writer},
    registry::LookupSpan,
};

/// Formats events, and the fields of spans.
pub(super) struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        put_time(&mut line)?;
        line.write_str(level(*event.metadata().level()))?;
        if let Some(scope) = context.event_scope() {
            for span in scope.from_root() {
                line.write_str(span.name())?;
                let extensions = span.extensions();
                if let Some(fields) = extensions.get::<FormattedFields<N>>()
                    && !fields.is_empty()
                {
                    line.write_char('{')?;
                    line.write_str(fields)?;
                    line.write_char('}')?;
                }
                line.write_char(':')?;
            }
            line.write_char(' ')?;
        }
        Fields::put(line.by_ref(), event)?;
        line.write_char('\n')
    }
}

impl<'line> FormatFields<'line> for Plain {
    fn format_fields<R: RecordFields>(&self, line: Writer<'line>, fields: R) -> fmt::Result {
        Fields::put(line, fields)
    }
}

const fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR ",
        Level::WARN => " WARN ",
        Level::INFO => " INFO ",
        Level::DEBUG => "DEBUG ",
        Level::TRACE => "TRACE ",
    }
}

/// A message as it is, other fields as `key=value`.
struct Fields<'line> {
    line: Writer<'line>,
    empty: bool,
    done: fmt::Result,
}

impl<'line> Fields<'line> {
    fn put<R: RecordFields>(line: Writer<'line>, fields: R) -> fmt::Result {
        let mut visitor = Self { line, empty: true, done: Ok(()) };
        fields.record(&mut visitor);
        visitor.done
    }

    fn put_value(&mut self, field: &Field, value: &dyn Debug) -> fmt::Result {
        if !std::mem::take(&mut self.empty) {
            self.line.write_char(' ')?;
        }
        if field.name() != "message" {
            let name = field.name();
            self.line.write_str(name.strip_prefix("r#").unwrap_or(name))?;
            self.line.write_char('=')?;
        }
        write!(OneLine(&mut self.line), "{value:?}")
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if self.done.is_ok() {
            self.done = self.put_value(field, value);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.record_debug(field, &format_args!("{value}")),
            _ => self.record_debug(field, &value),
        }
    }
}

/// Escapes what could begin another line, or upset a terminal that shows the log.
struct OneLine<'a, 'line>(&'a mut Writer<'line>);

impl Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Not `all`, which looks at one byte at a time so as to stop at the first.
        if text.bytes().fold(true, |plain, byte| plain & matches!(byte, b' '..=b'~')) {
            return self.0.write_str(text);
        }
        text.chars().try_for_each(|c| match c {
            c if c.is_control() => write!(self.0, "{}", c.escape_default()),
            c => self.0.write_char(c),
        })
    }
}

thread_local! {
    /// The last second that a line was written in, and its text.
    static SECOND: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

/// `2026-11-22T18:13:18.629251Z `: the part before the dot is worth keeping for the next line.
fn put_time(line: &mut Writer<'_>) -> fmt::Result {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != now.as_secs() || text.is_empty() {
            *second = now.as_secs();
            text.clear();
            let at = i64::try_from(*second).ok().and_then(|at| Timestamp::from_second(at).ok());
            write!(text, "{}", at.unwrap_or(Timestamp::MAX))?;
            text.pop();
        }
        line.write_str(text)
    })?;
    let mut fraction = *b".000000Z ";
    let mut rest = now.subsec_micros();
    for digit in fraction[1..7].iter_mut().rev() {
        *digit += (rest % 10) as u8;
        rest /= 10;
    }
    line.write_str(str::from_utf8(&fraction).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What `log` writes, by the formatter that is asked for, without the time.
    fn logged(plain: bool, log: impl FnOnce()) -> Vec<String> {
        let (sink, taken) = (Sink::default(), Sink::default());
        let writer = sink.clone();
        let lines = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_target(false)
            .with_ansi(false);
        if plain {
            let lines = lines.event_format(Plain).fmt_fields(Plain).finish();
            tracing::subscriber::with_default(lines, log);
        } else {
            tracing::subscriber::with_default(lines.finish(), log);
        }
        drop(taken);
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        text.lines()
            .map(|line| {
                let (time, rest) = line.split_once(' ').unwrap();
                let time: Timestamp = time.parse().unwrap();
                assert!(time.duration_until(Timestamp::now()).as_secs() < 60, "{line}");
                assert_eq!(line.find('Z'), Some(26), "{line}");
                rest.to_owned()
            })
            .collect()
    }

    #[test]
    fn a_line_is_as_the_usual_formatter_writes_it() {
        let log = || {
            let span = tracing::info_span!("leg", uuid = %"a-b", n = 5);
            span.in_scope(|| tracing::info!(a = 1, b = "text", c = ?Some("x"), "said {}", 7));
            tracing::info_span!("bare").in_scope(|| tracing::warn!(error = %"why", "no"));
            tracing::error!(yes = true, f = 1.5, none = tracing::field::Empty, "");
            tracing::info!("ünï");
        };
        assert_eq!(logged(true, log), logged(false, log));
    }

    #[test]
    fn no_value_makes_a_second_line_or_a_sequence_for_a_terminal() {
        let said = logged(true, || tracing::info!(a = %"x\n\u{1b}[2J\u{9b}\r", "b\nc"));
        assert_eq!(said, [r" INFO b\nc a=x\n\u{1b}[2J\u{9b}\r"]);
    }
}
