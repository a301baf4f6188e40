//! A person's device without a screen: says yes to every question, and tells what it hears.
//! `cargo run -p countersign-client --example answer -- ws://127.0.0.1:8765/ws alice`
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use countersign_client::{Client, Event};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let url = words.next().unwrap_or_else(|| "ws://127.0.0.1:8765/ws".to_owned());
    let user = words.next().unwrap_or_else(|| "alice".to_owned());

    let mut connection = Client::new(&url)?.user_id(&user)?.connect().await?;
    while let Some(event) = connection.next().await {
        match event {
            Event::Connected(connected) => println!("connected to node {}", connected.node_id),
            Event::Disconnected { reason, retry_in, .. } => println!("gone ({reason}), back in {retry_in:?}"),
            Event::Callback(callback) => {
                println!("{}: {}", callback.task_id, callback.message);
                let verdict = connection.confirm(callback.callback_id, true, Some("said by a program")).await?;
                println!("{verdict:?}");
            }
            Event::CallbackResolved(ended) => println!("{} has ended: {:?}", ended.callback_id, ended.status),
            Event::Message(message) => println!("{:?}: {}", message.address, serde_json::Value::Object(message.body)),
            other => println!("{other:?}"),
        }
    }
    Ok(())
}
