//! The binary `countersign`: reads the environment, runs a node, and ends it gracefully on SIGTERM or Ctrl-C.
#![forbid(unsafe_code)]

mod cli;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use cli::{Cli, Command};
use countersign_gateway::{
    Config, Gateway, Running,
    config::{self, ConfigError},
    files::{self, Shares},
    logging,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (config, warnings) = match Config::from_env(std::env::vars_os()) {
        Ok(read) => read,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(ConfigError::EXIT_CODE);
        }
    };
    let done = match cli.command {
        Some(Command::Health) => cli::health(&config),
        Some(Command::Check) => {
            for warning in &warnings {
                eprintln!("{warning}");
            }
            println_to_stdout(&config.describe());
            Ok(())
        }
        None => return run(config, &warnings),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout, reason = "this is what the command is for")]
fn println_to_stdout(text: &str) {
    println!("{text}");
}

fn run(config: Config, warnings: &[config::Warning]) -> ExitCode {
    let log = match logging::init(config.log_format, &config.log_filter) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(ConfigError::EXIT_CODE);
        }
    };
    // Standard error may be as full as standard output.
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a thread panicked")));
    let code = run_logged(config, warnings);
    log.finish();
    code
}

fn run_logged(config: Config, warnings: &[config::Warning]) -> ExitCode {
    config.log();
    for warning in warnings {
        tracing::warn!(%warning, "configuration");
    }
    let config = within_file_limit(config);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().global_queue_interval(GLOBAL_QUEUE_INTERVAL).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(serve(config));
    // Everything that matters has ended; a task that hangs must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}

/// A worker looks into the runtime's common queue before each task. Its own queue has 256 places; what does not fit goes to the
/// common one, and with a thousand busy connections that is most. The runtime's default looks there so seldom that some
/// connections waited a hundred times as long as others; when it is empty, a look is one atomic read.
const GLOBAL_QUEUE_INTERVAL: u32 = 1;

async fn serve(config: Config) -> ExitCode {
    let backplane = if config.redis_urls.is_empty() { "embedded" } else { "redis" };
    let (node, open_doors) = (config.node_id.clone(), config.open_doors());
    let signals = signal(SignalKind::terminate()).and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
    let (mut term, mut interrupt) = match signals {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "cannot listen to signals");
            return ExitCode::FAILURE;
        }
    };
    let running = match Gateway::start(config).await {
        Ok(running) => running,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::from(ConfigError::EXIT_CODE);
        }
    };
    let (addr, url) = (running.addr(), to_open(running.addr()));
    tracing::info!(url, open_doors, %addr, %node, backplane, "listening");
    either(&mut term, &mut interrupt).await;
    stop(running, &mut term, &mut interrupt).await
}

/// What to type into a browser on this machine.
fn to_open(listens_on: SocketAddr) -> String {
    let host = match listens_on.ip() {
        IpAddr::V4(host) if host.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(host) if host.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        host => host,
    };
    format!("http://{}/", SocketAddr::new(host, listens_on.port()))
}

/// A second signal ends at once.
async fn stop(running: Running, term: &mut Signal, interrupt: &mut Signal) -> ExitCode {
    tokio::select! {
        () = running.stop() => ExitCode::SUCCESS,
        () = either(term, interrupt) => {
            tracing::warn!("a second signal: ending at once");
            ExitCode::FAILURE
        }
    }
}

async fn either(term: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// As many files as the system allows; fewer connections, where that is not enough. Says so.
fn within_file_limit(mut config: Config) -> Config {
    let files = files::raise_limit().unwrap_or_else(|error| {
        tracing::warn!(%error, "the open-file limit could not be raised");
        files::limit()
    });
    let Shares { needed, connections, http_connections } = Shares::of(&config, files);
    config.limit_http_connections = Some(http_connections);
    if files < needed {
        config.max_connections = connections;
        tracing::warn!(
            limit = files,
            needed,
            connections,
            http_connections,
            "the open-file limit is lower than WEBSOCKET_MAX_CONNECTIONS and LIMIT_HTTP_CONNECTIONS need: fewer connections are let in; raise it (ulimit -Hn) or lower these"
        );
    }
    config
}
