//! Random steps while time passes: deadlines fire, retentions and tombstones end, heartbeats beat and end, leases of places,
//! connections and nodes end, on the memory and on Redis alike.
//!
//! The memory's clock is moved by hand and that of Redis is the machine's. So time passes in whole units, every duration is a
//! whole number of units and a half (a heartbeat's moments stay clear of whole units too), and all steps of a unit are taken
//! at its very beginning: whatever ends, ends between two steps. A case in which the machine was too slow for that proves
//! nothing and is not counted.

use std::{sync::Arc, time::Duration};

use countersign_backplane::{
    Settings,
    connections::{Admission, ConnectionLimit, HeldConnection, HeldConnections, OneMore},
    heartbeats::Heartbeat,
    presence::Places,
};
use countersign_protocol::{ConnectionId, NodeId, TopicName, payload::JsonText};
use proptest::{collection::vec, prelude::*, strategy::ValueTree, test_runner::TestRunner};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    fixture::{Fixture, Node},
    model::{LIMIT, Step, Story, TASKS, USERS, World, step, text},
    on_memory::OnMemory,
    on_redis::OnRedis,
    words::{task, user},
};

/// What passes at once.
const UNIT: Duration = Duration::from_millis(250);
/// All steps of a unit are taken within this, or the case is not counted. A heartbeat's moments are at least as far from the
/// whole units that follow.
const AT_ITS_BEGINNING: Duration = Duration::from_millis(50);
/// The third beat comes 4.2 units after the start; no case lasts longer than five.
const INTERVAL: Duration = Duration::from_millis(350);
const UNITS: usize = 5;
const LONGEST: usize = 14;
/// Cases that are compared.
const CASES: usize = 16;
/// Cases that are tried at most, when the machine is slow.
const TRIED: usize = 200;
/// Cases that run at one time: most of the time they wait for the next unit.
const AT_ONCE: usize = 8;

/// So many units and a half.
pub(crate) fn units(n: u8) -> Duration {
    UNIT * u32::from(n) + UNIT / 2
}

/// What may happen beside the steps of the model.
#[derive(Debug, Clone)]
enum Timed {
    Step(Step),
    StartHeartbeat { user: u8, task: u8, ttl: u8 },
    StopHeartbeat { user: u8, task: u8 },
    Place { user: u8, held: bool, lease: u8 },
    Members,
    Connect { user: u8, connection: u8, lease: u8 },
    Connection { user: u8, connection: u8, held: bool, lease: u8 },
    Connections { user: u8 },
    Announce { node: u8, ttl: u8 },
    Nodes,
}

fn timed() -> impl Strategy<Value = Timed> {
    let (users, few) = (0..3u8, 0..3u8);
    let long = 0..4u8;
    prop_oneof![
        12 => step(true).prop_map(Timed::Step),
        2 => (users.clone(), 0..2u8, long.clone())
            .prop_map(|(user, task, ttl)| Timed::StartHeartbeat { user, task, ttl }),
        1 => (users.clone(), 0..2u8).prop_map(|(user, task)| Timed::StopHeartbeat { user, task }),
        2 => (users.clone(), prop::bool::weighted(0.8), long.clone())
            .prop_map(|(user, held, lease)| Timed::Place { user, held, lease }),
        1 => Just(Timed::Members),
        2 => (users.clone(), few.clone(), long.clone())
            .prop_map(|(user, connection, lease)| Timed::Connect { user, connection, lease }),
        1 => (users.clone(), few.clone(), prop::bool::weighted(0.7), long.clone())
            .prop_map(|(user, connection, held, lease)| Timed::Connection { user, connection, held, lease }),
        1 => users.prop_map(|user| Timed::Connections { user }),
        1 => (few, long).prop_map(|(node, ttl)| Timed::Announce { node, ttl }),
        1 => Just(Timed::Nodes),
    ]
}

/// The steps of each unit; time passes between them.
fn case() -> impl Strategy<Value = Vec<Vec<Timed>>> {
    vec(vec(timed(), 0..LONGEST), UNITS)
}

/// What came of a case; nothing when a step was taken too late in its unit.
async fn run<F: Fixture>(case: &[Vec<Timed>]) -> Option<Story> {
    let settings = Settings {
        guests: true,
        callback_user_limit: LIMIT,
        callback_retention: units(1),
        cancel_retention: units(1),
        ..Settings::default()
    };
    let mut world = World::<F>::begin(settings).await;
    let began = Instant::now();
    let mut outcomes = Vec::new();
    let mut next = began;
    for steps in case {
        for step in steps {
            outcomes.push(take(&mut world, outcomes.len(), step).await);
        }
        // What is due is looked for in every unit, so that each beat is sent on its own.
        outcomes.push(sweep(world.node(0)).await);
        if !F::BY_HAND && next.elapsed() > AT_ITS_BEGINNING {
            return None;
        }
        next += UNIT;
        let left = if F::BY_HAND { UNIT } else { next.saturating_duration_since(Instant::now()) };
        world.fixture.advance(left).await;
    }
    let mut story = world.finish(outcomes).await;
    for (_, heard) in &mut story.heard {
        heard.sort_by_key(|(_, event)| event.to_string());
    }
    Some(story)
}

/// Who times out what is due may be whoever comes first, and a listing may do it or leave it; afterwards it is done.
async fn sweep(node: &Node) -> String {
    text(node.sweep().await.map(|swept| (swept.open, swept.beats)))
}

