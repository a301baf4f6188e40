//! The table of all variables: name, what is accepted, default, one line of explanation, secret or not. It is the
//! only place that knows a name or a default; `countersign --help`, the printed configuration, the error messages
//! and the README are all made from it or compared with it.

use std::{fmt, time::Duration};

/// One variable of the environment.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Its name, exactly as in the environment.
    pub name: &'static str,
    /// What is used when it is absent or empty; an empty text means that nothing is.
    pub default: &'static str,
    /// Which values are accepted.
    pub accepts: Accepts,
    /// What it decides, in one sentence.
    pub doc: &'static str,
    /// Never printed, and also read from the file that `<name>_FILE` names.
    pub secret: bool,
}

/// Which values a variable accepts. `Display` completes the sentence "accepted: …".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepts {
    /// A whole number of something.
    Whole {
        /// Of what.
        unit: &'static str,
        /// Smallest.
        least: u64,
        /// Largest.
        most: u64,
    },
    /// A length of time in seconds, decimals allowed; the bounds are in milliseconds.
    Seconds {
        /// Shortest, in milliseconds.
        least_ms: u64,
        /// Longest, in milliseconds.
        most_ms: u64,
    },
    /// `true` or `false`, and their usual synonyms.
    Switch,
    /// One of a few words.
    OneOf(&'static [&'static str]),
    /// Something with a syntax of its own, described in words.
    Form(&'static str),
    /// No value at all: the variable belongs to a later version. The words say what to use instead.
    Nothing(&'static str),
}

impl Accepts {
    /// Whether the bounds admit this text. Words and forms are judged by the type that reads them.
    pub(super) fn admits(self, text: &str) -> bool {
        match self {
            Self::Whole { least, most, .. } => text.parse().is_ok_and(|number: u64| (least..=most).contains(&number)),
            Self::Seconds { least_ms, most_ms } => seconds(text)
                .is_some_and(|time| (Duration::from_millis(least_ms)..=Duration::from_millis(most_ms)).contains(&time)),
            Self::Switch | Self::OneOf(_) | Self::Form(_) => true,
            Self::Nothing(_) => false,
        }
    }
}

impl fmt::Display for Accepts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole { unit, least, most } => write!(f, "a whole number of {unit}, {least} to {most}"),
            Self::Seconds { least_ms, most_ms } => {
                let [least, most] = [least_ms, most_ms].map(|ms| Duration::from_millis(*ms).as_secs_f64());
                write!(f, "seconds without a unit, such as 30 or 2.5, {least} to {most}")
            }
            Self::Switch => f.write_str("true or false (also on, off, yes, no, 1, 0)"),
            Self::OneOf(words) => f.write_str(&words.join(" or ")),
            Self::Form(words) => f.write_str(words),
            Self::Nothing(instead) => write!(f, "nothing, it is not supported by this version; {instead}"),
        }
    }
}

/// Reads decimal seconds: digits with at most one point, so neither `1e3` nor `inf` nor `-1` nor `30s`.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let time = plain.then(|| text.parse().ok()).flatten()?;
    Duration::try_from_secs_f64(time).ok()
}

const SECOND: u64 = 1000;
const DAY: u64 = 24 * 3600 * SECOND;
const MIB: u64 = 1024 * 1024;

const fn whole(unit: &'static str, least: u64, most: u64) -> Accepts {
    Accepts::Whole { unit, least, most }
}

const fn time(least_ms: u64, most_ms: u64) -> Accepts {
    Accepts::Seconds { least_ms, most_ms }
}

const fn variable(name: &'static str, default: &'static str, accepts: Accepts, doc: &'static str) -> Variable {
    Variable { name, default, accepts, doc, secret: false }
}

const fn secret(name: &'static str, accepts: Accepts, doc: &'static str) -> Variable {
    Variable { name, default: "", accepts, doc, secret: true }
}

