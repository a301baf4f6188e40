//! The clients door. With a secret, a client is who its token says (`sub`), until the token expires (`exp`). Without
//! one the door is open: a client is whom it claims to be, or a guest.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use countersign_protocol::{FieldError, UserId};
use jsonwebtoken::{Algorithm, DecodingKey, Header, TokenData, Validation, errors::ErrorKind};
use secrecy::ExposeSecret;
use serde::Deserialize;

use crate::config::Config;

/// How far the clock of whoever signs tokens may be off.
const LEEWAY: Duration = Duration::from_secs(5);

/// Bytes. The head of a request has twice as many.
const LONGEST_TOKEN: usize = 8 * 1024;

/// The clients door.
#[derive(Debug, Clone)]
pub struct Clients {
    door: Door,
}

#[derive(Clone)]
enum Door {
    Open,
    Tokens { key: DecodingKey, validation: Box<Validation> },
}

/// Who a connection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user; `None` is a guest, which only an open door lets in.
    pub user: Option<UserId>,
    /// When the token ends; `None` without a token.
    pub expires_at: Option<SystemTime>,
}

/// Why a client is not let in. The text says what to do and never holds a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is none.
    #[error(
        "a token is required: send it as Authorization: Bearer <token>, as the WebSocket subprotocol bearer.<token>, or as ?token=<token>"
    )]
    Missing,
    /// It is not three parts of base64url with JSON in them, or its claims are of no type that a claim may have.
    #[error("the token cannot be read: send a JWT as it was issued, with sub as text and exp as a number")]
    Malformed,
    /// Longer than a token has to be.
    #[error("the token has more than {LONGEST_TOKEN} bytes: put less into it")]
    TooLong,
    /// Its header names a key, or something that a reader has to understand and this one does not (RFC 7515 §4.1).
    #[error(
        "the token's header has {0}: sign it without, as the gateway takes its keys from its own configuration only"
    )]
    Header(&'static str),
    /// Another algorithm than ours.
    #[error("the token must be signed with HS256")]
    Algorithm,
    /// Signed with another secret, or changed.
    #[error("the token's signature is wrong: sign it with the secret that the gateway has in AUTH_JWT_SECRET")]
    Signature,
    /// A claim that is missing or has a wrong type.
    #[error("the token needs the claim {claim}: {expected}")]
    Claim {
        /// Its name.
        claim: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
    /// `exp` is past.
    #[error("the token has expired: fetch a new one")]
    Expired,
    /// `nbf` is to come.
    #[error("the token is not valid yet: compare the clocks of the gateway and of whoever signs the tokens")]
    NotYet,
    /// `aud` is another one, or missing, or there although none is expected.
    #[error("the token is for another audience: its aud must be what the gateway has in AUTH_JWT_AUDIENCE")]
    Audience,
    /// The token is one user's and `user_id` another's.
    #[error("user_id is not the user of the token: leave it out, or use a token of that user")]
    OtherUser,
    /// `user_id` is no name of a user.
    #[error(transparent)]
    UserId(#[from] FieldError),
}

impl AuthError {
    /// The setting to look at, for the operator.
    pub fn setting(&self) -> &'static str {
        match self {
            Self::Audience => "AUTH_JWT_AUDIENCE",
            _ => "AUTH_JWT_SECRET",
        }
    }

    /// Whether a new token would do: such a client is told to come back (4004) instead of to stay away (4500).
    pub fn is_expired(&self) -> bool {
        *self == Self::Expired
    }
}

/// What is read from a token. Both are required, and neither of another type.
#[derive(Deserialize)]
struct Claims {
    sub: UserId,
    exp: f64,
}

impl Clients {
    /// The door that the configuration describes.
    pub fn new(config: &Config) -> Self {
        let Some(secret) = &config.jwt_secret else { return Self { door: Door::Open } };
        // One algorithm, named here and never taken from the token.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_required_spec_claims(&["exp", "sub"]);
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        // Without an expected audience a token that names one was issued for somebody else (RFC 7519 §4.1.3).
        if let Some(audience) = &config.jwt_audience {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        let key = DecodingKey::from_secret(secret.expose_secret().as_bytes());
        Self { door: Door::Tokens { key, validation: Box::new(validation) } }
    }

    /// Whether nobody needs a token. Only then are there guests.
    pub fn is_open(&self) -> bool {
        matches!(self.door, Door::Open)
    }

    /// Who a client is: by its token, or at an open door (where a token is ignored) by `user_id`.
    ///
    /// # Errors
    /// A token that is missing, wrong or expired, or a `user_id` that is another's or none.
    pub fn identify(&self, token: Option<&str>, user_id: Option<&str>) -> Result<Identity, AuthError> {
        let user_id = user_id.filter(|id| !id.is_empty());
        let Door::Tokens { key, validation } = &self.door else {
            let user = user_id.map(UserId::parse).transpose()?;
            return Ok(Identity { user, expires_at: None });
        };
        let token = token.ok_or(AuthError::Missing)?;
        if token.len() > LONGEST_TOKEN {
            return Err(AuthError::TooLong);
        }
        let TokenData { header, claims } = jsonwebtoken::decode::<Claims>(token, key, validation)
            .map_err(|error| refusal(error.kind(), token, key, validation))?;
        if let Some(name) = not_understood(&header) {
            return Err(AuthError::Header(name));
        }
        if user_id.is_some_and(|id| id != claims.sub.as_str()) {
            return Err(AuthError::OtherUser);
        }
        let expires_at =
            Duration::try_from_secs_f64(claims.exp).ok().and_then(|age| SystemTime::UNIX_EPOCH.checked_add(age));
        Ok(Identity { user: Some(claims.sub), expires_at: Some(expires_at.ok_or(EXP)?) })
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "Open",
            Self::Tokens { .. } => "Tokens",
        })
    }
}

