//! How a server speaks inside its WebSocket frames: what it is told after the handshake, how it says that a connection is
//! ready, in what it wraps a message, and what returns a ping. The gateway's own protocol is one dialect; the others make
//! it possible to measure peers with the same load.

use clap::ValueEnum;

/// A server's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Dialect {
    /// The gateway's client protocol.
    #[default]
    Countersign,
    /// Messages as they are, an echo of what the client says, and no other word.
    Bare,
    /// Socket.IO over Engine.IO 4: packets with a type before them, events as JSON arrays.
    SocketIo,
    /// Pusher's protocol, version 7: events as JSON objects, their data a string of JSON.
    Pusher,
}

impl Dialect {
    /// What connection `index` says first, one text after the other.
    pub(crate) fn greeting(self, index: u64) -> Vec<String> {
        match self {
            Self::Countersign | Self::Bare => Vec::new(),
            Self::SocketIo => vec!["40".to_owned()],
            // Everybody's channel and its own, in this order.
            Self::Pusher => ["all".to_owned(), crate::crowd::user(index)]
                .map(|channel| format!(r#"{{"event":"pusher:subscribe","data":{{"channel":"{channel}"}}}}"#))
                .into(),
        }
    }

    /// Whether the server says by itself when a connection hears everything.
    pub(crate) fn announces(self) -> bool {
        self != Self::Bare
    }

    /// Whether this text says so.
    pub(crate) fn is_ready(self, text: &[u8]) -> bool {
        match self {
            // The list of open callbacks comes when the connection hears everything that is meant for its user.
            Self::Countersign => text.starts_with(br#"{"type":"open_callbacks""#),
            Self::Bare => false,
            Self::SocketIo => text.starts_with(b"40"),
            // Of the second channel.
            Self::Pusher => {
                text.starts_with(br#"{"event":"pusher_internal:subscription_succeeded""#)
                    && find(text, b"bench-").is_some()
            }
        }
    }

    /// The message in a text; some dialects have it in an envelope.
    pub(crate) fn message(self, text: &[u8]) -> &[u8] {
        match self {
            Self::Countersign | Self::Bare => text,
            Self::SocketIo => text.strip_prefix(br#"42["m","#).unwrap_or(text),
            Self::Pusher => find(text, DATA).and_then(|at| text.get(at + DATA.len()..)).unwrap_or(text),
        }
    }

    /// A ping of the application.
    pub(crate) fn ping(self) -> &'static [u8] {
        match self {
            Self::Countersign | Self::Bare => br#"{"action":"ping"}"#,
            Self::SocketIo => br#"42["echo",{"action":"ping"}]"#,
            Self::Pusher => br#"{"event":"pusher:ping","data":{}}"#,
        }
    }

    /// Whether this text returns it.
    pub(crate) fn is_pong(self, text: &[u8]) -> bool {
        match self {
            Self::Countersign => text.starts_with(br#"{"type":"pong""#),
            Self::Bare | Self::SocketIo => text == self.ping(),
            Self::Pusher => text.starts_with(br#"{"event":"pusher:pong""#),
        }
    }
}

/// Behind it begins the data of an event of Pusher's.
const DATA: &[u8] = br#""data":""#;

fn find(text: &[u8], words: &[u8]) -> Option<usize> {
    text.windows(words.len()).position(|window| window == words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_finds_the_message_and_its_own_pong() {
        let message = br#"{"n":1}"#;
        assert_eq!(Dialect::Countersign.message(message), message);
        assert!(Dialect::SocketIo.message(br#"42["m",{"n":1}]"#).starts_with(message));
        assert!(Dialect::Countersign.is_pong(br#"{"type":"pong","timestamp":1.0}"#));
        let event = br#"{"event":"m","channel":"all","data":"{\"n\":1}"}"#;
        assert!(Dialect::Pusher.message(event).starts_with(br#"{\"n\":1}"#));
        assert!(Dialect::Pusher.is_pong(br#"{"event":"pusher:pong","data":{}}"#) && !Dialect::Pusher.is_pong(event));
        let said = |channel| format!(r#"{{"event":"pusher_internal:subscription_succeeded","channel":"{channel}"}}"#);
        assert!(
            Dialect::Pusher.is_ready(said("bench-7").as_bytes()) && !Dialect::Pusher.is_ready(said("all").as_bytes())
        );
        assert!(Dialect::Pusher.greeting(7)[1].contains(r#""bench-7""#));
        for dialect in [Dialect::Bare, Dialect::SocketIo] {
            assert!(dialect.is_pong(dialect.ping()) && !dialect.is_pong(message), "{dialect:?}");
        }
    }
}
