//! How many files the process may have open, and for whom: every connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{Config, http_connections::RESERVE};

/// What is used where the system has no limit, so that shares of it are numbers.
const UNLIMITED: u64 = 1 << 20;
/// Files beside those of clients: listener, epoll, signals and standard streams (about 12), Redis commands and subscribers
/// (about 20), and HTTP connections beyond their limit.
const BESIDE: u64 = 64;

/// How many files the process may have open at once (`RLIMIT_NOFILE`, the soft limit).
pub fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(UNLIMITED)
}

/// Raises the soft limit to the hard one, which every process may do; the limit afterwards. The soft limit is low (1024) on
/// most systems for the sake of programs that use `select(2)`, and this is none.
///
/// # Errors
/// The system refuses; the limit is as it was.
pub fn raise_limit() -> std::io::Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(limit())
}

/// Most HTTP connections, if nothing else is configured.
pub(crate) fn http_connections(files: u64) -> usize {
    usize::try_from(files / 4).unwrap_or(usize::MAX).max(RESERVE)
}

/// How the files of a process are shared among clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// How many files this configuration needs.
    pub needed: u64,
    /// WebSockets that may be let in.
    pub connections: usize,
    /// HTTP connections that may be let in.
    pub http_connections: usize,
}

impl Shares {
    /// What a configuration gets of so many files: all that it asks for, or else at most half of the files for HTTP and the
    /// node itself, and WebSockets have the rest. A node without any file to spare could neither be asked how it is nor find
    /// its Redis again.
    pub fn of(config: &Config, files: u64) -> Self {
        let whole = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let http = match config.limit_http_connections {
            None => http_connections(files),
            // Without a limit there is no number of files that is enough.
            Some(0) => return Self { needed: 0, connections: config.max_connections, http_connections: 0 },
            Some(limit) => limit,
        };
        let needed = whole(config.max_connections).saturating_add(whole(http)).saturating_add(BESIDE);
        if needed <= files {
            return Self { needed, connections: config.max_connections, http_connections: http };
        }
        let http = whole(http).min(files / 4);
        let connections = files - (http + BESIDE).min(files / 2);
        let least = |wanted: usize, files: u64| wanted.min(usize::try_from(files).unwrap_or(usize::MAX));
        Self {
            needed,
            connections: least(config.max_connections, connections),
            http_connections: least(usize::MAX, http).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(max_connections: usize, limit_http_connections: Option<usize>, files: u64) -> (u64, usize, usize) {
        let config = Config { max_connections, limit_http_connections, ..Config::default() };
        let Shares { needed, connections, http_connections } = Shares::of(&config, files);
        (needed, connections, http_connections)
    }

    #[test]
    fn a_configuration_gets_what_it_asks_for_as_long_as_there_are_files() {
        assert_eq!(shares(10_000, None, 65_536), (10_000 + 16_384 + 64, 10_000, 16_384));
        assert_eq!(shares(10_000, Some(500), 10_564), (10_564, 10_000, 500));
        assert_eq!(shares(10_000, Some(0), 1_024), (0, 10_000, 0));
    }

    #[test]
    fn clients_leave_files_for_redis_and_for_those_who_look_after_the_node() {
        for (files, connections, http) in [(0, 0, 1), (256, 128, 64), (1_024, 704, 256), (4_096, 3_008, 1_024)] {
            let (needed, some, others) = shares(10_000, None, files);
            assert!(needed > files);
            assert_eq!((some, others), (connections, http), "of {files}");
        }
        // A limit that was given is kept, if that is possible.
        assert_eq!(shares(10_000, Some(20), 1_024), (10_084, 940, 20));
        assert_eq!(shares(10, Some(100_000), 1_024), (100_074, 10, 256));
        assert_eq!(shares(usize::MAX, Some(1), 1_024).0, u64::MAX);
    }

    #[test]
    fn the_limit_of_this_process_is_known() {
        assert!(limit() > BESIDE);
    }
}
