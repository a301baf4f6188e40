//! A user's open questions, read while the node goes on hearing about them. Reading takes time, and several pages if there are many:
//! what is heard meanwhile may be newer than what was read. Nothing is held back for that. A question or an end that is heard is
//! delivered at once and noted here; when the list is there, the notes are merged in, so that the list agrees with everything
//! that the devices have heard before it.
//!
//! The merge is right because a callback is opened once, ends once, and never opens again:
//! - It was read, and its end was heard since the reading began: it is over.
//! - It was heard since the reading began, and was not read: it was opened after the reading, or its end will still be heard.
//! - It was read, and its end was not heard: it is open, or its end will still be heard.
//!
//! The last two hold only as long as the subscription does. So an interruption discards the notes and the reading.

use std::collections::HashSet;

use countersign_protocol::{CallbackId, Event};

use super::Frame;

/// A user's open questions as they were read, oldest first.
#[derive(Debug, Default)]
pub(crate) struct OpenQuestions(Vec<Frame>);

/// A user's list that has to be read, and what was heard since its reading began.
#[derive(Debug, Default)]
pub(super) struct ListToRead {
    /// Somebody began to read it, and the subscription was not interrupted since.
    being_read: bool,
    asked: Vec<CallbackId>,
    ended: HashSet<CallbackId>,
}

/// What the devices of a user are told.
#[derive(Debug)]
pub(super) struct Merged {
    /// Each question, then the complete list.
    pub(super) frames: Vec<Frame>,
    /// The same as a set.
    pub(super) ids: HashSet<CallbackId>,
}

impl OpenQuestions {
    /// These frames; each is a question.
    pub(crate) fn new(questions: Vec<Frame>) -> Self {
        Self(questions)
    }

    /// Which questions.
    pub(crate) fn ids(&self) -> HashSet<CallbackId> {
        self.0.iter().filter_map(Frame::question).collect()
    }

    /// Each question, then the complete list.
    pub(crate) fn into_frames(self) -> Vec<Frame> {
        let ids = self.0.iter().filter_map(Frame::question).collect();
        let mut frames = self.0;
        frames.push(list(ids));
        frames
    }
}

impl ListToRead {
    /// The subscription was interrupted, or it is not known what was missed: what is read has to be read after this.
    pub(super) fn begin_again(&mut self) {
        *self = Self::default();
    }

    /// Somebody begins to read.
    pub(super) fn begin_reading(&mut self) {
        self.being_read = true;
    }

    /// Something was heard on the user's channel.
    pub(super) fn hear(&mut self, frame: &Frame) {
        if let Some(id) = frame.question() {
            self.asked.push(id);
        } else if let Some(id) = frame.end() {
            self.ended.insert(id);
        } else {
            return;
        }
        if self.asked.len() + self.ended.len() > MOST_NOTES {
            self.begin_again();
        }
    }

    /// What was read, with what was heard meanwhile; `None` when it has to be read again.
    pub(super) fn merge(&self, read: OpenQuestions) -> Option<Merged> {
        if !self.being_read {
            return None;
        }
        let mut frames = read.0;
        frames.retain(|frame| frame.question().is_some_and(|id| !self.ended.contains(&id)));
        let mut listed: Vec<CallbackId> = frames.iter().filter_map(Frame::question).collect();
        let mut ids: HashSet<CallbackId> = listed.iter().copied().collect();
        let open = self.asked.iter().filter(|id| !self.ended.contains(id));
        listed.extend(open.filter(|id| ids.insert(**id)));
        frames.push(list(listed));
        Some(Merged { frames, ids })
    }
}

fn list(callback_ids: Vec<CallbackId>) -> Frame {
    Frame::plain(Event::OpenCallbacks { callback_ids }.to_json())
}

/// Questions and ends that are noted during one reading, at most. When there are more, it is read again.
const MOST_NOTES: usize = 10_000;

#[cfg(test)]
mod tests {
    use countersign_protocol::{Kind, Partition};
    use serde_json::{Value, json};

    use super::*;
    use crate::hub::Facts;

    fn id(number: u128) -> CallbackId {
        CallbackId::new(Partition::from_number(1).unwrap(), number)
    }

    fn frame(kind: Kind) -> Frame {
        Frame::with(b"{}", Facts { kind, ..Facts::default() })
    }

    fn question(number: u128) -> Frame {
        frame(Kind::Question(id(number)))
    }

    fn end(number: u128) -> Frame {
        frame(Kind::End(id(number)))
    }

    fn read(numbers: impl IntoIterator<Item = u128>) -> OpenQuestions {
        OpenQuestions::new(numbers.into_iter().map(question).collect())
    }

    /// The questions that are shown again, and the list.
    fn told(merged: &Merged) -> (Vec<CallbackId>, Vec<CallbackId>) {
        let (list, questions) = merged.frames.split_last().unwrap();
        let text = list.wire(None);
        let from = text.iter().position(|byte| *byte == b'{').unwrap();
        let list: Value = serde_json::from_slice(&text[from..]).unwrap();
        assert_eq!(list["type"], json!("open_callbacks"));
        let ids: Vec<CallbackId> = serde_json::from_value(list["callback_ids"].clone()).unwrap();
        assert_eq!(merged.ids, ids.iter().copied().collect());
        (questions.iter().filter_map(Frame::question).collect(), ids)
    }

    fn reading() -> ListToRead {
        let mut reading = ListToRead::default();
        reading.begin_reading();
        reading
    }

    #[test]
    fn what_ended_while_it_was_read_is_not_told_again() {
        let mut reading = reading();
        reading.hear(&end(1));
        let merged = reading.merge(read([1, 2])).unwrap();
        assert_eq!(told(&merged), (vec![id(2)], vec![id(2)]));
    }

    #[test]
    fn what_was_asked_while_it_was_read_stays_on_the_list_and_is_not_repeated() {
        let mut reading = reading();
        reading.hear(&question(2));
        reading.hear(&question(3));
        let merged = reading.merge(read([1, 2])).unwrap();
        assert_eq!(told(&merged), (vec![id(1), id(2)], vec![id(1), id(2), id(3)]));
    }

    #[test]
    fn what_was_asked_and_ended_while_it_was_read_is_on_no_list() {
        let mut reading = reading();
        for heard in [question(2), end(2), end(3), question(3), frame(Kind::TaskCancelled), frame(Kind::Other)] {
            reading.hear(&heard);
        }
        assert_eq!(told(&reading.merge(read([2])).unwrap()), (vec![], vec![]));
    }

    #[test]
    fn an_interruption_discards_the_reading_and_what_was_heard_before() {
        let mut reading = reading();
        reading.hear(&question(1));
        reading.hear(&end(2));
        reading.begin_again();
        assert!(reading.merge(read([1])).is_none(), "what was read may be older than the interruption");
        reading.begin_reading();
        let merged = reading.merge(read([2])).unwrap();
        assert_eq!(told(&merged), (vec![id(2)], vec![id(2)]), "the end of 1 may have been missed");
    }

    #[test]
    fn more_than_can_be_noted_is_read_again() {
        let mut reading = reading();
        for number in 0..=MOST_NOTES as u128 {
            assert!(reading.merge(read([])).is_some());
            reading.hear(&end(number));
        }
        assert!(reading.merge(read([])).is_none());
    }
}
