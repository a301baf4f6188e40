//! Asks a person whether to go on, and waits. Start a gateway, run `answer` in another terminal, then:
//! `cargo run -p countersign-client --example ask -- http://127.0.0.1:8765 alice "Deploy version 7?"`
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::time::Duration;

use countersign_client::{OnTimeout, Proceeds, Producer, Resolution, StepResult};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let url = words.next().unwrap_or_else(|| "http://127.0.0.1:8765".to_owned());
    let user = words.next().unwrap_or_else(|| "alice".to_owned());
    let message = words.next().unwrap_or_else(|| "Go on?".to_owned());

    let producer = Producer::new(&url)?;
    let result = StepResult { message, status: "completed".to_owned(), completed: true, ..StepResult::default() };
    let ask =
        producer.ask(&result, &user, "example", 1).timeout(Duration::from_secs(60)).on_timeout(OnTimeout::Decline);
    let decision = ask.wait().await?;
    match (decision.proceeds()?, decision.resolution) {
        (_, Resolution::Timeout) => println!("{user} said nothing, so we stop"),
        (true, _) => println!("{} said yes: {:?}", decision.by.unwrap_or_default(), decision.feedback),
        (false, _) => println!("{} said no: {:?}", decision.by.unwrap_or_default(), decision.feedback),
    }
    Ok(())
}
