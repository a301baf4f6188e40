//! The producers door. A key is compared in constant time, as a digest, with every known one: how long that takes
//! tells nothing about any key.

use std::fmt;

use axum::http::HeaderMap;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::token;
use crate::config::Config;

/// A set of keys, of which only digests are kept.
#[derive(Clone, Default)]
pub struct Keys {
    digests: Vec<[u8; 32]>,
}

impl Keys {
    /// A set of these keys.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a SecretString>) -> Self {
        Self { digests: keys.into_iter().map(|key| digest(key.expose_secret())).collect() }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// Whether `key` is one of them; all are compared, whatever was found.
    pub fn contains(&self, key: &str) -> bool {
        let given = digest(key);
        let found = self.digests.iter().fold(Choice::from(0), |found, known| found | known.ct_eq(&given));
        found.into()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.digests.len())
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// A door that producers enter with a key; open when there are no keys.
#[derive(Debug, Clone, Default)]
pub struct Producers {
    keys: Keys,
}

/// Why a producer is not let in. The text says what to do and never holds a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is none.
    #[error("an API key is required: send it as Authorization: Bearer <key>")]
    Missing,
    /// It is none of ours.
    #[error("the API key is not one of the gateway's AUTH_API_KEYS")]
    Unknown,
}

impl Producers {
    /// The door that the configuration describes.
    pub fn new(config: &Config) -> Self {
        Self { keys: Keys::new(&config.api_keys) }
    }

    /// Whether nobody needs a key.
    pub fn is_open(&self) -> bool {
        self.keys.is_empty()
    }

    /// Lets a request in that carries a known key, or any at an open door.
    ///
    /// # Errors
    /// No key, or an unknown one.
    pub fn admit(&self, headers: &HeaderMap) -> Result<(), KeyError> {
        if self.is_open() {
            return Ok(());
        }
        let key = token::bearer(headers).ok_or(KeyError::Missing)?;
        if self.keys.contains(key) { Ok(()) } else { Err(KeyError::Unknown) }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, header::AUTHORIZATION};

    use super::*;

    fn door(keys: &[&str]) -> Producers {
        Producers::new(&Config {
            api_keys: keys.iter().copied().map(SecretString::from).collect(),
            ..Config::default()
        })
    }

    fn admit(door: &Producers, authorization: Option<&str>) -> Result<(), KeyError> {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        door.admit(&headers)
    }

    #[test]
    fn any_of_the_keys_opens_the_door_and_nothing_else_does() {
        let door = door(&["first-key-of-three", "second-key-of-three", "third-key-of-three"]);
        assert!(!door.is_open());
        for key in ["first-key-of-three", "second-key-of-three", "third-key-of-three"] {
            assert_eq!(admit(&door, Some(&format!("Bearer {key}"))), Ok(()), "{key}");
        }
        for (authorization, error) in [
            (None, KeyError::Missing),
            (Some(""), KeyError::Missing),
            (Some("Bearer"), KeyError::Missing),
            (Some("Bearer "), KeyError::Missing),
            (Some("Basic first-key-of-three"), KeyError::Missing),
            (Some("first-key-of-three"), KeyError::Missing),
            (Some("Bearer first-key-of-thre"), KeyError::Unknown),
            (Some("Bearer first-key-of-threee"), KeyError::Unknown),
            (Some("Bearer FIRST-KEY-OF-THREE"), KeyError::Unknown),
            (Some("Bearer first-key-of-three,second-key-of-three"), KeyError::Unknown),
        ] {
            assert_eq!(admit(&door, authorization), Err(error), "{authorization:?}");
        }
    }

    #[test]
    fn without_keys_the_door_is_open() {
        let door = door(&[]);
        assert!(door.is_open());
        for authorization in [None, Some("Bearer whatever")] {
            assert_eq!(admit(&door, authorization), Ok(()));
        }
    }

    #[test]
    fn neither_the_door_nor_its_errors_print_a_key() {
        let door = door(&["first-key-of-three"]);
        let printed = format!("{door:?} {}", admit(&door, Some("Bearer guessed-key-of-eve")).unwrap_err());
        assert!(!printed.contains("of-three") && !printed.contains("of-eve"), "{printed}");
    }
}
