//! What only the memory has to show: that it forgets everything in the end, and what a full queue does. The rest is in the
//! conformance suite.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use countersign_protocol::{
    Address, Answer, CallbackId, ConnectionId, FieldError, IdempotencyKey, MessageId, NodeId, OnTimeout, Partition,
    Payload, TaskId, UserId,
};

use super::{
    Clock, ManualClock, Memory, MemoryNode, SystemClock,
    store::{QUEUE_BYTES, QUEUE_MESSAGES},
};
use crate::{
    Audience, Callbacks, Channel, Cluster, Heard, Heartbeats, HistoryPolicy, Interest, Link, Listener, Messages,
    Observation, Publication, Receipts, Settings, Wanted,
    callbacks::{Answerer, Canceller, Confirm, OpenCallback, Swept},
    heartbeats::Heartbeat,
    receipts::OpenReceipt,
};

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Told {
    Heard,
    Refused,
    Interrupted,
    Resumed,
}

#[derive(Debug, Default)]
struct Ear(Mutex<Vec<Told>>);

impl Ear {
    fn told(&self) -> Vec<Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn push(&self, told: impl IntoIterator<Item = Told>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(told);
    }
}

#[async_trait::async_trait]
impl Listener for Ear {
    async fn heard(&self, batch: Vec<Heard>) {
        self.push(batch.iter().map(|_| Told::Heard));
    }
    fn refused(&self, _channel: &Channel, _error: &FieldError) {
        self.push([Told::Refused]);
    }
    fn interrupted(&self, audience: Audience) {
        if audience == Audience::Crowd {
            self.push([Told::Interrupted]);
        }
    }
    fn resumed(&self, audience: Audience) {
        if audience == Audience::Crowd {
            self.push([Told::Resumed]);
        }
    }
    fn observed(&self, _observation: Observation) {}
}

struct Setup {
    memory: Arc<Memory>,
    clock: Arc<ManualClock>,
    interest: Arc<Interest>,
    ear: Arc<Ear>,
    node: Arc<MemoryNode>,
}

fn setup() -> Setup {
    let (clock, interest, ear) = (Arc::new(ManualClock::default()), Interest::new(), Arc::new(Ear::default()));
    let memory = Memory::with_clock(Settings::default(), Arc::clone(&clock) as Arc<dyn Clock>);
    let node = memory.node(NodeId::parse("one").unwrap(), Arc::clone(&interest), Arc::clone(&ear) as Arc<dyn Listener>);
    Setup { memory, clock, interest, ear, node }
}

fn message(n: usize) -> Publication {
    Publication {
        address: Address::Broadcast,
        message: Payload::parse(format!("{{\"n\":{n}}}").into()).unwrap(),
        history: HistoryPolicy::NONE,
        key: None,
    }
}

fn question(n: u64, timeout: Duration) -> OpenCallback {
    let user = UserId::parse(&format!("user {n}")).unwrap();
    let id = CallbackId::new(Partition::of(&user), u128::from(n));
    OpenCallback {
        id,
        user,
        task: TaskId::parse("t").unwrap(),
        message_head: "{\"type\":\"task_step_result\"".to_owned(),
        timeout,
        on_timeout: OnTimeout::Proceed,
        plain: true,
        key: Some((IdempotencyKey::parse("k").unwrap(), "digest".to_owned())),
        reply_to: None,
    }
}

#[tokio::test]
async fn when_everything_has_expired_nothing_is_left() {
    let Setup { memory, clock, node, .. } = setup();
    assert!(memory.lock().is_empty());
    let minute = Duration::from_secs(60);
    for n in 0..100 {
        let open = question(n, minute);
        let (id, user, task) = (open.id, open.user.clone(), open.task.clone());
        if n % 5 == 0 {
            node.cancel_task(&user, &task, &Canceller::Producer).await.unwrap();
        }
        node.open(open).await.unwrap();
        match n % 5 {
            1 => drop(node.withdraw(id).await.unwrap()),
            2 => {
                let by = Answerer::User(user.clone());
                let answer = Answer { answer_id: Some("a".to_owned()), ..Answer::default() };
                node.confirm(Confirm {
                    id,
                    by,
                    answer,
                    proceed: true,
                    judged: false,
                    must_be_judged: false,
                    connection: None,
                })
                .await
                .unwrap();
            }
            3 => drop(node.cancel_task(&user, &task, &Canceller::User(user.clone())).await.unwrap()),
            // Left to its deadline.
            _ => {}
        }
        let history = HistoryPolicy { size: 3, ttl: minute };
        let key = Some(IdempotencyKey::parse(&format!("k{n}")).unwrap());
        node.publish(Publication { address: Address::User(user), history, key, ..message(1) }).await.unwrap();
        node.announce(&NodeId::parse(&format!("n{n}")).unwrap(), "{}".to_owned(), minute).await.unwrap();
        leave_more(&node, n, &task).await;
    }
    node.cancel_tasks_named(&TaskId::parse("u").unwrap(), &Canceller::Guest).await.unwrap();
    assert!(!memory.lock().is_empty());
    clock.advance(minute);
    let due = node.sweep().await.unwrap();
    assert_eq!((due.timed_out > 0, due.open), (true, 0));
    // Any step forgets what has expired; here one that looks at nothing of it.
    clock.advance(Duration::from_secs(3600) + minute);
    assert_eq!(node.positions(&[]).await, Ok(vec![]));
    assert!(memory.lock().is_empty(), "{memory:?}");
    assert_eq!(node.sweep().await, Ok(Swept::default()));
}

