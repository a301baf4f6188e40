//! A connection that is there for subscriptions. It is our own, and not the library's, because everything that people hear
//! comes through it: publications are read in place, all that one read brought is handed over together, and nothing more is
//! read before that is dealt with, so that what a node cannot take yet stays with Redis, which has a limit for it.

use std::{fmt, io, ops::Range, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use redis::{ConnectionAddr, ConnectionInfo, ErrorKind, RedisError};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::resp::{self, Garbled, Reply};

/// See the module.
pub(super) struct PubSub {
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    input: BytesMut,
    /// Commands that are not sent yet.
    output: BytesMut,
}

/// What one read brought.
#[derive(Debug, Default)]
pub(super) struct Brought {
    /// Everything, as it was read.
    pub(super) bytes: Bytes,
    /// Where in it the channel and the payload of each publication are.
    pub(super) messages: Vec<(Range<usize>, Range<usize>)>,
    /// How commands were answered, in their order.
    pub(super) answers: Vec<Answer>,
}

/// How the server answers a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// So many channels are subscribed, or no longer.
    Confirmed(usize),
    /// The whole command was refused, in the server's words.
    Refused(String),
}

impl Brought {
    fn confirm(&mut self) {
        match self.answers.last_mut() {
            Some(Answer::Confirmed(channels)) => *channels += 1,
            _ => self.answers.push(Answer::Confirmed(1)),
        }
    }
}

/// In the library's words, which all other connections use.
impl From<PubSubError> for RedisError {
    fn from(error: PubSubError) -> Self {
        match error {
            PubSubError::Io(error) => error.into(),
            PubSubError::Garbled(garbled) => (ErrorKind::Parse, "Redis is not understood", garbled.to_string()).into(),
            PubSubError::Refused(why) => {
                let reply = redis::parse_redis_value(format!("-{why}\r\n").as_bytes());
                let refused = reply.and_then(|value| value.extract_error().map(drop));
                refused.err().unwrap_or_else(|| (ErrorKind::Client, "a command was refused", why).into())
            }
        }
    }
}

/// Why there is no connection any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum PubSubError {
    /// It could not be made, or broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The server does not speak as Redis does.
    #[error(transparent)]
    Garbled(#[from] Garbled),
    /// The server refused a command.
    #[error("{0}")]
    Refused(String),
}

