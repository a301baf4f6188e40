//! The values that are more than a number or a text. Each reads the one syntax that the environment has for it and
//! prints it again, so that what is printed at start can be given back.

use std::{fmt, net::IpAddr, str::FromStr};

use countersign_protocol::Address;
use serde::{Deserialize, Deserializer, de};

use crate::hub::WhenFull;

/// What happens to a connection whose outbox is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlowConsumer {
    /// It is closed with 4001 and recovers from history.
    #[default]
    Close,
    /// Messages are dropped and a gap is told.
    Drop,
}

impl fmt::Display for SlowConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Close => "close",
            Self::Drop => "drop",
        })
    }
}

impl From<SlowConsumer> for WhenFull {
    fn from(slow: SlowConsumer) -> Self {
        match slow {
            SlowConsumer::Close => Self::Close,
            SlowConsumer::Drop => Self::Drop,
        }
    }
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "json",
            Self::Pretty => "pretty",
        })
    }
}

/// How many connections one user may have in the whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UserConnections {
    /// The limit; 0 is none.
    pub limit: usize,
    /// What one more does.
    pub policy: OneMore,
}

/// What a connection does that is one more than its user may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OneMore {
    /// It takes the place of the user's oldest connection.
    #[default]
    ReplaceOldest,
    /// It is refused.
    Refuse,
}

impl FromStr for UserConnections {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (limit, policy) = match text.split_once(':') {
            None => (text, OneMore::ReplaceOldest),
            Some((limit, "replace" | "replace-oldest")) => (limit, OneMore::ReplaceOldest),
            Some((limit, "refuse")) => (limit, OneMore::Refuse),
            Some(_) => return Err("an unknown policy"),
        };
        match limit.parse().map_err(|_| "no number")? {
            0 if text != "0" => Err("a policy without a limit"),
            limit => Ok(Self { limit, policy }),
        }
    }
}

impl fmt::Display for UserConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.limit, self.policy) {
            (0, _) => f.write_str("0"),
            (limit, OneMore::ReplaceOldest) => write!(f, "{limit}:replace"),
            (limit, OneMore::Refuse) => write!(f, "{limit}:refuse"),
        }
    }
}

/// How many messages the history of an address keeps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HistorySizes {
    /// For addresses that no override names.
    pub default: usize,
    /// For some others.
    pub overrides: HistoryOverrides,
}

impl HistorySizes {
    /// The size for an address in the clients' form: `broadcast`, `user:<id>` or the bare topic name.
    pub fn size_for(&self, address: &str) -> usize {
        self.overrides.size_for(address).unwrap_or(self.default)
    }

    /// The size for an address.
    pub fn size_of(&self, address: &Address) -> usize {
        if self.overrides.0.is_empty() { self.default } else { self.size_for(&address.client_form().to_string()) }
    }
}

/// Sizes of history by the beginning of the address (in the clients' form); the longest beginning wins.
/// `broadcast` means that address alone and not the topics whose names begin so.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HistoryOverrides(pub Vec<(String, usize)>);

impl HistoryOverrides {
    /// As much as one history may keep; the bound of `HISTORY_SIZE` too.
    const MOST: usize = 1_000_000;

    /// The size that the longest matching beginning gives.
    pub fn size_for(&self, address: &str) -> Option<usize> {
        let matching = self.0.iter().filter(|(beginning, _)| match beginning.as_str() {
            "broadcast" => address == "broadcast",
            beginning => address.starts_with(beginning),
        });
        matching.max_by_key(|(beginning, _)| beginning.len()).map(|(_, size)| *size)
    }
}

impl FromStr for HistoryOverrides {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut overrides: Vec<(String, usize)> = Vec::new();
        for entry in text.split(',') {
            let (beginning, size) = entry.trim().rsplit_once('=').ok_or("an entry without =")?;
            let size = size.parse().ok().filter(|size| *size <= Self::MOST).ok_or("a size that is none")?;
            // A list that is separated by something else would become one long beginning that no address has.
            if beginning.contains(';') || contains_a_size(beginning) {
                return Err("an entry with another one in it");
            }
            if beginning.is_empty() || overrides.iter().any(|(other, _)| other == beginning) {
                return Err("a beginning that is empty or twice");
            }
            overrides.push((beginning.to_owned(), size));
        }
        Ok(Self(overrides))
    }
}

