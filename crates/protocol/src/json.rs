//! Whether bytes are one JSON object (RFC 8259), without reading it into anything: every message to every client is checked
//! once on each node, so nothing is allocated and strings are stepped over eight bytes at a time. What it says is what
//! `serde_json` says, which a test compares, but for nesting, of which there is a limit here.

/// The deepest nesting of objects and arrays; readers of JSON in browsers and elsewhere have limits of their own.
pub const DEEPEST: usize = 127;

/// Why bytes are not one JSON object, and at which of them that shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotObject {
    /// Something else than JSON.
    Malformed(usize),
    /// More than [`DEEPEST`].
    TooDeep(usize),
}

/// Checks bytes that are UTF-8, without white space around them.
///
/// # Errors
/// The first byte that is wrong.
pub(crate) fn check_object(bytes: &[u8]) -> Result<(), NotObject> {
    let mut text = Text { bytes, at: 0 };
    if text.peek() != Some(b'{') {
        return Err(text.wrong());
    }
    let mut inside = Nesting::default();
    loop {
        // A value begins here.
        match text.peek() {
            Some(b'{') => {
                inside.enter(true, text.at)?;
                text.at += 1;
                text.skip_space();
                if text.peek() != Some(b'}') {
                    text.key()?;
                    continue;
                }
            }
            Some(b'[') => {
                inside.enter(false, text.at)?;
                text.at += 1;
                text.skip_space();
                if text.peek() != Some(b']') {
                    continue;
                }
            }
            Some(b'"') => text.string()?,
            Some(b'-' | b'0'..=b'9') => text.number()?,
            Some(b't') => text.word(b"true")?,
            Some(b'f') => text.word(b"false")?,
            Some(b'n') => text.word(b"null")?,
            _ => return Err(text.wrong()),
        }
        // It ends here, and perhaps what it is in.
        loop {
            text.skip_space();
            match (text.peek(), inside.is_object()) {
                (Some(b','), is_object) => {
                    text.at += 1;
                    text.skip_space();
                    if is_object {
                        text.key()?;
                    }
                    break;
                }
                (Some(b'}'), true) | (Some(b']'), false) => {
                    text.at += 1;
                    inside.leave();
                    if inside.depth == 0 {
                        return if text.at == bytes.len() { Ok(()) } else { Err(text.wrong()) };
                    }
                }
                _ => return Err(text.wrong()),
            }
        }
    }
}

/// What is open: a bit for each object or array, the innermost one last.
#[derive(Default)]
struct Nesting {
    objects: u128,
    depth: usize,
}

impl Nesting {
    fn enter(&mut self, object: bool, at: usize) -> Result<(), NotObject> {
        if self.depth == DEEPEST {
            return Err(NotObject::TooDeep(at));
        }
        self.depth += 1;
        self.objects = self.objects << 1 | u128::from(object);
        Ok(())
    }

    fn leave(&mut self) {
        self.depth -= 1;
        self.objects >>= 1;
    }

    fn is_object(&self) -> bool {
        self.objects & 1 == 1
    }
}

struct Text<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Text<'_> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn wrong(&self) -> NotObject {
        NotObject::Malformed(self.at)
    }

    #[inline]
    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// A key and its colon, up to the value.
    #[inline]
    fn key(&mut self) -> Result<(), NotObject> {
        if self.peek() != Some(b'"') {
            return Err(self.wrong());
        }
        self.string()?;
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.wrong());
        }
        self.at += 1;
        self.skip_space();
        Ok(())
    }

    /// A string, from its first quote to behind its last.
    #[inline]
    fn string(&mut self) -> Result<(), NotObject> {
        let mut at = self.at + 1;
        loop {
            if let Some(eight) = self.bytes.get(at..at + 8).and_then(<[u8]>::first_chunk) {
                let special = special(u64::from_le_bytes(*eight));
                if special == 0 {
                    at += 8;
                    continue;
                }
                // The lowest bit that is set is exact, and a byte is eight bits.
                at += special.trailing_zeros() as usize / 8;
            }
            self.at = at;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.escaped()?;
                    at = self.at;
                }
                Some(0x20..) => at += 1,
                _ => return Err(self.wrong()),
            }
        }
    }

    /// What follows a backslash.
    fn escaped(&mut self) -> Result<(), NotObject> {
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                        return Err(self.wrong());
                    }
                    self.at += 1;
                }
            }
            _ => return Err(self.wrong()),
        }
        Ok(())
    }

    #[inline]
    fn number(&mut self) -> Result<(), NotObject> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            // A number does not begin with a nought that could be left out.
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    #[inline]
    fn digits(&mut self) -> Result<(), NotObject> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let digits = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        self.at += digits;
        if digits == 0 { Err(self.wrong()) } else { Ok(()) }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), NotObject> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if !rest.starts_with(word) {
            let same = rest.iter().zip(word).take_while(|(one, other)| one == other).count();
            return Err(NotObject::Malformed(self.at + same));
        }
        self.at += word.len();
        Ok(())
    }
}

