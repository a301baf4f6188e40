//! A real nginx that runs the configuration which the project ships.
//!
//! The shipped files are copied word for word but for what no test can share with the world: the address
//! to listen on, the addresses of the nodes, and the directories for logs, bodies and the pid. Each of
//! these is looked up in the text and has to be there, so a change of the files that would make the tests
//! run something else fails loudly.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::deadline::eventually;
use crate::port::free_port;
use crate::process::{Process, Signal};
use crate::repository;

/// One nginx in front of some nodes. Ended when dropped.
#[derive(Debug)]
pub struct Nginx {
    port: u16,
    directory: TempDir,
    process: Option<Process>,
}

impl Nginx {
    /// Starts nginx in front of `nodes` (`host:port` each) and waits until it listens.
    pub async fn start(nodes: &[String]) -> Self {
        Self::start_for(nodes, CONNECTIONS).await
    }

    /// The same with room for so many connections in each of its two workers.
    pub async fn start_for(nodes: &[String], connections: usize) -> Self {
        for attempt in 1.. {
            let port = free_port();
            let directory = write_configuration(port, nodes, connections);
            let process = launch(port, directory.path());
            match wait_until_listening(&process, directory.path()).await {
                Ok(()) => {
                    return Self { port, directory, process: Some(process) };
                }
                Err(why) => assert!(attempt < ATTEMPTS, "nginx did not start: {why}"),
            }
        }
        unreachable!("the loop returns or panics")
    }

    /// Ends it at once, and every connection with it, and starts it again at the same address.
    pub async fn restart(&mut self) {
        self.process = None;
        let process = launch(self.port, self.directory.path());
        if let Err(why) = wait_until_listening(&process, self.directory.path()).await {
            panic!("nginx did not come back on port {}: {why}", self.port);
        }
        self.process = Some(process);
    }

    /// How many workers it has: those of earlier configurations stay while they have connections.
    pub fn workers(&self) -> usize {
        let id = self.running().id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        children.split_whitespace().count()
    }

