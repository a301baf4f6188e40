//! Newtypes for every name that crosses a boundary. A value of one of these types has passed its one
//! parser; nothing else in the workspace checks names again.
//!
//! Names are any UTF-8 without control characters, 1 to 256 bytes: `{`, `*`, `:` and spaces are legal and
//! harmless, because channels carry names verbatim with exact subscriptions only, and key names are escaped.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::fields::{FieldError, shorten};

/// The longest name of a user, task or topic, in bytes.
pub const LONGEST_NAME: usize = 256;
/// The longest idempotency key, in bytes.
pub const LONGEST_KEY: usize = 256;
/// How many partitions the users' callbacks are spread over. Fixed for ever: it is part of every callback id.
pub const PARTITIONS: u16 = 64;

fn check(kind: &str, text: &str, longest: usize) -> Result<(), FieldError> {
    let expected = || format!("1 to {longest} bytes of text without control characters");
    if text.is_empty() {
        return Err(FieldError::new(kind, expected(), "an empty string"));
    }
    if text.len() > longest {
        return Err(FieldError::new(kind, expected(), format!("{} bytes", text.len())));
    }
    if text.chars().any(char::is_control) {
        return Err(FieldError::new(kind, expected(), format!("{:?}", shorten(text))));
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $field:literal, $longest:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks the text.
            ///
            /// # Errors
            /// Empty, too long, or with control characters: the error says which.
            pub fn parse(text: &str) -> Result<Self, FieldError> {
                check($field, text, $longest)?;
                Ok(Self(text.into()))
            }

            /// The text as it came.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// A person, as the token's `sub` or the producer names them.
    UserId, "user_id", LONGEST_NAME
);
name!(
    /// A producer's unit of work; equal task ids of two users are two tasks.
    TaskId, "task_id", LONGEST_NAME
);
name!(
    /// One gateway process.
    NodeId, "node_id", LONGEST_NAME
);
name!(
    /// One client's WebSocket or SSE stream on one node.
    ConnectionId, "connection_id", LONGEST_NAME
);
name!(
    /// A producer's name for one request, so that a repeat is not a second one.
    IdempotencyKey, "idempotency_key", LONGEST_KEY
);
name!(
    /// The list that a decision is pushed to, as `cs:reply:<name>`, for a producer that only knows Redis.
    ReplyName, "reply_to", LONGEST_NAME
);

/// The name of a topic. Never `broadcast` and never `user:…`: clients write addresses and topics in one place.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
#[serde(transparent)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// Checks the text.
    ///
    /// # Errors
    /// As for the other names, and for the two reserved forms.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        check("topic", text, LONGEST_NAME)?;
        if text == "broadcast" || text.starts_with("user:") {
            return Err(FieldError::new(
                "topic",
                "a name other than \"broadcast\" and \"user:…\", which are addresses of their own",
                format!("{:?}", shorten(text)),
            ));
        }
        Ok(Self(text.into()))
    }

    /// `task:<id>`. A task id as long as a name may be gives a topic too long for one.
    ///
    /// # Errors
    /// When the whole is too long.
    pub fn of_task(task: &TaskId) -> Result<Self, FieldError> {
        Self::parse(&format!("task:{task}"))
    }

    /// The text as it came.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One of the [`PARTITIONS`] that the users' callbacks are spread over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition(u16);

impl Partition {
    /// Where everything of this user lives: CRC16 of the id (the one of Redis Cluster) mod 64.
    pub fn of(user: &UserId) -> Self {
        Self(crc16(user.as_str().as_bytes()) % PARTITIONS)
    }

    /// The partition with this number, if there is one.
    pub fn from_number(number: u16) -> Option<Self> {
        (number < PARTITIONS).then_some(Self(number))
    }

    /// All of them, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..PARTITIONS).map(Self)
    }

    /// Its number, 0 to 63.
    pub fn number(self) -> u16 {
        self.0
    }
}

/// Two decimal digits.
impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}", self.0)
    }
}

/// CRC16/XMODEM, as Redis Cluster computes its hash slots
/// (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>, appendix A).
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0u16, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
            },
        )
    })
}

