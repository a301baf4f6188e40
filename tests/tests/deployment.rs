//! The shipped deployment says what the node understands, and ships no secret.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use harness::{Nginx, Node, PATIENCE, Process, Signal, eventually, repository};
use saphyr::{LoadableYamlNode, Yaml};

fn shipped(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| unreadable(path, &error.to_string()))
}

fn yaml(text: &str) -> Yaml<'_> {
    let documents = Yaml::load_from_str(text).unwrap_or_else(|error| unreadable("YAML", &error.to_string()));
    documents.into_iter().next().expect("a document")
}

#[expect(clippy::panic, reason = "a test's own failure")]
fn unreadable<T>(what: &str, why: &str) -> T {
    panic!("{what}: {why}")
}

fn keys<'a>(mapping: &'a Yaml<'_>) -> Vec<&'a str> {
    mapping.as_mapping().expect("a mapping").keys().filter_map(Yaml::as_str).collect()
}

/// The names in `${NAME:?…}`, `${NAME:-…}` and `${NAME}`.
fn references(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split("${").skip(1).filter_map(|rest| {
        let (inside, _) = rest.split_once('}')?;
        let end = inside.find(':').unwrap_or(inside.len());
        inside.split_at_checked(end)
    })
}

const NODES: [&str; 3] = ["node1", "node2", "node3"];

#[test]
fn three_nodes_redis_nginx_and_prometheus_are_composed() {
    let text = shipped("docker-compose.yml");
    let compose = yaml(&text);
    let services = keys(&compose["services"]);
    for service in NODES.into_iter().chain(["redis", "nginx", "prometheus"]) {
        assert!(services.contains(&service), "{service} in {services:?}");
    }
    let nginx = shipped("nginx/countersign.conf");
    for node in NODES {
        assert!(nginx.contains(&format!("server {node}:8765 ")), "{node}");
        assert!(shipped("deploy/prometheus.yml").contains(&format!("\"{node}:8765\"")), "{node}");
    }
}

#[test]
fn files_that_are_mounted_exist() {
    let text = shipped("docker-compose.yml");
    let mounted: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- ./"))
        .filter_map(|volume| volume.split(':').next())
        .collect();
    assert!(mounted.len() >= 4, "{mounted:?}");
    for path in mounted {
        assert!(repository().join(path).is_file(), "{path}");
    }
    assert!(repository().join("deploy/Dockerfile").is_file());
}

#[test]
fn no_secret_has_a_default_and_all_are_in_the_example() {
    let compose = shipped("docker-compose.yml");
    let example = shipped(".env.example");
    let mut required = BTreeSet::new();
    for (name, rest) in references(&compose) {
        assert!(example.lines().any(|line| line.starts_with(&format!("{name}="))), "{name} is not in .env.example");
        if rest.starts_with(":?") {
            required.insert(name);
        } else {
            assert!(["WEBSOCKET_ALLOWED_ORIGINS", "RUST_LOG"].contains(&name), "{name} is not required");
        }
    }
    assert_eq!(required, BTreeSet::from(["AUTH_API_KEYS", "AUTH_JWT_SECRET", "METRICS_KEY", "REDIS_PASSWORD"]));
    for name in required {
        let empty = format!("{name}=");
        assert!(example.lines().any(|line| line == empty), "{name} must be empty in .env.example");
    }
}

#[tokio::test]
async fn the_node_knows_every_variable_that_it_is_given() {
    let help = Node::builder().run(&["--help"]).await.log;
    let text = shipped("docker-compose.yml");
    let compose = yaml(&text);
    let names = keys(&compose["x-node-environment"]);
    assert!(names.len() >= 8, "{names:?}");
    for name in names.into_iter().chain(["NODE_ID"]) {
        assert!(help.contains(&format!("\n  {name}")), "{name} is not in --help");
    }
    for line in shipped("deploy/Dockerfile").lines() {
        let line = line.trim().trim_start_matches("ENV ");
        if let Some((name, _)) = line.split_once('=')
            && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
        {
            assert!(help.contains(&format!("\n  {name}")), "{name} of the Dockerfile is not in --help");
        }
    }
}

