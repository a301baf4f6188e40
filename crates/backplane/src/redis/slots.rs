//! Which server of a Redis Cluster has which keys: hash slots, and the answer of `CLUSTER SLOTS` as a map. Pure; who asks, and
//! when, is in `masters.rs`.

use std::collections::BTreeSet;

use redis::{Arg, Cmd, Value, from_redis_value};

use super::{failure::CommandError, keys::escape, messages::unreadable};

/// Where a server of the cluster is, in the cluster's own words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Address {
    /// Reads the address of a redirection; an empty host is the one that was asked.
    pub(super) fn parse(text: &str, asked: &Self) -> Option<Self> {
        // An IPv6 address holds colons and stands without brackets.
        let (host, port) = text.rsplit_once(':')?;
        let host = if host.is_empty() { &asked.host } else { host };
        Some(Self { host: host.to_owned(), port: port.parse().ok()? })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Who has which slots; empty until the first answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Owners {
    /// From, to (inclusive) and whose, in order.
    ranges: Vec<(u16, u16, Address)>,
    replicas: BTreeSet<Address>,
}

impl Owners {
    /// Reads the answer of `CLUSTER SLOTS`: `{from, to, master, replica, …}`, where a server is `{host, port, …}`. `asked` is the
    /// server that gave it: a host that is not told is its own.
    pub(super) fn read(answer: Value, asked: &Address) -> Result<Self, CommandError> {
        let mut owners = Self::default();
        for range in from_redis_value::<Vec<Vec<Value>>>(answer).map_err(unreadable)? {
            let mut parts = range.into_iter();
            let mut number = || from_redis_value::<u16>(parts.next().unwrap_or_default()).map_err(unreadable);
            let (from, to) = (number()?, number()?);
            let mut servers = parts.filter_map(|server| read_server(server, asked).transpose());
            if let Some(master) = servers.next().transpose()? {
                owners.ranges.push((from, to, master));
            }
            for replica in servers {
                owners.replicas.insert(replica?);
            }
        }
        owners.ranges.sort();
        Ok(owners)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The master that has the slot.
    pub(super) fn of(&self, slot: u16) -> Option<&Address> {
        let after = self.ranges.partition_point(|(from, ..)| *from <= slot);
        let (_, to, master) = self.ranges.get(after.checked_sub(1)?)?;
        (slot <= *to).then_some(master)
    }

    pub(super) fn masters(&self) -> BTreeSet<&Address> {
        self.ranges.iter().map(|(.., master)| master).collect()
    }

    /// Masters and replicas.
    pub(super) fn servers(&self) -> BTreeSet<&Address> {
        self.masters().into_iter().chain(&self.replicas).collect()
    }
}

/// Nothing for a server whose address is not known (`?`).
fn read_server(server: Value, asked: &Address) -> Result<Option<Address>, CommandError> {
    let mut parts = from_redis_value::<Vec<Value>>(server).map_err(unreadable)?.into_iter();
    let host: Option<String> = from_redis_value(parts.next().unwrap_or_default()).map_err(unreadable)?;
    let port = from_redis_value(parts.next().unwrap_or_default()).map_err(unreadable)?;
    Ok(match host.as_deref() {
        Some("?") => None,
        None | Some("") => Some(Address { host: asked.host.clone(), port }),
        Some(host) => Some(Address { host: host.to_owned(), port }),
    })
}

/// Where a command has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// To the master of the slot.
    Slot(u16),
    /// Any server takes a publication. Those of one address take one way, so that they stay in order, and that of the address's
    /// history; another one when that is closed.
    By(u16),
    /// Any server, and any number of them.
    Anywhere,
}

impl Place {
    /// Where a command of ours goes: its first key, which with the others of the command shares a slot.
    pub(super) fn of(command: &Cmd) -> Self {
        let word = |at: usize| match command.args_iter().nth(at) {
            Some(Arg::Simple(word)) => word,
            _ => &[],
        };
        match word(0) {
            b"PUBLISH" => Self::By(slot_of_channel(word(1))),
            b"TIME" | b"INFO" => Self::Anywhere,
            // Digest and number of keys come first.
            b"EVALSHA" => Self::Slot(slot_of(word(3))),
            _ => Self::Slot(slot_of(word(1))),
        }
    }
}

/// The slot of a key: of its hash tag, if it has one
/// (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags>).
pub(super) fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = key.get(open + 1..)?;
        let close = rest.iter().position(|byte| *byte == b'}')?;
        rest.get(..close).filter(|tag| !tag.is_empty())
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// The slot of the history of the channel's address, if it has one: `<prefix>:<address>`, and no prefix holds a colon.
fn slot_of_channel(channel: &[u8]) -> u16 {
    let name = String::from_utf8_lossy(channel);
    slot_of(escape(name.split_once(':').map_or(&*name, |(_, address)| address)).as_bytes())
}

/// CRC16/XMODEM, appendix A of the same page.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc: u16, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
            },
        )
    })
}

