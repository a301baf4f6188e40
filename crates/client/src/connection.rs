//! What a consumer holds. The socket belongs to a task of its own (`driver`), which answers the gateway's pings and comes
//! back after a cut while the consumer does something else; a [`Connection`] hears its events and tells it what to do.

use std::{
    collections::VecDeque,
    future::Future,
    pin::pin,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use countersign_protocol::{Answer, CallbackId, Payload, Position, TaskId, TopicName, UserId};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};

use crate::{
    client::{Client, Socket},
    driver::Driver,
    error::{Error, Result},
    event::{Event, Members, Verdict},
    session::{Replied, Session},
};

/// Events that wait for the consumer; when they are full, nothing more is read from the gateway, which takes a client
/// that does not read for long for a slow one (4001), and replays afterwards.
const EVENTS: usize = 1024;
/// Actions that wait for the driver; when they are full, or there is no connection, their callers wait.
const ACTIONS: usize = 64;

/// A connection that comes back by itself. Dropping it ends it.
///
/// ```no_run
/// # async fn example(mut connection: countersign_client::Connection) -> countersign_client::Result<()> {
/// use countersign_client::Event;
///
/// connection.subscribe("workflow:7").await?;
/// while let Some(event) = connection.next().await {
///     match event {
///         Event::Message(message) => println!("{}", message.body["message"]),
///         Event::Gap { .. } => println!("something was missed: read it again"),
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Connection {
    events: mpsc::Receiver<Event>,
    /// What came while a reply was awaited.
    early: VecDeque<Event>,
    remote: Remote,
}

/// Acts on a [`Connection`] from elsewhere, as often as it is cloned. Replies come only while somebody takes the
/// connection's events.
///
/// ```no_run
/// # use countersign_client::{Callback, Connection};
/// # fn example(connection: &Connection, callback: Callback) {
/// let remote = connection.remote();
/// tokio::spawn(async move { remote.confirm(callback.callback_id, true, None).await });
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Remote {
    actions: mpsc::Sender<Asked>,
    ended: Arc<OnceLock<String>>,
}

/// An action, and who waits for its reply.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) action: Action,
    pub(crate) reply: oneshot::Sender<Result<Replied>>,
}

#[derive(Debug)]
pub(crate) enum Action {
    Ping,
    Subscribe { topic: TopicName, since: Option<Position>, watch: bool },
    Presence(TopicName),
    Publish(TopicName, Map<String, Value>),
    Unsubscribe(TopicName),
    Confirm(CallbackId, Map<String, Value>),
    Cancel(TaskId, Option<UserId>),
}

impl Connection {
    pub(crate) fn start(client: Client, session: Session, socket: Socket, welcome: String) -> Self {
        let (actions, asked) = mpsc::channel(ACTIONS);
        let (told, events) = mpsc::channel(EVENTS);
        let ended = Arc::new(OnceLock::new());
        tokio::spawn(Driver::new(client, session, asked, told, Arc::clone(&ended)).run(socket, welcome));
        Self { events, early: VecDeque::new(), remote: Remote { actions, ended } }
    }

    /// The next event; `None` after [`Event::Ended`]. Cancel safe: no event is lost with a dropped future.
    ///
    /// ```no_run
    /// # async fn example(mut connection: countersign_client::Connection) {
    /// while let Some(event) = connection.next().await {
    ///     println!("{event:?}");
    /// }
    /// # }
    /// ```
    pub async fn next(&mut self) -> Option<Event> {
        match self.early.pop_front() {
            Some(event) => Some(event),
            None => self.events.recv().await,
        }
    }

