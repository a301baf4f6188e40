//! The lanes to one server that takes writes. A lane is one connection that everybody shares and the library pipelines. A lane is
//! kept by a task of its own, which connects, asks what the server can do, loads the scripts, and connects again when the lane is
//! reported broken. Replies are matched to requests by the connection's own task, so a caller may drop its future at any time and
//! nobody gets another's reply.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use redis::{Cmd, Pipeline, RedisResult, Script, ScriptInvocation, Value, aio::MultiplexedConnection};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    backoff::Backoff,
    clock::{Reading, ServerClock},
    failure::{CommandError, is_unknown_script},
    lanes::{Step, Way},
    needs::Needs,
    run::Run,
    scripts::SCRIPTS,
    spawn,
    topology::{Connector, Topology},
};
use crate::{Listener, Observation, listener::Failure};

/// The lanes to one server.
pub(super) struct Server {
    state: watch::Sender<[Lane; LANES]>,
    turn: AtomicUsize,
    listener: Arc<dyn Listener>,
    needs: Arc<Needs>,
    /// Where the server is, for logs.
    place: String,
    /// What it lacks, as it was last logged.
    logged: Mutex<Option<String>>,
    clock: ServerClock,
}

#[derive(Clone)]
enum Lane {
    /// No connection, and why.
    Down(CommandError),
    Up(Connection),
}

#[derive(Clone)]
struct Connection {
    /// Counts the connections of a lane, so that a late report about an old one does not end its successor.
    number: u64,
    lane: usize,
    commands: MultiplexedConnection,
    /// To whose run it belongs.
    run: Arc<str>,
}

impl Connection {
    /// A command on a numbered address, with the run.
    fn bound(&self, command: &Cmd) -> Cmd {
        let mut command = command.clone();
        command.arg(&*self.run);
        command
    }
}

