//! As much of Redis's protocol as a subscriber needs, as pure functions
//! (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).

/// Appends a command: an array of bulk strings.
pub(crate) fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// The three parts of the first message in `bytes`, and where it ends; `None` when it is not complete.
pub(crate) fn message(bytes: &[u8]) -> Option<([&[u8]; 3], usize)> {
    let (_, mut at) = line(bytes)?;
    let mut words: [&[u8]; 3] = [b""; 3];
    for word in &mut words {
        let (head, end) = line(bytes.get(at..)?)?;
        at += end;
        match head {
            [b'$', digits @ ..] => {
                let length: usize = digits.iter().fold(0, |sum, digit| sum * 10 + usize::from(digit & 0x0F));
                *word = bytes.get(at..at + length)?;
                bytes.get(at + length..at + length + 2)?;
                at += length + 2;
            }
            // How many subscriptions there are now.
            other => *word = other,
        }
    }
    Some((words, at))
}

/// A line without its end, and where the next begins.
fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    Some((bytes.get(..end.checked_sub(1)?)?, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_confirmations_are_read_when_they_are_complete() {
        let confirmation = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n";
        let text = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$4\r\na\r\nb\r\n";
        let stream = [confirmation.as_slice(), text].concat();
        let (words, end) = message(&stream).unwrap();
        assert_eq!((words, end), ([b"subscribe".as_slice(), b"c", b":1"], confirmation.len()));
        assert_eq!(message(&stream[end..]), Some(([b"message".as_slice(), b"c", b"a\r\nb"], text.len())));
        for cut in 0..text.len() {
            assert_eq!(message(&text[..cut]), None, "{cut} bytes");
        }
    }
}
