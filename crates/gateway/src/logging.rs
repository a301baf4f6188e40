//! Logs go to stdout, one event a line, in JSON for machines or readable for people. Whatever a user put into a
//! field, a line stays one line and one event: nobody can forge a log entry.

use std::{borrow::Cow, fmt, io::IsTerminal};

use tracing::{Subscriber, field::Field};
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt,
    fmt::{
        MakeWriter, SubscriberBuilder,
        format::{Writer, debug_fn},
    },
};

use crate::{config::LogFormat, log_queue};

pub use crate::log_queue::Log;

/// Starts logging for the whole process. Without a format it is JSON, on a terminal pretty. A reader that stands still never
/// holds up the process: lines that do not fit into the queue are dropped and counted. Keep what is returned until the end of
/// the process, and [`Log::finish`] it there.
///
/// # Errors
/// When the filter cannot be read, or when the process logs already.
pub fn init(format: Option<LogFormat>, filter: &str) -> Result<Log, LoggingError> {
    let on_terminal = std::io::stdout().is_terminal();
    let format = format.unwrap_or(if on_terminal { LogFormat::Pretty } else { LogFormat::Json });
    let (log, lines) = log_queue::start(std::io::stdout()).map_err(LoggingError::Thread)?;
    let subscriber = subscriber(format, filter, on_terminal, move || lines.clone())?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LoggingError::Started)?;
    Ok(log)
}

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The directives are none.
    #[error(
        "RUST_LOG: {0:?} is no filter ({1}); give a level such as info, or directives such as info,countersign_gateway=debug"
    )]
    Filter(String, tracing_subscriber::filter::ParseError),
    /// The thread that writes the lines could not be started.
    #[error("the log has no thread: {0}")]
    Thread(std::io::Error),
    /// Somebody else was first.
    #[error("the process has a subscriber for its logs already; start logging once, before anything else")]
    Started,
}

fn subscriber<W>(
    format: LogFormat,
    filter: &str,
    colours: bool,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, LoggingError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(filter).map_err(|error| LoggingError::Filter(filter.to_owned(), error))?;
    let builder = SubscriberBuilder::default().with_env_filter(filter).with_writer(writer);
    Ok(match format {
        LogFormat::Json => Box::new(builder.json().flatten_event(true).with_span_list(false).finish()),
        LogFormat::Pretty => {
            Box::new(builder.with_ansi(colours).fmt_fields(debug_fn(write_field).delimited(" ")).finish())
        }
    })
}

fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let value = format!("{value:?}");
    match field.name() {
        "message" => write!(writer, "{}", one_line(&value)),
        name => write!(writer, "{name}={}", one_line(&value)),
    }
}

/// The text with everything escaped that could break a line, move the cursor or turn the direction of writing.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    let breaks = |c: char| {
        c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(breaks) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if breaks(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str, events: impl FnOnce()) -> Vec<String> {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(format, filter, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, events);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    const NASTY: &str = "x\n2026-01-01T00:00:00Z  INFO forged: y\r\u{1b}[2J\u{85}\u{2028}\u{202e}\0\"z";

    fn nasty_events() {
        let span = tracing::info_span!("connection", user = NASTY, shown = %NASTY);
        let _entered = span.enter();
        tracing::info!(text = NASTY, display = %NASTY, debug = ?NASTY, error = %io::Error::other(NASTY), "told: {NASTY}");
        tracing::warn!("{NASTY}");
    }

    #[test]
    fn user_text_never_breaks_a_line() {
        for format in [LogFormat::Json, LogFormat::Pretty] {
            let lines = logged(format, "info", nasty_events);
            assert_eq!(lines.len(), 2, "{format}: {lines:#?}");
            for line in lines {
                assert!(line.contains("forged"), "{format}: {line}");
                let control = line.chars().find(char::is_ascii_control);
                assert_eq!(control, None, "{format}: {line:?}");
            }
        }
    }

    #[test]
    fn json_lines_are_objects_with_their_fields_and_their_span() {
        let lines = logged(LogFormat::Json, "info", nasty_events);
        let event: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(event["text"], NASTY);
        assert_eq!(event["level"], "INFO");
        assert_eq!(event["span"]["user"], NASTY);
        assert_eq!(event["span"]["name"], "connection");
    }

    #[test]
    fn pretty_lines_are_readable() {
        let lines = logged(LogFormat::Pretty, "info", || tracing::info!(port = 8765, name = "a b", "listening"));
        assert!(lines[0].contains("INFO") && lines[0].ends_with(r#"listening port=8765 name="a b""#), "{lines:?}");
    }

    #[test]
    fn the_filter_decides_what_is_written() {
        let events = || {
            tracing::info!("told");
            tracing::debug!("hidden");
        };
        assert_eq!(logged(LogFormat::Json, "info", events).len(), 1);
        assert_eq!(logged(LogFormat::Json, "debug", events).len(), 2);
        assert_eq!(logged(LogFormat::Json, "off", events).len(), 0);
        let error = subscriber(LogFormat::Json, "info,=,x=loud", false, io::sink).err().unwrap();
        assert!(error.to_string().starts_with("RUST_LOG: "), "{error}");
    }
}