async fn take<F: Fixture>(world: &mut World<F>, n: usize, step: &Timed) -> String {
    let user_of = |n: u8| user(USERS[usize::from(n)]);
    let task_of = |n: u8| task(TASKS[usize::from(n)]);
    let connection_of = |n: u8| ConnectionId::parse(&format!("c {n}")).unwrap();
    let topic = TopicName::parse("a {place}").unwrap();
    match step {
        Timed::Step(Step::Sweep) => return sweep(world.node(n)).await,
        Timed::Step(step) => return world.step(n, step).await,
        _ => {}
    }
    let node = match step {
        // A connection is on one node for as long as it lasts.
        Timed::Connect { connection, .. } | Timed::Connection { connection, .. } => world.node((*connection).into()),
        _ => world.node(n),
    };
    match *step {
        Timed::Step(_) => unreachable!("taken before"),
        Timed::StartHeartbeat { user, task, ttl } => {
            let (user, task) = (user_of(user), task_of(task));
            let (named, of) = (JsonText(user.as_str()), JsonText(task.as_str()));
            let message_head = format!(r#"{{"type":"heartbeat","user_id":{named},"task_id":{of}"#);
            let heartbeat = Heartbeat { interval: INTERVAL, ttl: units(ttl), message_head, user, task };
            text(node.start_heartbeat(heartbeat).await.map(drop))
        }
        Timed::StopHeartbeat { user, task } => text(node.stop_heartbeat(&user_of(user), &task_of(task)).await),
        Timed::Place { user, held, lease } => {
            let (mut hold, mut let_go) = (vec![user_of(user)], Vec::new());
            if !held {
                std::mem::swap(&mut hold, &mut let_go);
            }
            // Who tells what has expired is not the same: the one gives it up in its own time, the other when somebody looks.
            let told = node.hold_places(vec![Places { topic, hold, let_go }], units(lease)).await;
            text::<_, ()>(Ok(told.iter().all(Result::is_ok)))
        }
        Timed::Members => text(node.members(&topic, 10).await.map(|mut members| {
            members.users.sort();
            members
        })),
        Timed::Connect { user, connection, lease } => {
            let limit = ConnectionLimit { most: 2, one_more: OneMore::Refuse };
            let admitted = node.connect(&user_of(user), &connection_of(connection), limit, units(lease)).await;
            text(admitted.map(|admission| admission != Admission::Refused))
        }
        Timed::Connection { user, connection, held, lease } => {
            let (user, connection) = (user_of(user), connection_of(connection));
            let held = if held {
                let hold = vec![HeldConnection { user, connection, age: Duration::ZERO }];
                HeldConnections { hold, ..HeldConnections::default() }
            } else {
                HeldConnections { let_go: vec![(user, connection)], ..HeldConnections::default() }
            };
            let limit = ConnectionLimit { most: 0, one_more: OneMore::Refuse };
            text(node.hold_connections(held, limit, units(lease)).await)
        }
        Timed::Connections { user } => text(node.connections(&user_of(user), 10).await.map(|connections| {
            let mut ids: Vec<_> = connections.connections.into_iter().map(|held| held.connection_id).collect();
            ids.sort();
            (ids, connections.count)
        })),
        Timed::Announce { node: name, ttl } => {
            let name = NodeId::parse(&format!("n {name}")).unwrap();
            text(node.announce(&name, "{}".to_owned(), units(ttl)).await)
        }
        Timed::Nodes => text(node.nodes().await),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_steps_have_equal_outcomes_on_memory_and_redis_while_time_passes() {
    let mut runner = TestRunner::new(ProptestConfig::default());
    let (mut running, mut compared) = (JoinSet::new(), 0);
    for tried in 0.. {
        assert!(tried < TRIED, "of {tried} cases only {compared} kept their time");
        while running.len() < AT_ONCE {
            let case = Arc::new(case().new_tree(&mut runner).unwrap().current());
            running.spawn(async move { (run::<OnMemory>(&case).await, run::<OnRedis>(&case).await, case) });
        }
        let (memory, redis, case) = running.join_next().await.unwrap().unwrap();
        let (Some(memory), Some(redis)) = (memory, redis) else { continue };
        let mut steps = Vec::new();
        for unit in &*case {
            steps.extend(unit.iter().map(|step| format!("{step:?}")));
            steps.push("a sweep, and time passes".to_owned());
        }
        for (n, step) in steps.iter().enumerate() {
            let (memory, redis) = (&memory.outcomes[n], &redis.outcomes[n]);
            let before = || steps[..n].join("\n");
            assert_eq!(memory, redis, "of {step}, after\n{}\nmemory is left, Redis right", before());
        }
        assert_eq!(memory.heard, redis.heard, "after\n{}\nmemory is left, Redis right", steps.join("\n"));
        compared += 1;
        if compared == CASES {
            return;
        }
    }
}

#[tokio::test]
async fn the_steps_meet_everything_that_ends_by_itself() {
    let mut runner = TestRunner::deterministic();
    let mut all = String::new();
    for _ in 0..4 * CASES {
        let story = run::<OnMemory>(&case().new_tree(&mut runner).unwrap().current()).await;
        all += &story.expect("its clock waits for it").outcomes.join("\n");
    }
    let expected = [
        "String(\"timed_out\")",
        "Ok((0, 1))",
        "Ok((1, 2))",
        "not found",
        "TooManyCallbacks(3)",
        "Ok((None, [",
        "Ok((Some((\"",
        "Members { users: [], count: 0 }",
        "Ok(([], 0))",
        "Ok([])",
    ];
    for outcome in expected {
        assert!(all.contains(outcome), "no step came to {outcome}");
    }
}
