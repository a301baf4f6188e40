//! What an error of Redis means: of which kind it is, whether something may have been written, whether it is worth trying
//! again, and whether the connection is still good.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::needs::Lacking;
use crate::{BackplaneError, listener::Failure};

/// A command that failed.
#[derive(Debug, Clone)]
pub(super) struct CommandError {
    pub(super) kind: Failure,
    /// Whether it is known that nothing was written.
    pub(super) unwritten: bool,
    /// Whether another try may succeed.
    pub(super) transient: bool,
    /// Whether the connection has to be replaced.
    pub(super) broken: bool,
    /// Which server of a cluster has the key.
    pub(super) redirection: Option<Redirection>,
    text: String,
}

/// `MOVED` and `ASK`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Redirection {
    /// `<host>:<port>`.
    pub(super) to: String,
    /// The slot is on its way (`ASK`): the next step on it is for the server that was asked.
    pub(super) only_this_once: bool,
}

impl CommandError {
    /// Whether another try may succeed soon enough to be worth it: memory, disks and rights do not come within a second, and who
    /// is told at once can do something.
    pub(super) fn passes_soon(&self) -> bool {
        match self.kind {
            Failure::OutOfMemory
            | Failure::Misconfigured
            | Failure::Unauthorized
            | Failure::Forbidden
            | Failure::Unfit => false,
            Failure::Timeout
            | Failure::Connection
            | Failure::Loading
            | Failure::ReadOnly
            | Failure::ClusterDown
            | Failure::Other => self.transient,
        }
    }

    /// There is no connection: nothing was sent.
    pub(super) fn unconnected(why: &str) -> Self {
        let text = format!("no connection to Redis: {why}");
        Self { kind: Failure::Connection, unwritten: true, transient: true, broken: false, redirection: None, text }
    }

    /// The server cannot run what the node needs: nothing was sent.
    pub(super) fn unfit(lacking: &Lacking) -> Self {
        let text = lacking.to_string();
        Self { kind: Failure::Unfit, unwritten: true, transient: true, broken: false, redirection: None, text }
    }

    /// The server follows another one: nothing was sent.
    pub(super) fn replica() -> Self {
        let text = "this Redis is a read only replica; commands need its master".to_owned();
        Self { kind: Failure::ReadOnly, unwritten: true, transient: true, broken: false, redirection: None, text }
    }

    /// The same for a step that finds no connection because of it.
    pub(super) fn before_anything_was_sent(&self) -> Self {
        Self { unwritten: true, transient: true, broken: false, redirection: None, ..self.clone() }
    }

    /// The call's time is over with a try under way; why the tries before it failed says more than that.
    pub(super) fn no_answer(within: std::time::Duration, before: Option<&Self>) -> Self {
        let text = match before {
            Some(before) => format!("no answer within {within:?}; before that: {before}"),
            None => format!("no answer within {within:?}"),
        };
        Self { kind: Failure::Timeout, unwritten: false, transient: true, broken: false, redirection: None, text }
    }

    /// A key or a reply is not what this version writes.
    pub(super) fn unreadable(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { kind: Failure::Other, unwritten: true, transient: false, broken: false, redirection: None, text }
    }
}

impl std::fmt::Display for CommandError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<RedisError> for CommandError {
    fn from(error: RedisError) -> Self {
        let kind = kind(&error);
        let unwritten = match kind {
            Failure::Timeout | Failure::Connection => false,
            Failure::Loading
            | Failure::ReadOnly
            | Failure::OutOfMemory
            | Failure::Misconfigured
            | Failure::Unauthorized
            | Failure::Forbidden
            | Failure::Unfit
            | Failure::ClusterDown => true,
            // Scripts read before they write: an error of a command in the middle would be a bug, not a state.
            Failure::Other => matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension),
        };
        let broken = match kind {
            // A peer that is silent for a second may be gone without a word, and a lane is cheap; or another Redis is the
            // master now; or the credentials were changed.
            Failure::Timeout | Failure::Connection | Failure::ReadOnly | Failure::Unauthorized => true,
            Failure::Loading
            | Failure::OutOfMemory
            | Failure::Misconfigured
            | Failure::Forbidden
            | Failure::Unfit
            | Failure::ClusterDown => false,
            Failure::Other => error.is_unrecoverable_error(),
        };
        let redirection = error.redirect_node().map(|(to, _)| Redirection {
            to: to.to_owned(),
            only_this_once: error.kind() == ErrorKind::Server(ServerErrorKind::Ask),
        });
        Self { kind, unwritten, transient: kind != Failure::Other, broken, redirection, text: told(&error, kind) }
    }
}

