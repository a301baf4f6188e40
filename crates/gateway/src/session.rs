//! What a client may do once it is connected, whatever carries its words: one action at a time, each answered through the
//! connection's outbox so that replies and messages keep their order. The verbs' work is in the files of their nouns;
//! this is the dispatch and the replies.

use std::sync::{Arc, OnceLock};

use countersign_backplane::{
    BackplaneError, Channel,
    callbacks::{Answerer, Canceller},
};
use countersign_protocol::{
    Action, ActionError, Address, ConnectionId, Event, FieldError, Incoming, Reply, TaskId, TopicName, UserId,
    close::{self, Close},
    event::{Rejection, Topics},
};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{
    error::GatewayError,
    hub::{Frame, Membership},
    node::Node,
    presence::Attendance,
    tasks::cancelled_event,
    user_connections::{self, Seat},
};

/// One client's connection, without the wire.
pub(crate) struct Session {
    pub(crate) node: Arc<Node>,
    pub(crate) membership: Membership,
    id: Uuid,
    /// Whose it is, and the topics it is subscribed to.
    pub(crate) attendance: Attendance,
    /// As one of its user's.
    seat: OnceLock<Arc<Seat>>,
}

/// An error event: what was wrong with an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// The topics that are not subscribed because of it.
    topics: Option<Topics>,
}

impl Session {
    pub(crate) fn new(node: Arc<Node>, user: Option<UserId>, membership: Membership) -> Self {
        Self { node, membership, id: Uuid::new_v4(), attendance: Attendance::new(user), seat: OnceLock::new() }
    }

    /// Which connection it is, as text.
    pub(crate) fn id(&self) -> ConnectionId {
        user_connections::name(self.id)
    }

    /// Whose connection it is; `None` is a guest.
    pub(crate) fn user(&self) -> Option<UserId> {
        self.attendance.user()
    }

    /// A guest becomes a user, and hears as a guest no longer.
    pub(crate) fn become_user(&self, user: &UserId) {
        self.membership.leave(&Channel::Guests);
        self.attendance.become_user(&self.node, user);
    }

    /// The connection is one of this user's, and counted.
    pub(crate) async fn register(&self, user: &UserId) -> Result<(), Wrong> {
        if self.seat.get().is_none()
            && let Some(seat) = self.node.register(user, self.id, self.membership.outbox()).await?
        {
            self.seat.get_or_init(|| seat);
        }
        Ok(())
    }

    /// Puts a frame into the outbox.
    #[allow(clippy::needless_pass_by_value, reason = "callers make the frame on the spot")]
    pub(crate) fn push(&self, frame: Frame) {
        self.membership.outbox().push(&frame);
    }

    /// As [`Self::perform`] for what takes no time; what does is given back.
    pub(crate) fn perform_at_once(&self, incoming: Incoming) -> Option<Incoming> {
        match incoming {
            Incoming { id, action: Ok(Action::Ping { data }) } => {
                self.push(pong(&self.node, id.as_ref(), data));
                None
            }
            Incoming { id, action: Err(error) } => {
                self.refuse(id.as_ref(), error);
                None
            }
            takes_time @ Incoming { action: Ok(_), .. } => Some(takes_time),
        }
    }

    /// Does what one frame of the client asks for, and answers.
    pub(crate) async fn perform(&self, incoming: Incoming) {
        let started = std::time::Instant::now();
        let Incoming { id, action } = incoming;
        let metrics = &self.node.metrics;
        match action {
            Ok(action) => {
                metrics.action(action.name());
                if let Err(wrong) = self.act(action, id.as_ref()).await {
                    self.wrong(id.as_ref(), wrong);
                }
            }
            Err(error) => self.refuse(id.as_ref(), error),
        }
        metrics.action_took(started.elapsed());
    }

    /// Says why a frame is no action. An answer that cannot be taken is rejected, so that its sender knows that the question is
    /// still open.
    fn refuse(&self, id: Option<&Value>, error: ActionError) {
        let ActionError::Answer { callback_id, code, message } = error else { return self.wrong(id, error.into()) };
        self.node.metrics.action_error(code);
        self.push(reply_frame(
            id,
            Event::ConfirmationRejected {
                callback_id,
                reason: Rejection::Invalid,
                message: Some(message),
                decision: None,
            },
        ));
    }

