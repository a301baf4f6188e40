//! Two of them at once: devices, deadlines, cancellations, callers. One decides, everybody learns the same.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use futures_util::future::join_all;
use harness::audit::{Figures, Violation, audit};
use harness::history::{Ending, Notebook, Outcome};
use harness::{Api, Ask, Caller, Cluster, Lag, Seat, aimed_at};
use reqwest::Method;
use serde_json::json;

/// A user with a device on the first node and one on the second, and a caller on the third.
struct Lane {
    user: String,
    laptop: Seat,
    phone: Seat,
    caller: Caller,
    notebook: Notebook,
}

impl Lane {
    async fn open(cluster: &Cluster, number: usize, notebook: &Notebook) -> Self {
        let user = format!("user-{number}");
        let laptop = Seat::take(&cluster.node(0).ws_url(), &user, "laptop", notebook).await;
        let phone = Seat::take(&cluster.node(1).ws_url(), &user, "phone", notebook).await;
        let caller = Caller::new(notebook, &[cluster.api(2)], number);
        Self { user, laptop, phone, caller, notebook: notebook.clone() }
    }

    fn ask(&self, round: usize) -> Ask {
        let ask = Ask::new(&self.user, format!("{}-{round}", self.user));
        self.notebook.asks(ask.question());
        ask
    }

    /// Waits until both devices show the question.
    async fn shown(&mut self, ask: &Ask) -> (String, f64) {
        self.phone.question(&ask.key).await;
        self.laptop.question(&ask.key).await
    }

    async fn both_told(&mut self, id: &str) {
        self.laptop.told(id).await;
        self.phone.told(id).await;
        self.laptop.take_the_rest().await;
        self.phone.take_the_rest().await;
    }
}

/// Opens `count` lanes, plays each to its end beside the others, and audits what they saw.
async fn play<Play>(cluster: &Cluster, count: usize, scenario: &str, play: Play) -> (Figures, Notebook)
where
    Play: AsyncFn(Lane),
{
    let notebook = Notebook::default();
    let _lag = Lag::measured_in(&notebook);
    let lanes = join_all((0..count).map(|number| Lane::open(cluster, number, &notebook))).await;
    join_all(lanes.into_iter().map(|lane| play(lane))).await;
    (audit(&notebook.history()).expect_clean(scenario), notebook)
}

/// How many attempts in the words of this device (or without words) decided.
fn won(notebook: &Notebook, by: impl Fn(&Ending) -> bool) -> usize {
    notebook.read(|history| history.bids.iter().filter(|bid| bid.outcome == Outcome::Won && by(&bid.ending)).count())
}

fn said_by(device: &'static str) -> impl Fn(&Ending) -> bool {
    move |ending| ending.feedback.as_deref().is_some_and(|feedback| feedback.starts_with(device))
}

const LANES: usize = 8;

#[tokio::test]
async fn of_two_devices_that_answer_at_once_one_decides_and_the_other_is_told_who() {
    const ROUNDS: usize = 25;
    let cluster = Cluster::start(3).await;
    let (figures, notebook) = play(&cluster, LANES, "two devices at once", async |mut lane| {
        for round in 0..ROUNDS {
            let ask = lane.ask(round);
            let asking = lane.caller.clone();
            let answering = async {
                let (id, _) = lane.shown(&ask).await;
                // Whoever is polled first has a head start of microseconds: each of them in turn.
                if round % 2 == 0 {
                    tokio::join!(lane.laptop.confirm(&id, true), lane.phone.confirm(&id, false));
                } else {
                    tokio::join!(lane.phone.confirm(&id, false), lane.laptop.confirm(&id, true));
                }
                lane.both_told(&id).await;
            };
            tokio::join!(asking.ask(&ask), answering);
        }
    })
    .await;
    let rounds = LANES * ROUNDS;
    let (laptop, phone) = (won(&notebook, said_by("laptop")), won(&notebook, said_by("phone")));
    println!("rounds {rounds}, laptop won {laptop}, phone won {phone}");
    assert_eq!((figures.one_winner, figures.losers_told, figures.told), (rounds, rounds, 2 * rounds));
    assert!(laptop > 0 && phone > 0, "one of them always won: this was no race");
}

