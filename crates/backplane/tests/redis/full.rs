//! What a full Redis does to heartbeats and acknowledgements: it refuses writes, but it would still publish.

use std::time::Duration;

use countersign_backplane::{
    BackplaneError, Callbacks, Channel, Heartbeats, Receipts, Settings, callbacks::Answerer, heartbeats::Heartbeat,
    receipts::OpenReceipt,
};
use countersign_protocol::{ConnectionId, MessageId, Partition};

use crate::{
    node::{Node, eventually, task, user},
    server::Server,
};

#[tokio::test]
async fn a_full_redis_sends_no_beat_twice_and_tells_of_no_ack_that_it_did_not_write() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    let mut client = server.client().await;
    let (alice, interval) = (user("alice"), Duration::from_millis(50));
    let id = MessageId::new(Partition::of(&alice), 7);
    let (messages, acks) = (Channel::User(alice.clone()), Channel::Ack(id));
    let _wanted = [node.hear(messages.clone()).await, node.hear(acks.clone()).await];
    let message_head = r#"{"type":"heartbeat""#.to_owned();
    let ttl = Duration::from_secs(60);
    node.start_heartbeat(Heartbeat { user: alice.clone(), task: task("t"), interval, ttl, message_head })
        .await
        .unwrap();
    node.open_receipt(OpenReceipt { id, user: alice.clone(), key: None, retention: ttl }).await.unwrap();

    let _: () = client.ask("CONFIG SET maxmemory 1").await;
    // Due, and refused as often as it is tried.
    for _ in 0..3 {
        let refused = eventually("a heartbeat that is due", || async { node.sweep().await.err() }).await;
        assert!(matches!(&refused, BackplaneError::Full(why) if why.contains("OOM")), "{refused:?}");
    }
    let (by, connection) = (Answerer::User(alice), ConnectionId::parse("c").unwrap());
    assert!(matches!(node.ack(id, &by, &connection).await, Err(BackplaneError::Full(_))));
    let _: () = client.ask("CONFIG SET maxmemory 0").await;
    assert!(node.receipt(id).await.unwrap().unwrap().acks.is_empty());
    assert_eq!(node.sweep().await.unwrap().beats, 1);
    assert!(node.ack(id, &by, &connection).await.unwrap());
    // Whatever was published before has been heard with these.
    let heard = node.ear.until("a beat and an ack", |memory| memory.on(&messages).len() + memory.on(&acks).len() >= 2);
    let heard = heard.await;
    assert_eq!((heard.on(&messages).len(), heard.on(&acks).len()), (1, 1));
}
