//! Random steps have the same outcomes on the memory and on Redis, and are heard alike. The memory is a state machine that
//! can be read; so it is the model that the scripts are held against.

use std::fmt::Debug;

use countersign_backplane::{
    Callback, Channel, HistoryPolicy, Publication, Settings, Wanted,
    callbacks::{Answerer, CancelledTask, Canceller, Confirm, Confirmed, OpenCallback, TaskState, Withdrawn},
};
use countersign_protocol::{Address, Answer, CallbackId, Decision, Partition, Payload, Position, producer::Published};
use proptest::{collection::vec, option, prelude::*, strategy::ValueTree, test_runner::TestRunner};
use serde_json::{Value, json};

use crate::{
    fixture::{Fixture, Node},
    on_memory::OnMemory,
    on_redis::OnRedis,
    time::units,
    words::{FAR, TEN, bare, head, key, task, topic, topic_channel, user},
};

const CASES: u32 = 60;
const LONGEST: usize = 60;

/// Callback `n` asks user `n % 3`; half of all are the first user's, so that the limit is met.
const SLOTS: u8 = 12;
pub(crate) const USERS: [&str; 3] = ["alice", "bob {*}:%", "ünï"];
pub(crate) const TASKS: [&str; 2] = ["t", "a task: {x} %41"];
const ADDRESSES: u8 = 3;
pub(crate) const LIMIT: u64 = 3;

#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Without `soon`, its deadline is not met.
    Open {
        slot: u8,
        task: u8,
        key: Option<(u8, u8)>,
        plain: bool,
        soon: Option<u8>,
    },
    Confirm {
        slot: u8,
        by: u8,
        answer_id: Option<u8>,
        proceed: bool,
        judged: bool,
    },
    Read {
        slot: u8,
    },
    Withdraw {
        slot: u8,
    },
    CancelTask {
        user: u8,
        task: u8,
        by: u8,
    },
    CancelTasksNamed {
        task: u8,
        by: u8,
    },
    Lift {
        user: Option<u8>,
        task: u8,
    },
    Task {
        user: u8,
        task: u8,
    },
    OpenCallbacks {
        user: u8,
    },
    AllOpenCallbacks {
        most: u8,
    },
    Publish {
        address: u8,
        size: u8,
        key: Option<u8>,
        n: u8,
    },
    PublishAll {
        items: Vec<(u8, u8, Option<u8>, u8)>,
    },
    History {
        address: u8,
        current: bool,
        offset: u8,
        most: u8,
    },
    Beginning {
        address: u8,
    },
    Positions,
    Sweep,
}

/// `timed` where deadlines may be met.
pub(crate) fn step(timed: bool) -> impl Strategy<Value = Step> {
    let (users, tasks) = (0..3u8, 0..2u8);
    let published = || (0..ADDRESSES, prop_oneof![Just(0u8), Just(2), Just(5)], option::weighted(0.4, 0..3u8), 0..3u8);
    prop_oneof![
        8 => (0..SLOTS, tasks.clone(), option::of((0..3u8, 0..2u8)), prop::bool::weighted(0.7), option::of(0..3u8))
            .prop_map(move |(slot, task, key, plain, soon)| {
                Step::Open { slot, task, key, plain, soon: soon.filter(|_| timed) }
            }),
        5 => (0..SLOTS, 0..4u8, option::of(0..2u8), any::<bool>(), any::<bool>())
            .prop_map(|(slot, by, answer_id, proceed, judged)| Step::Confirm { slot, by, answer_id, proceed, judged }),
        2 => (0..SLOTS).prop_map(|slot| Step::Read { slot }),
        2 => (0..SLOTS).prop_map(|slot| Step::Withdraw { slot }),
        1 => (users.clone(), tasks.clone(), 0..3u8).prop_map(|(user, task, by)| Step::CancelTask { user, task, by }),
        1 => (tasks.clone(), 0..3u8).prop_map(|(task, by)| Step::CancelTasksNamed { task, by }),
        2 => (option::of(users.clone()), tasks.clone()).prop_map(|(user, task)| Step::Lift { user, task }),
        2 => (users.clone(), tasks).prop_map(|(user, task)| Step::Task { user, task }),
        2 => users.prop_map(|user| Step::OpenCallbacks { user }),
        1 => (1..5u8).prop_map(|most| Step::AllOpenCallbacks { most }),
        5 => published().prop_map(|(address, size, key, n)| Step::Publish { address, size, key, n }),
        1 => vec(published(), 0..6).prop_map(|items| Step::PublishAll { items }),
        4 => (0..ADDRESSES, prop::bool::weighted(0.8), 0..9u8, 0..7u8)
            .prop_map(|(address, current, offset, most)| Step::History { address, current, offset, most }),
        1 => (0..ADDRESSES).prop_map(|address| Step::Beginning { address }),
        1 => Just(Step::Positions),
        1 => Just(Step::Sweep),
    ]
}

