//! What is done over all partitions: timing out what nobody touched, sending heartbeats, pushing replies that were left, and listing what is open. All look at
//! every partition with one pipelined read whose cost does not depend on how much there is, and then go only where there is
//! something to do.

use countersign_protocol::{CallbackId, Partition};
use redis::{Cmd, Script, Value, cmd, from_redis_value};

use super::{
    RedisBackplane,
    failure::CommandError,
    lanes::Step,
    messages::unreadable,
    record::{Record, read_record},
    replies::LEFT_TO_THE_DECIDER_MS,
    retry::repeat,
    scripts::SCRIPTS,
};
use crate::{
    Callback, Result,
    callbacks::{Cursor, Swept},
};

impl RedisBackplane {
    pub(super) async fn sweep_partitions(&self) -> Result<Swept> {
        let due = self.due_partitions().await?;
        self.push_left(&due.replies).await;
        // What the one cannot do does not keep the other from it.
        let timed_out = self.run_due(&SCRIPTS.sweep, due.deadlines, |partition| self.keys.deadlines(partition)).await;
        let beats = self.run_due(&SCRIPTS.beat, due.heartbeats, |partition| self.keys.heartbeats(partition)).await;
        let timed_out = timed_out?;
        if let Some(error) = due.failed {
            return Err(error.into());
        }
        Ok(Swept { timed_out, open: due.open.saturating_sub(timed_out), beats: beats? })
    }

    /// Runs a verb on the partitions where something is due, by the index that it takes, until nothing is; how much it did.
    async fn run_due(
        &self,
        verb: &'static Script,
        mut due: Vec<Partition>,
        index: impl Fn(Partition) -> String,
    ) -> Result<u64> {
        let mut done = 0;
        while !due.is_empty() {
            let steps: Vec<_> = due
                .iter()
                .map(|partition| {
                    let mut script = self.on_partition(verb, *partition);
                    script.key(index(*partition)).arg(MOST_DUE);
                    Step::Script(script)
                })
                .collect();
            let answers = self.verbs(self.lanes.pipeline(&[verb], &steps).await?).await;
            let mut again = Vec::new();
            let mut failed = None;
            for (partition, answer) in due.into_iter().zip(answers) {
                // One partition that cannot be swept does not keep the others from it.
                match answer.and_then(|answer| from_redis_value::<(u64, u64)>(answer).map_err(unreadable)) {
                    Ok((some, looked_at)) => {
                        done += some;
                        if looked_at == MOST_DUE {
                            again.push(partition);
                        }
                    }
                    Err(error) => failed = Some(error),
                }
            }
            if let Some(error) = failed {
                return Err(error.into());
            }
            due = again;
        }
        Ok(done)
    }

    /// Where something is due by the clock of Redis: one read, whatever there is.
    async fn due_partitions(&self) -> Result<Due> {
        let mut steps = vec![Step::Command(cmd("TIME"))];
        for partition in Partition::all() {
            let deadlines = self.keys.deadlines(partition);
            let mut count = cmd("ZCARD");
            count.arg(&deadlines);
            let heartbeats = earliest(&self.keys.heartbeats(partition));
            let replies = earliest(&self.keys.replies(partition));
            steps.extend([earliest(&deadlines), count, heartbeats, replies].map(Step::Command));
        }
        let mut answers = self.lanes.pipeline(&[], &steps).await?.into_iter();
        let mut next =
            || answers.next().unwrap_or_else(|| Err(CommandError::unreadable("the answer of a sweep is too short")));
        let (seconds, micros): (u64, u64) = from_redis_value(next()?).map_err(unreadable)?;
        let now = seconds * 1000 + micros / 1000;
        let mut due = Due::default();
        for partition in Partition::all() {
            // One partition whose master does not answer does not keep the others from being swept.
            let answers = [next(), next(), next(), next()];
            if let Err(error) = due.note(partition, answers, now) {
                due.failed = Some(error);
            }
        }
        Ok(due)
    }

