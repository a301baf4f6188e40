//! Callbacks that nobody answers: opened before a measurement, so that it shows what many open ones cost the others, the
//! nodes' sweeps and Redis. Taken back afterwards, by one cancellation of their task.

use std::{cell::RefCell, time::Duration};

use anyhow::{Context, Result};
use countersign_client::{OnTimeout, Producer, StepResult};
use futures_util::{StreamExt, stream};
use serde::Serialize;

use crate::{
    account::report::{grouped, percent, round},
    machine::process::Processes,
    progress::Progress,
};

/// Longer than any measurement.
const TIMEOUT: Duration = Duration::from_secs(3600);
/// Of one person; the gateway's default limit is 1,000.
const OF_ONE_USER: u64 = 500;
/// Being opened at one time.
const AT_ONCE: usize = 64;
/// How long the nodes are watched while they have nothing to do but to sweep.
const WATCHED: Duration = Duration::from_secs(5);

/// What many open callbacks cost while nothing happens.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Backlog {
    /// Callbacks that are open all the while.
    pub(crate) open: u64,
    /// Of Redis's memory, payload (about 500 bytes) included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) redis_bytes_each: Option<f64>,
    /// Of one core, all nodes together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) idle_cpu_percent: Option<f64>,
}

/// A backlog that stands.
pub(crate) struct Standing {
    task: String,
    pub(crate) figures: Backlog,
}

impl Standing {
    /// Opens `open` callbacks and watches what they cost.
    pub(crate) async fn open(
        open: u64,
        producer: &Producer,
        redis: Option<&RefCell<redis::Connection>>,
        server: &Processes,
        progress: &Progress,
    ) -> Result<Self> {
        let task = format!("bench-backlog-{:016x}", std::process::id());
        let memory = || redis.map(used_memory).transpose();
        let before = memory()?;
        let result = StepResult { message: "Go on?".into(), status: "completed".into(), ..StepResult::default() };
        let mut opening = stream::iter((0..open).map(|number| {
            let (result, task) = (&result, &task);
            async move {
                let user = format!("bench-backlog-{}", number / OF_ONE_USER);
                producer.ask(result, &user, task, number).timeout(TIMEOUT).on_timeout(OnTimeout::Fail).open().await
            }
        }))
        .buffer_unordered(AT_ONCE);
        let mut opened = 0;
        while let Some(callback) = opening.next().await {
            callback.context("opening the backlog")?;
            opened += 1;
            if opened % 1000 == 0 {
                progress.say(format_args!("{} open callbacks", grouped(opened)));
            }
        }
        drop(opening);
        let redis_bytes_each = match (before, memory()?) {
            (Some(before), Some(after)) => Some(round((after.saturating_sub(before)) as f64 / open.max(1) as f64, 0)),
            _ => None,
        };
        let idle_before = server.usage()?;
        tokio::time::sleep(WATCHED).await;
        let idle_cpu_percent = match (idle_before, server.usage()?) {
            (Some(before), Some(after)) => Some(percent(after.cpu.saturating_sub(before.cpu), WATCHED.as_secs_f64())),
            _ => None,
        };
        Ok(Self { task, figures: Backlog { open, redis_bytes_each, idle_cpu_percent } })
    }

    /// Takes everything back.
    pub(crate) async fn close(self, producer: &Producer) -> Result<Backlog> {
        producer.cancel_task(&self.task, None).await.context("taking the backlog back")?;
        Ok(self.figures)
    }
}

fn used_memory(redis: &RefCell<redis::Connection>) -> Result<u64> {
    let info: String = redis::cmd("INFO").arg("memory").query(&mut *redis.borrow_mut()).context("INFO memory")?;
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse().ok());
    used.context("INFO memory says nothing of used_memory")
}