#[tokio::test]
async fn an_answer_within_ten_milliseconds_of_the_deadline_counts_everywhere_or_nowhere() {
    const LANES: usize = 20;
    const ROUNDS: usize = 12;
    let cluster = Cluster::start(3).await;
    let (figures, _) = play(&cluster, LANES, "answer against deadline", async |mut lane| {
        for round in 0..ROUNDS {
            let ask = lane.ask(round).timeout(0.15);
            let asking = lane.caller.clone();
            let answering = async {
                let (id, deadline) = lane.shown(&ask).await;
                // -11, -9, … +11 ms: the way to the node takes one or two.
                let offset = f64::from(u32::try_from(round).expect("small")) * 0.002 - 0.011;
                aimed_at(deadline + offset).await;
                lane.phone.confirm(&id, true).await;
                lane.both_told(&id).await;
            };
            tokio::join!(asking.ask(&ask), answering);
        }
    })
    .await;
    let rounds = LANES * ROUNDS;
    let by = |status: &str| figures.ended.get(status).copied().unwrap_or_default();
    assert_eq!(by("confirmed") + by("timed_out"), rounds, "{figures:?}");
    assert_eq!((figures.one_winner, figures.losers_told), (by("confirmed"), by("timed_out")), "{figures:?}");
    assert!(by("confirmed") > 0 && by("timed_out") > 0, "one of them always won: this was no race: {figures:?}");
}

/// A producer withdraws the callback.
async fn withdraw(api: &Api, notebook: &Notebook, id: &str) {
    let bid = notebook.bids(id, Ending::cancelled("producer"));
    let reply = api.send(Method::DELETE, &format!("/v1/callbacks/{id}"), &[], None).await;
    notebook.outcome(
        bid,
        match reply.status {
            200 => Outcome::Won,
            409 => Outcome::Lost(Ending::of(&reply.body)),
            other => Outcome::Refused(other.to_string()),
        },
    );
}

/// A producer cancels the task of this one callback.
async fn cancel(api: &Api, notebook: &Notebook, user: &str, task: &str, id: &str) {
    let bid = notebook.bids(id, Ending::cancelled("producer"));
    let reply = api.post(&format!("/v1/tasks/{task}/cancel"), &json!({"user_id": user})).await;
    let closed = reply.expect_status(200)["callbacks_closed"] == 1;
    notebook.outcome(bid, if closed { Outcome::Won } else { Outcome::Late });
}

#[tokio::test]
async fn of_an_answer_and_a_cancellation_at_once_one_decides() {
    const ROUNDS: usize = 75;
    let cluster = Cluster::start(3).await;
    let (figures, notebook) = play(&cluster, LANES, "answer against cancellation", async |mut lane| {
        let other = cluster.api(2);
        for round in 0..ROUNDS {
            let ask = lane.ask(round);
            let asking = lane.caller.clone();
            let ending = async {
                let (id, _) = lane.shown(&ask).await;
                let Lane { user, laptop, phone, notebook, .. } = &mut lane;
                // By turns: a user's cancellation on another node, a task's, a withdrawal.
                match round % 3 {
                    0 => drop(tokio::join!(laptop.confirm(&id, true), phone.cancel(&ask.key, &id))),
                    1 => drop(tokio::join!(cancel(&other, notebook, user, &ask.key, &id), laptop.confirm(&id, true))),
                    _ => drop(tokio::join!(withdraw(&other, notebook, &id), laptop.confirm(&id, true))),
                }
                lane.both_told(&id).await;
            };
            tokio::join!(asking.ask(&ask), ending);
        }
    })
    .await;
    let rounds = LANES * ROUNDS;
    let (laptop, user) = (
        won(&notebook, said_by("laptop")),
        won(&notebook, |e| e.status == "cancelled" && e.by.as_deref() != Some("producer")),
    );
    let producer = won(&notebook, |ending| ending.by.as_deref() == Some("producer"));
    println!("rounds {rounds}, answers won {laptop}, users' cancellations {user}, producers' {producer}");
    assert_eq!((figures.one_winner, figures.losers_told, figures.told), (rounds, rounds, 2 * rounds));
    assert!(laptop > 0 && user > 0 && producer > 0, "one kind never won: this was no race");
}