    /// Says what was wrong with an action.
    pub(crate) fn wrong(&self, id: Option<&Value>, Wrong { code, message, topics }: Wrong) {
        self.node.metrics.action_error(code);
        self.push(reply_frame(
            id,
            Event::Error { code, message, timestamp: self.node.clock.now(), limit: None, topics },
        ));
    }

    async fn act(&self, action: Action, id: Option<&Value>) -> Result<(), Wrong> {
        let reply = |event| reply_frame(id, event);
        match action {
            Action::Ping { data } => {
                self.push(reply(Event::Pong { timestamp: self.node.clock.now(), original_data: data }));
            }
            Action::Subscribe { subscriptions, user_id, presence } => {
                self.subscribe(subscriptions, user_id, presence, &reply).await?;
            }
            Action::Unsubscribe { addresses } => self.unsubscribe(&addresses, &reply)?,
            Action::Confirm { callback_id, answer } => {
                let by = self.user().map_or(Answerer::Guest, Answerer::User);
                let event = match self.node.confirm(callback_id, by, self.id(), answer).await {
                    Ok(_) => Event::ConfirmationAccepted { callback_id },
                    Err(rejected) => Event::ConfirmationRejected {
                        callback_id,
                        reason: rejected.reason,
                        message: rejected.message,
                        decision: rejected.decision.map(|decision| *decision),
                    },
                };
                self.push(reply(event));
            }
            Action::Cancel { task_id, user_id } => self.cancel(&task_id, user_id, id).await?,
            Action::Publish { topic, message } => {
                if !self.node.clients.is_open() {
                    let message = "publish: clients with a token may not publish; publish through a producer";
                    return Err(Wrong::new(Wrong::FORBIDDEN, message.to_owned()));
                }
                let published = self.node.publish(Address::Topic(topic), message, None).await?;
                self.push(reply(Event::Published { position: published.position }));
            }
            Action::Ack { message_id } => {
                let by = self.user().map_or(Answerer::Guest, Answerer::User);
                if !self.node.ack(message_id, &by, &self.id()).await? {
                    return Err(Wrong::no_receipt());
                }
            }
            Action::Presence { topic } => self.presence(topic, &reply).await?,
            Action::Refresh { .. } => return Err(Wrong::not_supported("refresh")),
        }
        Ok(())
    }

    /// Everybody concerned hears `task_cancelled`; whoever gave the action an id gets it as a reply too.
    async fn cancel(&self, task: &TaskId, named: Option<UserId>, id: Option<&Value>) -> Result<(), Wrong> {
        let (user, by) = match (self.user(), named) {
            (Some(own), Some(named)) if own != named => return Err(Wrong::forbidden("user_id", &own)),
            (Some(own), _) => (own.clone(), Canceller::User(own)),
            (None, Some(named)) => (named, Canceller::Guest),
            (None, None) => {
                let expected = "the task's user, as a connection without one of its own has to say it";
                return Err(FieldError::new("user_id", expected, "nothing").into());
            }
        };
        for cancelled in self.node.cancel(Some(&user), task, &by).await? {
            if id.is_some() {
                self.push(reply_frame(id, cancelled_event(cancelled, task)));
            }
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.attendance.end(&self.node);
        if let Some(seat) = self.seat.take() {
            self.node.registry.leave(&seat);
        }
    }
}

/// The reply to a `ping`, which depends on nothing but the node: it is given whatever else is under way.
pub(crate) fn pong(node: &Node, id: Option<&Value>, data: Map<String, Value>) -> Frame {
    node.metrics.action("ping");
    reply_frame(id, Event::Pong { timestamp: node.clock.now(), original_data: data })
}

fn reply_frame(id: Option<&Value>, event: Event) -> Frame {
    Frame::plain(Reply { event, reply_to: id.cloned() }.to_json())
}

/// Topics that are named in a message; the event names all.
const FEW: usize = 3;

impl Wrong {
    pub(crate) const FORBIDDEN: &str = "forbidden";
    pub(crate) const UNAVAILABLE: &str = GatewayError::UNAVAILABLE;
    pub(crate) const TOO_MANY: &str = "too_many_subscriptions";
    pub(crate) const TOO_MANY_CONNECTIONS: &str = "too_many_connections";