const SLOTS: u16 = 16384;

#[cfg(test)]
mod tests {
    use super::*;
    use redis::{Script, cmd};

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn server(host: Value, port: i64) -> Value {
        Value::Array(vec![host, Value::Int(port), text("id"), Value::Array(vec![])])
    }

    fn address(host: &str, port: u16) -> Address {
        Address { host: host.to_owned(), port }
    }

    #[test]
    fn slots_are_those_of_cluster_keyslot() {
        // From a Redis 7.0: CLUSTER KEYSLOT.
        for (key, slot) in [("123456789", 12739), ("foo", 12182), ("", 0)] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
        for (one, other) in [
            ("cs:{p07}:open:a", "p07"),
            ("cs:{p07}:open:{a}", "p07"),
            ("cs:{cs:inbox}:lease", "cs:inbox"),
            ("{}a", "{}a"),
            ("a{b", "a{b"),
        ] {
            let whole = crc16(other.as_bytes()) % SLOTS;
            assert_eq!(slot_of(one.as_bytes()), whole, "{one}");
        }
    }

    #[test]
    fn a_command_goes_where_its_keys_are() {
        assert_eq!(Place::of(cmd("GET").arg("foo")), Place::Slot(12182));
        let keys = super::super::keys::Keys::of_cluster("cs");
        for address in ["broadcast", "topic:a {b} *", "user:ü"] {
            let address = countersign_protocol::Address::parse(address).unwrap();
            let publish = Place::of(cmd("PUBLISH").arg(keys.channel(&crate::Channel::from(&address))).arg("{}"));
            assert_eq!(publish, Place::By(slot_of(keys.history(&address).as_bytes())), "{address}");
        }
        assert_eq!(Place::of(&cmd("TIME")), Place::Anywhere);
        let script = Script::new("return 1");
        let mut pipeline = redis::Pipeline::new();
        pipeline.invoke_script(script.key("foo").arg("bar"));
        assert_eq!(Place::of(pipeline.cmd_iter().next().unwrap()), Place::Slot(12182));
    }

    #[test]
    fn the_owner_of_a_slot_is_found_and_a_gap_has_none() {
        let range =
            |from, to, servers: Vec<Value>| Value::Array([vec![Value::Int(from), Value::Int(to)], servers].concat());
        let asked = address("10.0.0.9", 1);
        let answer = Value::Array(vec![
            range(8000, 16383, vec![server(text("b"), 2), server(text("?"), 5), server(text("c"), 3)]),
            range(0, 99, vec![server(Value::Nil, 1)]),
            range(200, 300, vec![server(text(""), 4)]),
        ]);
        let owners = Owners::read(answer, &asked).unwrap();
        let of = |slot| owners.of(slot).map(ToString::to_string);
        for (slot, owner) in [
            (0, Some("10.0.0.9:1")),
            (99, Some("10.0.0.9:1")),
            (100, None),
            (250, Some("10.0.0.9:4")),
            (301, None),
            (8000, Some("b:2")),
            (16383, Some("b:2")),
        ] {
            assert_eq!(of(slot).as_deref(), owner, "{slot}");
        }
        assert_eq!((owners.masters().len(), owners.servers().len()), (3, 4));
        assert!(Owners::read(Value::Int(1), &asked).is_err());
        assert!(Owners::read(Value::Array(vec![]), &asked).unwrap().is_empty());
    }

    #[test]
    fn a_redirection_names_a_server_or_only_its_port() {
        let asked = address("10.0.0.9", 1);
        assert_eq!(Address::parse("10.0.0.1:7000", &asked), Some(address("10.0.0.1", 7000)));
        assert_eq!(Address::parse(":7000", &asked), Some(address("10.0.0.9", 7000)));
        assert_eq!(Address::parse("::1:7000", &asked), Some(address("::1", 7000)));
        assert_eq!(Address::parse("nonsense", &asked), None);
    }
}