#[test]
fn random_steps_have_equal_outcomes_on_memory_and_redis() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    let result = TestRunner::new(config).run(&vec(step(false), 1..LONGEST), |steps| {
        let (memory, redis) =
            runtime.block_on(async { (World::<OnMemory>::run(&steps).await, World::<OnRedis>::run(&steps).await) });
        for (n, (step, (memory, redis))) in steps.iter().zip(memory.outcomes.iter().zip(&redis.outcomes)).enumerate() {
            prop_assert_eq!(memory, redis, "step {} is {:?}; memory is left, Redis right", n, step);
        }
        prop_assert_eq!(memory.heard, redis.heard);
        Ok(())
    });
    if let Err(failed) = result {
        panic!("{failed}");
    }
}

/// One implementation with two nodes that take turns.
pub(crate) struct World<F> {
    pub(crate) fixture: F,
    nodes: [Node; 2],
    channels: Vec<Channel>,
    /// Keeps the channels heard.
    _wanted: Vec<Wanted>,
    /// Epochs in the order of their appearance, which is the same everywhere though they are random.
    epochs: Vec<String>,
}

/// What a world says, without what may differ: times, epochs, and the order where there is none.
#[derive(Debug, PartialEq)]
pub(crate) struct Story {
    pub(crate) outcomes: Vec<String>,
    pub(crate) heard: Vec<(String, Vec<Normal>)>,
}

/// A message and its position, without times and with epochs by their number.
type Normal = (Option<Position>, Value);

fn owner(slot: u8) -> &'static str {
    USERS[usize::from(if slot < SLOTS / 2 { 0 } else { slot % 3 })]
}

fn id(slot: u8) -> CallbackId {
    CallbackId::new(Partition::of(&user(owner(slot))), u128::from(slot))
}

fn address(n: u8) -> Address {
    match n {
        0 => Address::Broadcast,
        1 => Address::User(user(USERS[1])),
        _ => topic("a {topic} * %"),
    }
}

fn publication((address_of, size, key_of, n): (u8, u8, Option<u8>, u8)) -> Publication {
    Publication {
        history: HistoryPolicy { size: usize::from(size), ..TEN },
        key: key_of.map(|n| key(&format!("k{n}"))),
        ..bare(address(address_of), usize::from(n))
    }
}

fn canceller(by: u8) -> Canceller {
    match by {
        0 => Canceller::Producer,
        1 => Canceller::Guest,
        _ => Canceller::User(user(USERS[1])),
    }
}

impl<F: Fixture> World<F> {
    async fn run(steps: &[Step]) -> Story {
        let settings = Settings { guests: true, callback_user_limit: LIMIT, ..Settings::default() };
        let mut world = Self::begin(settings).await;
        let mut outcomes = Vec::new();
        for (n, step) in steps.iter().enumerate() {
            outcomes.push(world.step(n, step).await);
        }
        world.finish(outcomes).await
    }

    pub(crate) async fn begin(settings: Settings) -> Self {
        let fixture = F::start(settings).await;
        let nodes = [fixture.node("one").await, fixture.node("two").await];
        let channels = USERS
            .map(|name| Channel::User(user(name)))
            .into_iter()
            .chain(TASKS.map(|name| topic_channel(&format!("task:{name}"))))
            .chain((0..ADDRESSES).filter(|n| *n != 1).map(|n| Channel::from(&address(n))))
            .chain((0..SLOTS).map(|slot| Channel::Answer(id(slot))))
            .chain([Channel::Guests])
            .collect::<Vec<_>>();
        let mut wanted = Vec::new();
        for channel in &channels {
            wanted.push(nodes[1].hear(channel).await);
        }
        Self { fixture, nodes, channels, _wanted: wanted, epochs: Vec::new() }
    }

    /// The node whose turn it is.
    pub(crate) fn node(&self, n: usize) -> &Node {
        &self.nodes[n % 2]
    }