/// The error in Redis's words, and what to do where that is not plain.
fn told(error: &RedisError, kind: Failure) -> String {
    match kind {
        // The library keeps the words to itself.
        Failure::Unauthorized if error.kind() == ErrorKind::AuthenticationFailed => {
            "WRONGPASS: Redis does not take the user and password of REDIS_URL".to_owned()
        }
        Failure::Unauthorized => format!("{error} (REDIS_URL has no user or password that this Redis takes)"),
        Failure::Forbidden => format!("NOPERM: {error} (the rights that are needed are in deploy/redis/users.acl)"),
        Failure::OutOfMemory => format!("Redis is full: {error} (raise its maxmemory)"),
        _ => error.to_string(),
    }
}

impl From<CommandError> for BackplaneError {
    fn from(error: CommandError) -> Self {
        match error.kind {
            Failure::OutOfMemory => Self::Full(error.text),
            // The words of the system ("Connection refused") do not say who it was.
            _ if error.transient && !error.text.contains("Redis") => {
                Self::Unavailable(format!("Redis: {}", error.text))
            }
            _ if error.transient => Self::Unavailable(error.text),
            _ => Self::Unreadable(error.text),
        }
    }
}

/// Of which kind an error is.
pub(super) fn kind(error: &RedisError) -> Failure {
    if error.is_timeout() {
        return Failure::Timeout;
    }
    match error.kind() {
        ErrorKind::Io | ErrorKind::ClusterConnectionNotFound | ErrorKind::MasterNameNotFoundBySentinel => {
            return Failure::Connection;
        }
        ErrorKind::AuthenticationFailed => return Failure::Unauthorized,
        ErrorKind::Server(ServerErrorKind::NoPerm) => return Failure::Forbidden,
        ErrorKind::Server(ServerErrorKind::ClusterDown) => return Failure::ClusterDown,
        ErrorKind::Server(ServerErrorKind::ReadOnly) => return Failure::ReadOnly,
        ErrorKind::Server(
            ServerErrorKind::BusyLoading
            | ServerErrorKind::MasterDown
            | ServerErrorKind::TryAgain
            // Another server has the key: nothing was done here, and it passes when the map is read again.
            | ServerErrorKind::Moved
            | ServerErrorKind::Ask,
        ) => return Failure::Loading,
        _ => {}
    }
    match error.code() {
        // BUSY: somebody's script runs too long; like loading, it passes and nothing was done.
        Some("LOADING" | "BUSY") => Failure::Loading,
        Some("READONLY") => Failure::ReadOnly,
        Some("OOM") => Failure::OutOfMemory,
        Some("MISCONF" | "NOREPLICAS") => Failure::Misconfigured,
        Some("NOAUTH" | "WRONGPASS") => Failure::Unauthorized,
        Some("NOPERM") => Failure::Forbidden,
        Some("CLUSTERDOWN" | "MASTERDOWN") => Failure::ClusterDown,
        // What a script was refused is told in the script's words.
        _ if says(error, "The user executing the script can't") || says(error, "ACL failure in script") => {
            Failure::Forbidden
        }
        _ => Failure::Other,
    }
}

fn says(error: &RedisError, words: &str) -> bool {
    error.detail().is_some_and(|detail| detail.contains(words))
}

/// Whether the server does not know the command itself.
pub(super) fn is_unknown_command(error: &RedisError) -> bool {
    says(error, "unknown command")
}

/// Whether the user of the credentials has not the right to it.
pub(super) fn is_forbidden(error: &RedisError) -> bool {
    kind(error) == Failure::Forbidden
}

/// Whether the script is not known to this Redis (any more).
pub(super) fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::make_extension_error;

    #[test]
    fn every_refusal_is_known_to_have_written_nothing_and_every_silence_is_not() {
        for (code, expected) in [
            ("OOM", Failure::OutOfMemory),
            ("MISCONF", Failure::Misconfigured),
            ("NOAUTH", Failure::Unauthorized),
            ("WRONGPASS", Failure::Unauthorized),
            ("BUSY", Failure::Loading),
            ("NOPERM", Failure::Forbidden),
            ("CLUSTERDOWN", Failure::ClusterDown),
            ("MISCONF", Failure::Misconfigured),
            ("READONLY", Failure::ReadOnly),
            ("LOADING", Failure::Loading),
        ] {
            let error = CommandError::from(make_extension_error(code.to_owned(), None));
            assert_eq!((error.kind, error.unwritten, error.transient), (expected, true, true), "{code}");
        }
        for (io, expected) in [
            (std::io::ErrorKind::TimedOut, Failure::Timeout),
            (std::io::ErrorKind::BrokenPipe, Failure::Connection),
            (std::io::ErrorKind::UnexpectedEof, Failure::Connection),
        ] {
            let error = CommandError::from(RedisError::from(std::io::Error::from(io)));
            assert_eq!((error.kind, error.unwritten, error.transient, error.broken), (expected, false, true, true));
        }
    }

    #[test]
    fn a_key_of_another_type_is_unreadable_and_not_tried_again() {
        let error = CommandError::from(make_extension_error("WRONGTYPE".to_owned(), Some("Operation".to_owned())));
        assert!(!error.transient && !error.broken);
        assert!(matches!(BackplaneError::from(error), BackplaneError::Unreadable(_)));
    }
}
