//! A reader that uses the project's own SDK, as a program would.

use countersign_client::{Client, Event};

use crate::history::now;
use crate::ledger::{Ledger, Line, Place};

/// Reads `broadcast`, its user's messages and these topics, for ever.
pub(crate) async fn reads_with_the_sdk(ledger: Ledger, name: String, user: String, topics: Vec<String>, url: String) {
    let client = Client::new(&url).and_then(|client| client.user_id(&user)).expect("a test's own address and user");
    let mut connection = client.connect().await.expect("a gateway is there");
    let line = |line| ledger.line(&name, line);
    line(Line::Joined("broadcast".to_owned()));
    line(Line::Joined(format!("user:{user}")));
    let remote = connection.remote();
    let (joining, joined) = (topics.clone(), ledger.clone());
    let joins = {
        let name = name.clone();
        async move {
            for topic in joining {
                remote.subscribe(&topic).await.expect("subscribed");
                joined.line(&name, Line::Joined(topic));
            }
        }
    };
    let hears = async {
        while let Some(event) = connection.next().await {
            match event {
                Event::Connected(connected) => line(Line::Connected { at: now(), node: connected.node_id }),
                Event::Disconnected { code, .. } => line(Line::Cut { at: now(), code: code.unwrap_or(1006) }),
                Event::Gap { address, position } => {
                    let epoch = position.map(|position| position.epoch.as_str().into());
                    line(Line::Told { at: now(), address: address.client_form().to_string(), epoch });
                }
                Event::Message(message) => {
                    let (Some(address), Some(number)) =
                        (&message.address, message.body.get("n").and_then(serde_json::Value::as_u64))
                    else {
                        continue;
                    };
                    let place = message.position.as_ref();
                    let place = place.map(|place| Place { epoch: place.epoch.as_str().into(), offset: place.offset });
                    line(Line::Read { at: now(), address: address.client_form().to_string(), number, place });
                }
                Event::Ended { code, reason } => panic!("{name}: the gateway sent it away for good: {code:?} {reason}"),
                _ => {}
            }
        }
    };
    tokio::join!(joins, hears);
}
