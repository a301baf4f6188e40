//! The numbered messages: `{"n":1…,"t":1…,` and their content. Number and time have a fixed width (a leading 1 keeps zeros
//! legal in JSON), so a reader finds both at fixed places without parsing, and a writer overwrites them in place.

use super::content::Content;

/// Where the digits of the number begin, behind `{"n":`.
const NUMBER_AT: usize = 5;
/// A 1 and ten digits: ten thousand million messages.
const NUMBER_WIDTH: usize = 11;
/// Behind the number and `,"t":`.
const TIME_AT: usize = NUMBER_AT + NUMBER_WIDTH + 5;
/// A 1 and fifteen digits: eleven days in nanoseconds.
const TIME_WIDTH: usize = 16;
const END: usize = TIME_AT + TIME_WIDTH;

/// The shortest message, in bytes.
pub(crate) const SHORTEST: usize = END + r#","pad":""}"#.len();

/// Writes numbered messages of one length.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    /// These take turns.
    messages: Vec<Vec<u8>>,
    turn: usize,
}

impl Template {
    /// Messages of `bytes` bytes, or of [`SHORTEST`].
    pub(crate) fn new(bytes: usize, content: Content) -> Self {
        let zeros = |width: usize| format!("1{}", "0".repeat(width - 1));
        let head = format!(r#"{{"n":{},"t":{},"#, zeros(NUMBER_WIDTH), zeros(TIME_WIDTH));
        let rest = bytes.max(SHORTEST) - head.len();
        let messages =
            (0..content.variants()).map(|variant| (head.clone() + &content.rest(variant, rest)).into_bytes());
        Self { messages: messages.collect(), turn: 0 }
    }

    /// The message with this number, meant to be sent at `nanos` after the beginning of the run.
    pub(crate) fn write(&mut self, number: u64, nanos: u64) -> &[u8] {
        self.turn = (self.turn + 1) % self.messages.len();
        let Some(message) = self.messages.get_mut(self.turn) else { return &[] };
        put(message, NUMBER_AT + 1, NUMBER_WIDTH - 1, number);
        put(message, TIME_AT + 1, TIME_WIDTH - 1, nanos);
        message
    }
}

/// The number of a message; `None` when it is none of ours. Its time is for [`time`], as not everybody asks for it. A message
/// may be JSON, or JSON within a string, with a backslash before each quote.
pub(crate) fn number(message: &[u8]) -> Option<u64> {
    let (rest, between): (_, &[u8]) = match message.strip_prefix(br#"{"n":1"#) {
        Some(rest) => (rest, br#","t":"#),
        None => (message.strip_prefix(br#"{\"n\":1"#)?, br#",\"t\":"#),
    };
    let (digits, rest) = rest.split_at_checked(NUMBER_WIDTH - 1)?;
    rest.starts_with(between).then(|| value(digits))?
}

/// The time of a message, in nanoseconds.
pub(crate) fn time(message: &[u8]) -> Option<u64> {
    // Four quotes come before it.
    let escapes = if message.get(1) == Some(&b'\\') { 4 } else { 0 };
    value(message.get(TIME_AT + 1 + escapes..END + escapes)?)
}

fn value(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |sum, digit| match digit {
        b'0'..=b'9' => Some(sum * 10 + u64::from(digit - b'0')),
        _ => None,
    })
}

fn put(text: &mut [u8], at: usize, width: usize, mut value: u64) {
    for digit in text.iter_mut().skip(at).take(width).rev() {
        *digit = b'0' + u8::try_from(value % 10).expect("one digit");
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_back_and_is_json_of_the_wanted_length() {
        for (bytes, number, nanos) in [(0, 0, 0), (150, 7, 123_456_789), (166, 9_999_999_999, 999_999_999_999_999)] {
            for content in [Content::Pad, Content::Progress] {
                let mut template = Template::new(bytes, content);
                let message = template.write(number, nanos);
                assert_eq!(message.len(), bytes.max(SHORTEST));
                assert!(serde_json::from_slice::<serde_json::Value>(message).unwrap().is_object());
                assert_eq!((super::number(message), time(message)), (Some(number), Some(nanos)));
                let escaped = String::from_utf8_lossy(message).replace('"', "\\\"");
                let escaped = escaped.as_bytes();
                assert_eq!((super::number(escaped), time(escaped)), (Some(number), Some(nanos)));
            }
        }
    }

    #[test]
    fn other_messages_are_none_of_ours() {
        for other in [r#"{"type":"connected"}"#, r#"{"n":1}"#, "", r#"{"n":1x000000000,"t":1000000000000000,"pad":""}"#]
        {
            assert_eq!(number(other.as_bytes()), None, "{other}");
        }
    }
}