/// A connection of any kind.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl PubSub {
    /// Connects and logs in, within `patience`.
    ///
    /// # Errors
    /// No connection in time, or the credentials are refused.
    pub(super) async fn connect(
        info: &ConnectionInfo,
        tls: Option<&Arc<rustls::ClientConfig>>,
        patience: Duration,
    ) -> Result<Self, PubSubError> {
        let connect = async {
            let mut connection = Self::over(open(info.addr(), tls).await?);
            connection.log_in(info).await?;
            Ok(connection)
        };
        timeout(patience, connect).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {patience:?}")).into())
        })
    }

    fn over(stream: Box<dyn Stream>) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self { reader, writer, input: BytesMut::new(), output: BytesMut::new() }
    }

    async fn log_in(&mut self, info: &ConnectionInfo) -> Result<(), PubSubError> {
        let settings = info.redis_settings();
        let Some(password) = settings.password() else { return Ok(()) };
        match settings.username() {
            Some(user) => self.command("AUTH", [user, password]),
            None => self.command("AUTH", [password]),
        }
        self.send().await?;
        let mut answered = false;
        while !answered {
            self.fill().await?;
            let mut brought = Brought::default();
            answered = self.take(&mut brought)? > 0;
            for answer in brought.answers {
                if let Answer::Refused(why) = answer {
                    return Err(PubSubError::Refused(why));
                }
            }
        }
        Ok(())
    }

    /// Asks for channels; each is confirmed in what comes. Sent by [`Self::next`].
    pub(super) fn subscribe<'a>(&mut self, channels: impl ExactSizeIterator<Item = &'a str>) {
        self.command("SUBSCRIBE", channels);
    }

    /// Gives channels back; each is confirmed in what comes. Sent by [`Self::next`].
    pub(super) fn unsubscribe<'a>(&mut self, channels: impl ExactSizeIterator<Item = &'a str>) {
        self.command("UNSUBSCRIBE", channels);
    }

    /// Everything that the next read brings; meanwhile what has to be sent is sent. Cancellation safe.
    ///
    /// # Errors
    /// The connection is at its end.
    pub(super) async fn next(&mut self) -> Result<Brought, PubSubError> {
        loop {
            let Self { reader, writer, input, output } = self;
            tokio::select! {
                biased;
                // What is to be sent goes first: under a flood there is always more to read, and who waits for a
                // subscription would wait for the end of it. It is little, and when the kernel takes no more, reading goes on.
                sent = writer.write_buf(output), if output.has_remaining() => {
                    sent?;
                    if !output.has_remaining() {
                        *output = BytesMut::new();
                        writer.flush().await?;
                    }
                    continue;
                }
                read = read_more(reader, input) => read?,
            }
            let mut brought = Brought::default();
            if self.take(&mut brought)? > 0 {
                return Ok(brought);
            }
        }
    }

    async fn send(&mut self) -> io::Result<()> {
        self.writer.write_all_buf(&mut self.output).await?;
        self.writer.flush().await
    }

    async fn fill(&mut self) -> io::Result<()> {
        read_more(&mut self.reader, &mut self.input).await
    }

    /// Takes every whole reply; how many there were.
    fn take(&mut self, brought: &mut Brought) -> Result<usize, PubSubError> {
        let (mut at, mut replies) = (0, 0);
        while let Some((reply, next)) = resp::parse(&self.input, at)? {
            match reply {
                Reply::Message { channel, payload } => brought.messages.push((channel, payload)),
                Reply::Subscribed | Reply::Unsubscribed => brought.confirm(),
                Reply::Refused(why) => {
                    let why = self.input.get(why).unwrap_or_default();
                    brought.answers.push(Answer::Refused(String::from_utf8_lossy(why).into_owned()));
                }
                Reply::Other => {}
            }
            (at, replies) = (next, replies + 1);
        }
        brought.bytes = self.input.split_to(at).freeze();
        Ok(replies)
    }

    fn command<'a>(
        &mut self,
        verb: &'a str,
        arguments: impl IntoIterator<Item = &'a str, IntoIter: ExactSizeIterator>,
    ) {
        let arguments = arguments.into_iter();
        let out = &mut self.output;
        out.extend_from_slice(format!("*{}\r\n", arguments.len() + 1).as_bytes());
        for text in [verb].into_iter().chain(arguments) {
            out.extend_from_slice(format!("${}\r\n{text}\r\n", text.len()).as_bytes());
        }
    }
}

impl fmt::Debug for PubSub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PubSub").finish_non_exhaustive()
    }
}

async fn read_more(reader: &mut ReadHalf<Box<dyn Stream>>, input: &mut BytesMut) -> io::Result<()> {
    input.reserve(READ_BYTES);
    match reader.read_buf(input).await {
        Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "Redis closed the subscriber's connection")),
        read => read.map(drop),
    }
}