/// All variables, in the order in which they are printed.
#[rustfmt::skip] // One variable is one paragraph of two lines: what it takes, and why.
pub const TABLE: &[Variable] = &[
    variable("WEBSOCKET_HOST", "127.0.0.1", Accepts::Form("an IP address such as 127.0.0.1, 0.0.0.0 or ::, or localhost"),
        "Address to listen on; other than loopback only with credentials for both doors."),
    variable("WEBSOCKET_PORT", "8765", whole("a port", 0, 65_535),
        "Port to listen on; 0 takes a free one."),
    variable("WEBSOCKET_MAX_CONNECTIONS", "10000", whole("connections", 1, 10_000_000),
        "Most connections of this node; more are closed with 1013."),
    variable("WEBSOCKET_PING_INTERVAL", "30", time(100, DAY),
        "How often a connection is pinged."),
    variable("WEBSOCKET_PING_TIMEOUT", "10", time(100, DAY),
        "How long a pong may take before the connection is closed with 4002."),
    variable("WEBSOCKET_CALLBACK_TIMEOUT", "300", time(100, 365 * DAY),
        "How long a callback waits for its confirmation when the producer names no timeout."),
    variable("WEBSOCKET_CALLBACK_ON_TIMEOUT", "proceed", Accepts::OneOf(&["proceed", "decline", "fail"]),
        "What the deadline decides when the producer does not say."),
    variable("WEBSOCKET_MAX_MESSAGE_BYTES", "65536", whole("bytes", 128, 64 * MIB),
        "Longest message from a client; longer ones are refused with too_long and close the connection with 1009."),
    variable("PUBLISH_MAX_BYTES", "1048576", whole("bytes", 128, 256 * MIB),
        "Longest message from a producer, at every door."),
    variable("WEBSOCKET_OUTBOX_BYTES", "1048576", whole("bytes", 1024, 1024 * MIB),
        "Most bytes that wait for one connection; the largest single message always fits."),
    variable("WEBSOCKET_OUTBOX_FRAMES", "10000", whole("frames", 16, 10_000_000),
        "Most frames that wait for one connection."),
    variable("WEBSOCKET_SLOW_CONSUMER", "close", Accepts::OneOf(&["close", "drop"]),
        "What happens when an outbox is full: the connection is closed with 4001, or messages are dropped and the client is told how many; what is no message closes it all the same."),
    variable("WEBSOCKET_SHARDS", "0", whole("shards", 0, 1024),
        "Over how many tasks the writes of a message to many connections are spread; 0 is one for each core."),
    variable("WEBSOCKET_COMPRESSION", "off", Accepts::Switch,
        "Whether clients that offer permessage-deflate get messages from 512 bytes compressed: once per node, without context takeover."),
    variable("WEBSOCKET_ALLOWED_ORIGINS", "same-host", Accepts::Form("same-host, or origins separated by commas, such as same-host,https://app.example.com,https://*.example.org"),
        "Which pages may connect; a list replaces the default, and * stands for exactly one whole label."),
    variable("WEBSOCKET_USER_CONNECTIONS", "0", Accepts::Form("0 (no limit), or a number such as 5, 5:replace (the same) or 5:refuse"),
        "Most connections of one user in the whole cluster; one more replaces the oldest, which is closed with 4503, or with :refuse is closed itself with 1013."),
    variable("WEBSOCKET_TOPICS", "1000", whole("topics", 1, 1_000_000),
        "Most subscriptions of one connection."),
    secret("REDIS_URL", Accepts::Form("redis:// or rediss:// followed by host and port; several, separated by commas, are the seeds of a cluster; redis+sentinel://host:port,host:port/<master> follows a master"),
        "The backplane of the nodes; without it this node is alone and forgets everything when it ends."),
    variable("REDIS_PREFIX", "cs", Accepts::Form("1 to 64 letters, digits, dots, dashes and underscores"),
        "Begins every key and channel."),
    variable("REDIS_WAIT_REPLICAS", "0", whole("replicas", 0, 100),
        "How many replicas have to acknowledge a callback before it counts as written."),
    variable("REDIS_TLS_CA_FILE", "", Accepts::Form("the path of a PEM file"),
        "The authorities that sign the certificates of rediss://, in place of the public ones; read at the start."),
    variable("REDIS_TLS_CERT_FILE", "", Accepts::Form("the path of a PEM file"),
        "The node's own certificate, for a Redis that asks for one."),
    variable("REDIS_TLS_KEY_FILE", "", Accepts::Form("the path of a PEM file"),
        "The key of that certificate."),
    variable("HISTORY_SIZE", "100", whole("messages", 0, 1_000_000),
        "Messages kept per address for clients that come back; 0 keeps none."),
    variable("HISTORY_TTL", "300", time(SECOND, 365 * DAY),
        "How long the history of an address is kept after its last message."),
    variable("HISTORY_OVERRIDES", "", Accepts::Form("prefix=size, separated by commas, such as room:=0,workflow:=1000,broadcast=10"),
        "Other sizes of history for addresses that begin with a prefix; the longest prefix wins, broadcast and user: count."),
    variable("CALLBACK_RETENTION", "3600", time(SECOND, 365 * DAY),
        "How long the answer of a callback can still be read after its end."),
    variable("CALLBACK_MAX_TIMEOUT", "604800", time(SECOND, 365 * DAY),
        "Longest timeout that a producer may ask for."),
    variable("CALLBACK_USER_LIMIT", "1000", whole("callbacks", 1, 1_000_000),
        "Most open callbacks of one user."),
    variable("CALLBACK_CANCEL_LIMIT", "1000", whole("tasks", 1, 1_000_000),
        "Most tasks without an open callback that one user may have cancelled in the last hour; producers may cancel any."),
    variable("PRESENCE_TTL", "30", time(0, DAY),
        "How long the users and connections of a dead node may still be counted; at least 1, and 0 turns presence and the counting of connections off."),
    secret("AUTH_JWT_SECRET", Accepts::Form("at least 32 bytes of text, such as the output of: openssl rand -hex 32"),
        "Clients door: the secret that signs the tokens of clients (HS256, with sub and exp)."),
    variable("AUTH_JWT_AUDIENCE", "", Accepts::Form("the aud of the tokens, as text"),
        "Clients door: the aud that every token must have; without it a token that has one is refused."),
    secret("AUTH_JWT_PUBLIC_KEY", Accepts::Nothing("use AUTH_JWT_SECRET"),
        "Clients door: reserved for tokens that are signed with a private key."),
    variable("AUTH_JWKS_URL", "", Accepts::Nothing("use AUTH_JWT_SECRET"),
        "Clients door: reserved for keys that are fetched from an identity provider."),
    secret("AUTH_API_KEYS", Accepts::Form("keys of at least 16 visible ASCII characters, separated by commas or line breaks"),
        "Producers door: what producers send as Authorization: Bearer; every key may do everything."),
    variable("AUTH_INSECURE", "false", Accepts::Switch,
        "Lets a door without credentials be open on an address that is not loopback; never weakens a door that has some."),
    secret("METRICS_KEY", Accepts::Form("visible ASCII characters"),
        "What /metrics asks for as Authorization: Bearer; without it the page is open."),
    variable("LIMIT_HTTP_CONNECTIONS", "", whole("connections", 0, 10_000_000),
        "Most HTTP connections of this node at once, beside WebSockets, by default a quarter of the open-file limit; beyond it only health and metrics are answered, everything else is 503. 0 is no limit."),
    variable("LIMIT_WAITS", "10000", whole("waits", 0, 10_000_000),
        "Most waits that requests hold on this node at once; beyond it a wait is answered at once as if its time were over (202 with Retry-After), never refused. 0 is no limit."),
    variable("DRAIN_DELAY", "0", time(0, 3600 * SECOND),
        "How long a node that was told to stop only answers 503 on /health/ready before it stops listening, for balancers that poll."),
    variable("DRAIN_TIMEOUT", "25", time(100, 3600 * SECOND),
        "How long stopping may take as a whole, DRAIN_DELAY included."),
    variable("LOG_FORMAT", "", Accepts::OneOf(&["json", "pretty"]),
        "Form of the logs; by default json, on a terminal pretty."),
    variable("RUST_LOG", "info", Accepts::Form("a level (error, warn, info, debug, trace) or directives such as info,countersign_gateway=debug"),
        "Which log lines are written."),
    variable("NODE_ID", "", Accepts::Form("1 to 256 bytes of text without control characters"),
        "Name of this node, unique in the cluster; by default a random one."),
];

