//! A scenario with many people and callers: who is there, which phase it is in, and the notebook of all of them.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::api::Api;
use crate::audit::{Report, Violation, audit};
use crate::caller::{Ask, Caller, GIVES_UP, PERSISTENCE};
use crate::deadline::{PATIENCE, eventually};
use crate::fault::Lag;
use crate::history::{History, Notebook};
use crate::person::Person;

/// See the module. Everybody is gone when it is dropped.
#[derive(Debug)]
pub struct Scene {
    notebook: Notebook,
    phase: watch::Sender<u64>,
    people: JoinSet<Infallible>,
    callers: JoinSet<()>,
    gives_up: Duration,
    _lag: Lag,
}

impl Default for Scene {
    fn default() -> Self {
        Self::open()
    }
}

impl Scene {
    /// An empty scene in phase 0.
    pub fn open() -> Self {
        let notebook = Notebook::default();
        let lag = Lag::measured_in(&notebook);
        let phase = watch::Sender::new(0);
        Self { notebook, phase, people: JoinSet::new(), callers: JoinSet::new(), gives_up: GIVES_UP, _lag: lag }
    }

    /// What is written down.
    pub fn notebook(&self) -> &Notebook {
        &self.notebook
    }

    /// A person comes, who tries these addresses (`ws://…/ws`) in turn.
    pub fn person(&mut self, user: &str, device: &str, urls: &[String]) {
        let person = Person::new(user, device, urls, &self.notebook, self.phase.subscribe());
        self.people.spawn(person.live());
    }

    /// A question is put by its callers, who try these doors in turn.
    pub fn ask(&mut self, ask: &Ask, doors: &[Api]) {
        self.notebook.asks(ask.question());
        let first = self.callers.len();
        for number in first..first + ask.callers {
            let (caller, ask) =
                (Caller::new(&self.notebook, doors, number).giving_up_after(self.gives_up), ask.clone());
            self.callers.spawn(async move { drop(caller.ask(&ask).await) });
        }
    }

    /// From now on callers hang up after hearing nothing for this long.
    pub fn callers_give_up_after(&mut self, gives_up: Duration) {
        self.gives_up = gives_up;
    }

    /// The next phase: people answer what was put off until it.
    pub fn go_to(&self, phase: u64) {
        self.phase.send_replace(phase);
    }

    /// Waits until so many different callbacks were shown to somebody.
    pub async fn shown(&self, count: usize) {
        eventually(PATIENCE, &format!("{count} questions shown"), || async {
            let shown = self.notebook.read(|history| {
                let ids: std::collections::BTreeSet<_> = history.shown.iter().map(|shown| &shown.callback).collect();
                ids.len()
            });
            (shown == count).then_some(())
        })
        .await;
    }

    /// Waits until so many people have a connection.
    pub async fn connected(&self, count: usize) {
        eventually(PATIENCE, &format!("{count} devices with their lists"), || async {
            let listed = self.notebook.read(|history| {
                let lists = history.lists.iter().map(|(connection, _)| connection);
                lists.filter(|connection| history.lasting.contains(connection)).count()
            });
            (listed >= count).then_some(())
        })
        .await;
    }

    /// Waits until every caller has what it insists on, or has given up, and returns what was seen.
    pub async fn over(mut self) -> History {
        let everybody = async { while self.callers.join_next().await.is_some() {} };
        // Each gives up by itself; this only says what hangs when one does not.
        let waited = timeout(PERSISTENCE + PATIENCE, everybody).await;
        assert!(waited.is_ok(), "{} callers neither have an answer nor gave up", self.callers.len());
        self.settled().await;
        self.notebook.history()
    }

    /// The ends travel to the devices on their own: gives them a moment. What is missing then, the audit flags.
    async fn settled(&self) {
        let all_told = eventually(PATIENCE, "every device told", || async {
            let report: Report = audit(&self.notebook.history());
            let unsettled = |violation: &Violation| matches!(violation, Violation::NotTold(..) | Violation::Stale(..));
            (report.count(unsettled) == 0).then_some(())
        });
        drop(timeout(Duration::from_secs(4), all_told).await);
    }
}
