//! Sends every message back over the gateway's own connections, for `tests/autobahn/run`:
//! `cargo run --release -p countersign-gateway --features conformance --example echo -- 127.0.0.1:9001`

use std::io::Write;

use countersign_gateway::conformance;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let listener = TcpListener::bind(address).await?;
    writeln!(std::io::stdout(), "listening on {}", listener.local_addr()?)?;
    Err(conformance::echo(listener, true).await)
}