    /// Answers a question with yes or no. Goes on through cuts, with one `answer_id`, so an answer cannot lose to itself.
    ///
    /// Dropping the future does not take the answer back. Events that come meanwhile are kept for [`Self::next`].
    ///
    /// # Errors
    /// [`Error::Ended`], and [`Error::Refused`] for an answer that is longer than the gateway takes (`too_long`): it is not given
    /// again, and the question is still open for a shorter one.
    ///
    /// ```no_run
    /// # async fn example(mut connection: countersign_client::Connection, id: countersign_client::CallbackId) -> countersign_client::Result<()> {
    /// use countersign_client::Verdict;
    ///
    /// match connection.confirm(id, false, Some("too risky")).await? {
    ///     Verdict::Accepted => println!("noted"),
    ///     other => println!("{other:?}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn confirm(&mut self, callback_id: CallbackId, proceed: bool, feedback: Option<&str>) -> Result<Verdict> {
        let remote = self.remote();
        self.meanwhile(remote.confirm(callback_id, proceed, feedback)).await
    }

    /// Answers a question with all that an answer may have.
    ///
    /// # Errors
    /// As [`Self::confirm`].
    ///
    /// ```no_run
    /// # async fn example(mut connection: countersign_client::Connection, id: countersign_client::CallbackId) -> countersign_client::Result<()> {
    /// use countersign_client::Answer;
    ///
    /// connection.answer(id, Answer { choice: Some("retry".into()), ..Answer::default() }).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn answer(&mut self, callback_id: CallbackId, answer: Answer) -> Result<Verdict> {
        let remote = self.remote();
        self.meanwhile(remote.answer(callback_id, answer)).await
    }

    /// Hears a topic, from now on and on every later connection, from where it was.
    ///
    /// # Errors
    /// [`Error::Refused`] when it is not allowed; [`Error::Field`] for a name that is none; [`Error::Ended`]. While the gateway
    /// cannot subscribe, it is asked again.
    ///
    /// ```no_run
    /// # async fn example(mut connection: countersign_client::Connection) -> countersign_client::Result<()> {
    /// connection.subscribe("task:42").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscribe(&mut self, topic: &str) -> Result<()> {
        let remote = self.remote();
        self.meanwhile(remote.subscribe(topic)).await
    }

    /// As [`Self::subscribe`], from a position on: what was published since comes first, or [`Event::Gap`] says that it is not
    /// all there any more. [`Position::beginning`] asks for everything.
    ///
    /// # Errors
    /// As [`Self::subscribe`].
    ///
    /// ```no_run
    /// # async fn example(mut connection: countersign_client::Connection) -> countersign_client::Result<()> {
    /// connection.subscribe_since("doc:7", countersign_client::Position::beginning()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscribe_since(&mut self, topic: &str, since: Position) -> Result<()> {
        let remote = self.remote();
        self.meanwhile(remote.subscribe_since(topic, since)).await
    }

    /// Hears a topic as [`Self::subscribe`] does, and who comes and goes; returns who is there. From then on
    /// [`Event::Joined`], [`Event::Left`] and (after a reconnect) [`Event::Presence`] keep the list.
    ///
    /// # Errors
    /// As [`Self::subscribe`]; also when presence is off at the gateway.
    ///
    /// ```no_run
    /// # async fn example(mut connection: countersign_client::Connection) -> countersign_client::Result<()> {
    /// let members = connection.watch("room:7").await?;
    /// println!("{} are here", members.count);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn watch(&mut self, topic: &str) -> Result<Members> {
        let remote = self.remote();
        self.meanwhile(remote.watch(topic)).await
    }

    /// Who is in a topic.
    ///
    /// # Errors
    /// As [`Self::watch`].
    ///
    /// ```no_run
    /// # async fn example(mut connection: countersign_client::Connection) -> countersign_client::Result<()> {
    /// println!("{:?}", connection.presence("room:7").await?.members);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn presence(&mut self, topic: &str) -> Result<Members> {
        let remote = self.remote();
        self.meanwhile(remote.presence(topic)).await
    }

    /// Publishes an object to a topic, where the gateway lets clients do that; its position, where the topic keeps history.
    ///
    /// # Errors
    /// [`Error::Refused`]; [`Error::Cut`] when the connection was cut meanwhile: it may have been published or not;
    /// [`Error::Field`] for a message that is no JSON object; [`Error::Ended`].
    ///
    /// ```no_run
    /// # async fn example(mut connection: countersign_client::Connection) -> countersign_client::Result<()> {
    /// connection.publish("room:7", &serde_json::json!({"text": "hello"})).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish<T: Serialize>(&mut self, topic: &str, message: &T) -> Result<Option<Position>> {
        let remote = self.remote();
        self.meanwhile(remote.publish(topic, message)).await
    }

    /// Hears a topic no longer.
    ///
    /// # Errors
    /// As [`Self::subscribe`].
    ///
    /// ```no_run
    /// # async fn example(mut connection: countersign_client::Connection) -> countersign_client::Result<()> {
    /// connection.unsubscribe("task:42").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn unsubscribe(&mut self, topic: &str) -> Result<()> {
        let remote = self.remote();
        self.meanwhile(remote.unsubscribe(topic)).await
    }

    /// Cancels a task, one's own (`None`) or, as a guest, that of the user named.
    ///
    /// # Errors
    /// As [`Self::subscribe`].
    ///
    /// ```no_run
    /// # async fn example(mut connection: countersign_client::Connection) -> countersign_client::Result<()> {
    /// connection.cancel("import-42", None).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn cancel(&mut self, task_id: &str, user_id: Option<&str>) -> Result<()> {
        let remote = self.remote();
        self.meanwhile(remote.cancel(task_id, user_id)).await
    }

    /// Measures a round trip to the node.
    ///
    /// # Errors
    /// [`Error::Cut`] when the connection was cut meanwhile; [`Error::Ended`].
    ///
    /// ```no_run
    /// # async fn example(mut connection: countersign_client::Connection) -> countersign_client::Result<()> {
    /// println!("{:?}", connection.ping().await?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn ping(&mut self) -> Result<Duration> {
        let remote = self.remote();
        self.meanwhile(remote.ping()).await
    }

    /// A handle for other tasks.
    ///
    /// ```no_run
    /// # fn example(connection: &countersign_client::Connection) {
    /// let remote = connection.remote();
    /// # }
    /// ```
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// Waits for a reply without letting the events pile up before the driver, which could then not read the reply. How
    /// much is kept is bounded by the time that the reply takes.
    async fn meanwhile<T>(&mut self, reply: impl Future<Output = T>) -> T {
        let mut reply = pin!(reply);
        loop {
            tokio::select! {
                biased;
                replied = &mut reply => return replied,
                Some(event) = self.events.recv() => self.early.push_back(event),
                else => return reply.await,
            }
        }
    }
}

