//! The command line: run a node (the default), check its configuration, or ask a running one how it is.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use clap::{Parser, Subcommand};
use countersign_gateway::{Config, config};

/// A realtime gateway whose pushes can be answered. Without a command it runs a node, configured by the environment.
#[derive(Debug, Parser)]
#[command(version, after_help = config::help_table())]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What to do instead of running a node.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Read and check the configuration, print it with secrets masked, and end.
    Check,
    /// Ask the node of this configuration whether it is ready: exit 0 if so, else 1.
    Health,
}

/// How long a node may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks the node of this configuration whether it is ready.
pub(crate) fn health(config: &Config) -> anyhow::Result<()> {
    let host = match config.host {
        IpAddr::V4(host) if host.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(host) if host.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        host => host,
    };
    let address = SocketAddr::new(host, config.port);
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream
        .write_all(format!("GET /health/ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut reply = String::new();
    stream.take(4096).read_to_string(&mut reply)?;
    let body = reply.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    anyhow::ensure!(reply.starts_with("HTTP/1.1 200"), "the node at {address} is not ready: {body}");
    Ok(())
}
