//! The offers of `Sec-WebSocket-Extensions` (RFC 6455 §9.1): `name; parameter; parameter=value, name; …`, in the
//! client's order of preference.

use http::{HeaderMap, header::SEC_WEBSOCKET_EXTENSIONS};

use super::fields::{self, ELEMENTS};

/// One offer, or one part of a server's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension<'h> {
    /// A token.
    pub name: &'h str,
    /// In their order; names may repeat, which no extension allows.
    pub parameters: Vec<Parameter<'h>>,
}

/// A parameter of an extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter<'h> {
    /// A token.
    pub name: &'h str,
    /// A token, with its quotes taken off.
    pub value: Option<&'h str>,
}

/// Every extension of the request or answer; `None` when a field does not follow the grammar, or has more than 32
/// extensions or parameters.
pub fn parse(headers: &HeaderMap) -> Option<Vec<Extension<'_>>> {
    let mut extensions = Vec::new();
    let mut elements = 0;
    for value in headers.get_all(SEC_WEBSOCKET_EXTENSIONS) {
        // No value holds a comma or a semicolon, not even a quoted one: it must be a token.
        for extension in value.to_str().ok()?.split(',').map(str::trim_ascii).filter(|element| !element.is_empty()) {
            let mut parts = extension.split(';').map(str::trim_ascii);
            let name = parts.next().filter(|name| fields::is_token(name))?;
            let parameters = parts.map(parameter).take(ELEMENTS + 1).collect::<Option<Vec<_>>>()?;
            elements += 1 + parameters.len();
            if elements > ELEMENTS {
                return None;
            }
            extensions.push(Extension { name, parameters });
        }
    }
    Some(extensions)
}

fn parameter(text: &str) -> Option<Parameter<'_>> {
    let Some((name, value)) = text.split_once('=') else {
        return fields::is_token(text).then_some(Parameter { name: text, value: None });
    };
    let (name, value) = (name.trim_ascii_end(), value.trim_ascii_start());
    let value = match value.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"')?,
        None => value,
    };
    (fields::is_token(name) && fields::is_token(value)).then_some(Parameter { name, value: Some(value) })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn offers_are_read_over_several_fields_and_with_quotes() {
        let headers = headers(&["a; b; c=1 , d", "e;f=\"10\""]);
        let found = parse(&headers).unwrap();
        let names: Vec<&str> = found.iter().map(|extension| extension.name).collect();
        assert_eq!(names, ["a", "d", "e"]);
        assert_eq!(
            found[0].parameters,
            [Parameter { name: "b", value: None }, Parameter { name: "c", value: Some("1") }]
        );
        assert_eq!(found[2].parameters, [Parameter { name: "f", value: Some("10") }]);
    }

    #[test]
    fn what_does_not_follow_the_grammar_is_refused() {
        for bad in [
            "a;",
            "a;;b",
            ";a",
            "a b",
            "a; b=",
            "a; =b",
            "a; b=\"",
            "a; b=\"c",
            "a; b=\"\"",
            "a; b=c d",
            "a; b=\"c;d\"",
        ] {
            assert_eq!(parse(&headers(&[bad])), None, "{bad:?}");
        }
        assert_eq!(parse(&headers(&[&"a,".repeat(33)])), None);
        assert_eq!(parse(&headers(&[&format!("a{}", ";b".repeat(32))])), None);
        assert_eq!(parse(&headers(&["", " , "])), Some(vec![]));
    }
}