#[tokio::test]
async fn of_one_key_from_two_nodes_at_once_comes_one_question_and_both_get_the_answer() {
    const ROUNDS: usize = 20;
    let cluster = Cluster::start(3).await;
    let (figures, _) = play(&cluster, LANES, "one key from two nodes", async |mut lane| {
        let callers = [0, 1].map(|index| Caller::new(&lane.notebook, &[cluster.api(index)], index));
        for round in 0..ROUNDS {
            let ask = Ask { callers: 2, ..Ask::new(&lane.user, format!("{}-{round}", lane.user)) };
            lane.notebook.asks(ask.question());
            let answering = async {
                let (id, _) = lane.shown(&ask).await;
                lane.phone.confirm(&id, round % 2 == 0).await;
                lane.both_told(&id).await;
            };
            tokio::join!(callers[0].ask(&ask), callers[1].ask(&ask), answering);
        }
    })
    .await;
    let rounds = LANES * ROUNDS;
    assert_eq!((figures.callbacks, figures.one_winner, figures.shown), (rounds, rounds, 2 * rounds), "{figures:?}");
    assert!(figures.waits >= 2 * rounds, "{figures:?}");
}

// --- that all this can fail: the same rounds with the decision taken away from outside -------------------------------

/// One round in which `meddle` does something to Redis after the first device has won and before the second one tries.
async fn meddled(cluster: &Cluster, lane: usize, meddle: impl AsyncFn(&str)) -> Vec<Violation> {
    let notebook = Notebook::default();
    let mut lane = Lane::open(cluster, lane, &notebook).await;
    let ask = lane.ask(0);
    let asking = lane.caller.clone();
    let answering = async {
        let (id, _) = lane.shown(&ask).await;
        lane.laptop.confirm(&id, true).await;
        lane.both_told(&id).await;
        id
    };
    let (_, id) = tokio::join!(asking.ask(&ask), answering);
    meddle(&id).await;
    lane.phone.confirm(&id, false).await;
    lane.phone.take_the_rest().await;
    // Somebody else asks how it ended.
    let second = Caller::new(&notebook, &[cluster.api(1)], 1);
    second.ask(&ask).await;
    let violations = audit(&notebook.history()).violations;
    assert!(!violations.iter().any(|violation| matches!(violation, Violation::AskedTwice(..))), "{id}: {violations:?}");
    violations
}

fn record(id: &str) -> String {
    let partition = id.split('-').next().unwrap_or_default();
    format!("cs:{{p{partition}}}:cb:{id}")
}

#[tokio::test]
async fn a_decision_that_is_taken_back_is_noticed_as_two_winners() {
    let cluster = Cluster::start(3).await;
    let violations = meddled(&cluster, 0, async |_: &str| {}).await;
    assert_eq!(violations, [], "nobody meddled");
    let violations = meddled(&cluster, 1, async |id: &str| {
        assert_eq!(cluster.redis().query::<u64>(&["HDEL", &record(id), "decision"]).await, 1);
    })
    .await;
    assert!(violations.iter().any(|violation| matches!(violation, Violation::TwoWinners(..))), "{violations:?}");
    assert!(violations.iter().any(|violation| matches!(violation, Violation::WrongAnswer { .. })), "{violations:?}");
}

#[tokio::test]
async fn a_key_that_is_forgotten_is_noticed_as_asking_twice() {
    let cluster = Cluster::start(3).await;
    let notebook = Notebook::default();
    let mut lane = Lane::open(&cluster, 0, &notebook).await;
    let ask = Ask { callers: 2, ..Ask::new(&lane.user, "once") };
    notebook.asks(ask.question());
    for index in [0, 1] {
        let caller = Caller::new(&notebook, &[cluster.api(index)], index);
        let answering = async {
            let (id, _) = lane.shown(&ask).await;
            lane.phone.confirm(&id, true).await;
            lane.both_told(&id).await;
        };
        tokio::join!(caller.ask(&ask), answering);
        let keys: Vec<String> = cluster.redis().query(&["KEYS", "cs:*:idem:*"]).await;
        let [key] = &keys[..] else { panic!("one key was used: {keys:?}") };
        let _: u64 = cluster.redis().query(&["DEL", key]).await;
    }
    let violations = audit(&notebook.history()).violations;
    assert!(violations.iter().any(|violation| matches!(violation, Violation::AskedTwice(..))), "{violations:?}");
}
