//! What one client knows of one address, held against what the backplane has accepted: which message has to come next, what was
//! told instead, and where the client is when it comes back. Pure: it is told everything.

use std::collections::VecDeque;

use countersign_protocol::Position;

use super::chronicle::{Accepted, Chronicle, Place};

/// What does not add up.
pub(super) type Wrong = String;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Account {
    topic: String,
    keeps_history: bool,
    /// Whether its numbering ends when nothing is published for a while.
    forgets: bool,
    /// What the client has asked for and not heard of.
    asked: VecDeque<Asked>,
    member: bool,
    /// An answer said that something did not work: the client may be a member or not.
    unsure: bool,
    /// Of the last message that it heard or was told of.
    at: Option<Position>,
    kept: Next,
    bare: Next,
    /// Messages that it was told it misses, and that were not missed yet.
    dropped: u64,
    /// In which turn it was told of a gap.
    gap: u64,
}

/// Which message is next: at least this one, and at most that one.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Next {
    least: usize,
    most: usize,
}

/// What a client has asked for.
#[derive(Debug)]
struct Asked {
    /// Of the action; 0 is the beginning of the connection.
    id: u64,
    wish: Wish,
}

#[derive(Debug)]
enum Wish {
    Join {
        since: Option<Position>,
        /// How many messages there were.
        kept: usize,
    },
    Leave,
}

impl Next {
    fn exactly(next: usize) -> Self {
        Self { least: next, most: next }
    }

    fn is_exact(self) -> bool {
        self.least == self.most
    }
}

impl Account {
    pub(super) fn new(topic: &str, keeps_history: bool, forgets: bool) -> Self {
        Self { topic: topic.to_owned(), keeps_history, forgets, ..Self::default() }
    }

    /// Where the client is.
    pub(super) fn at(&self) -> Option<&Position> {
        self.at.as_ref()
    }

    pub(super) fn is_member(&self) -> bool {
        self.member && !self.unsure && self.asked.is_empty()
    }

    /// Whether something that was asked for is under way.
    pub(super) fn is_waiting(&self) -> bool {
        !self.asked.is_empty()
    }

    pub(super) fn asks_to_join(&mut self, id: u64, since: Option<Position>, chronicle: &Chronicle) {
        let kept = chronicle.accepted(&self.topic, |accepted| accepted.kept.len());
        self.asked.push_back(Asked { id, wish: Wish::Join { since, kept } });
    }

    pub(super) fn asks_to_leave(&mut self, id: u64) {
        self.asked.push_back(Asked { id, wish: Wish::Leave });
    }

    /// The connection is over.
    pub(super) fn ended(&mut self) {
        self.ended_membership();
        self.asked.clear();
        // Another node may be later.
        self.bare = Next::default();
    }

    /// The client begins anew with what is there now.
    pub(super) fn forgets(&mut self) {
        self.at = None;
    }

    /// Action `id` went wrong.
    pub(super) fn failed(&mut self, id: u64) {
        let before = self.asked.len();
        self.asked.retain(|asked| asked.id != id);
        self.unsure |= self.asked.len() != before;
    }

    pub(super) fn left(&mut self, id: u64) -> Result<(), Wrong> {
        match self.asked.pop_front() {
            Some(Asked { id: of, wish: Wish::Leave }) if of == id => {
                self.ended_membership();
                Ok(())
            }
            other => Err(format!("{}: left {id}, after {other:?}", self.topic)),
        }
    }

    fn ended_membership(&mut self) {
        (self.member, self.unsure, self.dropped, self.gap) = (false, false, 0, 0);
    }

    /// The subscription was confirmed, in this turn.
    pub(super) fn joined(
        &mut self,
        turn: u64,
        id: u64,
        position: Option<Position>,
        recovered: Option<bool>,
        chronicle: &Chronicle,
    ) -> Result<(), Wrong> {
        let topic = self.topic.clone();
        let (since, kept) = match self.asked.pop_front() {
            Some(Asked { id: of, wish: Wish::Join { since, kept } }) if of == id => (since, kept),
            other => return Err(format!("{topic}: joined {id}, after {other:?}")),
        };
        if position.is_some() != self.keeps_history {
            return Err(format!("{topic}: joined at {position:?}, and keeps history: {}", self.keeps_history));
        }
        if recovered.is_some() != since.is_some() && (self.keeps_history || id > 0) {
            return Err(format!("{topic}: joined with recovered {recovered:?} since {since:?}"));
        }
        let stays = self.member && !self.unsure && since.is_none();
        chronicle.accepted(&topic, |accepted| {
            if !stays {
                // Those that its node has still to hear came before it asked.
                self.bare.most = before(&accepted.bare, turn).max(self.bare.least);
                (self.dropped, self.gap) = (0, 0);
            }
            let Some(position) = position else { return Ok(()) };
            self.dropped = 0;
            // Who is a member already is told where it is, and not where the address is.
            let open =
                if stays { self.kept } else { Next { least: kept, most: before(&accepted.kept, turn).max(kept) } };
            if let (Some(since), Some(true)) = (since, recovered) {
                // From the beginning means from the beginning of the numbering that is current.
                let from = if since.offset == 0 { Position::new(position.epoch, 0) } else { since.clone() };
                self.kept = after(accepted, &from)?.unwrap_or(open);
                self.at = Some(since);
            } else {
                self.kept = after(accepted, &position)?.unwrap_or(open);
                self.at = Some(position);
            }
            Ok::<_, Wrong>(())
        })?;
        (self.member, self.unsure) = (true, false);
        Ok(())
    }

