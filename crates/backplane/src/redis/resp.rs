//! What a Redis server says on a connection with subscriptions, read in place (RESP2,
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/>): publications, confirmations, and errors. Every publication
//! to every connection comes through here, so nothing is allocated, copied or formatted for one.

use std::ops::Range;

/// One reply; ranges are places in the bytes that were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// Something was published.
    Message { channel: Range<usize>, payload: Range<usize> },
    /// A channel is subscribed now.
    Subscribed,
    /// A channel is subscribed no longer.
    Unsubscribed,
    /// A command was refused, in the server's words.
    Refused(Range<usize>),
    /// Anything else, such as OK.
    Other,
}

/// Bytes that no Redis says to a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a reply that is not understood: expected {0}")]
pub(super) struct Garbled(&'static str);

/// The reply that begins at `at`, and where the next one begins; `None` while it is not whole.
pub(super) fn parse(bytes: &[u8], at: usize) -> Result<Option<(Reply, usize)>, Garbled> {
    // Nearly all replies begin with these very bytes.
    if bytes.get(at..).is_some_and(|rest| rest.starts_with(PUBLISHED)) {
        return message(bytes, at + PUBLISHED.len());
    }
    let Some((kind, line, next)) = line(bytes, at)? else { return Ok(None) };
    match kind {
        b'*' => array(bytes, number(bytes, line)?, next),
        b'-' => Ok(Some((Reply::Refused(line), next))),
        b'+' | b':' => Ok(Some((Reply::Other, next))),
        b'$' => Ok(bulk(bytes, at)?.map(|(_, next)| (Reply::Other, next))),
        _ => Err(Garbled("*, $, :, + or -")),
    }
}

/// What a subscriber hears beside publications is an array of three: a word, a channel, and a count.
fn array(bytes: &[u8], length: Option<usize>, at: usize) -> Result<Option<(Reply, usize)>, Garbled> {
    if !matches!(length, Some(2..=4)) {
        return Err(Garbled("an array of a word, a channel and a payload"));
    }
    let Some((word, next)) = bulk(bytes, at)? else { return Ok(None) };
    let Some((_, next)) = bulk(bytes, next)? else { return Ok(None) };
    match (bytes.get(word).unwrap_or_default(), length) {
        (word @ (b"subscribe" | b"unsubscribe"), Some(3)) => {
            let Some((_, _, next)) = line(bytes, next)? else { return Ok(None) };
            let reply = if word == b"subscribe" { Reply::Subscribed } else { Reply::Unsubscribed };
            Ok(Some((reply, next)))
        }
        // A ping is answered so while there are subscriptions.
        (b"pong", Some(2)) => Ok(Some((Reply::Other, next))),
        _ => Err(Garbled("message, subscribe, unsubscribe or pong")),
    }
}

/// The channel and the payload of a publication.
fn message(bytes: &[u8], at: usize) -> Result<Option<(Reply, usize)>, Garbled> {
    let Some((channel, next)) = bulk(bytes, at)? else { return Ok(None) };
    let Some((payload, next)) = bulk(bytes, next)? else { return Ok(None) };
    Ok(Some((Reply::Message { channel, payload }, next)))
}

/// A string of so many bytes; the one that is none is empty.
fn bulk(bytes: &[u8], at: usize) -> Result<Option<(Range<usize>, usize)>, Garbled> {
    let Some((kind, length, from)) = line(bytes, at)? else { return Ok(None) };
    if kind != b'$' {
        return Err(Garbled("a string"));
    }
    let Some(length) = number(bytes, length)? else { return Ok(Some((from..from, from))) };
    // No overflow: a length is at most LONGEST.
    let (to, next) = (from + length, from + length + 2);
    match bytes.get(to..next) {
        Some(b"\r\n") => Ok(Some((from..to, next))),
        Some(_) => Err(Garbled("a line's end behind a string")),
        None => Ok(None),
    }
}

/// The first byte of a line, the rest of it, and where the next one begins.
fn line(bytes: &[u8], at: usize) -> Result<Option<(u8, Range<usize>, usize)>, Garbled> {
    let rest = bytes.get(at..).unwrap_or_default();
    let Some((&kind, text)) = rest.split_first() else { return Ok(None) };
    let from = at + 1;
    match text.iter().take(LONGEST_LINE).position(|byte| *byte == b'\r') {
        Some(length) => match text.get(length + 1) {
            Some(b'\n') => Ok(Some((kind, from..from + length, from + length + 2))),
            Some(_) => Err(Garbled("a line's end")),
            None => Ok(None),
        },
        None if text.len() >= LONGEST_LINE => Err(Garbled("a shorter line")),
        None => Ok(None),
    }
}

/// A length; -1 is none.
fn number(bytes: &[u8], at: Range<usize>) -> Result<Option<usize>, Garbled> {
    let digits = bytes.get(at).unwrap_or_default();
    if digits == b"-1" {
        return Ok(None);
    }
    if digits.is_empty() || digits.len() > 10 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Garbled("a length"));
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
    if number > LONGEST { Err(Garbled("a length of at most 512 MiB")) } else { Ok(Some(number)) }
}

