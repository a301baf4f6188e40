//! A chat room: who is here, and what they say. Start a gateway, then in two terminals:
//! `cargo run -p countersign-client --example chat_room -- ws://127.0.0.1:8765/ws lobby alice`
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use countersign_client::{Client, Event, Members, Result, UserId};
use serde_json::json;
use tokio::sync::mpsc;

/// Sits in a room, says every line that comes, and shows what happens. Ends with the lines.
pub(crate) async fn chat(
    url: &str,
    room: &str,
    name: &str,
    mut lines: mpsc::Receiver<String>,
    show: impl Fn(String),
) -> Result<()> {
    let topic = format!("room:{room}");
    let mut connection = Client::new(url)?.user_id(name)?.connect().await?;
    show(here(&connection.watch(&topic).await?));
    loop {
        tokio::select! {
            line = lines.recv() => match line {
                Some(text) => drop(connection.publish(&topic, &json!({"from": name, "text": text})).await?),
                None => return Ok(()),
            },
            event = connection.next() => match event {
                Some(Event::Message(message)) => {
                    let field = |name| message.body.get(name).and_then(|text| text.as_str()).unwrap_or("?");
                    show(format!("{}: {}", field("from"), field("text")));
                }
                // One's own coming is heard, too.
                Some(Event::Joined(who)) if who.user_id.as_str() == name => {}
                Some(Event::Joined(who)) => show(format!("* {} is here", who.user_id)),
                Some(Event::Left(who)) => show(format!("* {} is gone", who.user_id)),
                // After a reconnect, or when something may have been missed.
                Some(Event::Presence(list)) => show(here(&list)),
                Some(Event::Gap { .. }) => show("* something that was said is missing".to_owned()),
                Some(_) => {}
                None => return Ok(()),
            },
        }
    }
}

fn here(list: &Members) -> String {
    let names: Vec<&str> = list.members.iter().map(UserId::as_str).collect();
    format!("* {} here: {}", list.count, names.join(", "))
}

#[tokio::main]
#[allow(dead_code, reason = "tests take the room without the terminal")]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let mut word = |default: &str| words.next().unwrap_or_else(|| default.to_owned());
    let (url, room, name) = (word("ws://127.0.0.1:8765/ws"), word("lobby"), word("alice"));
    let (said, lines) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(std::result::Result::ok) {
            if said.blocking_send(line).is_err() {
                return;
            }
        }
    });
    chat(&url, &room, &name, lines, |line| println!("{line}")).await?;
    Ok(())
}
