//! The producer's doors: Redis (`PUBLISH`, the durable inbox, or what another server's adapter listens to), and HTTP. Both
//! collect messages and then block until the door has taken them, because the producer has a thread of its own that does
//! nothing else. Nothing is allocated per message.

mod http;
mod redis;

use anyhow::Result;

pub(crate) use http::{Http, Posting};
pub(crate) use redis::{Redis, Wire};

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    Broadcast,
    /// The user of a connection, by its number.
    User(u64),
    Topic(&'a str),
}

/// A way into the server.
#[derive(Debug)]
pub(crate) enum Door {
    Redis(Redis),
    Http(Box<Http>),
}

impl Door {
    /// Puts a message behind those that are to be published.
    pub(crate) fn add(&mut self, target: Target<'_>, message: &[u8]) -> Result<()> {
        match self {
            Self::Redis(redis) => {
                redis.add(target, message);
                Ok(())
            }
            Self::Http(http) => http.add(target, message),
        }
    }

    /// Publishes what was added, in order; returns when all was taken.
    pub(crate) fn flush(&mut self) -> Result<()> {
        match self {
            Self::Redis(redis) => redis.flush(),
            Self::Http(http) => http.flush(),
        }
    }
}
