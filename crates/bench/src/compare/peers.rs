//! Who takes part. The gateway and the floor are binaries; every other peer is a short script, `peers/<name>/peer`, which
//! builds it into a cache (`peer build CACHE`) and runs it in the foreground (`peer start CACHE PORT REDIS_PORT`). A peer
//! that cannot be built here is left out, with a word.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use super::workloads::Workload;
use crate::{
    args::{DoorKind, Server},
    crowd::Endpoint,
    dialect::Dialect,
    machine::start::{Ending, Gateway, SERVER_CORE, Started, free_port, pinned, start_redis, starts},
    progress::Progress,
};

/// The names under which goals refer to the two yardsticks.
pub(crate) const FLOOR: &str = "floor";
pub(crate) const UWEBSOCKETS: &str = "uwebsockets";

/// A server to be measured.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) name: String,
    kind: Kind,
    dialect: Dialect,
    door: DoorKind,
    /// Where clients connect to hear everybody's messages, and to hear their own.
    paths: [&'static str; 2],
}

#[derive(Debug, Clone)]
enum Kind {
    Gateway { binary: PathBuf, variables: Vec<(String, String)> },
    Floor,
    Recipe,
}

/// A server that stands, with its Redis; both end with it.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) server: Server,
    _server: Started,
    _redis: Started,
}

/// The gateways, then the yardsticks, then the others.
pub(crate) fn all(gateways: &[String]) -> Result<Vec<Peer>> {
    let mut all = Vec::new();
    for (number, given) in gateways.iter().enumerate() {
        let (name, binary) = match given.split_once('=') {
            Some((name, path)) => (name.to_owned(), PathBuf::from(path)),
            None if number == 0 => ("countersign".to_owned(), PathBuf::from(given)),
            None => (format!("countersign-{}", number + 1), PathBuf::from(given)),
        };
        let binary = binary.canonicalize().with_context(|| format!("--gateway {}", binary.display()))?;
        if knows_shards(&binary)? {
            let variables = vec![("WEBSOCKET_SHARDS".to_owned(), "2".to_owned())];
            all.push(Peer::gateway(format!("{name}, two shards"), binary.clone(), variables));
        }
        all.insert(number, Peer::gateway(name, binary, Vec::new()));
    }
    let bare = |name: &str, kind| Peer {
        name: name.to_owned(),
        kind,
        dialect: Dialect::Bare,
        door: DoorKind::Publish,
        paths: ["/ws"; 2],
    };
    all.push(bare(FLOOR, Kind::Floor));
    all.push(bare(UWEBSOCKETS, Kind::Recipe));
    all.push(bare("axum", Kind::Recipe));
    all.push(Peer { door: DoorKind::Nchan, paths: ["/all", "/own"], ..bare("nchan", Kind::Recipe) });
    all.push(Peer {
        dialect: Dialect::SocketIo,
        door: DoorKind::SocketIo,
        paths: ["/socket.io/?EIO=4&transport=websocket"; 2],
        ..bare("socketio", Kind::Recipe)
    });
    all.push(Peer {
        dialect: Dialect::Pusher,
        door: DoorKind::Sockudo,
        paths: ["/app/bench?protocol=7"; 2],
        ..bare("sockudo", Kind::Recipe)
    });
    Ok(all)
}

/// Whether the binary can run in shards: its help says so.
fn knows_shards(binary: &Path) -> Result<bool> {
    let help = Command::new(binary).arg("--help").stdin(Stdio::null()).output();
    let help = help.with_context(|| format!("asking {} for its --help", binary.display()))?;
    Ok(String::from_utf8_lossy(&help.stdout).contains("WEBSOCKET_SHARDS"))
}

impl Peer {
    fn gateway(name: String, binary: PathBuf, variables: Vec<(String, String)>) -> Self {
        let kind = Kind::Gateway { binary, variables };
        Self { name, kind, dialect: Dialect::Countersign, door: DoorKind::Publish, paths: ["/ws"; 2] }
    }

    pub(crate) fn is_ours(&self) -> bool {
        matches!(self.kind, Kind::Gateway { .. })
    }

    /// Of a gateway.
    pub(crate) fn binary(&self) -> Option<&PathBuf> {
        if let Kind::Gateway { binary, .. } = &self.kind { Some(binary) } else { None }
    }