#[test]
fn a_node_is_given_more_time_to_stop_than_it_takes() {
    let text = shipped("docker-compose.yml");
    let compose = yaml(&text);
    let seconds = |yaml: &Yaml<'_>| -> f64 {
        let text = yaml.as_str().expect("text");
        text.trim_end_matches('s').parse().expect("seconds")
    };
    let grace = seconds(&compose["x-node"]["stop_grace_period"]);
    let drain = seconds(&compose["x-node-environment"]["DRAIN_TIMEOUT"]);
    assert!(grace > drain, "{grace} {drain}");
}

#[test]
fn prometheus_can_read_its_configuration() {
    let text = shipped("deploy/prometheus.yml");
    let prometheus = yaml(&text);
    let job = &prometheus["scrape_configs"][0];
    assert_eq!(job["job_name"].as_str(), Some("countersign"));
    let targets = job["static_configs"][0]["targets"].as_sequence().expect("a list");
    assert_eq!(targets.len(), NODES.len());
}

#[test]
fn the_shipped_nginx_configuration_is_valid_for_any_number_of_nodes() {
    for count in [1, 3] {
        let nodes: Vec<String> = (1..=count).map(|port| format!("127.0.0.1:{port}")).collect();
        assert_eq!(Nginx::check(&nodes), Ok(()));
    }
}

#[test]
fn nginx_waits_longer_than_a_stream_is_silent_and_a_caller_waits() {
    let conf = shipped("nginx/countersign.conf");
    let read_timeouts: Vec<u64> = conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("proxy_read_timeout "))
        .filter_map(|value| value.trim_end_matches("s;").parse().ok())
        .collect();
    let [stream, ref waits @ ..] = read_timeouts[..] else {
        unreadable("a read timeout", &format!("{read_timeouts:?}"))
    };
    assert!(stream > 30, "WEBSOCKET_PING_INTERVAL is 30 s");
    assert!(waits.len() == 2 && waits.iter().all(|wait| *wait > 300), "WEBSOCKET_CALLBACK_TIMEOUT is 300 s: {waits:?}");
    assert!(!conf.contains("non_idempotent;"), "a POST that was sent is never sent to a second node");
}

#[test]
fn the_shipped_files_ask_for_nothing_that_an_engine_may_refuse() {
    let text = shipped("docker-compose.yml");
    let compose = yaml(&text);
    for service in NODES.into_iter().chain(["redis", "nginx", "prometheus"]) {
        assert!(!keys(&compose["services"][service]).contains(&"ulimits"), "{service}: the hard limit may be lower");
    }
    assert!(!keys(&compose["x-node"]).contains(&"ulimits"));
    assert!(!shipped("deploy/Dockerfile").contains("# syntax="), "a frontend of its own comes from a registry");
}

/// `follow-nodes.sh` with an nginx and a name service that write down and read what a test wants.
struct Followed {
    folder: tempfile::TempDir,
    process: Process,
}