async fn open(address: &ConnectionAddr, tls: Option<&Arc<rustls::ClientConfig>>) -> io::Result<Box<dyn Stream>> {
    match address {
        ConnectionAddr::Tcp(host, port) => Ok(Box::new(tcp(host, *port).await?)),
        ConnectionAddr::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        ConnectionAddr::TcpTls { host, port, .. } => {
            let config = tls.ok_or_else(|| io::Error::other("TLS is not configured"))?;
            let name = rustls::pki_types::ServerName::try_from(host.clone()).map_err(io::Error::other)?;
            let stream = tcp(host, *port).await?;
            Ok(Box::new(tokio_rustls::TlsConnector::from(Arc::clone(config)).connect(name, stream).await?))
        }
        other => Err(io::Error::other(format!("an address of an unknown kind: {other}"))),
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What one read takes at most, beside what is left of the last: some 300 short messages, which is one turn of the node.
const READ_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::DuplexStream;

    use super::*;

    fn pair() -> (PubSub, DuplexStream) {
        let (ours, redis) = tokio::io::duplex(1 << 20);
        (PubSub::over(Box::new(ours)), redis)
    }

    #[tokio::test]
    async fn all_that_one_read_brought_is_handed_over_together_and_the_rest_is_kept() {
        let (mut connection, mut redis) = pair();
        let message = "*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\n{}\r\n";
        let (first, second) = message.split_at(10);
        redis.write_all(format!("{message}{message}{first}").as_bytes()).await.unwrap();
        let brought = connection.next().await.unwrap();
        let texts = brought
            .messages
            .iter()
            .map(|(channel, payload)| (brought.bytes.slice(channel.clone()), brought.bytes.slice(payload.clone())));
        assert_eq!(texts.collect::<Vec<_>>(), vec![(Bytes::from("a"), Bytes::from("{}")); 2]);
        assert!(connection.next().now_or_never().is_none(), "half a message is none");
        redis.write_all(second.as_bytes()).await.unwrap();
        assert_eq!(connection.next().await.unwrap().messages.len(), 1);
    }

    #[tokio::test]
    async fn commands_are_sent_while_it_listens_and_confirmations_counted() {
        let (mut connection, mut redis) = pair();
        connection.subscribe(["cs:a", "cs:b"].into_iter());
        assert!(connection.next().now_or_never().is_none());
        let mut said = vec![0; 39];
        redis.read_exact(&mut said).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&said), "*3\r\n$9\r\nSUBSCRIBE\r\n$4\r\ncs:a\r\n$4\r\ncs:b\r\n");
        redis.write_all(b"*3\r\n$9\r\nsubscribe\r\n$4\r\ncs:a\r\n:1\r\n").await.unwrap();
        redis.write_all(b"*3\r\n$9\r\nsubscribe\r\n$4\r\ncs:b\r\n:2\r\n").await.unwrap();
        let mut confirmed = 0;
        while confirmed < 2 {
            for answer in connection.next().await.unwrap().answers {
                let Answer::Confirmed(channels) = answer else { panic!("{answer:?}") };
                confirmed += channels;
            }
        }
        drop(redis);
        assert!(matches!(connection.next().await, Err(PubSubError::Io(_))));
    }

    #[tokio::test]
    async fn commands_are_sent_though_there_is_always_more_to_read() {
        let (mut connection, mut redis) = pair();
        let flood = "*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\n{}\r\n".repeat(10_000);
        redis.write_all(flood.as_bytes()).await.unwrap();
        connection.subscribe(["cs:a"].into_iter());
        // The first read leaves most of it behind, so that there would be something to read the next time, too.
        assert!(connection.next().await.unwrap().messages.len() < 10_000);
        let mut said = vec![0; 29];
        redis.read_exact(&mut said).now_or_never().expect("the command was sent before anything was read").unwrap();
        assert_eq!(String::from_utf8_lossy(&said), "*2\r\n$9\r\nSUBSCRIBE\r\n$4\r\ncs:a\r\n");
    }

    #[tokio::test]
    async fn what_is_refused_is_said_in_the_words_of_redis() {
        let (mut connection, mut redis) = pair();
        redis.write_all(b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n").await.unwrap();
        redis.write_all(b"*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:1\r\n").await.unwrap();
        redis.write_all(b"-NOPERM this user has no permissions\r\n").await.unwrap();
        redis.write_all(b"*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n").await.unwrap();
        let answers = connection.next().await.unwrap().answers;
        let refused = Answer::Refused("NOPERM this user has no permissions".to_owned());
        assert_eq!(answers, [Answer::Confirmed(2), refused, Answer::Confirmed(1)]);
    }
}
