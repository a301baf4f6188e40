//! Whether bytes are one JSON object (RFC 8259), without reading it into anything: every message to every client is checked
//! once on each node, so nothing is allocated and strings are stepped over eight bytes at a time. What it says is what
//! `serde_json` says, which a test compares, but for nesting, of which there is a limit here.
//!
//! A string may hold half of a surrogate pair (`\ud83d`): JavaScript and Python write it for a text that was cut within an
//! emoji. RFC 8259 §8.2 lets such a text be JSON, and readers disagree about it: some refuse the whole message. So it is read as
//! U+FFFD, as browsers do when they encode it ([`mended`]).

use std::{borrow::Cow, fmt};

use serde::{
    Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Map, Value, value::RawValue};

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

/// What an object has in its strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strings {
    /// Only characters.
    Whole,
    /// Halves of surrogate pairs, too: the object has to be [`mended`].
    Halved,
}

/// JSON text in which each half of a surrogate pair is written as U+FFFD: as long as before, and the same where there is none.
/// What is no JSON stays so.
pub fn mended(text: &str) -> Cow<'_, str> {
    let mut whole: Option<Vec<u8>> = None;
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(escape) = bytes.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == b'\\')) {
        at += escape;
        match escaped_unit(bytes, at) {
            None => at += 2,
            Some(unit) if is_high(unit) && escaped_unit(bytes, at + 6).is_some_and(is_low) => at += 12,
            Some(unit) => {
                if (is_high(unit) || is_low(unit))
                    && let Some(digits) = whole.get_or_insert_with(|| bytes.to_vec()).get_mut(at + 2..at + 6)
                {
                    digits.copy_from_slice(b"fffd");
                }
                at += 6;
            }
        }
    }
    match whole {
        None => Cow::Borrowed(text),
        Some(bytes) => Cow::Owned(String::from_utf8(bytes).expect("ASCII was written over ASCII")),
    }
}

/// Reads JSON text whose halves of surrogate pairs count as U+FFFD.
///
/// # Errors
/// Anything else that the library does not read.
pub fn read(text: &str) -> serde_json::Result<Value> {
    serde_json::from_str(text).or_else(|error| match mended(text) {
        Cow::Borrowed(_) => Err(error),
        Cow::Owned(mended) => serde_json::from_str(&mended),
    })
}

/// Those fields of an object with one of these names whose values are short texts or numbers: as many as can be read from its
/// beginning, where the rest is malformed or missing. So a refusal can be addressed to the sender of what cannot be read.
pub fn readable_fields(beginning: &[u8], names: &[&str]) -> Map<String, Value> {
    let text = match std::str::from_utf8(beginning) {
        Ok(text) => text,
        Err(error) => {
            let whole = beginning.get(..error.valid_up_to()).unwrap_or_default();
            std::str::from_utf8(whole).unwrap_or_default()
        }
    };
    let mut found = Map::new();
    // Where it ends in an error, what was found before counts.
    serde_json::Deserializer::from_str(&mended(text)).deserialize_map(Readable { names, found: &mut found }).ok();
    found
}

/// The longest value of [`readable_fields`]: every name of the protocol is shorter, however it is escaped.
const LONGEST_READABLE: usize = 2048;

/// See [`readable_fields`].
struct Readable<'a> {
    names: &'a [&'a str],
    found: &'a mut Map<String, Value>,
}

impl<'de> Visitor<'de> for Readable<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut number = None;
        loop {
            let key = map.next_key::<Cow<'de, str>>()?;
            // A number at the end of what is there may go on behind it.
            self.found.extend(number.take());
            let Some(key) = key else { return Ok(()) };
            let value = map.next_value::<&RawValue>()?.get();
            if !self.names.contains(&key.as_ref()) || value.len() > LONGEST_READABLE {
                continue;
            }
            match serde_json::from_str(value) {
                Ok(text @ Value::String(_)) => drop(self.found.insert(key.into_owned(), text)),
                Ok(value @ Value::Number(_)) => number = Some((key.into_owned(), value)),
                _ => {}
            }
        }
    }
}

/// The UTF-16 unit that is written at `at` as a backslash, a `u` and four digits.
fn escaped_unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at.checked_add(6)?)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | u16::try_from(char::from(*digit).to_digit(16)?).ok()?))
}

fn is_high(unit: u16) -> bool {
    unit & 0xfc00 == 0xd800
}

fn is_low(unit: u16) -> bool {
    unit & 0xfc00 == 0xdc00
}

