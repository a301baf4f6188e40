//! What a callback went through can be told later: who asked, when it was first delivered, and through what it was answered.

use countersign_backplane::{
    Channel, Settings,
    callbacks::{AnsweredVia, Confirm},
};
use countersign_protocol::ConnectionId;

use crate::{
    fixture::Fixture,
    words::{accepted, answer, ask, user, user_channel},
};

pub(crate) async fn a_decision_can_be_accounted_for<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let (asking, other) = (fixture.node("asks").await, fixture.node("answers").await);
    let open = ask("alice", "t");
    let fresh = asking.open(open.clone()).await.unwrap().callback.trail;
    assert_eq!((fresh.asked_via.as_str(), fresh.first_delivered_at, fresh.answered_via), ("asks", None, None));

    let _device = other.hear(&user_channel("alice")).await;
    let unseen = other.open_callbacks(&user("alice")).await.unwrap();
    assert_eq!(unseen[0].trail.first_delivered_at, None, "reading is not showing");
    let shown = other.deliver_open_callbacks(&user("alice")).await.unwrap();
    let first = shown[0].trail.first_delivered_at.expect("shown to a device");
    assert!(first >= shown[0].asked_at, "{first} is before {}", shown[0].asked_at);
    let again = other.deliver_open_callbacks(&user("alice")).await.unwrap();
    assert_eq!(again[0].trail.first_delivered_at, Some(first), "only the first time counts");

    let connection = ConnectionId::parse("c 1").unwrap();
    // A name with line ends must not be taken for the parts that stand before it.
    let mut confirm = Confirm { connection: Some(connection.clone()), ..answer(open.id, "alice", true) };
    confirm.answer.answer_id = Some("x\ny\nz".to_owned());
    let decision = accepted(other.confirm(confirm.clone()).await.unwrap());
    assert_eq!(accepted(asking.confirm(confirm).await.unwrap()), decision, "the winner's repeat");
    let trail = asking.read(open.id).await.unwrap().expect("kept").trail;
    let node = countersign_protocol::NodeId::parse("answers").unwrap();
    assert_eq!(trail.answered_via, Some(AnsweredVia { connection: Some(connection), node }));
    assert_eq!((trail.asked_via.as_str(), trail.first_delivered_at), ("asks", Some(first)));
}

pub(crate) async fn a_question_that_a_node_heard_is_delivered_at_once<F: Fixture>() {
    for (guests, channel) in [(false, user_channel("alice")), (true, Channel::Guests)] {
        let fixture = F::start(Settings { guests, ..Settings::default() }).await;
        let (asking, other) = (fixture.node("one").await, fixture.node("two").await);
        let _device = other.hear(&channel).await;
        let callback = asking.open(ask("alice", "t")).await.unwrap().callback;
        assert_eq!(callback.trail.first_delivered_at, Some(callback.asked_at), "{channel:?}");
    }
}