impl Followed {
    fn start(addresses: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        let path = folder.path();
        let program = |name: &str, text: &str| {
            fs::write(path.join(name), format!("#!/bin/sh\n{text}\n")).expect("our own directory");
            fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o755)).expect("our own file");
        };
        program(
            "getent",
            "cd \"$(dirname \"$0\")\"\n\
             if grep -q \"^$2 \" addresses; then sed -n \"s/^$2 //p\" addresses; else : > missing; exit 2; fi",
        );
        program(
            "nginx",
            "cd \"$(dirname \"$0\")\"\n\
             if [ \"$1\" = -s ]; then echo \"$2\" >> log; else echo started >> log; fi\n\
             [ \"$1\" = -s ] || until grep -q -e quit -e stop log; do sleep 0.05; done",
        );
        fs::write(
            path.join("conf"),
            "upstream a {\n    server node1:8765 max_fails=0;\n    server node2:8765 max_fails=0;\n}\n",
        )
        .expect("our own directory");
        fs::write(path.join("nginx.conf"), format!("http {{\n    include {};\n}}\n", path.join("conf").display()))
            .expect("our own directory");
        let mut command = Command::new("sh");
        command
            .arg(repository().join("nginx/follow-nodes.sh"))
            .arg(path.join("conf"))
            .env("FOLLOW_NODES_EVERY", "0.05")
            .env("PATH", format!("{}:{}", path.display(), std::env::var("PATH").unwrap_or_default()));
        resolve(path, addresses);
        Self { process: Process::spawn("follow-nodes", command.current_dir(path)), folder }
    }

    /// The places of the `server` lines that nginx reads now.
    fn servers(&self) -> Vec<String> {
        let copy = fs::read_to_string(self.folder.path().join("countersign.followed")).unwrap_or_default();
        let servers = copy.lines().filter_map(|line| line.trim().strip_prefix("server "));
        servers.map(|server| server.trim_end_matches(';').to_owned()).collect()
    }

    async fn has_done(&self, expected: &[&str]) {
        eventually(PATIENCE, &format!("nginx that was told {expected:?}"), || async {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            (log.lines().collect::<Vec<_>>() == expected).then_some(())
        })
        .await;
    }
}

/// From now on, names have these addresses. In one step, so that a look-up never sees half of it.
fn resolve(folder: &Path, addresses: &str) {
    fs::write(folder.join("new"), addresses).expect("our own directory");
    fs::rename(folder.join("new"), folder.join("addresses")).expect("our own directory");
}

#[tokio::test]
async fn nginx_reads_its_configuration_again_when_a_node_has_another_address() {
    let followed = Followed::start("node1 10.0.0.1\nnode2 10.0.0.2\n");
    followed.has_done(&["started"]).await;
    // A node that is away for a moment changes nothing; one that comes back elsewhere does.
    resolve(followed.folder.path(), "node1 10.0.0.1\n");
    eventually(PATIENCE, "a look-up without an address", || async {
        followed.folder.path().join("missing").exists().then_some(())
    })
    .await;
    resolve(followed.folder.path(), "node1 10.0.0.1\nnode2 10.0.0.9\n");
    followed.has_done(&["started", "reload"]).await;
    assert_eq!(followed.servers(), ["10.0.0.1:8765 max_fails=0", "10.0.0.9:8765 max_fails=0"]);
    followed.process.signal(Signal::Quit);
    assert_eq!(followed.process.wait_exit(PATIENCE).await, Some(0));
    followed.has_done(&["started", "reload", "quit"]).await;
}

#[tokio::test]
async fn nginx_starts_without_a_node_that_is_away_and_follows_the_others() {
    let followed = Followed::start("node1 10.0.0.1\n");
    followed.has_done(&["started"]).await;
    assert_eq!(followed.servers(), ["10.0.0.1:8765 max_fails=0", "127.0.0.1:8765 max_fails=0 down"]);
    // Another node moves meanwhile, to an address of the other kind.
    resolve(followed.folder.path(), "node1 fd00::1\n");
    followed.has_done(&["started", "reload"]).await;
    assert_eq!(followed.servers(), ["[fd00::1]:8765 max_fails=0", "127.0.0.1:8765 max_fails=0 down"]);
    resolve(followed.folder.path(), "node2 10.0.0.2\n");
    followed.has_done(&["started", "reload", "reload"]).await;
    assert_eq!(followed.servers(), ["[fd00::1]:8765 max_fails=0", "10.0.0.2:8765 max_fails=0"]);
    followed.process.signal(Signal::Terminate);
    assert_eq!(followed.process.wait_exit(PATIENCE).await, Some(0));
    followed.has_done(&["started", "reload", "reload", "stop"]).await;
}