/// How a publication begins.
const PUBLISHED: &[u8] = b"*3\r\n$7\r\nmessage\r\n";
/// The longest string of Redis (`proto-max-bulk-len`).
const LONGEST: usize = 512 * 1024 * 1024;
/// Lines are lengths, counts and errors.
const LONGEST_LINE: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &[u8] = b"+OK\r\n*3\r\n$9\r\nsubscribe\r\n$4\r\ncs:a\r\n:1\r\n*3\r\n$7\r\nmessage\r\n$4\r\ncs:a\r\n$9\r\n{\"n\":\r\n1}\r\n\
        *3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n*2\r\n$4\r\npong\r\n$0\r\n\r\n-NOPERM no\r\n$2\r\nhi\r\n";

    /// What is said in these bytes, and how many of them it is.
    fn heard(bytes: &[u8]) -> (Vec<String>, usize) {
        let (mut heard, mut at) = (Vec::new(), 0);
        while let Some((reply, next)) = parse(bytes, at).expect("as Redis says it") {
            let text = |range: Range<usize>| String::from_utf8_lossy(&bytes[range]).into_owned();
            heard.push(match reply {
                Reply::Message { channel, payload } => format!("{} {}", text(channel), text(payload)),
                Reply::Refused(why) => text(why),
                other => format!("{other:?}"),
            });
            at = next;
        }
        (heard, at)
    }

    #[test]
    fn everything_that_a_subscriber_hears_is_understood() {
        let all = ["Other", "Subscribed", "cs:a {\"n\":\r\n1}", "Unsubscribed", "Other", "NOPERM no", "Other"]
            .map(str::to_owned);
        assert_eq!(heard(SAID), (all.to_vec(), SAID.len()));
    }

    #[test]
    fn what_is_not_whole_is_waited_for_wherever_it_is_cut() {
        let (all, _) = heard(SAID);
        for cut in 0..SAID.len() {
            let (first, taken) = heard(&SAID[..cut]);
            let (rest, _) = heard(&SAID[taken..]);
            assert_eq!([first, rest].concat(), all, "cut at {cut}");
        }
    }

    #[test]
    fn what_redis_does_not_say_is_refused() {
        for said in [
            "hello\r\n",
            "*9\r\n",
            "*-1\r\n",
            "*x\r\n",
            "*3\r\n:1\r\n",
            "$3\r\nabcde",
            "$99999999999\r\n",
            "$600000000\r\n",
            "+a\rb",
            "*3\r\n$8\r\npmessage\r\n$1\r\na\r\n",
        ] {
            assert!(parse(said.as_bytes(), 0).is_err(), "{said:?}");
        }
        assert!(parse(&[b'+'; 5000], 0).is_err());
    }
}