/// `<NN>-<32 hex digits>`: the partition and 128 random bits, so that an id alone finds its record.
macro_rules! partitioned {
    ($(#[$doc:meta])* $type:ident, $field:literal) => {
        $(#[$doc])*
        /// `<NN>-<32 hex digits>`: the user's partition and 128 random bits, so that the id alone finds its record.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type {
            partition: Partition,
            /// Most significant first. Bytes, because a number of their size would have to lie at a multiple of 16: whatever can hold
            /// an id among other things would be twice as large.
            random: [u8; 16],
        }

        impl $type {
            /// An id in `partition`, from 128 random bits.
            pub fn new(partition: Partition, random: u128) -> Self {
                Self { partition, random: random.to_be_bytes() }
            }

            /// Reads the text form; only the canonical one (two digits, lower-case hex).
            ///
            /// # Errors
            /// Anything else.
            pub fn parse(text: &str) -> Result<Self, FieldError> {
                let (partition, random) = parse_partitioned(text).ok_or_else(|| {
                    let expected = "two digits (00 to 63), a hyphen and 32 lower-case hex digits";
                    FieldError::new($field, expected, format!("{:?}", shorten(text)))
                })?;
                Ok(Self::new(partition, random))
            }

            /// Where its record lives.
            pub fn partition(self) -> Partition {
                self.partition
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}-{:032x}", self.partition, u128::from_be_bytes(self.random))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

partitioned!(
    /// Names a callback.
    CallbackId, "callback_id"
);
partitioned!(
    /// Names a message that wants to be acknowledged.
    MessageId, "message_id"
);

fn parse_partitioned(text: &str) -> Option<(Partition, u128)> {
    let (partition, random) = text.split_once('-')?;
    let digits =
        |text: &str, hex: bool| text.bytes().all(|b| b.is_ascii_digit() || (hex && (b'a'..=b'f').contains(&b)));
    if partition.len() != 2 || random.len() != 32 || !digits(partition, false) || !digits(random, true) {
        return None;
    }
    let partition = Partition::from_number(partition.parse().ok()?)?;
    Some((partition, u128::from_str_radix(random, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partition_is_the_crc16_of_redis_cluster_mod_64() {
        // CLUSTER KEYSLOT 123456789 = 12739 = 0x31C3, the check value of CRC16/XMODEM.
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(Partition::of(&UserId::parse("123456789").unwrap()).to_string(), "03");
    }

    #[test]
    fn names_may_hold_anything_but_control_characters_and_length() {
        for legal in ["a", "a{b}", "*", "task:42", "two words", "ünï", &"x".repeat(256)] {
            assert_eq!(UserId::parse(legal).unwrap().as_str(), legal);
        }
        for (illegal, why) in
            [("", "an empty string"), ("a\nb", "\\n"), (&"x".repeat(257), "257 bytes"), ("\u{7f}", "\\u{7f}")]
        {
            let error = UserId::parse(illegal).unwrap_err();
            assert!(error.got.contains(why), "{error}");
            assert_eq!(error.field, "user_id");
        }
    }

    #[test]
    fn addresses_are_not_topic_names() {
        for reserved in ["broadcast", "user:", "user:alice"] {
            assert!(TopicName::parse(reserved).unwrap_err().expected.contains("addresses of their own"));
        }
        assert!(TopicName::parse("users:alice").is_ok());
    }

    #[test]
    fn a_callback_id_has_one_text_form() {
        let id = CallbackId::new(Partition::from_number(7).unwrap(), 0xAB);
        assert_eq!(id.to_string(), "07-000000000000000000000000000000ab");
        assert_eq!(CallbackId::parse(&id.to_string()), Ok(id));
        for wrong in [
            "",
            "07",
            "7-000000000000000000000000000000ab",
            "64-000000000000000000000000000000ab",
            "07-000000000000000000000000000000AB",
            "07-ab",
            "07-+00000000000000000000000000000ab",
            "+7-000000000000000000000000000000ab",
        ] {
            assert!(CallbackId::parse(wrong).is_err(), "{wrong}");
        }
    }
}
