//! A wall clock that a test sets: `FAKETIME_TIMESTAMP_FILE` of libfaketime. The monotonic clock is left alone, as it is
//! when an administrator or NTP sets a clock.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The wall clock of the processes that are started with it.
#[derive(Debug)]
pub struct WallClock(TempDir);

impl WallClock {
    /// A clock that is right.
    pub fn new() -> Self {
        let clock = Self(TempDir::new().expect("a temporary directory can be made"));
        clock.set("+0");
        clock
    }

    /// Sets it so many seconds before or after the right time: `+60`, `-3600`.
    pub fn set(&self, by: &str) {
        // Renamed, so that nobody reads half of it.
        let (new, path) = (self.0.path().join("new"), self.path());
        fs::write(&new, by).and_then(|()| fs::rename(&new, &path)).expect("our own directory");
    }

    /// What a process is to be started with.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let library = LIBRARIES.iter().find(|path| Path::new(path).exists());
        let library = library.unwrap_or_else(|| panic!("libfaketime is in none of {LIBRARIES:?}: ./test installs it"));
        vec![
            ("LD_PRELOAD", (*library).to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", self.path().to_str().expect("a temporary path is text").to_owned()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("clock")
    }
}

impl Default for WallClock {
    fn default() -> Self {
        Self::new()
    }
}

const LIBRARIES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];
