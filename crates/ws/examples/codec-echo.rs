//! Sends every message back: `cargo run -p countersign-ws --example codec-echo -- 127.0.0.1:9001`. One thread a connection and
//! no runtime, to show the codec alone, and to hold it against the Autobahn|Testsuite (`tests/autobahn/run`).

use std::{
    env,
    error::Error,
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use countersign_ws::{
    Decoder, Deflater, Event, Inflater, Limits, Opcode, Role,
    deflate::{self, Agreed},
    frame,
    handshake::server::Request,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Version};

/// The longest messages of the testsuite have 16 MiB, the shortest fragments 64 bytes.
const LONGEST: usize = 16 * 1024 * 1024;
const FRAGMENTS: u32 = 1 << 18;
const LONGEST_HEAD: usize = 16 * 1024;
/// How long a peer that broke the rules is still listened to.
const LAST_WORDS: Duration = Duration::from_secs(1);

fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let listener = TcpListener::bind(address)?;
    writeln!(io::stdout(), "listening on {}", listener.local_addr()?)?;
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || {
            if let Err(error) = serve(stream) {
                // Where nobody reads it, it need not be said.
                writeln!(io::stderr(), "{error}").ok();
            }
        });
    }
    Ok(())
}

fn serve(mut stream: TcpStream) -> Result<(), Box<dyn Error>> {
    stream.set_nodelay(true)?;
    let Some((agreed, early)) = open(&mut stream)? else { return Ok(()) };
    let mut decoder = Decoder::new(Role::Server, Limits::new(LONGEST).with_fragments(FRAGMENTS));
    let (mut inflater, mut deflater) = (Inflater::new(), Deflater::new(1));
    let mut scratch = vec![0; 64 * 1024];
    let mut out = Vec::new();
    let mut read = early.len();
    scratch.get_mut(..read).ok_or("more than a head before the answer")?.copy_from_slice(&early);
    let mut hang_up_at: Option<Instant> = None;
    while !decoder.heard_close() {
        let mut unread = scratch.get_mut(..read).unwrap_or_default();
        loop {
            let next = match agreed {
                Some(_) => decoder.next_inflating(&mut unread, &mut inflater),
                None => decoder.next(&mut unread),
            };
            match next {
                Ok(None) => break,
                Ok(Some(Event::Text(text))) => {
                    answer(Opcode::Text, text.as_bytes(), agreed, &mut deflater, &mut out);
                }
                Ok(Some(Event::Binary(bytes))) => answer(Opcode::Binary, bytes, agreed, &mut deflater, &mut out),
                Ok(Some(Event::Ping(body))) => frame::append_server(Opcode::Pong, body, &mut out),
                Ok(Some(Event::Pong(_))) => {}
                Ok(Some(Event::Close(_))) if hang_up_at.is_some() => {}
                Ok(Some(Event::Close(None))) => frame::append_server(Opcode::Close, &[], &mut out),
                Ok(Some(Event::Close(Some((code, _))))) => out.extend_from_slice(&frame::server_close(code, "")),
                Err(violation) => {
                    out.extend_from_slice(&frame::server_close(violation.close_code(), &violation.to_string()));
                    hang_up_at = Some(Instant::now() + LAST_WORDS);
                }
            }
        }
        stream.write_all(&out)?;
        out = Vec::new();
        if let Some(at) = hang_up_at {
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            stream.set_read_timeout(Some(left))?;
        }
        if decoder.heard_close() {
            break;
        }
        read = match stream.read(&mut scratch) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) => return Err(error.into()),
        };
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(())
}

/// Echoes a message, compressed if that was agreed and makes it shorter.
fn answer(opcode: Opcode, message: &[u8], agreed: Option<Agreed>, deflater: &mut Deflater, out: &mut Vec<u8>) {
    match agreed.and_then(|agreed| deflater.compress(message, agreed.window_bits())) {
        Some(deflated) => out.extend_from_slice(&frame::server_compressed(opcode, &deflated)),
        None => frame::append_server(opcode, message, out),
    }
}

/// What was agreed, and what came behind the request.
type Opened = (Option<Agreed>, Vec<u8>);

/// The handshake; `None` when it was refused.
fn open(stream: &mut TcpStream) -> Result<Option<Opened>, Box<dyn Error>> {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece)?;
        if read == 0 || bytes.len() > LONGEST_HEAD {
            return Err("no request".into());
        }
        bytes.extend_from_slice(piece.get(..read).unwrap_or_default());
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Request::new(&mut fields);
        let httparse::Status::Complete(length) = head.parse(&bytes)? else { continue };
        let method: Method = head.method.unwrap_or_default().parse()?;
        let version = if head.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
        let mut headers = HeaderMap::new();
        for field in head.headers.iter() {
            headers.append(HeaderName::try_from(field.name)?, HeaderValue::from_bytes(field.value)?);
        }
        let early = bytes.get(length..).unwrap_or_default().to_vec();
        return match Request::check(&method, version, &headers) {
            Ok(request) => {
                let (agreed, extensions) = deflate::negotiate(&request.extensions).unzip();
                write_head(stream, &request.accept(None, extensions))?;
                Ok(Some((agreed, early)))
            }
            Err(refusal) => {
                let mut answer = Response::new(());
                *answer.status_mut() = refusal.status;
                answer.headers_mut().extend(refusal.header());
                write_head(stream, &answer)?;
                stream.write_all(refusal.to_string().as_bytes())?;
                Ok(None)
            }
        };
    }
}

fn write_head(stream: &mut TcpStream, answer: &Response<()>) -> Result<(), Box<dyn Error>> {
    let mut head = format!("HTTP/1.1 {}\r\n", answer.status()).into_bytes();
    for (name, value) in answer.headers() {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend_from_slice(b"\r\n");
    stream.write_all(&head)?;
    Ok(())
}