/// A heartbeat, stopped or not, and a receipt, acknowledged or not.
async fn leave_more(node: &MemoryNode, n: u64, task: &TaskId) {
    let user = UserId::parse(&format!("user {n}")).unwrap();
    let (interval, ttl) = (Duration::from_secs(7), Duration::from_secs(60));
    let message_head = "{\"type\":\"heartbeat\"".to_owned();
    let heartbeat = Heartbeat { user: user.clone(), task: task.clone(), interval, ttl, message_head };
    node.start_heartbeat(heartbeat).await.unwrap();
    let id = MessageId::new(Partition::of(&user), u128::from(n));
    let key = Some((IdempotencyKey::parse("k").unwrap(), "digest".to_owned()));
    node.open_receipt(OpenReceipt { id, user: user.clone(), key, retention: 2 * ttl }).await.unwrap();
    if n.is_multiple_of(2) {
        assert!(node.stop_heartbeat(&user, task).await.unwrap());
        let connection = ConnectionId::parse("c").unwrap();
        assert!(node.ack(id, &Answerer::User(user), &connection).await.unwrap());
    }
}

// One thread: the reader does not run before the test waits for it.
#[tokio::test(flavor = "current_thread")]
async fn a_full_queue_is_an_interruption_and_never_silent() {
    let Setup { ear, node, interest, .. } = setup();
    let wanted = interest.want(&Channel::Broadcast);
    confirmed(&wanted).await;
    for n in 0..QUEUE_MESSAGES {
        assert_eq!(node.publish(message(n)).await.unwrap().nodes, Some(1));
    }
    assert_eq!(node.publish(message(0)).await.unwrap().nodes, Some(0), "nobody hears the one too many");
    assert_eq!(node.publish(message(0)).await.unwrap().nodes, Some(0));
    let mut link = node.link();
    assert!(link.borrow().is_up(), "the reader has not looked yet");
    wait_for(&ear, Told::Resumed).await;
    confirmed(&wanted).await;
    link.wait_for(Link::is_up).await.unwrap();
    assert_eq!(node.publish(message(1)).await.unwrap().nodes, Some(1));
    wait_for_count(&ear, QUEUE_MESSAGES + 3).await;
    let told = ear.told();
    assert!(told[..QUEUE_MESSAGES].iter().all(|told| *told == Told::Heard), "what was queued is heard");
    assert_eq!(told[QUEUE_MESSAGES..], [Told::Interrupted, Told::Resumed, Told::Heard]);
}

#[tokio::test(flavor = "current_thread")]
async fn a_queue_is_full_of_bytes_too_but_one_message_always_fits() {
    let Setup { memory, ear, interest, node: _node, .. } = setup();
    let wanted = interest.want(&Channel::Broadcast);
    confirmed(&wanted).await;
    let (half, whole) = (Bytes::from(vec![b'x'; QUEUE_BYTES / 2 + 1]), Bytes::from(vec![b'x'; QUEUE_BYTES + 1]));
    assert_eq!(memory.publish_raw(&Channel::Broadcast, &half), 1);
    wait_for_count(&ear, 1).await;
    assert_eq!(memory.publish_raw(&Channel::Broadcast, &whole), 1);
    wait_for_count(&ear, 2).await;
    assert_eq!(memory.publish_raw(&Channel::Broadcast, &half), 1);
    assert_eq!(memory.publish_raw(&Channel::Broadcast, &half), 0);
    wait_for(&ear, Told::Resumed).await;
    assert_eq!(ear.told(), [Told::Refused, Told::Refused, Told::Refused, Told::Interrupted, Told::Resumed]);
}

#[tokio::test]
async fn a_cut_off_node_leaves_the_others_alone() {
    let Setup { memory, node, ear, .. } = setup();
    let (other_interest, other_ear) = (Interest::new(), Arc::new(Ear::default()));
    let other = NodeId::parse("two").unwrap();
    let node_two = memory.node(other.clone(), Arc::clone(&other_interest), Arc::clone(&other_ear) as Arc<dyn Listener>);
    let wanted = other_interest.want(&Channel::Broadcast);
    confirmed(&wanted).await;
    memory.cut(&other);
    assert!(node_two.publish(message(1)).await.is_err());
    assert_eq!(node.publish(message(1)).await.unwrap().nodes, Some(0));
    memory.restore(&other);
    wait_for(&other_ear, Told::Resumed).await;
    assert_eq!(node.publish(message(1)).await.unwrap().nodes, Some(1));
    assert_eq!(ear.told(), []);
}

#[test]
fn the_system_clock_tells_this_century() {
    assert!(SystemClock::new().now_ms() > 1_700_000_000_000);
}

async fn confirmed(wanted: &Wanted) {
    tokio::time::timeout(PATIENCE, wanted.confirmed()).await.expect("a wish is confirmed");
}

async fn wait_for(ear: &Ear, what: Told) {
    wait_until(&format!("{what:?}"), || ear.told().contains(&what)).await;
}

async fn wait_for_count(ear: &Ear, count: usize) {
    wait_until(&format!("{count} entries"), || ear.told().len() >= count).await;
}

async fn wait_until(what: &str, come_true: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !come_true() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}