/// Checks bytes that are UTF-8, without white space around them.
///
/// # Errors
/// The first byte that is wrong.
pub(crate) fn check_object(bytes: &[u8]) -> Result<Strings, NotObject> {
    let mut text = Text { bytes, at: 0, strings: Strings::Whole };
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
                        return if text.at == bytes.len() { Ok(text.strings) } else { Err(text.wrong()) };
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
    /// What was found so far.
    strings: Strings,
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
                let escape = self.at - 1;
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                        return Err(self.wrong());
                    }
                    self.at += 1;
                }
                match escaped_unit(self.bytes, escape) {
                    Some(unit) if is_high(unit) && escaped_unit(self.bytes, escape + 6).is_some_and(is_low) => {
                        self.at += 6;
                    }
                    Some(unit) if is_high(unit) || is_low(unit) => self.strings = Strings::Halved,
                    _ => {}
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
        check_object(text.as_bytes()).map(drop)
    }

    #[test]
    fn half_an_emoji_is_a_replacement_character_and_a_whole_one_is_itself() {
        for (given, read) in [
            (r#"{"a":"x\ud83d"}"#, "x\u{fffd}"),
            (r#"{"a":"\uDE00x"}"#, "\u{fffd}x"),
            (r#"{"a":"\ud83d\ud83d\ude00"}"#, "\u{fffd}\u{1f600}"),
            (r#"{"a":"\ude00\ud83d"}"#, "\u{fffd}\u{fffd}"),
            (r#"{"a":"\ud83d\u0041"}"#, "\u{fffd}A"),
            (r#"{"a":"\ud83d\n"}"#, "\u{fffd}\n"),
            (r#"{"a":"\\\ud83d"}"#, "\\\u{fffd}"),
        ] {
            assert_eq!(check_object(given.as_bytes()), Ok(Strings::Halved), "{given}");
            let value: Value = serde_json::from_str(&mended(given)).unwrap();
            assert_eq!(value["a"], read, "{given}");
        }
        for whole in [r#"{"a":"\ud83d\ude00"}"#, r#"{"a":"\\ud83d"}"#, r#"{"a":"\u00e9 \\"}"#, "{}"] {
            assert_eq!(check_object(whole.as_bytes()), Ok(Strings::Whole), "{whole}");
            assert!(matches!(mended(whole), Cow::Borrowed(same) if same == whole), "{whole}");
        }
        for no_json in ["\\", r"\u", r"\ud8", r"\ud83d", r"\uzzzz", r#"{"a":"\ud83d\ud"#] {
            assert!(serde_json::from_str::<IgnoredAny>(&mended(no_json)).is_err(), "{no_json}");
        }
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
    fn what_is_readable_before_the_first_error_is_found() {
        let found = |text: &str| Value::Object(readable_fields(text.as_bytes(), &["id", "name"])).to_string();
        for (text, expected) in [
            (r#"{"id":7,"name":"a","data":1e400}"#, r#"{"id":7,"name":"a"}"#),
            (r#"{"data":1e400,"x":[[[}"#, "{}"),
            (r#"{"data":1e400,"name":"a","id":7,"x":[[[}"#, r#"{"id":7,"name":"a"}"#),
            (r#"{"\ud83d":0,"name":"\ud83d","x":"#, "{\"name\":\"\u{fffd}\"}"),
            (r#"{"id":7"#, "{}"),
            (r#"{"id":7,"#, "{}"),
            (r#"{"id":7,""#, "{}"),
            (r#"{"id":7,"n":"#, r#"{"id":7}"#),
            (r#"{"name":"a"#, "{}"),
            (r#"{"name":"a""#, r#"{"name":"a"}"#),
            (r#"{"name":"a","name":"b","x""#, r#"{"name":"b"}"#),
            (r#"{"name":["a"],"id":{},"x""#, "{}"),
            (r#"[{"id":7}]"#, "{}"),
            ("", "{}"),
        ] {
            assert_eq!(found(text), expected, "{text}");
        }
        let cut = "{\"name\":\"a\",\"x\":\"é";
        assert_eq!(readable_fields(&cut.as_bytes()[..cut.len() - 1], &["name"])["name"], "a");
        let long = format!(r#"{{"name":"{}","id":1}}"#, "a".repeat(LONGEST_READABLE));
        assert_eq!(found(&long), r#"{"id":1}"#);
        let deep = format!(r#"{{"x":{},"id":1}}"#, "[".repeat(100_000));
        assert_eq!(found(&deep), "{}");
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

    fn json() -> impl Strategy<Value = Value> {
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
                    .prop_map(|fields| Value::from_iter(fields.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn it_says_what_the_library_says(value in json(), pretty: bool, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3)) {
            let value = serde_json::json!({ "a": value });
            let mut bytes = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.unwrap();
            prop_assert_eq!(check_object(&bytes), Ok(Strings::Whole));
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
        fn what_it_lets_through_can_be_read_when_it_is_mended(text in r"(\\u[dD][89a-fA-F0-9]{3}|\\u00[0-9a-f]{2}|\\\\|[a-zé😀]){0,8}") {
            let object = format!(r#"{{"{text}":"{text}"}}"#);
            let strings = check_object(object.as_bytes()).unwrap();
            let mended = mended(&object);
            prop_assert_eq!(matches!(mended, Cow::Owned(_)), strings == Strings::Halved);
            prop_assert_eq!(serde_json::from_str::<Value>(&object).is_ok(), strings == Strings::Whole);
            prop_assert!(serde_json::from_str::<Value>(&mended).is_ok(), "{}", mended);
        }

        #[test]
        fn it_says_what_the_library_says_of_noise(noise in r#"[{}\[\]":,0-9eE+.\\/u a-fnrtls-]{0,30}"#) {
            let text = format!("{{\"a\":{noise}");
            prop_assert_eq!(says(&text).is_ok(), is_object(text.as_bytes()), "{}", text);
        }
    }
}