    /// What `nginx -t` says about the shipped configuration; `Err` with its words when it is wrong.
    pub fn check(nodes: &[String]) -> Result<(), String> {
        let directory = write_configuration(free_port(), nodes, CONNECTIONS);
        let output =
            nginx(directory.path()).arg("-t").output().map_err(|error| format!("cannot run nginx: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() && !said.contains("[warn]") { Ok(()) } else { Err(said) }
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// `ws://127.0.0.1:<port>/ws`.
    pub fn ws_url(&self) -> String {
        format!("ws://127.0.0.1:{}/ws", self.port)
    }

    /// Reads the configuration again, as after `nginx -s reload`: new workers, old ones finish.
    pub fn reload(&self) {
        self.running().signal(Signal::Reload);
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("nginx is running")
    }

    /// The error log so far.
    pub fn error_log(&self) -> String {
        fs::read_to_string(self.directory.path().join("error.log")).unwrap_or_default()
    }

    /// The access log so far.
    pub fn access_log(&self) -> String {
        fs::read_to_string(self.directory.path().join("access.log")).unwrap_or_default()
    }
}

const ATTEMPTS: u32 = 5;
/// Of each worker.
const CONNECTIONS: usize = 512;

fn launch(port: u16, directory: &Path) -> Process {
    // It has workers: a SIGKILL would leave them behind.
    Process::spawn(format!("nginx:{port}"), nginx(directory).args(["-g", "daemon off;"])).ended_politely()
}

fn nginx(directory: &Path) -> Command {
    // Debian has it in /usr/sbin, which is not on every user's path.
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("nginx");
    command
        .env("PATH", format!("{path}:/usr/sbin:/usr/local/sbin"))
        .arg("-p")
        .arg(directory)
        .arg("-c")
        .arg(directory.join("nginx.conf"))
        // Where it writes before it has read the configuration.
        .arg("-e")
        .arg(directory.join("error.log"));
    command
}

async fn wait_until_listening(process: &Process, directory: &Path) -> Result<(), String> {
    let pid_file = directory.join("nginx.pid");
    // nginx writes its pid when it has its sockets.
    eventually(Duration::from_secs(20), "nginx's pid file", || async {
        if process.exit_code().is_some() {
            let log = fs::read_to_string(directory.join("error.log")).unwrap_or_default();
            return Some(Err(format!("{}\n{log}", process.log().join("\n"))));
        }
        let pid = fs::read_to_string(&pid_file).ok()?;
        (pid.trim() == process.id().to_string()).then_some(Ok(()))
    })
    .await
}

fn write_configuration(port: u16, nodes: &[String], connections: usize) -> TempDir {
    let directory = TempDir::new().expect("a temporary directory can be made");
    // nginx started by root has workers of another user, who must get in.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("our own directory");
    let here = directory.path().to_str().expect("a temporary path is text");
    for name in ["nginx.conf", "countersign.conf"] {
        let shipped = fs::read_to_string(repository().join("nginx").join(name))
            .unwrap_or_else(|error| panic!("cannot read nginx/{name}: {error}"));
        let ours = match name {
            "nginx.conf" => main_part(&shipped, here, connections),
            _ => countersign_part(&shipped, here, port, nodes),
        };
        fs::write(directory.path().join(name), ours).expect("our own directory");
    }
    directory
}

fn main_part(shipped: &str, directory: &str, connections: usize) -> String {
    let text = replaced(shipped, "/run/nginx.pid", &format!("{directory}/nginx.pid"));
    let text = replaced(&text, "/var/cache/nginx", directory);
    let text = replaced(&text, "/var/log/nginx", directory);
    let text = replaced(&text, "/etc/nginx", directory);
    // The tests' own limit on open files may be lower; asking for more would only warn.
    let text = replaced(&text, "worker_rlimit_nofile 65536;", "");
    let text = replaced(&text, "worker_connections 30000;", &format!("worker_connections {connections};"));
    replaced(&text, "worker_processes auto;", "worker_processes 2;")
}

fn countersign_part(shipped: &str, directory: &str, port: u16, nodes: &[String]) -> String {
    let text = replaced(shipped, "listen 8080;", &format!("listen 127.0.0.1:{port};"));
    let text = replaced(&text, "/var/log/nginx", directory);
    ["max_fails=1 fail_timeout=2s", "max_fails=0"].iter().fold(text, |text, failures| {
        let servers = |names: &[String]| {
            let lines: Vec<_> = names.iter().map(|name| format!("    server {name} {failures};\n")).collect();
            lines.concat()
        };
        let shipped = servers(&["node1:8765", "node2:8765", "node3:8765"].map(String::from));
        let ours = servers(nodes);
        replaced(&text, &shipped, &ours)
    })
}

fn replaced(text: &str, shipped: &str, ours: &str) -> String {
    assert!(
        text.contains(shipped),
        "the shipped nginx configuration no longer has {shipped:?}: teach the harness its new form"
    );
    text.replace(shipped, ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_configuration_is_valid() {
        let nodes = ["127.0.0.1:1", "127.0.0.1:2"].map(String::from);
        assert_eq!(Nginx::check(&nodes), Ok(()));
    }

    #[tokio::test]
    async fn without_a_node_the_answer_is_503_ask_again() {
        let nginx = Nginx::start(&[format!("127.0.0.1:{}", free_port())]).await;
        let api = crate::Api::at(nginx.url());
        let reply = api.post("/v1/broadcast", &serde_json::json!({})).await;
        assert_eq!(reply.status, 503);
        assert_eq!(reply.header("content-type"), "application/problem+json");
        assert_eq!(reply.header("retry-after"), "1");
        assert_eq!(reply.body["code"], "unavailable", "{reply:?}");
    }

    #[tokio::test]
    async fn health_and_metrics_are_not_routed_and_the_log_has_no_query() {
        let nginx = Nginx::start(&[format!("127.0.0.1:{}", free_port())]).await;
        let api = crate::Api::at(nginx.url());
        for path in ["/health/ready", "/health/live", "/health", "/metrics", "//metrics", "/%6detrics?token=secret"] {
            assert_eq!(api.get(path).await.status, 404, "{path}");
        }
        let log = nginx.access_log();
        assert!(log.contains("GET /metrics"), "{log}");
        assert!(!log.contains("secret"), "{log}");
    }

    #[tokio::test]
    async fn a_token_in_a_query_is_in_no_log_when_no_node_answers() {
        let nginx = Nginx::start(&[format!("127.0.0.1:{}", free_port())]).await;
        let api = crate::Api::at(nginx.url());
        for path in ["/ws?token=secret", "/?token=secret", "/sse?token=secret", "/api/workflows/7/updates?token=secret"]
        {
            assert_eq!(api.get(path).await.status, 503, "{path}");
        }
        // The log is written, and would have them.
        assert_eq!(api.get("/v1/status?plain").await.status, 503);
        let log = nginx.error_log();
        assert!(log.contains("/v1/status?plain"), "{log}");
        assert!(!log.contains("secret"), "{log}");
        assert!(!nginx.access_log().contains("secret"));
    }

    #[tokio::test]
    async fn a_head_that_is_too_long_is_told_why() {
        let nginx = Nginx::start(&[format!("127.0.0.1:{}", free_port())]).await;
        let api = crate::Api::at(nginx.url());
        let long = "x".repeat(20_000);
        for reply in [
            api.get(&format!("/v1/status?{long}")).await,
            api.try_send(reqwest::Method::GET, "/v1/status", &[("x-long", &long)], None).await.expect("a reply"),
        ] {
            assert_eq!(reply.status, 431, "{reply:?}");
            assert_eq!(reply.header("content-type"), "application/problem+json");
            assert_eq!(reply.body["code"], "head_too_long", "{reply:?}");
        }
    }
}