    fn new(code: &'static str, message: String) -> Self {
        Self { code, message, topics: None }
    }

    pub(crate) fn too_many(limit: usize) -> Self {
        let message = format!("a connection may have at most {limit} subscriptions (WEBSOCKET_TOPICS)");
        Self::new(Self::TOO_MANY, message)
    }

    pub(crate) fn too_many_connections(limit: u64) -> Self {
        let message =
            format!("the user has {limit} connections, the most that one may have (WEBSOCKET_USER_CONNECTIONS)");
        Self::new(Self::TOO_MANY_CONNECTIONS, message)
    }

    pub(crate) fn not_subscribed(topic: &TopicName) -> Self {
        Self::new(Self::FORBIDDEN, format!("topic: subscribe to {:?} first", topic.as_str()))
    }

    pub(crate) fn topics_only(address: &Address) -> Self {
        let given = format!("{:?}", address.client_form().to_string());
        FieldError::new("presence", "topics, as only they have members", given).into()
    }

    /// What a connection that cannot begin for this is closed with.
    pub(crate) fn close(&self) -> Close {
        match self.code {
            Self::TOO_MANY => close::TOO_MANY_TOPICS,
            Self::TOO_MANY_CONNECTIONS => close::USER_FULL,
            _ => close::UNAVAILABLE,
        }
    }

    pub(crate) fn unavailable(why: &str) -> Self {
        Self::new(Self::UNAVAILABLE, format!("{why}: repeat"))
    }

    /// Of a subscription: these addresses are not subscribed. What passes has to be asked for again, or the client hears nothing of
    /// them.
    pub(crate) fn not_subscribed_to(self, addresses: impl Iterator<Item = Address>) -> Self {
        let mut names: Vec<String> = addresses.map(|address| address.client_form().to_string()).collect();
        let few: Vec<String> = names.iter().take(FEW).map(|name| format!("{name:?}")).collect();
        let others = if names.len() > FEW { format!(" and {} more", names.len() - FEW) } else { String::new() };
        let again = if self.code == Self::UNAVAILABLE { ": subscribe again" } else { "" };
        let message = format!("{}; not subscribed to {}{others}{again}", self.message, few.join(", "));
        let topics = if names.len() == 1 { names.pop().map(Topics::Topic) } else { Some(Topics::Topics(names)) };
        Self { message, topics, ..self }
    }

    pub(crate) fn forbidden(field: &str, own: &UserId) -> Self {
        let message = format!("{field}: this connection belongs to {own:?} and may name nobody else");
        Self::new(Self::FORBIDDEN, message)
    }

    /// The topic is nobody's secret: the client has named it.
    pub(crate) fn no_right(address: &Address) -> Self {
        let topic = address.client_form().to_string();
        let why = "Redis does not let this node subscribe to it";
        Self::new(Self::FORBIDDEN, format!("topic: {topic:?} cannot be heard here, because {why}"))
    }

    pub(crate) fn stays(address: &Address) -> Self {
        let named = address.client_form().to_string();
        Self::new("invalid_field", format!("topic: {named:?} is heard as long as the connection lasts"))
    }

    /// The same for an unknown message and for another user's.
    fn no_receipt() -> Self {
        let message = "message_id: there is no such message to acknowledge, or its time is over".to_owned();
        Self::new("not_found", message)
    }

    fn not_supported(what: &str) -> Self {
        Self::new("not_supported", format!("{what}: this version does not have it"))
    }
}

impl From<ActionError> for Wrong {
    fn from(error: ActionError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<FieldError> for Wrong {
    fn from(error: FieldError) -> Self {
        ActionError::from(error).into()
    }
}

impl From<GatewayError> for Wrong {
    fn from(error: GatewayError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<BackplaneError> for Wrong {
    fn from(error: BackplaneError) -> Self {
        GatewayError::from(error).into()
    }
}
