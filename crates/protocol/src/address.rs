//! Where a message goes. An address has two text forms: the producers' (`broadcast`, `user:<id>`,
//! `topic:<name>`, also the tail of a channel name) and the clients' (`broadcast`, `user:<id>`, the bare
//! topic name). The two can never be confused, because no topic is called `broadcast` or `user:…`.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::{
    fields::{FieldError, shorten},
    ids::{TopicName, UserId},
};

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// Everybody.
    Broadcast,
    /// Every connection of one user.
    User(UserId),
    /// Every subscriber of one topic.
    Topic(TopicName),
}

/// Why a text is not an address.
pub type AddressError = FieldError;

impl Address {
    /// Reads the producers' form.
    ///
    /// # Errors
    /// Neither `broadcast` nor `user:<id>` nor `topic:<name>`, or a name that is none.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        match text.split_once(':') {
            None if text == "broadcast" => Ok(Self::Broadcast),
            Some(("user", id)) => UserId::parse(id).map(Self::User),
            Some(("topic", name)) => TopicName::parse(name).map(Self::Topic),
            _ => Err(FieldError::new(
                "address",
                "\"broadcast\", \"user:<id>\" or \"topic:<name>\"",
                format!("{:?}", shorten(text)),
            )),
        }
        .map_err(|error| FieldError { field: "address".to_owned(), ..error })
    }

    /// Reads the clients' form, in which anything but `broadcast` and `user:<id>` is a topic.
    ///
    /// # Errors
    /// A name that is none.
    pub fn parse_client(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix("user:") {
            Some(id) => {
                UserId::parse(id).map(Self::User).map_err(|error| FieldError { field: "topic".to_owned(), ..error })
            }
            None if text == "broadcast" => Ok(Self::Broadcast),
            None => TopicName::parse(text).map(Self::Topic),
        }
    }

    /// The clients' form: in `_meta.topic`, `subscribe` and `?topic=`.
    pub fn client_form(&self) -> ClientForm<'_> {
        ClientForm(self)
    }
}

/// The producers' form.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broadcast => f.write_str("broadcast"),
            Self::User(id) => write!(f, "user:{id}"),
            Self::Topic(name) => write!(f, "topic:{name}"),
        }
    }
}

/// Shows an address as clients write it.
#[derive(Debug, Clone, Copy)]
pub struct ClientForm<'a>(&'a Address);

impl fmt::Display for ClientForm<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Address::Topic(name) => f.write_str(name.as_str()),
            other => other.fmt(f),
        }
    }
}

impl Serialize for ClientForm<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_read_back_what_they_wrote() {
        for text in ["broadcast", "user:alice", "user:a:b", "topic:room:7", "topic:topic:x"] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(Address::parse_client(&address.client_form().to_string()), Ok(address));
        }
    }

    #[test]
    fn a_text_that_is_no_address_is_refused_with_the_forms_that_are() {
        for text in ["", "alice", "user:", "topic:", "topic:broadcast", "topic:user:x", "Broadcast", "broadcast:x"] {
            assert_eq!(Address::parse(text).unwrap_err().field, "address", "{text}");
        }
        assert!(Address::parse_client("user:").is_err());
        assert!(Address::parse_client("").is_err());
    }
}