    /// What was heard, with the outcomes of the steps.
    pub(crate) async fn finish(mut self, outcomes: Vec<String>) -> Story {
        let mut heard = Vec::new();
        for channel in &std::mem::take(&mut self.channels) {
            let on_channel = self.fixture.heard_so_far(&self.nodes[1], channel).await;
            let on_channel = on_channel
                .into_iter()
                .map(|heard| (heard.position.map(|position| self.position(position)), timeless(&heard.payload)));
            heard.push((channel.name(), on_channel.collect::<Vec<_>>()));
        }
        // The users of a named task are in no order, nor are the callbacks that one cancellation ends.
        for (name, on_channel) in &mut heard {
            if name == "guests" || name.starts_with("topic:task:") {
                on_channel.sort_by_key(|(_, event)| event.to_string());
            }
            let is_end = |event: &Value| event["type"] == "callback_resolved";
            for run in on_channel.chunk_by_mut(|(_, one), (_, two)| is_end(one) && is_end(two)) {
                run.sort_by_key(|(_, event)| event.to_string());
            }
        }
        Story { outcomes, heard }
    }

    pub(crate) async fn step(&mut self, n: usize, step: &Step) -> String {
        let node = &self.nodes[n % 2];
        let task_of = |n: u8| task(TASKS[usize::from(n)]);
        let user_of = |n: u8| user(USERS[usize::from(n)]);
        match step.clone() {
            Step::Open { slot, task: of, key: named, plain, soon } => {
                let open = OpenCallback {
                    id: id(slot),
                    user: user(owner(slot)),
                    task: task_of(of),
                    message_head: head(id(slot), owner(slot)),
                    timeout: soon.map_or(FAR, units),
                    on_timeout: countersign_protocol::OnTimeout::Decline,
                    plain,
                    key: named.map(|(name, digest)| (key(&format!("k{name}")), format!("digest {digest}"))),
                    reply_to: None,
                };
                text(node.open(open).await.map(|opened| (opened.new, callback(&opened.callback))))
            }
            Step::Confirm { slot, by, answer_id, proceed, judged } => {
                let by = match by {
                    0 | 1 => Answerer::User(user(owner(slot))),
                    2 => Answerer::User(user("stranger")),
                    _ => Answerer::Guest,
                };
                let answer = Answer {
                    proceed: Some(proceed),
                    feedback: proceed.then(|| "\"ü\" \\".to_owned()),
                    data: Some(json!({"slot": slot, "empty": []})),
                    answer_id: answer_id.map(|n| format!("a{n}")),
                    ..Answer::default()
                };
                let confirmed = node
                    .confirm(Confirm {
                        id: id(slot),
                        by,
                        answer,
                        proceed,
                        judged,
                        must_be_judged: false,
                        connection: None,
                    })
                    .await;
                text(confirmed.map(|confirmed| match confirmed {
                    Confirmed::Accepted(by) => json!({ "accepted": decision(&by) }),
                    Confirmed::AlreadyResolved(by) => json!({ "already": decision(&by) }),
                    Confirmed::NotFound => json!("not found"),
                    Confirmed::Judge(of) => json!({ "judge": callback(&of) }),
                }))
            }
            Step::Read { slot } => text(node.read(id(slot)).await.map(|read| read.as_ref().map(callback))),
            Step::Withdraw { slot } => text(node.withdraw(id(slot)).await.map(|withdrawn| match withdrawn {
                Withdrawn::Closed(by) => json!({ "closed": decision(&by) }),
                Withdrawn::AlreadyResolved(by) => json!({ "already": decision(&by) }),
                Withdrawn::NotFound => json!("not found"),
            })),
            Step::CancelTask { user, task, by } => {
                text(node.cancel_task(&user_of(user), &task_of(task), &canceller(by)).await.as_ref().map(cancelled))
            }
            Step::CancelTasksNamed { task, by } => {
                let users = node.cancel_tasks_named(&task_of(task), &canceller(by)).await;
                text(users.map(|mut users| {
                    users.sort_by(|one, two| one.user.cmp(&two.user));
                    users.iter().map(cancelled).collect::<Vec<_>>()
                }))
            }
            Step::Lift { user, task } => text(node.lift(user.map(user_of).as_ref(), &task_of(task)).await),
            Step::Task { user, task } => text(node.task(&user_of(user), &task_of(task)).await.map(|state| {
                let TaskState { cancelled, open } = state;
                (cancelled.map(|cancelled| (cancelled.by, cancelled.by_kind)), open)
            })),
            Step::OpenCallbacks { user } => {
                let open = node.open_callbacks(&user_of(user)).await;
                text(open.map(|open| open.iter().map(callback).collect::<Vec<_>>()))
            }
            Step::AllOpenCallbacks { most } => {
                let (mut all, mut cursor) = (Vec::new(), None);
                loop {
                    let (page, next) = node.all_open_callbacks(cursor.as_ref(), usize::from(most)).await.unwrap();
                    all.extend(page);
                    cursor = next;
                    if cursor.is_none() {
                        break;
                    }
                }
                all.sort_by_key(|callback| callback.id);
                text(Ok::<_, ()>(all.iter().map(callback).collect::<Vec<_>>()))
            }
            Step::Publish { address, size, key, n } => {
                let result = node.publish(publication((address, size, key, n))).await;
                text(result.map(|published| self.published(published)))
            }
            Step::PublishAll { items } => {
                let results = node.publish_all(items.into_iter().map(publication).collect()).await;
                results.into_iter().map(|result| text(result.map(|published| self.published(published)))).collect()
            }
            Step::History { address: of, current, offset, most } => {
                let epoch = if current {
                    node.positions(&[address(of)]).await.unwrap().remove(0).epoch
                } else {
                    "0123456789abcdef".to_owned()
                };
                self.history(n, of, Position::new(epoch, u64::from(offset)), usize::from(most)).await
            }
            Step::Beginning { address } => self.history(n, address, Position::beginning(), 10).await,
            Step::Positions => {
                let all: Vec<_> = (0..ADDRESSES).map(address).collect();
                let positions = node.positions(&all).await;
                text(positions.map(|all| all.into_iter().map(|position| self.position(position)).collect::<Vec<_>>()))
            }
            Step::Sweep => text(node.sweep().await),
        }
    }