    /// A message was heard.
    pub(super) fn hears(&mut self, place: &Place, chronicle: &Chronicle) -> Result<(), Wrong> {
        if !self.member && !self.unsure {
            return Err(format!("{}: heard {place:?} and is no member", self.topic));
        }
        let (next, index) = match place {
            Place::Kept(index, _) => (self.kept, *index),
            Place::Bare(index) => (self.bare, *index),
        };
        if index < next.least {
            return Err(format!("{}: heard {place:?} again or too late, {next:?} was next", self.topic));
        }
        chronicle.accepted(&self.topic, |accepted| self.misses(place, index, accepted))?;
        match place {
            Place::Kept(_, position) => {
                self.kept = Next::exactly(index + 1);
                self.at = Some(position.clone());
            }
            Place::Bare(_) => self.bare = Next::exactly(index + 1),
        }
        self.dropped = 0;
        Ok(())
    }

    /// Nothing before the message `until` comes any more: it was told of what it did not hear.
    fn misses(&self, kind: &Place, until: usize, accepted: &Accepted) -> Result<(), Wrong> {
        let (next, missed) = match kind {
            // A numbering has come and gone, and the client was at the beginning before and after.
            Place::Kept(_, Position { offset: 0 | 1, .. })
                if self.forgets && self.at.as_ref().is_none_or(|at| at.offset == 0) =>
            {
                return Ok(());
            }
            Place::Kept(..) => (self.kept, until.saturating_sub(self.kept.most)),
            // Published with a bare PUBLISH where history is kept: at most once.
            Place::Bare(_) if self.keeps_history => return Ok(()),
            Place::Bare(_) => {
                let missed = accepted.bare.get(self.bare.most..until).unwrap_or_default();
                (self.bare, missed.iter().filter(|turn| **turn >= self.gap).count())
            }
        };
        let missed = missed as u64;
        let exact = next.is_exact() && self.gap == 0;
        if missed > self.dropped || (exact && missed < self.dropped) {
            let topic = &self.topic;
            return Err(format!(
                "{topic}: {missed} missing before message {until}, {next:?} was next, and {} were told as dropped",
                self.dropped
            ));
        }
        Ok(())
    }

    /// A gap was told, in this turn.
    pub(super) fn gap(&mut self, turn: u64, position: Option<Position>, chronicle: &Chronicle) -> Result<(), Wrong> {
        if !self.member && !self.unsure {
            return Err(format!("{}: heard of a gap and is no member", self.topic));
        }
        self.gap = turn;
        if !self.keeps_history {
            return Ok(());
        }
        self.dropped = 0;
        chronicle.accepted(&self.topic, |accepted| {
            let open = Next { least: self.kept.least, most: before(&accepted.kept, turn).max(self.kept.least) };
            let next = match &position {
                Some(position) => after(accepted, position)?.unwrap_or(open),
                None => open,
            };
            if next.least < self.kept.least {
                return Err(format!("{}: a gap goes back to {position:?}, {:?} was next", self.topic, self.kept));
            }
            self.kept = next;
            Ok(())
        })?;
        self.at = position.or_else(|| self.at.take());
        Ok(())
    }

    /// Messages were left out.
    pub(super) fn drops(
        &mut self,
        count: u64,
        position: Option<&Position>,
        chronicle: &Chronicle,
    ) -> Result<(), Wrong> {
        if !self.member && !self.unsure {
            // Of what was left out before it left.
            return Ok(());
        }
        if let Some(position) = position.filter(|position| position.offset > 0)
            && self.dropped == 0
            && self.kept.is_exact()
        {
            let next = chronicle.accepted(&self.topic, |accepted| after(accepted, position))?;
            if next != Some(self.kept) {
                return Err(format!("{}: dropped after {position}, and {:?} was next", self.topic, self.kept));
            }
        }
        self.dropped += count;
        Ok(())
    }

    /// Everything that was accepted has had its time.
    pub(super) fn adds_up(&self, chronicle: &Chronicle) -> Result<(), Wrong> {
        if !self.is_member() {
            return Ok(());
        }
        chronicle.accepted(&self.topic, |accepted| {
            if self.keeps_history {
                let last = Place::Kept(accepted.kept.len(), Position::beginning());
                return self.misses(&last, accepted.kept.len(), accepted);
            }
            self.misses(&Place::Bare(accepted.bare.len()), accepted.bare.len(), accepted)
        })
    }
}

/// How many messages were accepted before a turn.
fn before(turns: &[u64], turn: u64) -> usize {
    turns.partition_point(|accepted| *accepted < turn)
}

/// The message after a position; `None` where the numbering has none yet.
fn after(accepted: &Accepted, position: &Position) -> Result<Option<Next>, Wrong> {
    if position.offset == 0 {
        let first = Position::new(position.epoch.clone(), 1);
        return Ok(accepted.at(&first).map(Next::exactly));
    }
    match accepted.at(position) {
        Some(index) => Ok(Some(Next::exactly(index + 1))),
        None => Err(format!("position {position} was never given")),
    }
}
