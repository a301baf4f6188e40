//! How to connect: where, as whom, and what an answer to the attempt means. One attempt ends with the gateway's first
//! word, `connected`, because a bad token is upgraded first and closed then.

use std::{
    fmt,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use countersign_protocol::{UserId, close};
use futures_util::{StreamExt, future::BoxFuture};
use reqwest::Url;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{
        self, Message,
        client::IntoClientRequest,
        http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL},
        protocol::WebSocketConfig,
    },
};

use crate::{
    connection::Connection,
    error::{Error, Result},
    patience::Patience,
    session::Session,
};

/// From the first packet to the gateway's first word.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long [`Client::connect`] goes on trying.
const PATIENCE: Duration = Duration::from_secs(30);
/// The library's default of 128 KiB is kept for each connection and zeroed at each read; messages are small.
const READ_BUFFER_BYTES: usize = 16 * 1024;

pub(crate) type Socket = Box<WebSocketStream<MaybeTlsStream<TcpStream>>>;

/// How to connect to a gateway as a client: a person's device, or a program that stands for one.
///
/// ```no_run
/// # async fn example() -> countersign_client::Result<()> {
/// use countersign_client::{Client, Event};
///
/// let mut connection = Client::new("ws://localhost:8765/ws")?.user_id("alice")?.connect().await?;
/// while let Some(event) = connection.next().await {
///     if let Event::Callback(callback) = event {
///         let verdict = connection.confirm(callback.callback_id, true, Some("go on")).await?;
///         println!("{}: {verdict:?}", callback.message);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    url: Url,
    user: Option<UserId>,
    token: Option<Token>,
    patience: Duration,
}

/// Where a token comes from.
#[derive(Clone)]
struct Token(Arc<dyn Fn() -> BoxFuture<'static, Result<String, String>> + Send + Sync>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Why an attempt failed.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The same attempt will fail again.
    ForGood { code: Option<u16>, reason: String },
    /// Another attempt makes sense.
    ForNow { code: Option<u16>, reason: String },
}

impl Client {
    /// A client of the gateway at this address, a guest until it is given a user or a token.
    ///
    /// # Errors
    /// [`Error::Url`] for an address that is none.
    ///
    /// ```
    /// let client = countersign_client::Client::new("wss://gateway.example/ws")?;
    /// # Ok::<(), countersign_client::Error>(())
    /// ```
    pub fn new(url: &str) -> Result<Self> {
        let wrong = || Error::Url { url: url.to_owned(), expected: "ws://host[:port]/ws or wss://host[:port]/ws" };
        let parsed = Url::parse(url).map_err(|_| wrong())?;
        if parsed.host().is_none() || !matches!(parsed.scheme(), "ws" | "wss") {
            return Err(wrong());
        }
        crate::tls::choose_provider();
        Ok(Self { url: parsed, user: None, token: None, patience: PATIENCE })
    }

    /// As this user, where the gateway's client door is open (no client auth).
    ///
    /// # Errors
    /// [`Error::Field`] for a name that is none.
    ///
    /// ```
    /// let client = countersign_client::Client::new("ws://localhost:8765/ws")?.user_id("alice")?;
    /// # Ok::<(), countersign_client::Error>(())
    /// ```
    pub fn user_id(mut self, user_id: &str) -> Result<Self> {
        self.user = Some(UserId::parse(user_id)?);
        Ok(self)
    }

    /// As the user whom this token names. It travels as a subprotocol, never in an address.
    ///
    /// ```
    /// let client = countersign_client::Client::new("wss://gateway.example/ws")?.token("eyJhbGciOi…");
    /// # Ok::<(), countersign_client::Error>(())
    /// ```
    #[must_use]
    pub fn token(self, token: impl Into<String>) -> Self {
        let token = token.into();
        self.token_from(move || std::future::ready(Ok(token.clone())))
    }

    /// The same with a token that is fetched anew for each connection, as tokens expire. An error is told as the reason
    /// of the failed attempt, which is repeated.
    ///
    /// ```
    /// # async fn fetch() -> Result<String, String> { Ok(String::new()) }
    /// let client = countersign_client::Client::new("wss://gateway.example/ws")?.token_from(fetch);
    /// # Ok::<(), countersign_client::Error>(())
    /// ```
    #[must_use]
    pub fn token_from<F, T>(mut self, fetch: F) -> Self
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<String, String>> + Send + 'static,
    {
        self.token = Some(Token(Arc::new(move || Box::pin(fetch()))));
        self
    }