/// Whether there is a `=` with a digit behind it.
fn contains_a_size(beginning: &str) -> bool {
    beginning.split('=').skip(1).any(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

impl fmt::Display for HistoryOverrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries: Vec<String> = self.0.iter().map(|(beginning, size)| format!("{beginning}={size}")).collect();
        f.write_str(&entries.join(","))
    }
}

/// An address to listen on; `localhost` and brackets are understood, other names are not looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Host(pub(super) IpAddr);

impl FromStr for Host {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let bare = if bare.eq_ignore_ascii_case("localhost") { "127.0.0.1" } else { bare };
        bare.parse().map(Self)
    }
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Switch(pub(super) bool);

impl FromStr for Switch {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "on" | "yes" | "1" => Ok(Self(true)),
            "false" | "off" | "no" | "0" => Ok(Self(false)),
            _ => Err("neither true nor false"),
        }
    }
}

/// Deserializes what has a `FromStr`.
pub(super) fn from_text<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr<Err: fmt::Display>,
    D: Deserializer<'de>,
{
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_may_have_a_number_of_connections_and_one_more_replaces_or_is_refused() {
        for (text, limit, policy, printed) in [
            ("0", 0, OneMore::ReplaceOldest, "0"),
            ("5", 5, OneMore::ReplaceOldest, "5:replace"),
            ("5:replace", 5, OneMore::ReplaceOldest, "5:replace"),
            ("5:replace-oldest", 5, OneMore::ReplaceOldest, "5:replace"),
            ("1:refuse", 1, OneMore::Refuse, "1:refuse"),
        ] {
            let read: UserConnections = text.parse().unwrap();
            assert_eq!(read, UserConnections { limit, policy }, "{text}");
            assert_eq!(read.to_string(), printed);
        }
        for text in ["", "-1", "five", "5:", "5:drop", ":refuse", "0:refuse", "5:refuse:now", "99999999999999999999"] {
            assert!(text.parse::<UserConnections>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_longest_prefix_decides_the_size_of_a_history() {
        let overrides = "room:=0, workflow:=1000,workflow:big:=5000,broadcast=10,user:=7,a=b=3".parse().unwrap();
        let sizes = HistorySizes { default: 100, overrides };
        for (address, size) in [
            ("room:1", 0),
            ("room", 100),
            ("workflow:1", 1000),
            ("workflow:big:1", 5000),
            ("workflow:bi", 1000),
            ("broadcast", 10),
            ("broadcasts", 100),
            ("user:bob", 7),
            ("a=bc", 3),
            ("", 100),
        ] {
            assert_eq!(sizes.size_for(address), size, "{address}");
        }
        for (address, size) in [("broadcast", 10), ("user:bob", 7), ("topic:room:1", 0), ("topic:task:1", 100)] {
            assert_eq!(sizes.size_of(&Address::parse(address).unwrap()), size, "{address}");
        }
        assert_eq!(sizes.overrides.to_string(), "room:=0,workflow:=1000,workflow:big:=5000,broadcast=10,user:=7,a=b=3");
    }

    #[test]
    fn overrides_without_prefix_or_size_are_refused() {
        for text in [
            "",
            ",",
            "room:",
            "=5",
            "room:=",
            "room:=x",
            "room:=-1",
            "a=1,a=2",
            "a=1,",
            "a=1000001",
            "a=1;b=2",
            "a=1 b=2",
            "a=1\nb=2",
            "a=1|b=2",
            "a;b=2",
        ] {
            assert!(text.parse::<HistoryOverrides>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_host_is_an_address_or_localhost() {
        for (text, address) in [
            ("localhost", "127.0.0.1"),
            ("LOCALHOST", "127.0.0.1"),
            ("::", "::"),
            ("[::1]", "::1"),
            ("10.1.2.3", "10.1.2.3"),
        ] {
            assert_eq!(text.parse::<Host>().unwrap().0.to_string(), address);
        }
        for text in ["example.com", "127.0.0.1:80", "[::1", "*", ""] {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
    }
}