/// The high bit of every byte that ends a run of plain characters: a quote, a backslash or a control character. Exact for the
/// lowest of them; above it a borrow may have set one too many ("Determine if a word has a byte less than n", Sean Eron
/// Anderson, Bit Twiddling Hacks).
#[inline]
fn special(eight: u64) -> u64 {
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let quote = zero(eight ^ (ONES * u64::from(b'"')));
    let backslash = zero(eight ^ (ONES * u64::from(b'\\')));
    let control = eight.wrapping_sub(ONES * 0x20) & !eight;
    (quote | backslash | control) & HIGHS
}

/// The lowest bit of every byte.
const ONES: u64 = u64::MAX / 0xff;
/// The highest bit of every byte.
const HIGHS: u64 = ONES * 0x80;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    /// What the library says of the same.
    fn is_object(bytes: &[u8]) -> bool {
        bytes.first() == Some(&b'{')
            && std::str::from_utf8(bytes).is_ok()
            && bytes.trim_ascii_end() == bytes
            && serde_json::from_slice::<IgnoredAny>(bytes).is_ok()
    }

    fn says(text: &str) -> Result<(), NotObject> {
        check_object(text.as_bytes())
    }

    #[test]
    fn the_first_byte_that_is_wrong_is_named() {
        for (text, at) in [
            ("", 0),
            ("[]", 0),
            ("{", 1),
            ("{}x", 2),
            (r#"{"a" 1}"#, 5),
            (r#"{"a":}"#, 5),
            (r#"{"a":1,}"#, 7),
            (r#"{"a":[1,]}"#, 8),
            (r#"{"a":[1}"#, 7),
            (r#"{"a":trux}"#, 8),
            (r#"{"a":01}"#, 6),
            (r#"{"a":1.}"#, 7),
            (r#"{"a":-}"#, 6),
            (r#"{"a":1e+}"#, 8),
            (r#"{"a":"\x"}"#, 7),
            (r#"{"a":"\u12g4"}"#, 10),
            ("{\"a\":\"long enough for eight\u{1}\"}", 27),
            (r#"{"a":"without an end, and long"#, 30),
        ] {
            assert_eq!(says(text), Err(NotObject::Malformed(at)), "{text}");
            assert!(!is_object(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn nesting_is_limited_and_brackets_in_strings_do_not_count() {
        let nested = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(says(&nested(DEEPEST - 1)), Ok(()));
        assert_eq!(says(&nested(DEEPEST)), Err(NotObject::TooDeep(5 + DEEPEST - 1)));
        assert_eq!(says(&format!(r#"{{"a":"\"{}"}}"#, "[".repeat(500))), Ok(()));
        let objects = format!("{}1{}", "{\"a\":".repeat(DEEPEST), "}".repeat(DEEPEST));
        assert_eq!(says(&objects), Ok(()));
        let mixed = format!("{}1{}", "{\"a\":[".repeat(60), "]}".repeat(60));
        assert_eq!((says(&mixed), says(&mixed.replace("]}", "}]"))), (Ok(()), Err(NotObject::Malformed(361))));
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[a-z\"\\\\\n ]{0,40}".prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 60, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..6)
                    .prop_map(|fields| Value::from_iter(fields.into_iter().collect::<serde_json::Map<_, _>>())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn it_says_what_the_library_says(value in json(), pretty: bool, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3)) {
            let value = serde_json::json!({ "a": value });
            let mut bytes = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.unwrap();
            prop_assert_eq!(check_object(&bytes), Ok(()));
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            // Others are not asked.
            if std::str::from_utf8(&bytes).is_ok() {
                prop_assert_eq!(check_object(&bytes).is_ok(), is_object(&bytes), "{}", String::from_utf8_lossy(&bytes));
            }
        }

        #[test]
        fn it_says_what_the_library_says_of_noise(noise in r#"[{}\[\]":,0-9eE+.\\/u a-fnrtls-]{0,30}"#) {
            let text = format!("{{\"a\":{noise}");
            prop_assert_eq!(says(&text).is_ok(), is_object(text.as_bytes()), "{}", text);
        }
    }
}