    /// What goals are measured against.
    pub(crate) fn is_yardstick(&self) -> bool {
        self.name == FLOOR || self.name == UWEBSOCKETS
    }

    /// Measured in every round.
    pub(crate) fn is_main(&self) -> bool {
        self.is_ours() || self.is_yardstick()
    }

    /// The same gateway in two shards.
    pub(crate) fn is_sharded(&self) -> bool {
        matches!(&self.kind, Kind::Gateway { variables, .. } if !variables.is_empty())
    }

    /// Makes sure that it can be started.
    pub(crate) fn build(&self, recipes: &Path, cache: &Path, progress: Progress) -> Result<()> {
        match &self.kind {
            Kind::Gateway { .. } => Ok(()),
            Kind::Floor => floor().map(drop),
            Kind::Recipe => {
                let (recipe, cache) = (self.recipe(recipes), cache.join(&self.name));
                let (done, log) = (cache.join("built"), cache.join("build.log"));
                fs::create_dir_all(&cache)?;
                let made_from = newest(&recipe)?;
                if fs::metadata(&done).and_then(|done| done.modified()).is_ok_and(|built| built > made_from) {
                    return Ok(());
                }
                progress.say(format_args!("building {}", self.name));
                let out = fs::File::create(&log)?;
                let mut command = Command::new("sh");
                command.arg(recipe.join("peer")).arg("build").arg(&cache).stdin(Stdio::null());
                let status = command.stdout(out.try_clone()?).stderr(out).status()?;
                if !status.success() {
                    // Where it says so is of this machine, and the reason goes into a document.
                    progress.say(format_args!("{} says why {} does not build", log.display(), self.name));
                    bail!("it does not build here");
                }
                fs::write(done, "")?;
                Ok(())
            }
        }
    }

    /// Starts it and a Redis for it, for one workload.
    pub(crate) fn start(&self, workload: Workload, recipes: &Path, cache: &Path, ending: &Ending) -> Result<Standing> {
        let (port, redis_port) = (free_port()?, free_port()?);
        let redis = start_redis(ending, redis_port, None)?;
        let redis_url = format!("redis://127.0.0.1:{redis_port}");
        let ports = [port.to_string(), redis_port.to_string()];
        let [everybody, own] = self.paths;
        let path = if workload.is_personal() { own } else { everybody };
        let url = format!("ws://127.0.0.1:{port}{path}");
        let endpoint = Endpoint::parse(&url)?;
        let is_there = || endpoint.is_there();
        let started = match &self.kind {
            Kind::Gateway { binary, variables } => {
                let (core, redis) = (Some(SERVER_CORE), Some(redis_url.as_str()));
                Gateway { binary, number: 1, port, redis, core, variables }.start(ending)?
            }
            Kind::Floor => {
                let mut command = pinned(&floor()?, Some(SERVER_CORE));
                starts(ending, command.args(&ports), &self.name, port, is_there)?
            }
            Kind::Recipe => {
                let mut command = pinned(Path::new("sh"), Some(SERVER_CORE));
                command.arg(self.recipe(recipes).join("peer")).arg("start").arg(cache.join(&self.name)).args(&ports);
                starts(ending, &mut command, &self.name, port, is_there)?
            }
        };
        let server = Server {
            urls: vec![url],
            http: vec![format!("http://127.0.0.1:{port}")],
            redis: Some(redis_url),
            door: Some(self.door),
            dialect: self.dialect,
            redis_prefix: "cs".to_owned(),
            api_key: None,
            pids: vec![started.pid()],
            beside: vec![redis.pid()],
        };
        Ok(Standing { server, _server: started, _redis: redis })
    }

    fn recipe(&self, recipes: &Path) -> PathBuf {
        recipes.join(&self.name)
    }
}

/// The floor was built with this binary and lies beside it.
fn floor() -> Result<PathBuf> {
    let path = env::current_exe().context("finding this binary")?.with_file_name("bench-floor");
    ensure!(path.exists(), "{} is missing: build all binaries of this crate", path.display());
    Ok(path)
}

/// When a recipe was changed last.
fn newest(recipe: &Path) -> Result<std::time::SystemTime> {
    let files = fs::read_dir(recipe).with_context(|| format!("no recipe at {}", recipe.display()))?;
    let times = files.map(|file| Ok(file?.metadata()?.modified()?)).collect::<Result<Vec<_>>>()?;
    times.into_iter().max().context("the recipe is empty")
}
