//! Tokens of clients, signed as a team's own backend would sign them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

/// An HS256 token of `user`, valid for `lifetime` from now.
pub fn token(secret: &str, user: &str, lifetime: Duration) -> String {
    let expires = SystemTime::now() + lifetime;
    let expires = expires.duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs();
    encode(&Header::default(), &json!({"sub": user, "exp": expires}), &EncodingKey::from_secret(secret.as_bytes()))
        .expect("claims that we wrote can be signed")
}