    /// Pages go through the partitions in order, and by deadline within one.
    pub(super) async fn page(&self, cursor: Option<&Cursor>, most: usize) -> Result<(Vec<Callback>, Option<Cursor>)> {
        let most = most.max(1);
        let mut place = cursor.and_then(|cursor| Place::parse(cursor)).unwrap_or_default();
        let mut page: Vec<Callback> = Vec::new();
        let mut filled = self.filled_partitions().await?;
        filled.retain(|partition| *partition >= place.partition);
        let last_filled = filled.last().copied();
        for partition in filled {
            if partition > place.partition {
                place = Place { partition, ..Place::default() };
            }
            let mut script = self.on_partition(&SCRIPTS.list, partition);
            script.key(self.keys.deadlines(partition)).arg(place.deadline_ms).arg(&place.id).arg(most - page.len());
            let (records, more) = read_page(repeat(|| self.lanes.script(&script)).await?.value)?;
            if let Some(last) = records.last() {
                place = Place { partition, deadline_ms: last.deadline_ms, id: last.callback.id.to_string() };
            }
            page.extend(records.into_iter().map(|record| record.callback));
            if more || (page.len() >= most && Some(partition) != last_filled) {
                return Ok((page, Some(place.to_string())));
            }
        }
        Ok((page, None))
    }

    async fn filled_partitions(&self) -> Result<Vec<Partition>> {
        let steps: Vec<_> = Partition::all()
            .map(|partition| {
                let mut command = cmd("EXISTS");
                command.arg(self.keys.deadlines(partition));
                Step::Command(command)
            })
            .collect();
        let answers = repeat(|| self.lanes.all(&steps)).await?.value;
        let mut filled = Vec::new();
        for (partition, answer) in Partition::all().zip(answers) {
            if from_redis_value::<bool>(answer).map_err(unreadable)? {
                filled.push(partition);
            }
        }
        Ok(filled)
    }
}

/// Where a sweep has something to do.
#[derive(Debug, Default)]
struct Due {
    deadlines: Vec<Partition>,
    heartbeats: Vec<Partition>,
    /// With a reply that was left.
    replies: Vec<Partition>,
    /// How many callbacks are open in all.
    open: u64,
    /// Why a partition was not looked at.
    failed: Option<CommandError>,
}

impl Due {
    fn note(
        &mut self,
        partition: Partition,
        [deadline, open, heartbeat, reply]: [Result<Value, CommandError>; 4],
        now: u64,
    ) -> Result<(), CommandError> {
        let (deadline, heartbeat) = (is_due(deadline?, now)?, is_due(heartbeat?, now)?);
        let reply = is_due(reply?, now.saturating_sub(LEFT_TO_THE_DECIDER_MS))?;
        self.open += from_redis_value::<u64>(open?).map_err(unreadable)?;
        self.deadlines.extend(deadline.then_some(partition));
        self.heartbeats.extend(heartbeat.then_some(partition));
        self.replies.extend(reply.then_some(partition));
        Ok(())
    }
}

/// Reads the first entry of an index by time.
fn earliest(index: &str) -> Cmd {
    let mut command = cmd("ZRANGE");
    command.arg(index).arg(0).arg(0).arg("WITHSCORES");
    command
}

/// Whether the first entry of an index by time has come.
fn is_due(answer: Value, now: u64) -> Result<bool, CommandError> {
    let earliest: Vec<(String, f64)> = from_redis_value(answer).map_err(unreadable)?;
    Ok(earliest.first().is_some_and(|(_, moment)| *moment <= now as f64))
}

/// Where a page ended: `<partition>:<deadline ms>:<id>`.
#[derive(Debug)]
struct Place {
    partition: Partition,
    deadline_ms: u64,
    id: String,
}

impl Default for Place {
    fn default() -> Self {
        let partition = Partition::from_number(0).expect("the first partition exists");
        Self { partition, deadline_ms: 0, id: String::new() }
    }
}

impl Place {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        let partition = Partition::from_number(parts.next()?.parse().ok()?)?;
        let deadline_ms = parts.next()?.parse().ok()?;
        // Only an id of ours goes back to Redis.
        let id = CallbackId::parse(parts.next()?).ok()?.to_string();
        Some(Self { partition, deadline_ms, id })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.partition.number(), self.deadline_ms, self.id)
    }
}

/// `{now, more, record, …}`.
fn read_page(answer: Value) -> Result<(Vec<Record>, bool), CommandError> {
    let mut parts = from_redis_value::<Vec<Value>>(answer).map_err(unreadable)?.into_iter();
    let now = from_redis_value(parts.next().unwrap_or_default()).map_err(unreadable)?;
    let more = from_redis_value(parts.next().unwrap_or_default()).map_err(unreadable)?;
    Ok((parts.map(|told| read_record(told, now)).collect::<Result<_, _>>()?, more))
}

/// Callbacks that one run of a script times out, or heartbeats that it sends: some 5 ms of Redis.
const MOST_DUE: u64 = 100;
