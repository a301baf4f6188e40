//! `{epoch, offset}` of a message within the history of its address. An epoch names one unbroken numbering;
//! when history was lost a new epoch begins at offset 1, and positions of the old one mean nothing any more.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    address::Address,
    fields::{FieldError, Fields, shorten},
};

/// The longest epoch, in bytes: ours are 16 hex digits, a client's may not be used to fill memory.
const LONGEST_EPOCH: usize = 64;

/// A place in the history of one address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Position {
    /// Which numbering; empty for an address that never had a message.
    pub epoch: String,
    /// Of the newest message, from 1; 0 before the first.
    pub offset: u64,
}

impl Position {
    /// A position.
    pub fn new(epoch: impl Into<String>, offset: u64) -> Self {
        Self { epoch: epoch.into(), offset }
    }

    /// The position of an address without messages.
    pub fn beginning() -> Self {
        Self::default()
    }

    /// Reads `{epoch, offset}` of a client's `since`.
    ///
    /// # Errors
    /// A missing or wrong field.
    pub fn from_fields(fields: &Fields<'_>) -> Result<Self, FieldError> {
        let epoch = fields.required_text("epoch")?;
        check_epoch(epoch).map_err(|expected| fields.wrong("epoch", expected))?;
        let offset = fields.whole("offset")?.ok_or_else(|| fields.wrong("offset", "a whole number of at least 0"))?;
        Ok(Self::new(epoch, offset))
    }

    /// Reads `<epoch>:<offset>`.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        let wrong = || FieldError::new("position", "<epoch>:<offset>", format!("{:?}", shorten(text)));
        let (epoch, offset) = text.rsplit_once(':').ok_or_else(wrong)?;
        check_epoch(epoch).map_err(|_| wrong())?;
        if !offset.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        Ok(Self::new(epoch, offset.parse().map_err(|_| wrong())?))
    }
}

fn check_epoch(epoch: &str) -> Result<(), &'static str> {
    if epoch.len() <= LONGEST_EPOCH && epoch.bytes().all(|b| b.is_ascii_alphanumeric()) {
        Ok(())
    } else {
        Err("at most 64 letters and digits")
    }
}

/// `<epoch>:<offset>`.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.offset)
    }
}

/// Reads `<address>@<epoch>:<offset>` as in `?since=`. In a comma-separated list ([`parse_list`]) the `%` and `,`
/// of an address are written `%25` and `%2C`.
///
/// # Errors
/// Anything else.
pub fn parse_since(text: &str) -> Result<(Address, Position), FieldError> {
    let wrong = || FieldError::new("since", "<address>@<epoch>:<offset>", format!("{:?}", shorten(text)));
    let (address, position) = text.rsplit_once('@').ok_or_else(wrong)?;
    let address = address.replace("%2C", ",").replace("%2c", ",").replace("%25", "%");
    let address = Address::parse_client(&address).map_err(|error| FieldError { field: "since".to_owned(), ..error })?;
    Ok((address, Position::parse(position).map_err(|_| wrong())?))
}

/// Reads a comma-separated list of `<address>@<epoch>:<offset>`, as in SSE's `Last-Event-ID`.
///
/// # Errors
/// When one of them is none.
pub fn parse_list(text: &str) -> Result<Vec<(Address, Position)>, FieldError> {
    text.split(',').filter(|part| !part.is_empty()).map(parse_since).collect()
}

/// Writes what [`parse_since`] and [`parse_list`] read.
pub fn since(address: &Address, position: &Position) -> String {
    let address = address.client_form().to_string().replace('%', "%25").replace(',', "%2C");
    format!("{address}@{position}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_positions_reads_back_whatever_the_names_hold() {
        let names = ["broadcast", "user:a@b:c,d", "topic:100%2C,%25", "topic:x@y"];
        let list: Vec<_> = names
            .iter()
            .zip(1..)
            .map(|(name, offset)| (Address::parse(name).unwrap(), Position::new("e1", offset)))
            .collect();
        let text = list.iter().map(|(address, position)| since(address, position)).collect::<Vec<_>>().join(",");
        assert_eq!(parse_list(&text).unwrap(), list);
    }

    #[test]
    fn the_beginning_has_an_empty_epoch() {
        assert_eq!(parse_since("broadcast@:0").unwrap(), (Address::Broadcast, Position::beginning()));
    }

    #[test]
    fn what_is_no_position_is_refused() {
        for wrong in [
            "",
            "broadcast",
            "broadcast@",
            "broadcast@e",
            "broadcast@e:-1",
            "broadcast@e:+1",
            "@e:1",
            "broadcast@a b:1",
            "x@e:99999999999999999999",
        ] {
            assert_eq!(parse_since(wrong).unwrap_err().field, "since", "{wrong}");
        }
    }
}