/// The beginnings of names that are ours alone: any other name that begins so is a slip of the pen.
const OURS: [&str; 3] = ["WEBSOCKET_", "AUTH_", "HISTORY_"];
/// The beginnings that others use too: only what is nearly one of our names is a slip of the pen.
const SHARED: [&str; 9] =
    ["REDIS_", "METRICS_", "LOG_", "DRAIN_", "CALLBACK_", "PRESENCE_", "NODE_", "PUBLISH_", "LIMIT_"];
/// Another name of Kubernetes' that is nearly `NODE_ID`.
const OTHERS: [&str; 1] = ["NODE_IP"];
/// How many characters a slip of the pen changes.
const SLIP: usize = 2;

/// Whether a name that the table does not have deserves a warning.
pub(super) fn looks_like_ours(name: &str) -> bool {
    // Kubernetes sets such names for every service, whatever it is called.
    if name.ends_with("_PORT") || name.contains("_SERVICE_") || name.contains("_TCP") || OTHERS.contains(&name) {
        return false;
    }
    let begins = |beginnings: &[&str]| beginnings.iter().any(|beginning| name.starts_with(beginning));
    begins(&OURS) || (begins(&SHARED) && edits(nearest(name), name) <= SLIP)
}

/// The variable called `name`.
pub(super) fn find(name: &str) -> Option<&'static Variable> {
    TABLE.iter().find(|variable| variable.name == name)
}