impl Remote {
    /// As [`Connection::confirm`].
    ///
    /// # Errors
    /// As [`Connection::confirm`].
    ///
    /// ```no_run
    /// # async fn example(remote: countersign_client::Remote, id: countersign_client::CallbackId) -> countersign_client::Result<()> {
    /// remote.confirm(id, true, None).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn confirm(&self, callback_id: CallbackId, proceed: bool, feedback: Option<&str>) -> Result<Verdict> {
        let feedback = feedback.map(str::to_owned);
        self.answer(callback_id, Answer { proceed: Some(proceed), feedback, ..Answer::default() }).await
    }

    /// As [`Connection::answer`].
    ///
    /// # Errors
    /// As [`Connection::confirm`].
    ///
    /// ```no_run
    /// # async fn example(remote: countersign_client::Remote, id: countersign_client::CallbackId) -> countersign_client::Result<()> {
    /// # use countersign_client::Answer;
    /// remote.answer(id, Answer { choice: Some("retry".into()), ..Answer::default() }).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn answer(&self, callback_id: CallbackId, answer: Answer) -> Result<Verdict> {
        match self.ask(Action::Confirm(callback_id, fields(answer))).await? {
            Replied::Verdict(verdict) => Ok(verdict),
            _ => Err(Error::Unexpected("a reply to a confirmation that is no verdict".to_owned())),
        }
    }

    /// As [`Connection::subscribe`].
    ///
    /// # Errors
    /// As [`Connection::subscribe`].
    ///
    /// ```no_run
    /// # async fn example(remote: countersign_client::Remote) -> countersign_client::Result<()> {
    /// remote.subscribe("task:42").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscribe(&self, topic: &str) -> Result<()> {
        let topic = TopicName::parse(topic)?;
        self.ask(Action::Subscribe { topic, since: None, watch: false }).await.map(drop)
    }

    /// As [`Connection::subscribe_since`].
    ///
    /// # Errors
    /// As [`Connection::subscribe`].
    ///
    /// ```no_run
    /// # async fn example(remote: countersign_client::Remote) -> countersign_client::Result<()> {
    /// remote.subscribe_since("doc:7", countersign_client::Position::beginning()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscribe_since(&self, topic: &str, since: Position) -> Result<()> {
        let topic = TopicName::parse(topic)?;
        self.ask(Action::Subscribe { topic, since: Some(since), watch: false }).await.map(drop)
    }

    /// As [`Connection::watch`].
    ///
    /// # Errors
    /// As [`Connection::watch`].
    ///
    /// ```no_run
    /// # async fn example(remote: countersign_client::Remote) -> countersign_client::Result<()> {
    /// println!("{} are here", remote.watch("room:7").await?.count);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn watch(&self, topic: &str) -> Result<Members> {
        let name = TopicName::parse(topic)?;
        self.ask(Action::Subscribe { topic: name, since: None, watch: true }).await?;
        self.presence(topic).await
    }

    /// As [`Connection::presence`].
    ///
    /// # Errors
    /// As [`Connection::watch`].
    ///
    /// ```no_run
    /// # async fn example(remote: countersign_client::Remote) -> countersign_client::Result<()> {
    /// println!("{:?}", remote.presence("room:7").await?.members);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn presence(&self, topic: &str) -> Result<Members> {
        match self.ask(Action::Presence(TopicName::parse(topic)?)).await? {
            Replied::Members(members) => Ok(members),
            _ => Err(Error::Unexpected("a reply to presence that is no list".to_owned())),
        }
    }

    /// As [`Connection::publish`].
    ///
    /// # Errors
    /// As [`Connection::publish`].
    ///
    /// ```no_run
    /// # async fn example(remote: countersign_client::Remote) -> countersign_client::Result<()> {
    /// remote.publish("room:7", &serde_json::json!({"text": "hello"})).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish<T: Serialize>(&self, topic: &str, message: &T) -> Result<Option<Position>> {
        let message = Payload::encode(message)?;
        let message = serde_json::from_slice(message.bytes()).expect("a payload is an object");
        match self.ask(Action::Publish(TopicName::parse(topic)?, message)).await? {
            Replied::Published(position) => Ok(position),
            _ => Err(Error::Unexpected("a reply to publish that is none".to_owned())),
        }
    }

    /// As [`Connection::unsubscribe`].
    ///
    /// # Errors
    /// As [`Connection::subscribe`].
    ///
    /// ```no_run
    /// # async fn example(remote: countersign_client::Remote) -> countersign_client::Result<()> {
    /// remote.unsubscribe("task:42").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn unsubscribe(&self, topic: &str) -> Result<()> {
        self.ask(Action::Unsubscribe(TopicName::parse(topic)?)).await.map(drop)
    }

    /// As [`Connection::cancel`].
    ///
    /// # Errors
    /// As [`Connection::subscribe`].
    ///
    /// ```no_run
    /// # async fn example(remote: countersign_client::Remote) -> countersign_client::Result<()> {
    /// remote.cancel("import-42", None).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn cancel(&self, task_id: &str, user_id: Option<&str>) -> Result<()> {
        let user = user_id.map(UserId::parse).transpose()?;
        self.ask(Action::Cancel(TaskId::parse(task_id)?, user)).await.map(drop)
    }

    /// As [`Connection::ping`].
    ///
    /// # Errors
    /// As [`Connection::ping`].
    ///
    /// ```no_run
    /// # async fn example(remote: countersign_client::Remote) -> countersign_client::Result<()> {
    /// println!("{:?}", remote.ping().await?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn ping(&self) -> Result<Duration> {
        let sent = Instant::now();
        self.ask(Action::Ping).await.map(|_| sent.elapsed())
    }

    async fn ask(&self, action: Action) -> Result<Replied> {
        let (reply, replied) = oneshot::channel();
        let ended = || Error::Ended(self.ended.get().cloned().unwrap_or_else(|| "the connection was dropped".into()));
        self.actions.send(Asked { action, reply }).await.map_err(|_| ended())?;
        replied.await.map_err(|_| ended())?
    }
}

/// The fields of an answer as they are sent; it gets an id of its own, by which a repeat is known.
fn fields(answer: Answer) -> Map<String, Value> {
    let answer_id = answer.answer_id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let all = [
        ("proceed", answer.proceed.map(Value::Bool)),
        ("feedback", answer.feedback.map(Value::String)),
        ("choice", answer.choice.map(Value::String)),
        ("data", answer.data),
        ("answer_id", Some(Value::String(answer_id))),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
