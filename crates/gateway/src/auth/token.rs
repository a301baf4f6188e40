//! Finds a client's token in a request: in `Authorization`, in the WebSocket subprotocol `bearer.<token>` (browsers
//! cannot set headers on a WebSocket), or in the query. And chooses the subprotocol of the answer, because browsers
//! end a connection on which they offered some and none was selected.

use axum::http::{
    HeaderMap, Uri,
    header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL},
};
use secrecy::SecretString;

/// Our subprotocol.
pub const SUBPROTOCOL: &str = "countersign.v1";
const BEARER_SUBPROTOCOL: &str = "bearer.";

/// The token of a request. The first place that has one counts: `Authorization: Bearer`, then the subprotocol
/// `bearer.<token>`, then `?token=` or `?access_token=`.
pub fn find(headers: &HeaderMap, uri: &Uri) -> Option<SecretString> {
    bearer(headers)
        .or_else(|| {
            offered(headers).find_map(|name| name.strip_prefix(BEARER_SUBPROTOCOL)).filter(|token| !token.is_empty())
        })
        .map(SecretString::from)
        .or_else(|| in_query(uri))
}

/// The token of `Authorization: Bearer <token>`. Other schemes are somebody else's.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The subprotocol to answer with: ours when it was offered, else the first that carries no token, else the first.
/// `None` when nothing was offered.
pub fn subprotocol(headers: &HeaderMap) -> Option<String> {
    offered(headers)
        .find(|name| *name == SUBPROTOCOL)
        .or_else(|| offered(headers).find(|name| !name.starts_with(BEARER_SUBPROTOCOL)))
        .or_else(|| offered(headers).next())
        .map(str::to_owned)
}

/// The offered subprotocols in order; the header may come several times, each with a list.
fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter().filter_map(|value| value.to_str().ok());
    // Only what may be a name (RFC 7230 §3.2.6) can be answered with.
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(move |name| !name.is_empty() && name.bytes().all(legal))
}

fn in_query(uri: &Uri) -> Option<SecretString> {
    let is_token = |name: &str, value: &str| matches!(name, "token" | "access_token") && !value.is_empty();
    let mut fields = form_urlencoded::parse(uri.query()?.as_bytes());
    fields.find(|(name, value)| is_token(name, value)).map(|(_, value)| value.into_owned().into())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};
    use secrecy::ExposeSecret;

    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_token_is_found_wherever_a_client_can_put_it() {
        let none: &[(HeaderName, &str)] = &[];
        for (given, uri, token) in [
            (none, "/ws", None),
            (none, "/ws?token=", None),
            (none, "/ws?tokens=q", None),
            (none, "/ws?token=q", Some("q")),
            (none, "/ws?user_id=bob&access_token=q.r-s_t&token=later", Some("q.r-s_t")),
            (none, "/ws?token=a%2Eb", Some("a.b")),
            (&[(AUTHORIZATION, "Bearer h")], "/ws?token=q", Some("h")),
            (&[(AUTHORIZATION, "bearer   h ")], "/ws", Some("h")),
            (&[(AUTHORIZATION, "Basic abc")], "/ws?token=q", Some("q")),
            (&[(AUTHORIZATION, "Bearer ")], "/ws", None),
            (&[(SEC_WEBSOCKET_PROTOCOL, "bearer.p.q.r")], "/ws?token=q", Some("p.q.r")),
            (&[(SEC_WEBSOCKET_PROTOCOL, "countersign.v1,bearer.p")], "/ws", Some("p")),
            (&[(SEC_WEBSOCKET_PROTOCOL, "countersign.v1"), (SEC_WEBSOCKET_PROTOCOL, " bearer.p ")], "/ws", Some("p")),
            (&[(SEC_WEBSOCKET_PROTOCOL, "bearer.")], "/ws", None),
            (&[(SEC_WEBSOCKET_PROTOCOL, "bearer.p"), (AUTHORIZATION, "Bearer h")], "/ws", Some("h")),
        ] {
            let found = find(&headers(given), &uri.parse().unwrap());
            assert_eq!(found.as_ref().map(ExposeSecret::expose_secret), token, "{given:?} {uri}");
        }
    }

    #[test]
    fn the_answer_selects_ours_and_a_token_only_when_nothing_else_was_offered() {
        for (given, chosen) in [
            (&[][..], None),
            (&[""], None),
            (&["countersign.v1"], Some("countersign.v1")),
            (&["chat, bearer.x, countersign.v1"], Some("countersign.v1")),
            (&["chat", "countersign.v1"], Some("countersign.v1")),
            (&["bearer.x, chat, superchat"], Some("chat")),
            (&["bearer.x"], Some("bearer.x")),
            (&["bearer.x, bearer.y"], Some("bearer.x")),
            (&["a b, c\"d, chat"], Some("chat")),
        ] {
            let pairs: Vec<_> = given.iter().map(|value| (SEC_WEBSOCKET_PROTOCOL, *value)).collect();
            assert_eq!(subprotocol(&headers(&pairs)).as_deref(), chosen, "{given:?}");
        }
    }

    #[test]
    fn a_found_token_is_not_printed() {
        let token = find(&HeaderMap::new(), &"/ws?token=hidden".parse().unwrap());
        assert!(token.is_some() && !format!("{token:?}").contains("hidden"));
    }
}
