//! When connections want to be woken. One a node: a table of moments and one task that sleeps until the first of them, instead
//! of a timer for every connection. Moments are whole ticks, rounded up: an alarm rings never early and at most a tick late,
//! and what rings in the same tick is one turn of that task.

use std::{
    collections::BTreeMap,
    num::NonZero,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::hub::Outbox;

/// A moment, in ticks since the node began. Four bytes, also where there may be none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tick(NonZero<u32>);

/// A sixteenth of a second: 32 bits last for eight years.
const TICK: Duration = Duration::from_micros(62_500);

/// A time as whole ticks, rounded up; what is too long is for ever.
pub(crate) fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u32::MAX)
}

impl Tick {
    fn number(ticks: u32) -> Self {
        Self(NonZero::new(ticks).unwrap_or(NonZero::<u32>::MIN))
    }

    /// So many ticks later.
    pub(crate) fn plus(self, ticks: u32) -> Self {
        Self(self.0.saturating_add(ticks))
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Alarms {
    beginning: Instant,
    state: Mutex<State>,
    sooner: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By moment, and in the order in which connections came.
    set: BTreeMap<(Tick, u32), Arc<Outbox>>,
    /// Of the connection that came last. After four billion of them two may have the same: one that is 30 s away from its ping
    /// is not among them.
    number: u32,
}

/// The alarm of one connection. Dropping it puts it off for ever.
#[derive(Debug)]
pub(crate) struct Alarm {
    alarms: Arc<Alarms>,
    number: u32,
    at: Option<Tick>,
}

impl Alarms {
    pub(crate) fn new() -> Arc<Self> {
        // A tick earlier, so that no moment is the tick 0.
        let beginning = Instant::now().checked_sub(TICK).unwrap_or_else(Instant::now);
        Arc::new(Self { beginning, state: Mutex::default(), sooner: Notify::new() })
    }

    /// An alarm that is not set.
    pub(crate) fn alarm(self: &Arc<Self>) -> Alarm {
        let mut state = self.lock();
        state.number = state.number.wrapping_add(1);
        Alarm { alarms: Arc::clone(self), number: state.number, at: None }
    }

    /// Rings what is due, until `stopped`.
    pub(crate) async fn ring(&self, stopped: impl Future<Output = ()>) {
        let mut stopped = pin!(stopped);
        loop {
            let first = self.ring_due();
            let due = async {
                match first {
                    Some(first) => sleep_until(self.beginning + TICK * first.0.get()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = &mut stopped => return,
                () = self.sooner.notified() => {}
                () = due => {}
            }
        }
    }

    /// Rings everything that is due; the next moment.
    fn ring_due(&self) -> Option<Tick> {
        let now = self.now();
        loop {
            let mut state = self.lock();
            let first = state.set.first_entry()?;
            let at = first.key().0;
            if at > now {
                return Some(at);
            }
            let outbox = first.remove();
            drop(state);
            outbox.ring();
        }
    }

    /// The last tick that has begun.
    fn now(&self) -> Tick {
        Tick::number(u32::try_from(self.beginning.elapsed().as_nanos() / TICK.as_nanos()).unwrap_or(u32::MAX))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics between two states, so a poisoned lock still guards a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Alarm {
    /// The last tick that has begun: what is set for it or for an earlier one is due.
    pub(crate) fn now(&self) -> Tick {
        self.alarms.now()
    }

    /// The first tick after so much time.
    pub(crate) fn after(&self, time: Duration) -> Tick {
        Tick::number(ticks(self.alarms.beginning.elapsed().saturating_add(time)))
    }

    /// Rings `outbox` at this moment, and at no other.
    pub(crate) fn set(&mut self, at: Tick, outbox: &Arc<Outbox>) {
        if self.at == Some(at) {
            return;
        }
        let mut state = self.alarms.lock();
        if let Some(before) = self.at.replace(at) {
            state.set.remove(&(before, self.number));
        }
        let sooner = state.set.first_key_value().is_none_or(|((first, _), _)| at < *first);
        state.set.insert((at, self.number), Arc::clone(outbox));
        drop(state);
        if sooner {
            self.alarms.sooner.notify_one();
        }
    }

    /// It has rung, or shall not.
    pub(crate) fn put_off(&mut self) {
        if let Some(at) = self.at.take() {
            self.alarms.lock().set.remove(&(at, self.number));
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.put_off();
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use tokio::time::advance;

    use super::*;
    use crate::hub::{Attention, Deaf, OutboxLimits, WhenFull};

    const SECOND: Duration = Duration::from_secs(1);

    fn outbox() -> Arc<Outbox> {
        let limits = OutboxLimits { bytes: 1, frames: 1, when_full: WhenFull::Close };
        Arc::new(Outbox::new(limits, None, Box::new(Deaf)))
    }

    fn rings(outbox: &Outbox) -> bool {
        outbox.poll_attention(&mut Context::from_waker(Waker::noop())) == Poll::Ready(Attention::Alarm)
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_rings_once_at_its_last_moment_and_never_early() {
        let alarms = Alarms::new();
        let (outbox, mut alarm) = (outbox(), alarms.alarm());
        alarm.set(alarm.after(SECOND), &outbox);
        alarm.set(alarm.after(3 * SECOND), &outbox);
        for _ in 0..2 {
            advance(SECOND).await;
            assert!(alarms.ring_due().is_some() && !rings(&outbox));
        }
        advance(SECOND + TICK).await;
        assert_eq!(alarms.ring_due(), None);
        assert!(rings(&outbox) && !rings(&outbox));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_goes_is_not_rung_and_leaves_nothing() {
        let alarms = Alarms::new();
        let (outbox, mut alarm, mut other) = (outbox(), alarms.alarm(), alarms.alarm());
        alarm.set(alarm.after(SECOND), &outbox);
        other.set(other.after(SECOND), &outbox);
        other.put_off();
        drop(alarm);
        advance(2 * SECOND).await;
        assert_eq!(alarms.ring_due(), None);
        assert!(!rings(&outbox));
        assert_eq!(Arc::strong_count(&outbox), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_set_sooner_than_all_others_is_not_waited_for_in_vain() {
        let alarms = Alarms::new();
        let (late, soon) = (outbox(), outbox());
        let (mut one, mut other) = (alarms.alarm(), alarms.alarm());
        one.set(one.after(60 * SECOND), &late);
        let ringing = {
            let alarms = Arc::clone(&alarms);
            tokio::spawn(async move { alarms.ring(std::future::pending()).await })
        };
        tokio::time::sleep(SECOND).await;
        other.set(other.after(SECOND), &soon);
        let set_at = Instant::now();
        std::future::poll_fn(|cx| soon.poll_attention(cx)).await;
        let took = set_at.elapsed();
        assert!(took >= SECOND && took <= SECOND + TICK, "{took:?}");
        assert!(!rings(&late));
        ringing.abort();
    }
}
