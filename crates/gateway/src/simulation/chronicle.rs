//! What has happened, in order: the events of a run for whoever has to understand it, and the messages that the backplane
//! has accepted, which is what clients are held against.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt::Display,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard},
};

use countersign_protocol::{Address, Position};
use tokio::time::Instant;

/// Events that are shown when something is wrong.
const SHOWN: usize = 50;

/// See the module. Shared by everything in a run.
pub(super) struct Chronicle {
    state: Mutex<State>,
    began: Instant,
    /// Every event is printed as it happens.
    aloud: bool,
}

struct State {
    chance: fastrand::Rng,
    turn: u64,
    events: VecDeque<String>,
    digest: DefaultHasher,
    accepted: BTreeMap<String, Accepted>,
    counts: BTreeMap<String, u64>,
    numbers: HashMap<u64, (String, Place)>,
}

/// The messages of one address, in the order in which they were accepted.
#[derive(Debug, Default, Clone)]
pub(super) struct Accepted {
    /// Turns of those with a position.
    pub(super) kept: Vec<u64>,
    /// Turns of the others.
    pub(super) bare: Vec<u64>,
    positions: HashMap<Position, usize>,
}

/// Which message of an address it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// The so many-th of those with a position, and that.
    Kept(usize, Position),
    /// The so many-th of the others.
    Bare(usize),
}

impl Chronicle {
    pub(super) fn new(seed: u64, aloud: bool) -> Arc<Self> {
        let state = State {
            chance: fastrand::Rng::with_seed(seed),
            turn: 0,
            events: VecDeque::new(),
            digest: DefaultHasher::new(),
            accepted: BTreeMap::new(),
            counts: BTreeMap::new(),
            numbers: HashMap::new(),
        };
        Arc::new(Self { state: Mutex::new(state), began: Instant::now(), aloud })
    }

    /// Chance, which is the seed's.
    pub(super) fn chance<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.lock().chance)
    }

    /// Whether something happens that happens so often of a thousand times.
    pub(super) fn happens(&self, of_thousand: u32) -> bool {
        of_thousand > 0 && self.chance(|chance| chance.u32(..1000) < of_thousand)
    }

    /// The number of the next thing that happens.
    pub(super) fn turn(&self) -> u64 {
        let mut state = self.lock();
        state.turn += 1;
        state.turn
    }

    /// Something happened.
    pub(super) fn event(&self, event: impl Display) {
        let mut state = self.lock();
        state.turn += 1;
        let line = format!("{:>6} {:>9.3}s {event}", state.turn, self.began.elapsed().as_secs_f64());
        line.hash(&mut state.digest);
        if self.aloud {
            println!("{line}");
        }
        if state.events.len() >= SHOWN {
            state.events.pop_front();
        }
        state.events.push_back(line);
    }

    /// The backplane took message `number`.
    pub(super) fn accept(&self, number: u64, address: &Address, position: Option<&Position>) {
        let topic = address.client_form().to_string();
        self.event(format_args!("accepted {number} {topic} {}", position.map(Position::to_string).unwrap_or_default()));
        let mut state = self.lock();
        let turn = state.turn;
        let accepted = state.accepted.entry(topic.clone()).or_default();
        let place = if let Some(position) = position {
            accepted.kept.push(turn);
            accepted.positions.insert(position.clone(), accepted.kept.len() - 1);
            Place::Kept(accepted.kept.len() - 1, position.clone())
        } else {
            accepted.bare.push(turn);
            Place::Bare(accepted.bare.len() - 1)
        };
        state.numbers.insert(number, (topic, place));
    }

    /// The address of a message, and which one it is there.
    pub(super) fn place(&self, number: u64) -> Option<(String, Place)> {
        self.lock().numbers.get(&number).cloned()
    }

    /// Looks at the messages of an address.
    pub(super) fn accepted<T>(&self, topic: &str, look: impl FnOnce(&Accepted) -> T) -> T {
        match self.lock().accepted.get(topic) {
            Some(accepted) => look(accepted),
            None => look(&Accepted::default()),
        }
    }

    /// One more of a kind.
    pub(super) fn count(&self, kind: impl Into<String>) {
        *self.lock().counts.entry(kind.into()).or_default() += 1;
    }

    /// How many there were of each kind.
    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        self.lock().counts.clone()
    }

    /// The last events.
    pub(super) fn last_events(&self) -> String {
        Vec::from(self.lock().events.clone()).join("\n")
    }

    /// The same for the same events, and how many there were.
    pub(super) fn digest(&self) -> (u64, u64) {
        let state = self.lock();
        (state.digest.finish(), state.turn)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics in here")
    }
}

impl Accepted {
    /// Which message has a position.
    pub(super) fn at(&self, position: &Position) -> Option<usize> {
        self.positions.get(position).copied()
    }
}
