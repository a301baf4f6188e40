//! What a device shows of its user's open questions, whatever is asked, ended, heard, missed and read in whatever order.

use std::collections::{BTreeSet, VecDeque};

use countersign_protocol::UserId;
use serde_json::Value;

use super::*;

fn alice() -> Channel {
    Channel::User(UserId::parse("alice").unwrap())
}

fn id(number: u128) -> CallbackId {
    CallbackId::new(Partition::from_number(1).unwrap(), number)
}

fn question(number: u128) -> Frame {
    let text = format!(r#"{{"type":"task_step_result","callback_id":"{}"}}"#, id(number));
    Frame::with(text.as_bytes(), Facts { kind: Kind::Question(id(number)), ..Facts::default() })
}

fn end(number: u128) -> Frame {
    let text = format!(r#"{{"type":"callback_resolved","callback_id":"{}"}}"#, id(number));
    Frame::with(text.as_bytes(), Facts { kind: Kind::End(id(number)), ..Facts::default() })
}

fn read(numbers: impl IntoIterator<Item = u128>) -> OpenQuestions {
    OpenQuestions::new(numbers.into_iter().map(question).collect())
}

/// What a device shows, by the rules of every client.
#[derive(Default)]
struct Screen(BTreeSet<String>);

impl Screen {
    fn look(&mut self, device: &Device) {
        for text in sent(device) {
            let Ok(message) = serde_json::from_str::<Value>(&text) else { continue };
            let id = || message["callback_id"].as_str().unwrap().to_owned();
            match message["type"].as_str() {
                Some("task_step_result") => drop(self.0.insert(id())),
                Some("callback_resolved") => drop(self.0.remove(&id())),
                Some("open_callbacks") => {
                    let open: BTreeSet<String> = serde_json::from_value(message["callback_ids"].clone()).unwrap();
                    self.0.retain(|id| open.contains(id));
                }
                _ => {}
            }
        }
    }

    fn shows(&mut self, device: &Device) -> Vec<String> {
        self.look(device);
        self.0.iter().cloned().collect()
    }
}

fn ids(numbers: impl IntoIterator<Item = u128>) -> Vec<String> {
    numbers.into_iter().map(|number| id(number).to_string()).collect()
}

fn connected(hub: &Arc<Hub>, open: &[u128]) -> (Device, Screen) {
    let device = connect(hub);
    let read = read(open.iter().copied());
    let known = read.ids();
    device.join(&alice(), 10).unwrap().complete(&read.into_frames(), None, &known);
    (device, Screen::default())
}

fn broken_and_back(hub: &Hub) {
    hub.interrupt(Audience::Person);
    hub.resume(Audience::Person);
}

fn user() -> UserId {
    UserId::parse("alice").unwrap()
}

#[test]
fn what_ends_while_the_list_is_read_does_not_come_back() {
    let (hub, _) = hub();
    let (device, mut screen) = connected(&hub, &[1, 2]);
    broken_and_back(&hub);
    assert_eq!(hub.without_list(), [user()]);
    let list = read([1, 2]);
    // Whichever is there first, the messages that were missed or the end.
    release(&hub, &alice(), Missed::Messages(Vec::new(), Position::beginning()));
    deliver(&hub, [(alice(), end(1))]);
    assert!(!hub.list(&user(), list));
    assert_eq!(screen.shows(&device), ids([2]));
    assert_eq!(hub.without_list(), []);
}

#[test]
fn what_is_asked_while_the_list_is_read_is_not_struck_from_it() {
    let (hub, _) = hub();
    let (device, mut screen) = connected(&hub, &[1]);
    broken_and_back(&hub);
    hub.without_list();
    let list = read([1]);
    deliver(&hub, [(alice(), question(2))]);
    assert!(!hub.list(&user(), list));
    hub.holding();
    release(&hub, &alice(), Missed::Messages(Vec::new(), Position::beginning()));
    assert_eq!(screen.shows(&device), ids([1, 2]));
}

#[test]
fn a_list_that_was_read_before_another_interruption_is_read_again() {
    let (hub, _) = hub();
    let (device, mut screen) = connected(&hub, &[1, 2]);
    broken_and_back(&hub);
    hub.without_list();
    let list = read([1, 2]);
    hub.interrupt(Audience::Person);
    assert!(hub.list(&user(), list), "1 ended, and that was missed");
    assert_eq!(hub.without_list(), [], "it would have to be read again");
    hub.resume(Audience::Person);
    assert_eq!(hub.without_list(), [user()]);
    assert!(!hub.list(&user(), read([2])));
    assert_eq!(screen.shows(&device), ids([2]));
}

#[test]
fn a_list_that_could_not_be_read_is_read_though_the_messages_are_there() {
    let (hub, _) = hub();
    let (_device, _) = connected(&hub, &[1]);
    broken_and_back(&hub);
    hub.holding();
    hub.without_list();
    assert!(!release(&hub, &alice(), Missed::Messages(Vec::new(), Position::beginning())));
    assert_eq!((hub.holding(), hub.without_list()), (vec![], vec![user()]));
}

#[test]
fn one_that_joins_while_the_list_is_read_keeps_what_it_read_itself() {
    let (hub, _) = hub();
    let (_first, _) = connected(&hub, &[1]);
    broken_and_back(&hub);
    hub.without_list();
    let list = read([1]);
    // 2 is asked; the second device reads it before the node hears it.
    let (second, mut screen) = connected(&hub, &[1, 2]);
    let third = connect(&hub);
    let joining = third.join(&alice(), 10).unwrap();
    assert!(!hub.list(&user(), list));
    assert_eq!(screen.shows(&second), ids([1]), "the list is older than what it was told");
    let (own, mut third_screen) = (read([1, 2]), Screen::default());
    let known = own.ids();
    joining.complete(&own.into_frames(), None, &known);
    assert_eq!(third_screen.shows(&third), ids([1, 2]));
    hub.holding();
    release(&hub, &alice(), Missed::Messages(Vec::new(), Position::beginning()));
    deliver(&hub, [(alice(), question(2))]);
    assert_eq!((screen.shows(&second), third_screen.shows(&third)), (ids([1, 2]), ids([1, 2])));
}

#[test]
fn a_question_that_is_held_back_is_not_for_one_that_comes_after_its_end_was_missed() {
    let (hub, _) = hub();
    let (first, _) = connected(&hub, &[]);
    broken_and_back(&hub);
    deliver(&hub, [(alice(), question(1))]);
    let joining = connect(&hub);
    let joins = joining.join(&alice(), 10).unwrap();
    drop(first);
    // 1 ends meanwhile.
    broken_and_back(&hub);
    let (device, mut screen) = connected(&hub, &[]);
    hub.holding();
    release(&hub, &alice(), Missed::Messages(Vec::new(), Position::beginning()));
    assert_eq!(screen.shows(&device), Vec::<String>::new());
    drop(joins);
}

#[test]
fn a_list_that_was_read_for_those_that_have_left_is_not_for_one_that_comes_later() {
    let (hub, _) = hub();
    let (first, _) = connected(&hub, &[1]);
    broken_and_back(&hub);
    hub.holding();
    release(&hub, &alice(), Missed::Messages(Vec::new(), Position::beginning()));
    hub.without_list();
    let list = read([1]);
    let joining = connect(&hub);
    let joins = joining.join(&alice(), 10).unwrap();
    drop(first);
    // 1 ends meanwhile.
    broken_and_back(&hub);
    let (device, mut screen) = connected(&hub, &[]);
    assert!(hub.list(&user(), list), "it is older than the interruption");
    assert_eq!(screen.shows(&device), Vec::<String>::new());
    drop(joins);
}

#[test]
fn only_a_users_questions_are_on_a_list() {
    let (hub, _) = hub();
    let device = connect(&hub);
    live(&device, &topic("a"));
    interruption(&hub);
    say(&hub, &topic("a"), "bare");
    deliver(&hub, [(topic("a"), question(1))]);
    interruption(&hub);
    assert_eq!(hub.without_list(), []);
    release(&hub, &topic("a"), Missed::Gap(Frame::plain("gap"), None));
    assert_eq!(sent(&device).len(), 3, "the gap, and both messages");
}

/// A node, its user's devices and the truth, driven by chance.
struct World {
    chance: fastrand::Rng,
    hub: Arc<Hub>,
    /// What is open.
    open: BTreeSet<u128>,
    asked: u128,
    offset: u64,
    subscribed: bool,
    resumed: bool,
    /// Published and not heard yet.
    stream: VecDeque<Frame>,
    /// The node reads the list: what it has read so far, up to which number, or everything.
    reading: Option<(Vec<u128>, Option<u128>)>,
    /// It fills a hole: what it has read.
    filling: Option<u64>,
    devices: Vec<Seat>,
}

/// A device: it joins, reads, and is live.
struct Seat {
    device: Device,
    screen: Screen,
    joining: Option<Joining>,
    read: Option<Vec<u128>>,
}

impl World {
    fn new(seed: u64) -> Self {
        let (hub, _) = hub();
        Self {
            chance: fastrand::Rng::with_seed(seed),
            hub,
            open: BTreeSet::new(),
            asked: 0,
            offset: 0,
            subscribed: true,
            resumed: true,
            stream: VecDeque::new(),
            reading: None,
            filling: None,
            devices: Vec::new(),
        }
    }

    fn publish(&mut self, frame: Frame) {
        if self.subscribed {
            self.stream.push_back(frame);
        }
    }

    fn hear(&mut self, most: usize) {
        let batch: Vec<_> = self.stream.drain(..most.min(self.stream.len())).map(|frame| (alice(), frame)).collect();
        deliver(&self.hub, batch);
    }

    fn step(&mut self) {
        match self.chance.u8(..14) {
            0..3 => {
                self.asked += 1;
                self.open.insert(self.asked);
                self.publish(question(self.asked));
            }
            3..5 => {
                let open: Vec<u128> = self.open.iter().copied().collect();
                if !open.is_empty() {
                    let ended = open[self.chance.usize(..open.len())];
                    self.open.remove(&ended);
                    self.publish(end(ended));
                }
            }
            5 => {
                self.offset += 1;
                // A message that is lost without an interruption makes a hole.
                if self.chance.u8(..4) > 0 {
                    self.publish(at("{}", "e", self.offset));
                }
            }
            6..9 => {
                let most = self.chance.usize(..4);
                self.hear(most);
            }
            9 => self.line(),
            10 => self.catch_up(),
            11 => self.fill(),
            12 => self.sit(),
            _ => {
                let seats = self.devices.len();
                if seats > 0 {
                    let at = self.chance.usize(..seats);
                    self.join(at);
                }
            }
        }
    }

    /// The line breaks, or a part of it comes back.
    fn line(&mut self) {
        if self.resumed && self.chance.bool() {
            (self.subscribed, self.resumed) = (false, false);
            self.stream.clear();
            self.hub.interrupt(Audience::Person);
        } else if !self.subscribed {
            self.subscribed = true;
        } else if !self.resumed {
            self.resumed = true;
            self.hub.resume(Audience::Person);
        }
    }

    /// The node begins to read the list, reads a page of it, or tells it.
    fn catch_up(&mut self) {
        match self.reading.take() {
            None => {
                if self.hub.without_list() == [user()] {
                    self.reading = Some((Vec::new(), Some(0)));
                }
            }
            Some((mut read, Some(after))) => {
                let page: Vec<u128> = self.open.range(after + 1..).take(2).copied().collect();
                let last = (page.len() == 2).then(|| page[1]);
                read.extend(page);
                self.reading = Some((read, last));
            }
            Some((all, None)) => drop(self.hub.list(&user(), read(all))),
        }
    }

    /// The node reads the history, or tells it.
    fn fill(&mut self) {
        match self.filling.take() {
            None => {
                if let Some((_, _)) = self.hub.holding().first() {
                    self.filling = Some(self.offset);
                }
            }
            Some(newest) => {
                let told = Frame::with(b"{}", Facts { position: Some(Position::new("e", newest)), ..Facts::default() });
                release(&self.hub, &alice(), Missed::Gap(told, Some(Position::new("e", newest))));
            }
        }
    }

    /// A device comes, or goes.
    fn sit(&mut self) {
        if self.devices.len() < 3 {
            let device = connect(&self.hub);
            let joining = Some(device.join(&alice(), 10).unwrap());
            self.devices.push(Seat { device, screen: Screen::default(), joining, read: None });
        } else {
            let at = self.chance.usize(..self.devices.len());
            self.devices.swap_remove(at);
        }
    }

    /// A device reads, or goes live.
    fn join(&mut self, at: usize) {
        let seat = &mut self.devices[at];
        let Some(joining) = seat.joining.take() else { return };
        match seat.read.take() {
            None => {
                // The subscription is confirmed.
                if self.subscribed {
                    joining.reads();
                    seat.read = Some(self.open.iter().copied().collect());
                }
                seat.joining = Some(joining);
            }
            Some(open) => {
                let read = read(open);
                let known = read.ids();
                let position = Position::new("e", self.offset);
                joining.complete(&read.into_frames(), Some(&position), &known);
                let attention = seat.device.outbox().poll_attention(&mut Context::from_waker(Waker::noop()));
                if matches!(attention, Poll::Ready(_)) {
                    // It was closed, and comes back.
                    self.devices.swap_remove(at);
                }
            }
        }
    }

    /// Everything works, and what is under way comes to its end.
    fn settle(&mut self) {
        while !(self.subscribed && self.resumed) {
            self.line();
        }
        for _ in 0..100 {
            self.hear(usize::MAX);
            (0..self.devices.len()).rev().for_each(|at| self.join(at));
            self.catch_up();
            self.fill();
        }
    }
}

#[test]
fn whatever_happens_in_whatever_order_every_device_comes_to_show_what_is_open() {
    let mut shown = 0;
    for seed in 0..3000 {
        let mut world = World::new(seed);
        for _ in 0..150 {
            world.step();
            let at = world.chance.usize(..=world.devices.len());
            if let Some(Seat { device, screen, .. }) = world.devices.get_mut(at) {
                screen.look(device);
            }
        }
        world.settle();
        let open = ids(world.open.iter().copied());
        for Seat { device, screen, joining, .. } in &mut world.devices {
            assert!(joining.is_none(), "seed {seed}: it is still joining");
            assert_eq!(screen.shows(device), open, "seed {seed}");
            shown += 1;
        }
    }
    assert!(shown > 3000, "{shown} devices");
}
