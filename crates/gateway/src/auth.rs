//! Who may enter. There are two doors: clients come with a signed token, producers with an API key. A door without
//! credentials is open, and only the configuration decides whether that may be. No token and no key is ever part of
//! an error, a log line or a URL that the gateway writes.
//!
//! A tour: [`clients`] knows users by their tokens, [`producers`] know keys, [`token`] finds a token in a request,
//! [`origin`] says which pages may connect, [`host`] by which names.

pub mod clients;
pub mod host;
pub mod origin;
pub mod producers;
pub mod token;

pub use clients::{AuthError, Clients, Identity};
pub use producers::{KeyError, Keys, Producers};