/// The secret whose file form is called `name`.
pub(super) fn find_file(name: &str) -> Option<&'static Variable> {
    find(name.strip_suffix("_FILE")?).filter(|variable| variable.secret)
}

/// The known name with the fewest edits to `name`.
pub(super) fn nearest(name: &str) -> &'static str {
    TABLE.iter().map(|variable| variable.name).min_by_key(|known| edits(known, name)).expect("the table has variables")
}

/// Levenshtein distance: how many characters have to be inserted, removed or replaced.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    // row[i] is the distance between the characters of `from` that were seen and the first i of `to`.
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (seen, a) in from.chars().enumerate() {
        let mut before = std::mem::replace(&mut row[0], seen + 1);
        for (at, b) in to.iter().enumerate() {
            let replaced = before + usize::from(a != *b);
            before = row[at + 1];
            row[at + 1] = replaced.min(before + 1).min(row[at] + 1);
        }
    }
    row[to.len()]
}

/// The text of all variables for `countersign --help`.
pub fn help_table() -> String {
    let variables = TABLE.iter().map(|Variable { name, default, accepts, doc, secret }| {
        let default = match (*default, *secret) {
            ("", true) => " [secret]".to_owned(),
            ("", false) => String::new(),
            (default, _) => format!("={default}"),
        };
        format!("\n  {name}{default}\n      {doc}\n      Accepted: {accepts}.\n")
    });
    let heading =
        "Environment (an empty value counts as absent; a secret is also read from the file that <NAME>_FILE names):\n";
    std::iter::once(heading.to_owned()).chain(variables).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_is_explained_once() {
        assert!(TABLE.len() > 35);
        for (at, variable) in TABLE.iter().enumerate() {
            assert!(TABLE[..at].iter().all(|other| other.name != variable.name), "{} is there twice", variable.name);
            assert!(variable.doc.ends_with('.'), "{} has no sentence", variable.name);
            assert!(!variable.secret || variable.default.is_empty(), "{} is a secret with a default", variable.name);
        }
    }

    #[test]
    fn every_default_is_accepted_by_its_own_variable() {
        let defaults: Vec<_> = TABLE.iter().filter(|variable| !variable.default.is_empty()).collect();
        assert!(defaults.len() > 25);
        for variable in defaults {
            assert!(variable.accepts.admits(variable.default), "{}={}", variable.name, variable.default);
        }
    }

    #[test]
    fn the_help_has_every_variable_with_default_bounds_and_sentence() {
        let help = help_table();
        for variable in TABLE {
            assert!(help.contains(&format!("\n  {}", variable.name)), "{}", variable.name);
            assert!(help.contains(variable.doc) && help.contains(&variable.accepts.to_string()), "{}", variable.name);
        }
        assert!(help.contains("  WEBSOCKET_PORT=8765\n"), "{help}");
        assert!(help.contains("  AUTH_JWT_SECRET [secret]\n"), "{help}");
        assert!(help.contains("seconds without a unit, such as 30 or 2.5, 0.1 to 86400"), "{help}");
    }

    #[test]
    fn seconds_are_plain_decimals() {
        for (text, ms) in [("30", 30_000), ("0.25", 250), ("0", 0), (".5", 500), ("604800", 604_800_000)] {
            assert_eq!(seconds(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", ".", "1e3", "inf", "nan", "-1", "+1", "30s", "1,5", "1.2.3", "0x10", "٣", &"9".repeat(400)] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn a_slip_of_the_pen_finds_its_variable() {
        for (slip, meant) in [
            ("WEBSOCKET_PROT", "WEBSOCKET_PORT"),
            ("WEBSOCKET_MAX_CONNECTION", "WEBSOCKET_MAX_CONNECTIONS"),
            ("WEBSOCKET_MAX_MESSAGE_SIZE", "WEBSOCKET_MAX_MESSAGE_BYTES"),
            ("AUTH_SECRET", "AUTH_JWT_SECRET"),
            ("AUTH_API_KEY", "AUTH_API_KEYS"),
            ("AUTH_JWT_KEY", "AUTH_API_KEYS"),
            ("HISTORY_OVERRIDE", "HISTORY_OVERRIDES"),
            ("CALLBACK_RETENTON", "CALLBACK_RETENTION"),
            ("DRAIN_TIMOUT", "DRAIN_TIMEOUT"),
            ("REDIS_ULR", "REDIS_URL"),
            ("REDIS_URLS", "REDIS_URL"),
            ("REDIS_PREFX", "REDIS_PREFIX"),
            ("METRICS_KYE", "METRICS_KEY"),
            ("LOG_FORMATT", "LOG_FORMAT"),
            ("PRESENCE_TLL", "PRESENCE_TTL"),
            ("NODE_IDS", "NODE_ID"),
            ("PUBLISH_MAX_BYTE", "PUBLISH_MAX_BYTES"),
            ("WEBSOCKET_PORT_FILE", "WEBSOCKET_PORT"),
        ] {
            assert!(looks_like_ours(slip) && find(slip).is_none(), "{slip}");
            assert_eq!(nearest(slip), meant, "{slip}");
        }
        for other in [
            "PATH",
            "REDIS_PORT",
            "REDIS_HOST",
            "REDIS_SERVICE_HOST",
            "REDIS_PORT_6379_TCP_ADDR",
            "WEBSOCKET_SERVICE_PORT",
            "WEBSOCKET_PORT_8765_TCP",
            "AUTH_PORT",
            "CALLBACK_URL",
            "DRAIN_TIME_BUDGET",
            "LOG_LEVEL",
            "NODE_ENV",
            "NODE_IP",
            "NODE_NAME",
            "METRICS_ADDRESS",
        ] {
            assert!(!looks_like_ours(other), "{other}");
        }
    }

    #[test]
    fn edits_are_counted_as_levenshtein_does() {
        for (from, to, distance) in [("", "", 0), ("a", "", 1), ("", "ab", 2), ("kitten", "sitting", 3), ("ä", "a", 1)]
        {
            assert_eq!(edits(from, to), distance, "{from} {to}");
            assert_eq!(edits(to, from), distance, "{to} {from}");
        }
    }

    #[test]
    fn only_secrets_have_a_file_form() {
        let secrets: Vec<_> = TABLE.iter().filter(|variable| variable.secret).collect();
        assert!(secrets.len() >= 4);
        for variable in TABLE {
            assert_eq!(find_file(&format!("{}_FILE", variable.name)).is_some(), variable.secret, "{}", variable.name);
        }
    }
}
