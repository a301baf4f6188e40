//! Commands of a Redis Cluster: lanes to every master, and each step goes to the master that has its keys. A redirection is
//! followed at once and the map read again; so it is after failures, and now and then.
//!
//! The library's own cluster connection is not used. It sends a command again whose connection broke after it was written,
//! and the whole of a pipeline in which one step was redirected: publications would come twice. It refuses pipelines over
//! several slots, and while it looks for a dead master it holds up the commands of the others.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use redis::{Cmd, Script, ScriptInvocation, Value, cmd};
use tokio::{sync::Notify, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    failure::CommandError,
    lanes::{Step, Way},
    members::{Members, address_of},
    needs::Needs,
    scripts::evalsha,
    server::{LANE_WITHIN, Server},
    slots::{Address, Owners, Place},
    spawn,
    topology::Topology,
};
use crate::{Listener, Observation};

/// The masters.
pub(super) struct Masters {
    members: Arc<Members>,
    servers: Mutex<BTreeMap<Address, Connected>>,
    turn: AtomicUsize,
    look_again: Notify,
    needs: Arc<Needs>,
    listener: Arc<dyn Listener>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A master's lanes, and what ends their tasks.
struct Connected {
    server: Arc<Server>,
    stop: CancellationToken,
}

/// A server and its name.
type Target = (Address, Arc<Server>);
type Answer = Result<Value, CommandError>;
/// What one server gets of a pipeline, with the places in the whole.
type Part = (Arc<Server>, Vec<usize>, Vec<Step<'static>>);

impl Masters {
    /// Starts to look for them, until `stop`.
    pub(super) fn start(
        members: Arc<Members>,
        needs: Arc<Needs>,
        listener: Arc<dyn Listener>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Arc<Self> {
        let masters = Arc::new(Self {
            members,
            servers: Mutex::default(),
            turn: AtomicUsize::new(0),
            look_again: Notify::new(),
            needs,
            listener,
            tasks: tasks.clone(),
            stop: stop.clone(),
        });
        spawn(tasks, stop, Arc::clone(&masters).keep_looking());
        masters
    }

    /// One command, where its key is.
    pub(super) async fn command(&self, command: &Cmd) -> Answer {
        match Place::of(command) {
            Place::Anywhere => self.anywhere(command).await,
            place => self.send(self.at(place).await?, command, None, Way::default()).await,
        }
    }

    /// One script, where its keys are.
    pub(super) async fn script(&self, script: &ScriptInvocation<'_>) -> Answer {
        let command = evalsha(script);
        self.send(self.at(Place::of(&command)).await?, &command, Some(script), Way::default()).await
    }

    /// One script on a numbered address.
    pub(super) async fn numbered(&self, script: &ScriptInvocation<'_>) -> Answer {
        let command = evalsha(script);
        let way = Way { numbered: true, asking: false };
        self.send(self.at(Place::of(&command)).await?, &command, Some(script), way).await
    }

    /// One command that anybody can carry out, any number of times: each time another master first, and then the others
    /// until one answers.
    pub(super) async fn anywhere(&self, command: &Cmd) -> Answer {
        self.known().await?;
        let (mut up, down): (Vec<_>, Vec<_>) = self.all().into_iter().partition(|(_, server)| server.is_up());
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        if !up.is_empty() {
            let middle = turn % up.len();
            up.rotate_left(middle);
        }
        let mut last = None;
        // All are down: one of them may be up in a moment.
        for target in up.into_iter().chain(down.into_iter().take(1)) {
            match self.send(target, command, None, Way::default()).await {
                Err(error) if error.transient => last = Some(error),
                answer => return answer,
            }
        }
        Err(last.unwrap_or_else(|| self.unconnected("no master of the cluster is known")))
    }

    /// Many steps in one round trip to each master that has some of their keys, all at once. Steps on one slot stay in order. When
    /// a master does not answer, its steps fail and the others do not; no answer at all is an error of the whole.
    pub(super) async fn pipeline(&self, load: &[&Script], steps: &[Step<'_>]) -> Result<Vec<Answer>, CommandError> {
        let mut results: Vec<Option<Answer>> = steps.iter().map(|_| None).collect();
        let mut parts: BTreeMap<Address, Part> = BTreeMap::new();
        let mut unplaced = None;
        for (at, step) in steps.iter().enumerate() {
            let (command, numbered) = match step {
                Step::Command(command) => (command.clone(), false),
                Step::Script(script) => (evalsha(script), false),
                Step::Numbered(command) => (command.clone(), true),
            };
            match self.at(Place::of(&command)).await {
                Ok((address, server)) => {
                    let (_, places, part) = parts.entry(address).or_insert_with(|| (server, Vec::new(), Vec::new()));
                    places.push(at);
                    part.push(if numbered { Step::Numbered(command) } else { Step::Command(command) });
                }
                Err(error) => {
                    if let Some(result) = results.get_mut(at) {
                        *result = Some(Err(error.clone()));
                    }
                    // The others would wait for the same, one after the other.
                    if self.members.owners().borrow().is_empty() {
                        return Err(error);
                    }
                    unplaced = Some(error);
                }
            }
        }
        let sent = parts.into_iter().map(|(address, (server, places, part))| async move {
            (places, self.part(load, &(address, server), &part).await)
        });
        let mut worst = unplaced;
        let mut answered = false;
        for (places, answer) in join_all(sent).await {
            match answer {
                Ok(answers) => {
                    answered = true;
                    for (at, answer) in places.into_iter().zip(answers) {
                        if let Some(result) = results.get_mut(at) {
                            *result = Some(answer);
                        }
                    }
                }
                Err(error) => {
                    for at in places {
                        if let Some(result) = results.get_mut(at) {
                            *result = Some(Err(error.clone()));
                        }
                    }
                    // Whoever repeats has to know that something may have been written.
                    worst = Some(match worst {
                        Some(before) if error.unwritten => before,
                        _ => error,
                    });
                }
            }
        }
        match worst {
            Some(error) if !answered => Err(error),
            _ => {
                let unanswered = || Err(CommandError::unreadable("a pipeline's answer is shorter than the pipeline"));
                Ok(results.into_iter().map(|result| result.unwrap_or_else(unanswered)).collect())
            }
        }
    }

    /// The part of a pipeline that one master is thought to have; what it has not follows the redirection, in order.
    async fn part(&self, load: &[&Script], target: &Target, part: &[Step<'_>]) -> Result<Vec<Answer>, CommandError> {
        let (address, server) = target;
        let mut answers = match server.pipeline(load, part).await {
            Ok(answers) => answers,
            Err(error) => {
                self.look_after(&error);
                return Err(error);
            }
        };
        for (answer, step) in answers.iter_mut().zip(part) {
            let (Err(error), Step::Command(command) | Step::Numbered(command)) = (&*answer, step) else { continue };
            if let Some((next, asking)) = self.redirected(error, address) {
                let way = Way { numbered: matches!(step, Step::Numbered(_)), asking };
                *answer = self.send(next, command, None, way).await;
            } else {
                self.look_after(error);
            }
        }
        Ok(answers)
    }

    /// Sends a step to a server, and to where that one says.
    async fn send(
        &self,
        mut target: Target,
        command: &Cmd,
        script: Option<&ScriptInvocation<'_>>,
        mut way: Way,
    ) -> Answer {
        let mut redirections = 0;
        loop {
            let (address, server) = &target;
            let error = match server.step(command, script, way).await {
                Err(error) => error,
                answer => return answer,
            };
            match self.redirected(&error, address) {
                Some((next, ask)) if redirections < MOST_REDIRECTIONS => {
                    redirections += 1;
                    (target, way.asking) = (next, ask);
                }
                _ => {
                    self.look_after(&error);
                    return Err(error);
                }
            }
        }
    }

    /// Where a step has to be sent to instead, and whether only this once.
    fn redirected(&self, error: &CommandError, asked: &Address) -> Option<(Target, bool)> {
        let redirection = error.redirection.as_ref()?;
        if !redirection.only_this_once {
            self.look_again.notify_one();
        }
        let address = Address::parse(&redirection.to, asked)?;
        let server = self.server(&address)?;
        Some(((address, server), redirection.only_this_once))
    }

    /// A server that cannot may have lost its slots to another one.
    fn look_after(&self, error: &CommandError) {
        if error.transient {
            self.look_again.notify_one();
        }
    }

    /// The server for a place.
    async fn at(&self, place: Place) -> Result<Target, CommandError> {
        let owners = self.known().await?;
        let slot = match place {
            Place::Slot(slot) | Place::By(slot) => Some(slot),
            Place::Anywhere => None,
        };
        let owner = slot.and_then(|slot| owners.of(slot)).and_then(|owner| Some((owner.clone(), self.server(owner)?)));
        match (owner, place) {
            (Some(owner), Place::Slot(_)) => Ok(owner),
            (Some(owner), _) if owner.1.is_up() => Ok(owner),
            (None, Place::Slot(slot)) => Err(self.unconnected(&format!("no master of the cluster has slot {slot}"))),
            (owner, _) => {
                let up = self.all().into_iter().find(|(_, server)| server.is_up());
                up.or(owner)
                    .or_else(|| self.all().into_iter().next())
                    .ok_or_else(|| self.unconnected("no master is known"))
            }
        }
    }

    /// Who has which slots, as soon as anybody has told.
    async fn known(&self) -> Result<Arc<Owners>, CommandError> {
        let mut owners = self.members.owners();
        let known = timeout(LANE_WITHIN, owners.wait_for(|owners| !owners.is_empty())).await;
        match known {
            Ok(Ok(owners)) => Ok(Arc::clone(&owners)),
            _ => Err(self.unconnected("no server of the cluster has told its slots")),
        }
    }

    fn unconnected(&self, why: &str) -> CommandError {
        let error = CommandError::unconnected(why);
        self.listener.observed(Observation::CommandFailed(error.kind));
        self.look_again.notify_one();
        error
    }

    /// The lanes to a server; made if there are none.
    fn server(&self, address: &Address) -> Option<Arc<Server>> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connected) = servers.get(address) {
            return Some(Arc::clone(&connected.server));
        }
        let stop = self.stop.child_token();
        let server = Topology::single(self.members.info(address));
        // No address of the right form is refused before it is connected to.
        let (needs, listener) = (Arc::clone(&self.needs), Arc::clone(&self.listener));
        let server = Server::start(&server, needs, listener, &self.tasks, &stop).ok()?;
        servers.insert(address.clone(), Connected { server: Arc::clone(&server), stop });
        Some(server)
    }

    fn all(&self) -> Vec<Target> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.iter().map(|(address, connected)| (address.clone(), Arc::clone(&connected.server))).collect()
    }

    /// Reads the map, for ever.
    async fn keep_looking(self: Arc<Self>) {
        let mut found = None;
        loop {
            let now = Box::pin(self.look()).await;
            match (&now, &found) {
                (Ok(()), Some(Ok(()))) | (Err(_), Some(Err(_))) => {}
                (Ok(()), _) => tracing::info!(redis = self.members.place(), "the Redis Cluster has told its slots"),
                (Err(why), None | Some(Ok(()))) => {
                    tracing::warn!(redis = self.members.place(), why, "no server of the Redis Cluster tells its slots");
                }
            }
            found = Some(now);
            let well = found == Some(Ok(())) && self.all().iter().all(|(_, server)| server.is_up());
            tokio::select! {
                () = tokio::time::sleep(if well { NOW_AND_THEN } else { SOON }) => {}
                // Those who fail together ask together.
                () = self.look_again.notified() => tokio::time::sleep(AT_LEAST).await,
            }
        }
    }

    async fn look(&self) -> Result<(), String> {
        let mut why = "nobody to ask".to_owned();
        let mut up: Vec<_> = self.all().into_iter().filter(|(_, server)| server.is_up()).collect();
        fastrand::shuffle(&mut up);
        for (address, server) in up {
            let answer = server.command(cmd("CLUSTER").arg("SLOTS")).await;
            match answer.and_then(|slots| Owners::read(slots, &address)) {
                Ok(owners) if !owners.is_empty() => return self.adopt(owners),
                Ok(_) => why = format!("{address} has left the cluster"),
                Err(error) => why = format!("{address}: {error}"),
            }
        }
        for info in self.members.to_ask() {
            let address = address_of(&info);
            let ask = async {
                let mut connection = Topology::single(info).connector()?.connection().await?;
                cmd("CLUSTER").arg("SLOTS").query_async::<Value>(&mut connection).await
            };
            match ask.await.map_err(CommandError::from).and_then(|slots| Owners::read(slots, &address)) {
                Ok(owners) if !owners.is_empty() => return self.adopt(owners),
                Ok(_) => why = format!("{address} has no slots of a cluster"),
                Err(error) => why = format!("{address}: {error}"),
            }
        }
        Err(why)
    }

    /// Connects to every master, and leaves those that are none any more.
    fn adopt(&self, owners: Owners) -> Result<(), String> {
        for master in owners.masters() {
            self.server(master).ok_or_else(|| format!("{master} cannot be connected to"))?;
        }
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.retain(|address, connected| {
            let stays = owners.masters().contains(address);
            if !stays {
                connected.stop.cancel();
            }
            stays
        });
        drop(servers);
        self.members.told(owners);
        Ok(())
    }
}

/// From a stale map to the right server is one step, in the middle of a resharding two.
const MOST_REDIRECTIONS: usize = 5;
/// Between two looks when everything is well: redirections tell what changed.
const NOW_AND_THEN: Duration = Duration::from_secs(10);
/// Between two looks when a master is not reached: a failover takes seconds.
const SOON: Duration = Duration::from_millis(500);
/// Between two looks however many ask for one.
const AT_LEAST: Duration = Duration::from_millis(50);
