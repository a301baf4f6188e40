//! What must hold for any bytes: held by the fuzzers, and by a test of the crate for the seeds.

use countersign_ws::{
    Decoder, Deflater, Event, Inflater, Limits, Role, Violation,
    decoder::BEGINNING,
    deflate,
    handshake::{Key, client, extensions, server},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

/// The first byte chooses role, limits and compression, the second how the rest is cut into reads.
pub(crate) fn decode(data: &[u8]) {
    let [choice, cut, stream @ ..] = data else { return };
    let whole = read(*choice, stream, stream.len().max(1));
    let cut = read(*choice, stream, usize::from(*cut % 64) + 1);
    assert_eq!(whole, cut, "however it is cut, it means the same");
}

/// The events up to a violation, in words, and whether the peer has closed.
fn read(choice: u8, stream: &[u8], piece: usize) -> (Vec<String>, Option<Violation>, bool) {
    let role = if choice & 1 == 0 { Role::Server } else { Role::Client };
    let (longest, fragments) = if choice & 2 == 0 { (1 << 20, 1024) } else { (100, 3) };
    let mut inflater = (choice & 4 != 0).then(Inflater::new);
    let mut decoder = Decoder::new(role, Limits::new(longest).with_fragments(fragments));
    let (mut events, mut violation, mut come) = (Vec::new(), None, 0);
    for read in stream.chunks(piece) {
        come += read.len();
        let mut scratch = read.to_vec();
        let mut unread = scratch.as_mut_slice();
        loop {
            let next = match &mut inflater {
                Some(inflater) => decoder.next_inflating(&mut unread, inflater),
                None => decoder.next(&mut unread),
            };
            match next {
                Ok(None) => break,
                // A close frame behind a violation is only reported if it comes with a later read.
                Ok(Some(Event::Close(_))) if violation.is_some() => {}
                Ok(Some(event)) => {
                    assert_eq!(violation, None, "nothing else is said behind a violation");
                    if let Event::Text(text) = event {
                        assert!(text.len() <= longest);
                    }
                    events.push(format!("{event:?}"));
                }
                Err(said) => {
                    assert_eq!(violation.replace(said), None, "a violation is said once");
                    break;
                }
            }
        }
        assert!(unread.is_empty(), "everything is taken");
        // A few bytes may have become the beginning of a message that is too long.
        let least = if let Some(Violation::TooLong(_)) = violation { 2 * BEGINNING } else { 32 };
        assert!(decoder.held_bytes() <= (2 * come).max(least), "no more is held than has come");
    }
    (events, violation, decoder.heard_close())
}

/// The first byte chooses limit, level and window.
pub(crate) fn inflate(data: &[u8]) {
    let [choice, data @ ..] = data else { return };
    let longest = if choice & 1 == 0 { 1 << 16 } else { 100 };
    let mut used = Inflater::new();
    // As bytes of a peer: what came before changes nothing.
    let first = used.inflate(data, longest).map(<[u8]>::to_vec);
    assert_eq!(used.inflate(data, longest).map(<[u8]>::to_vec), first);
    assert_eq!(used.inflate(&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], 5), Ok(b"Hello".as_slice()));
    if let Ok(message) = &first {
        assert!(message.len() <= longest);
    }
    // As a message of ours, again and again.
    let mut deflater = Deflater::new(u32::from(choice >> 4));
    let bits = 9 + (choice >> 1) % 7;
    let messages = [data.to_vec(), data.repeat(3), first.unwrap_or_default(), data.repeat(40)];
    for message in messages.iter().chain(&messages) {
        if let Some(deflated) = deflater.compress(message, bits) {
            assert!(deflated.len() < message.len());
            assert!(used.inflate(&deflated, message.len()) == Ok(message), "what was deflated is read back");
        }
    }
}

/// As a request, as an answer, and as the value of fields.
pub(crate) fn handshake(data: &[u8]) {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut fields);
    if matches!(head.parse(data), Ok(httparse::Status::Complete(_))) {
        let mut headers = HeaderMap::new();
        for field in head.headers.iter() {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(field.name), HeaderValue::from_bytes(field.value)) {
                headers.append(name, value);
            }
        }
        let method = head.method.and_then(|method| method.parse().ok()).unwrap_or(Method::GET);
        if let Ok(request) = server::Request::check(&method, Version::HTTP_11, &headers) {
            negotiate(&request.extensions);
            assert_eq!(Key::parse(request.key.as_str().as_bytes()), Some(request.key));
        }
    }
    let ours = client::Request {
        host: "localhost",
        target: "/",
        key: Key::new([7; 16]),
        protocols: &["a", "b"],
        extensions: Some(deflate::OFFER),
    };
    if let Ok(Some((answer, length))) = client::read_answer(data) {
        assert!(length <= data.len());
        if let Ok(checked) = ours.check(&answer) {
            assert!(checked.protocol.is_none_or(|protocol| ours.protocols.contains(&protocol)));
            deflate::check(&checked.extensions).ok();
        }
    }
    if let Ok(value) = HeaderValue::from_bytes(data) {
        let headers = HeaderMap::from_iter([(http::header::SEC_WEBSOCKET_EXTENSIONS, value)]);
        if let Some(offers) = extensions::parse(&headers) {
            negotiate(&offers);
        }
    }
}

/// Whatever was offered, the answer is one that a client can read.
fn negotiate(offers: &[extensions::Extension<'_>]) {
    if let Some((agreed, answer)) = deflate::negotiate(offers) {
        assert!((9..=15).contains(&agreed.window_bits()));
        let headers = HeaderMap::from_iter([(http::header::SEC_WEBSOCKET_EXTENSIONS, answer)]);
        let answer = extensions::parse(&headers).expect("an answer follows the grammar");
        assert!(matches!(deflate::check(&answer), Ok(Some(_))));
    }
}
