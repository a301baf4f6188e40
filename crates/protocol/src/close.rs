//! WebSocket close codes as advice, in bands: 4000–4499 come back, 4500–4999 do not; of the standard ones 1002, 1003,
//! 1007 and 1008 do not come back, all others do. 1009 comes back without the message that was too long.

/// A close code with its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Close {
    /// RFC 6455 §7.4, or ours.
    pub code: u16,
    /// At most 123 bytes.
    pub reason: &'static str,
}

/// The node drains: come back, another one will answer.
pub const DRAIN: Close = Close { code: 1012, reason: "Service restart" };
/// A frame that is no text and no UTF-8 JSON.
pub const BAD_DATA: Close = Close { code: 1007, reason: "Message is not UTF-8" };
/// Against the protocol.
pub const PROTOCOL: Close = Close { code: 1002, reason: "Protocol error" };
/// Longer than `WEBSOCKET_MAX_MESSAGE_BYTES`: come back, but do not send that message again.
pub const TOO_LONG: Close = Close { code: 1009, reason: "Message too long" };
/// More than `WEBSOCKET_TOPICS` from the start.
pub const TOO_MANY_TOPICS: Close = Close { code: 1008, reason: "Too many subscriptions" };
/// More than `WEBSOCKET_MAX_CONNECTIONS`.
pub const FULL: Close = Close { code: 1013, reason: "Server connection limit reached" };
/// More than `WEBSOCKET_USER_CONNECTIONS`, where one more is refused. It may come back, with full back-off: a place becomes free
/// when another connection ends, and those of a node that has just died are counted until their leases end.
pub const USER_FULL: Close = Close { code: 1013, reason: "User connection limit reached" };
/// The node could not do what the connection needs, such as reading its user's open callbacks.
pub const UNAVAILABLE: Close = Close { code: 1013, reason: "Temporarily unavailable" };
/// The outbox was full: come back and recover.
pub const SLOW: Close = Close { code: 4001, reason: "Slow consumer" };
/// No pong in time.
pub const PING_TIMEOUT: Close = Close { code: 4002, reason: "Ping timeout" };
/// What was missed does not fit: come back and start from what is there now.
pub const RESYNC: Close = Close { code: 4003, reason: "Resync" };
/// The token has expired: fetch a new one, then come back.
pub const TOKEN_EXPIRED: Close = Close { code: 4004, reason: "Token expired" };
/// The token is none of ours: do not come back with it.
pub const BAD_TOKEN: Close = Close { code: 4500, reason: "Bad token" };

/// The user has a newer connection instead of this one, or was disconnected.
pub const REPLACED: Close = Close { code: 4503, reason: "Replaced or disconnected" };

/// Whether a client that was closed with this code should come back.
pub fn comes_back(code: u16) -> bool {
    !matches!(code, 1002 | 1003 | 1007 | 1008 | 4500..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_advice_in_bands() {
        for back in [DRAIN, FULL, USER_FULL, UNAVAILABLE, SLOW, PING_TIMEOUT, RESYNC, TOKEN_EXPIRED, TOO_LONG] {
            assert!(comes_back(back.code), "{back:?}");
        }
        for gone in [TOO_MANY_TOPICS, BAD_DATA, PROTOCOL, BAD_TOKEN, REPLACED] {
            assert!(!comes_back(gone.code), "{gone:?}");
        }
    }
}
