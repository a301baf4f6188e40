//! Which life of which server a connection belongs to. A *run* is one life of one server as a master: it ends when its process
//! ends, and when it becomes a replica. What one run has acknowledged may be unknown to the next (a crash before fsync, a
//! failover before replication), so numberings are bound to it: see `lua/numbering.lua`. A connection belongs to one server
//! process; what else may have changed is looked at once a second (`lanes.rs`).

use std::time::Duration;

use redis::{InfoDict, RedisResult, aio::ConnectionLike, cmd, from_redis_value};

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Run {
    /// Eight hex digits; empty when the server does not say (managed ones forbid `INFO` at times).
    pub(super) name: String,
    /// It follows another server and takes no writes.
    pub(super) is_replica: bool,
}

impl Run {
    /// Asks the server at the other end (<https://redis.io/docs/latest/commands/info/>).
    pub(super) async fn ask(connection: &mut impl ConnectionLike) -> RedisResult<Self> {
        Ok(Self::and_time(connection).await?.0)
    }

    /// The same, and how late it is there.
    pub(super) async fn and_time(connection: &mut impl ConnectionLike) -> RedisResult<(Self, Option<Duration>)> {
        match cmd("INFO").arg("server").arg("replication").query_async(connection).await {
            Ok(info) => {
                let info: InfoDict = from_redis_value(info)?;
                let time = info.get::<u64>("server_time_usec").map(Duration::from_micros);
                Ok((Self::read(&info), time))
            }
            Err(error) if is_forbidden(&error) => Ok((Self::default(), None)),
            Err(error) => Err(error),
        }
    }

    /// The first 32 bits of the process's id and of the id of what it replicates, both random, in one: any change of either
    /// shows. The second changes when a replica is promoted, and also when a master gets its first replica, which costs a
    /// new numbering that was not needed. The same function is `running` of `numbering.lua`.
    fn read(info: &InfoDict) -> Self {
        let part = |name| info.get::<String>(name).and_then(|id| u32::from_str_radix(id.get(..8)?, 16).ok());
        let name = match (part("run_id"), part("master_replid")) {
            (Some(process), Some(replication)) => format!("{:08x}", process ^ replication),
            _ => String::new(),
        };
        Self { name, is_replica: info.get::<String>("role").is_some_and(|role| role == "slave") }
    }
}

fn is_forbidden(error: &redis::RedisError) -> bool {
    matches!(error.code(), Some("NOPERM" | "ERR"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_another_one_after_a_restart_and_after_a_promotion() {
        let run = |process: &str, replication: &str, role: &str| {
            let ids = format!("run_id:{process}aaaa\r\nmaster_replid:{replication}bbbb\r\nrole:{role}\r\n");
            Run::read(&InfoDict::new(&ids))
        };
        let first = run("00000001", "ffff0000", "master");
        assert_eq!(first, Run { name: "ffff0001".to_owned(), is_replica: false });
        assert_ne!(run("00000002", "ffff0000", "master").name, first.name);
        assert_ne!(run("00000001", "0000ffff", "master").name, first.name);
        assert!(run("00000001", "ffff0000", "slave").is_replica);
    }

    #[test]
    fn a_server_that_does_not_say_is_taken_as_it_is() {
        for silent in ["", "run_id:\r\n", "run_id:zz\r\nmaster_replid:00000000\r\n", "run_id:00000000\r\n"] {
            assert_eq!(Run::read(&InfoDict::new(silent)), Run::default(), "{silent:?}");
        }
    }
}