impl Server {
    /// Starts the lanes' tasks; they end with `stop`.
    pub(super) fn start(
        topology: &Topology,
        needs: Arc<Needs>,
        listener: Arc<dyn Listener>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> RedisResult<Arc<Self>> {
        let (state, _) =
            watch::channel(std::array::from_fn(|_| Lane::Down(CommandError::unconnected("not connected yet"))));
        let (turn, place, logged) = (AtomicUsize::new(0), topology.place(), Mutex::default());
        let clock = ServerClock::default();
        let lanes = Arc::new(Self { state, turn, listener, needs, place, logged, clock });
        let connector = topology.connector()?;
        for lane in 0..LANES {
            spawn(tasks, stop, Arc::clone(&lanes).keep(lane, connector.clone()));
        }
        Ok(lanes)
    }

    /// One command.
    pub(super) async fn command(&self, command: &Cmd) -> Result<Value, CommandError> {
        self.run(|mut connection| async move { command.query_async(&mut connection.commands).await }).await
    }

    /// One script; loaded again if Redis has forgotten it.
    pub(super) async fn script(&self, script: &ScriptInvocation<'_>) -> Result<Value, CommandError> {
        self.run(|mut connection| async move { script.invoke_async(&mut connection.commands).await }).await
    }

    /// A command, or the command of a script.
    pub(super) async fn step(
        &self,
        command: &Cmd,
        script: Option<&ScriptInvocation<'_>>,
        way: Way,
    ) -> Result<Value, CommandError> {
        self.run(|connection| async move {
            let bound = way.numbered.then(|| connection.bound(command));
            let command = bound.as_ref().unwrap_or(command);
            let mut connection = connection.commands;
            match (send(&mut connection, command, way.asking).await, script) {
                (Err(error), Some(script)) if is_unknown_script(&error) => {
                    script.load_async(&mut connection).await?;
                    send(&mut connection, command, way.asking).await
                }
                (answer, _) => answer,
            }
        })
        .await
    }

    /// Whether a command would be sent at once.
    pub(super) fn is_up(&self) -> bool {
        self.state.borrow().iter().any(|lane| matches!(lane, Lane::Up(_)))
    }

    /// Many steps in one round trip, in order, each with its own result; of the scripts in them, those in `load` are sure
    /// to be known.
    pub(super) async fn pipeline(
        &self,
        load: &[&Script],
        steps: &[Step<'_>],
    ) -> Result<Vec<Result<Value, CommandError>>, CommandError> {
        let mut results: Vec<Option<Result<Value, CommandError>>> = steps.iter().map(|_| None).collect();
        // Loading is a part of the pipeline; only a SCRIPT FLUSH in its middle makes a second turn necessary, for the steps
        // that were not done.
        for last in [false, true] {
            let open: Vec<usize> = (0..steps.len()).filter(|at| results[*at].is_none()).collect();
            if open.is_empty() {
                break;
            }
            let open = &open;
            let answers: Vec<RedisResult<Value>> = self
                .run(|mut connection| async move {
                    let pipeline = pipeline(load, open.iter().map(|at| &steps[*at]), &connection);
                    let value: Value = pipeline.query_async(&mut connection.commands).await?;
                    Ok(redis::from_redis_value(value)?)
                })
                .await?;
            for (at, answer) in open.iter().copied().zip(answers) {
                results[at] = match answer {
                    Err(error) if !last && is_unknown_script(&error) => None,
                    answer => Some(answer.map_err(|error| self.failed(error))),
                };
            }
        }
        let unanswered = || Err(CommandError::unreadable("a pipeline's answer is shorter than the pipeline"));
        Ok(results.into_iter().map(|result| result.unwrap_or_else(unanswered)).collect())
    }

    async fn run<T, F, Fut>(&self, attempt: F) -> Result<T, CommandError>
    where
        F: FnOnce(Connection) -> Fut,
        Fut: Future<Output = RedisResult<T>>,
    {
        let connection = self.connection().await?;
        let began = Instant::now();
        match attempt(connection.clone()).await {
            Ok(value) => {
                self.listener.observed(Observation::RoundTrip(began.elapsed()));
                Ok(value)
            }
            Err(error) => {
                let error = self.failed(error);
                if error.broken {
                    self.broke(&connection, &error);
                }
                Err(error)
            }
        }
    }

    fn failed(&self, error: redis::RedisError) -> CommandError {
        let error = CommandError::from(error);
        if error.redirection.is_none() {
            self.listener.observed(Observation::CommandFailed(error.kind));
        }
        error
    }

    /// A lane that is up, in turn; waits for one for a moment.
    async fn connection(&self) -> Result<Connection, CommandError> {
        if let Some(connection) = self.any(&self.state.borrow()) {
            return Ok(connection);
        }
        let mut state = self.state.subscribe();
        let lanes = timeout(LANE_WITHIN, state.wait_for(|lanes| lanes.iter().any(|lane| matches!(lane, Lane::Up(_)))));
        if let Ok(Ok(lanes)) = lanes.await
            && let Some(connection) = self.any(&lanes)
        {
            return Ok(connection);
        }
        let why = self.state.borrow().iter().find_map(|lane| match lane {
            Lane::Down(why) => Some(why.clone()),
            Lane::Up(_) => None,
        });
        let error = why.unwrap_or_else(|| CommandError::unconnected("it was lost a moment ago"));
        self.listener.observed(Observation::CommandFailed(error.kind));
        Err(error)
    }

    fn any(&self, lanes: &[Lane; LANES]) -> Option<Connection> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        (0..LANES).find_map(|step| match lanes.get((turn.wrapping_add(step)) % LANES) {
            Some(Lane::Up(connection)) => Some(connection.clone()),
            _ => None,
        })
    }

    fn broke(&self, connection: &Connection, error: &CommandError) {
        self.state.send_if_modified(|lanes| {
            let Some(lane) = lanes.get_mut(connection.lane) else { return false };
            let current = matches!(lane, Lane::Up(now) if now.number == connection.number);
            if current {
                *lane = Lane::Down(error.before_anything_was_sent());
            }
            current
        });
    }

    /// Keeps one lane, for ever.
    async fn keep(self: Arc<Self>, lane: usize, connector: Connector) {
        let connector = &connector;
        let mut backoff = Backoff::new();
        let mut whereabouts = connector.whereabouts();
        for number in 0.. {
            let mut noted = whereabouts.note();
            let (commands, run) = loop {
                match self.connect(connector).await {
                    Ok(connected) => break connected,
                    Err(error) => {
                        self.log(&error);
                        tracing::debug!(lane, %error, "no connection for commands");
                        self.listener.observed(Observation::CommandFailed(error.kind));
                        self.set(lane, Lane::Down(error.before_anything_was_sent()));
                    }
                }
                tokio::select! {
                    () = backoff.pause() => {}
                    () = whereabouts.moved(noted.as_ref()) => {}
                }
                noted = whereabouts.note();
            };
            let since = Instant::now();
            let connection = Connection { number, lane, commands, run: Arc::from(run.name.as_str()) };
            self.set(lane, Lane::Up(connection.clone()));
            *self.logged.lock().unwrap_or_else(PoisonError::into_inner) = None;
            tracing::debug!(lane, number, run = run.name, "connected for commands");
            tokio::select! {
                () = self.watch(connection.clone(), &run) => {}
                () = whereabouts.moved(noted.as_ref()) => {
                    self.broke(&connection, &CommandError::unconnected("the master is another one now"));
                    continue;
                }
            }
            if since.elapsed() > STEADY {
                backoff = Backoff::new();
            }
            backoff.pause().await;
        }
    }

    /// Looks at the server until the lane is down: it may have become a replica, or another master since.
    async fn watch(&self, mut connection: Connection, run: &Run) {
        let mut state = self.state.subscribe();
        loop {
            let broken = state.wait_for(|lanes| matches!(lanes.get(connection.lane), Some(Lane::Down(_))));
            tokio::select! {
                // The sender is a part of self, so the channel never closes.
                _ = broken => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            match self.look(&mut connection.commands).await {
                Ok(now) if now == *run => {}
                Ok(now) if now.is_replica => return self.broke(&connection, &CommandError::replica()),
                Ok(_) => return self.broke(&connection, &CommandError::unconnected("the server began another run")),
                Err(error) => {
                    let error = self.failed(error);
                    if error.broken {
                        return self.broke(&connection, &error);
                    }
                }
            }
        }
    }

    /// Who the server is. Hands on how late it is there, and logs when somebody has set its clock.
    async fn look(&self, connection: &mut MultiplexedConnection) -> RedisResult<Run> {
        let asked = Instant::now();
        let (run, time) = Run::and_time(connection).await?;
        let Some(time) = time else { return Ok(run) };
        self.listener.observed(Observation::Clock(time));
        if let Some(seconds) = self.clock.read(Reading { asked, answered: Instant::now(), time }) {
            tracing::warn!(
                redis = self.place,
                seconds = format!("{seconds:+.1}"),
                "the clock of Redis was set: open questions end so much earlier, or later if it was set back"
            );
        }
        Ok(run)
    }

    /// A connection to a master on which every script is known and can run to its end.
    async fn connect(&self, connector: &Connector) -> Result<(MultiplexedConnection, Run), CommandError> {
        let mut connection = connector.connection().await?;
        let run = self.look(&mut connection).await?;
        if run.is_replica {
            return Err(CommandError::replica());
        }
        if let Some(lacking) = self.needs.ask(&mut connection).await? {
            return Err(CommandError::unfit(&lacking));
        }
        let mut load = Pipeline::new();
        for script in SCRIPTS.all() {
            load.load_script(script).ignore();
        }
        load.exec_async(&mut connection).await?;
        Ok((connection, run))
    }

    /// Logs what the server lacks, once, until that changes. All lanes find the same.
    fn log(&self, error: &CommandError) {
        if error.kind != Failure::Unfit {
            return;
        }
        let lacking = error.to_string();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.as_ref() != Some(&lacking) {
            tracing::warn!(redis = self.place, "not ready: {lacking}");
            *logged = Some(lacking);
        }
    }

    fn set(&self, lane: usize, state: Lane) {
        self.state.send_modify(|lanes| {
            if let Some(lane) = lanes.get_mut(lane) {
                *lane = state;
            }
        });
    }
}

async fn send(connection: &mut MultiplexedConnection, command: &Cmd, asking: bool) -> RedisResult<Value> {
    if !asking {
        return command.query_async(connection).await;
    }
    // Sent as one, so nothing of others comes between.
    let mut both = Pipeline::new();
    both.ignore_errors().cmd("ASKING").ignore().add_command(command.clone());
    let answers: Vec<RedisResult<Value>> = redis::from_redis_value(both.query_async::<Value>(connection).await?)?;
    answers.into_iter().next().unwrap_or(Ok(Value::Nil))
}

fn pipeline<'a>(load: &[&Script], steps: impl Iterator<Item = &'a Step<'a>>, connection: &Connection) -> Pipeline {
    let mut pipeline = Pipeline::new();
    pipeline.ignore_errors();
    for script in load {
        pipeline.load_script(script).ignore();
    }
    for step in steps {
        match step {
            Step::Command(command) => pipeline.add_command(command.clone()),
            Step::Script(script) => pipeline.invoke_script(script),
            Step::Numbered(command) => pipeline.add_command(connection.bound(command)),
        };
    }
    pipeline
}

/// Two: one may be busy with a large reply while the other goes on.
const LANES: usize = 2;
/// Between two looks at who the server is: how long a demoted master is taken for one, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a command waits for a lane that is being connected.
pub(super) const LANE_WITHIN: Duration = Duration::from_secs(1);
/// A connection that lasted this long was a good one: the next is made without delay.
const STEADY: Duration = Duration::from_secs(5);