    async fn history(&mut self, n: usize, of: u8, since: Position, most: usize) -> String {
        let history = self.nodes[n % 2].history(&address(of), &since, most).await;
        text(history.map(|history| (self.position(history.position), messages(history.messages), history.complete)))
    }

    fn published(&mut self, published: Published) -> Published {
        Published { position: published.position.map(|position| self.position(position)), ..published }
    }

    fn position(&mut self, position: Position) -> Position {
        if position.epoch.is_empty() {
            return position;
        }
        let known = self.epochs.iter().position(|epoch| *epoch == position.epoch);
        let known = known.unwrap_or_else(|| {
            self.epochs.push(position.epoch);
            self.epochs.len() - 1
        });
        Position::new(format!("epoch{known}"), position.offset)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "every caller has just made it")]
pub(crate) fn text<T: Debug, E: Debug>(result: Result<T, E>) -> String {
    format!("{result:?}")
}

fn messages(messages: Vec<(u64, Payload)>) -> Vec<(u64, String)> {
    messages.into_iter().map(|(offset, message)| (offset, message.as_str().to_owned())).collect()
}

fn decision(decision: &Decision) -> Value {
    json!(Decision { at: 0.0, ..decision.clone() })
}

fn callback(callback: &Callback) -> Value {
    json!({
        "id": callback.id, "user": callback.user, "task": callback.task, "message": timeless(&callback.message),
        "timeout": (callback.deadline - callback.asked_at).round(),
        "decision": callback.decision.as_ref().map(decision),
    })
}

fn cancelled(cancelled: &CancelledTask) -> (String, u64) {
    (cancelled.user.to_string(), cancelled.callbacks_closed)
}

/// A message without its times.
fn timeless(message: &Payload) -> Value {
    let mut value: Value = serde_json::from_slice(message.bytes()).unwrap();
    for name in ["deadline", "timestamp", "at"] {
        if let Some(time) = value.get_mut(name) {
            assert!(time.is_number(), "{name} of {message:?}");
            *time = json!(0);
        }
    }
    value
}

#[test]
fn the_steps_meet_every_outcome() {
    // What a random walk never reaches is not compared: the limit, the conflicts, judging, repeats and gaps all come up.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut runner = TestRunner::deterministic();
    let mut all = String::new();
    for _ in 0..CASES {
        let steps = vec(step(false), 1..LONGEST).new_tree(&mut runner).unwrap().current();
        all += &runtime.block_on(World::<OnMemory>::run(&steps)).outcomes.join("\n");
    }
    let expected = [
        "TooManyCallbacks(3)",
        "Err(Conflict)",
        "Ok((true, ",
        "Ok((false, ",
        "\"accepted\"",
        "\"already\"",
        "\"judge\"",
        "\"closed\"",
        "not found",
        "Ok(true)",
        "Ok(false)",
        "], true))",
        "], false))",
        "nodes: None",
        "Some((\"guest\", Some(Guest)))",
        "String(\"confirmed\")",
        "String(\"declined\")",
        "String(\"cancelled\")",
    ];
    for outcome in expected {
        assert!(all.contains(outcome), "no step came to {outcome}");
    }
}