const EXP: AuthError = AuthError::Claim { claim: "exp", expected: "when it expires, as a number of Unix seconds" };
const SUB: AuthError =
    AuthError::Claim { claim: "sub", expected: "the user id, 1 to 256 bytes of text without control characters" };

/// What a header has that would change which key the token is checked with, or what it means.
fn not_understood(header: &Header) -> Option<&'static str> {
    let given = [
        ("crit", header.crit.is_some()),
        ("jku", header.jku.is_some()),
        ("x5u", header.x5u.is_some()),
        ("jwk", header.jwk.is_some()),
    ];
    given.into_iter().find_map(|(name, given)| given.then_some(name))
}

fn refusal(kind: &ErrorKind, token: &str, key: &DecodingKey, validation: &Validation) -> AuthError {
    match kind {
        ErrorKind::ExpiredSignature => AuthError::Expired,
        ErrorKind::ImmatureSignature => AuthError::NotYet,
        ErrorKind::InvalidAudience => AuthError::Audience,
        ErrorKind::InvalidSignature => AuthError::Signature,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName | ErrorKind::UnsupportedAlgorithm => {
            AuthError::Algorithm
        }
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => match claim.as_str() {
            "sub" => SUB,
            "aud" => AuthError::Audience,
            "nbf" => AuthError::Claim { claim: "nbf", expected: "a number of Unix seconds, or none" },
            _ => EXP,
        },
        // Either the token is no JSON, or our two claims are not what they should be: the library says neither.
        ErrorKind::Json(_) => match jsonwebtoken::decode::<serde_json::Value>(token, key, validation) {
            Ok(token) if !token.claims.get("exp").is_some_and(serde_json::Value::is_number) => EXP,
            Ok(_) => SUB,
            Err(error) if matches!(error.kind(), ErrorKind::Json(_)) => AuthError::Malformed,
            Err(error) => refusal(error.kind(), "", key, validation),
        },
        _ => AuthError::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::EncodingKey;
    use serde_json::{Value, json};

    use super::*;

    const SECRET: &str = "a secret that has at least 32 bytes";

    fn now() -> u64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
    }

    fn with_secret(audience: Option<&str>) -> Clients {
        Clients::new(&Config {
            jwt_secret: Some(SECRET.into()),
            jwt_audience: audience.map(str::to_owned),
            ..Config::default()
        })
    }

    fn signed(algorithm: Algorithm, secret: &str, claims: &Value) -> String {
        jsonwebtoken::encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    }

    fn token(claims: &Value) -> String {
        signed(Algorithm::HS256, SECRET, claims)
    }

    #[test]
    fn a_token_says_who_a_client_is_and_until_when() {
        let exp = now() + 60;
        for claims in
            [json!({"sub": "bob", "exp": exp}), json!({"sub": "bob", "exp": exp as f64, "nbf": now(), "x": [1]})]
        {
            let who = with_secret(None).identify(Some(&token(&claims)), None).unwrap();
            assert_eq!(who.user.unwrap().as_str(), "bob");
            assert_eq!(who.expires_at.unwrap(), SystemTime::UNIX_EPOCH + Duration::from_secs(exp));
        }
    }

    #[test]
    fn a_token_that_is_wrong_in_any_way_is_refused_with_what_to_do() {
        let good = json!({"sub": "bob", "exp": now() + 60});
        let with = |key: &str, value: Value| {
            let mut claims = good.clone();
            claims[key] = value;
            token(&claims)
        };
        let without = |key: &str| {
            let mut claims = good.clone();
            claims.as_object_mut().unwrap().remove(key);
            token(&claims)
        };
        let whole = token(&good);
        let parts: Vec<&str> = whole.split('.').collect();
        // {"alg":"none"} and {"alg":"HS256"} in base64url.
        let none = format!("eyJhbGciOiJub25lIn0.{}.", parts[1]);
        let not_json = format!("eyJhbGciOiJIUzI1NiJ9.bm90IGpzb24.{}", parts[2]);
        let cases = [
            (String::new(), AuthError::Malformed),
            ("a.b.c".to_owned(), AuthError::Malformed),
            (format!("{whole}.{whole}"), AuthError::Malformed),
            (format!(" {whole}"), AuthError::Malformed),
            (format!("{}.{}.", parts[0], parts[1]), AuthError::Signature),
            (not_json, AuthError::Signature),
            (signed(Algorithm::HS256, "another secret of at least 32 bytes", &good), AuthError::Signature),
            (signed(Algorithm::HS384, SECRET, &good), AuthError::Algorithm),
            (signed(Algorithm::HS512, SECRET, &good), AuthError::Algorithm),
            (none, AuthError::Malformed),
            (token(&json!([])), AuthError::Malformed),
            (token(&json!("bob")), AuthError::Malformed),
            (without("exp"), EXP),
            (with("exp", Value::Null), EXP),
            (with("exp", json!((now() + 60).to_string())), EXP),
            (with("exp", json!(true)), EXP),
            (with("exp", json!([now() + 60])), AuthError::Malformed),
            (with("exp", json!(-1)), EXP),
            (with("exp", json!(1e300)), EXP),
            (with("exp", json!(now() - 60)), AuthError::Expired),
            (with("exp", json!(0)), AuthError::Expired),
            (with("nbf", json!(now() + 60)), AuthError::NotYet),
            (
                with("nbf", json!("soon")),
                AuthError::Claim { claim: "nbf", expected: "a number of Unix seconds, or none" },
            ),
            (with("aud", json!("somebody else")), AuthError::Audience),
            (without("sub"), SUB),
            (with("sub", Value::Null), SUB),
            (with("sub", json!("")), SUB),
            (with("sub", json!(7)), SUB),
            (with("sub", json!(["bob"])), AuthError::Malformed),
            (with("sub", json!("bob\n")), SUB),
            (with("sub", json!("b".repeat(257))), SUB),
        ];
        for (token, expected) in cases {
            let error = with_secret(None).identify(Some(&token), None).expect_err(&token);
            assert_eq!(error, expected, "{token}");
            for part in token.split('.').filter(|part| part.len() > 3) {
                assert!(!format!("{error} {error:?}").contains(part), "{error} echoes the token");
            }
        }
        assert_eq!(with_secret(None).identify(None, Some("bob")), Err(AuthError::Missing));
    }

    #[test]
    fn a_header_that_names_a_key_or_asks_for_more_than_is_understood_is_refused() {
        let claims = json!({"sub": "bob", "exp": now() + 60});
        let with = |change: &dyn Fn(&mut Header)| {
            let mut header = Header::new(Algorithm::HS256);
            change(&mut header);
            let token = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
            with_secret(None).identify(Some(&token), None).map(drop)
        };
        let url = || Some("https://keys.evil.test".to_owned());
        let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(json!({"kty": "oct", "k": "c2VjcmV0"})).unwrap();
        assert_eq!(with(&|_| {}), Ok(()));
        assert_eq!(with(&|header| header.kid = Some("any".to_owned())), Ok(()));
        assert_eq!(with(&|header| header.crit = Some(vec!["b64".to_owned()])), Err(AuthError::Header("crit")));
        assert_eq!(with(&|header| header.crit = Some(Vec::new())), Err(AuthError::Header("crit")));
        assert_eq!(with(&|header| header.jku = url()), Err(AuthError::Header("jku")));
        assert_eq!(with(&|header| header.x5u = url()), Err(AuthError::Header("x5u")));
        assert_eq!(with(&|header| header.jwk = Some(jwk.clone())), Err(AuthError::Header("jwk")));
    }

    #[test]
    fn a_token_of_more_than_8_kib_is_refused() {
        let of = |length: usize| token(&json!({"sub": "bob", "exp": now() + 60, "x": "x".repeat(length)}));
        assert!(with_secret(None).identify(Some(&of(5_000)), None).is_ok());
        assert_eq!(with_secret(None).identify(Some(&of(7_000)), None), Err(AuthError::TooLong));
    }

    #[test]
    fn a_clock_may_be_off_by_the_leeway_and_not_by_more() {
        let at = |exp| with_secret(None).identify(Some(&token(&json!({"sub": "bob", "exp": exp}))), None);
        assert!(at(now() - 2).is_ok());
        assert!(at(now() - 30).unwrap_err().is_expired());
    }

    #[test]
    fn a_configured_audience_must_be_in_every_token() {
        let door = with_secret(Some("countersign"));
        let aud = |aud: Value| {
            let mut claims = json!({"sub": "bob", "exp": now() + 60});
            if !aud.is_null() {
                claims["aud"] = aud;
            }
            door.identify(Some(&token(&claims)), None)
        };
        assert!(aud(json!("countersign")).is_ok());
        assert!(aud(json!(["other", "countersign"])).is_ok());
        for wrong in [Value::Null, json!("other"), json!([]), json!(7)] {
            assert_eq!(aud(wrong.clone()), Err(AuthError::Audience), "{wrong}");
        }
    }

    #[test]
    fn user_id_beside_a_token_may_only_be_its_own() {
        let token = token(&json!({"sub": "bob", "exp": now() + 60}));
        for (user_id, fits) in [(None, true), (Some(""), true), (Some("bob"), true), (Some("eve"), false)] {
            let who = with_secret(None).identify(Some(&token), user_id);
            assert_eq!(who.is_ok(), fits, "{user_id:?}: {who:?}");
        }
        assert_eq!(with_secret(None).identify(Some(&token), Some("eve")), Err(AuthError::OtherUser));
    }

    #[test]
    fn at_an_open_door_a_client_is_whom_it_claims_to_be_or_a_guest() {
        let door = Clients::new(&Config::default());
        assert!(door.is_open() && !with_secret(None).is_open());
        for (token, user_id, user) in [
            (None, None, None),
            (None, Some(""), None),
            (None, Some("bob"), Some("bob")),
            (Some("ignored"), Some("bob"), Some("bob")),
            (Some(""), None, None),
        ] {
            let who = door.identify(token, user_id).unwrap();
            assert_eq!(who.user.as_ref().map(UserId::as_str), user);
            assert_eq!(who.expires_at, None);
        }
        assert!(matches!(door.identify(None, Some("a\nb")), Err(AuthError::UserId(_))));
    }

    #[test]
    fn the_door_prints_no_secret() {
        assert!(!format!("{:?}", with_secret(None)).contains("secret that"));
    }
}