    /// How long [`Self::connect`] goes on while no gateway answers (30 s). Later reconnects go on for ever.
    ///
    /// ```
    /// # fn example(client: countersign_client::Client) {
    /// let client = client.patience(std::time::Duration::from_secs(5));
    /// # }
    /// ```
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Connects, and stays connected until the [`Connection`] is dropped or the gateway says that coming back is useless.
    /// Has to be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`Error::Ended`] when the gateway does not want this client (a bad token, a foreign origin);
    /// [`Error::Unavailable`] when no gateway answered within the [patience](Self::patience).
    ///
    /// ```no_run
    /// # async fn example(client: countersign_client::Client) -> countersign_client::Result<()> {
    /// let mut connection = client.connect().await?;
    /// connection.subscribe("workflow:7").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect(self) -> Result<Connection> {
        let session = Session::new(self.user.clone());
        let started = Instant::now();
        let mut patience = Patience::until(self.patience, fastrand::Rng::new());
        loop {
            let last = match self.dial(&session).await {
                Ok((socket, welcome)) => return Ok(Connection::start(self, session, socket, welcome)),
                Err(Failed::ForGood { reason, .. }) => return Err(Error::Ended(reason)),
                Err(Failed::ForNow { reason, .. }) => reason,
            };
            let waited = started.elapsed();
            match patience.pause(waited, None) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(Error::Unavailable { callback_id: None, idempotency_key: None, waited, last }),
            }
        }
    }

    /// One attempt: a socket and the gateway's first word on it.
    pub(crate) async fn dial(&self, session: &Session) -> Result<(Socket, String), Failed> {
        match timeout(DIAL_TIMEOUT, Box::pin(self.attempt(session.since()))).await {
            Ok(end) => end,
            Err(_) => Err(for_now(format!("no connection within {DIAL_TIMEOUT:?}"))),
        }
    }

    async fn attempt(&self, since: Vec<String>) -> Result<(Socket, String), Failed> {
        let mut url = self.url.clone();
        if self.user.is_some() || !since.is_empty() {
            let mut query = url.query_pairs_mut();
            query.extend_pairs(self.user.iter().map(|user| ("user_id", user.as_str())));
            query.extend_pairs(since.iter().map(|since| ("since", since.as_str())));
        }
        let mut request = url.as_str().into_client_request().map_err(|error| for_good(error.to_string()))?;
        if let Some(Token(fetch)) = &self.token {
            let token = fetch().await.map_err(|error| for_now(format!("no token: {error}")))?;
            let mut offer = HeaderValue::from_str(&format!("countersign.v1, bearer.{token}"))
                .map_err(|_| for_good("the token has characters that a header may not have".to_owned()))?;
            offer.set_sensitive(true);
            request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, offer);
        }
        // How long a message may be is the gateway's to say: one that is refused here would come again after every reconnect.
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let config = config.read_buffer_size(READ_BUFFER_BYTES);
        let connecting = Box::pin(connect_async_with_config(request, Some(config), true));
        let (socket, _) = connecting.await.map_err(refused)?;
        first_word(Box::new(socket)).await
    }
}

async fn first_word(mut socket: Socket) -> Result<(Socket, String), Failed> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Ok((socket, text.as_str().to_owned())),
            Some(Ok(Message::Close(Some(frame)))) => {
                return Err(closed(u16::from(frame.code), frame.reason.as_str()));
            }
            Some(Ok(Message::Close(None))) | None => return Err(for_now("closed before a word was said".to_owned())),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(for_now(error.to_string())),
        }
    }
}

/// What a close code advises.
pub(crate) fn closed(code: u16, reason: &str) -> Failed {
    let reason = format!("{code} {reason}").trim_end().to_owned();
    if close::comes_back(code) {
        Failed::ForNow { code: Some(code), reason }
    } else {
        Failed::ForGood { code: Some(code), reason }
    }
}

pub(crate) fn for_now(reason: String) -> Failed {
    Failed::ForNow { code: None, reason }
}

fn for_good(reason: String) -> Failed {
    Failed::ForGood { code: None, reason }
}

/// What a refused handshake advises: a status of 4xx stays, but for those that speak of this moment only.
fn refused(error: tungstenite::Error) -> Failed {
    match error {
        tungstenite::Error::Http(response) => {
            let status = response.status().as_u16();
            let said = response.body().as_deref().map(crate::http::shown).unwrap_or_default();
            let reason = format!("HTTP {status} {said}").trim_end().to_owned();
            if matches!(status, 400..=499) && !matches!(status, 408 | 425 | 429) {
                for_good(reason)
            } else {
                for_now(reason)
            }
        }
        tungstenite::Error::Url(error) => for_good(error.to_string()),
        other => for_now(other.to_string()),
    }
}
