//! The loop of one thread: waits for its sockets, lets each seat read and write, opens connections a few at a time, and
//! wakes listeners at their times. Registrations are edge-triggered and made once per connection, so that the loop makes
//! one system call a turn and one a read.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use countersign_ws::Inflater;
use mio::{Events, Poll, Token};

use super::{
    Listener, Orders, Part, Seating,
    handshake::Endpoint,
    seat::{Room, Seat, Standing},
};
use crate::{
    account::meter::{Live, Meter},
    machine::clock::Clock,
};

pub(super) const WAKER: Token = Token(usize::MAX);
/// One read takes what has piled up of a busy connection; small enough for the second-level cache.
const READ_BYTES: usize = 128 * 1024;
const EVENTS: usize = 1024;
/// How often latencies are handed to those who look on.
const INTERVAL: Duration = Duration::from_secs(1);
/// The longest sleep, so that the interval is kept.
const LONGEST_WAIT: Duration = Duration::from_millis(200);

pub(super) struct Reader<L> {
    poll: Poll,
    endpoints: Vec<Endpoint>,
    clock: Clock,
    live: Arc<Live>,
    at_once: usize,
    seats: Vec<Seat<L>>,
    /// Seats that are to be opened, in order.
    waiting: VecDeque<usize>,
    opening: usize,
    /// When seats want to act by themselves.
    alarms: BinaryHeap<Reverse<(u64, usize)>>,
    room: Room,
    cuts: u64,
    looks: u64,
}

impl<L: Listener> Reader<L> {
    pub(super) fn new(
        poll: Poll,
        seating: &Seating,
        live: Arc<Live>,
        at_once: usize,
        listeners: impl Iterator<Item = (u64, L)>,
    ) -> Result<Self> {
        let seats: Vec<_> = listeners.map(|(index, listener)| Seat::new(index, listener)).collect();
        let room = Room {
            registry: poll.registry().try_clone().context("sharing an epoll instance")?,
            buffer: vec![0; READ_BYTES],
            meter: Meter::new(),
            inflater: Inflater::new(),
            now: 0,
        };
        let waiting = (0..seats.len()).collect();
        let (endpoints, clock) = (seating.endpoints.clone(), seating.clock);
        let alarms = BinaryHeap::new();
        Ok(Self { poll, endpoints, clock, live, at_once, seats, waiting, opening: 0, alarms, room, cuts: 0, looks: 0 })
    }

    pub(super) fn run(mut self, orders: &Orders) -> Result<Part<L::Summary>> {
        let mut events = Events::with_capacity(EVENTS);
        let mut published = Instant::now();
        while !orders.stop.load(Relaxed) {
            self.open_some();
            let wait = self
                .next_alarm()
                .map_or(LONGEST_WAIT, |at| Duration::from_nanos(at.saturating_sub(self.clock.now())).min(LONGEST_WAIT));
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => Err(error).context("waiting")?,
                _ => {}
            }
            self.room.meter.begin(&self.live);
            for event in &events {
                if event.token() != WAKER {
                    self.turn(event.token().0, event.is_read_closed());
                }
            }
            let cuts = orders.cuts.load(Relaxed);
            if cuts != std::mem::replace(&mut self.cuts, cuts) {
                (0..self.seats.len()).for_each(|at| self.end(at, None));
            }
            let looks = orders.looks.load(Relaxed);
            if looks != std::mem::replace(&mut self.looks, looks) {
                (0..self.seats.len()).for_each(|at| self.turn(at, false));
            }
            self.ring();
            self.room.meter.publish(&self.live);
            if published.elapsed() >= INTERVAL {
                self.room.meter.publish_interval(&self.live);
                published = Instant::now();
            }
        }
        Ok(self.gather())
    }

    /// Something happened to a socket.
    fn turn(&mut self, at: usize, has_hung_up: bool) {
        let Some(seat) = self.seats.get_mut(at) else { return };
        let (was, alarm) = (seat.standing, seat.listener.wakes_at());
        self.room.now = self.clock.now();
        let told = seat.turn(&mut self.room, has_hung_up);
        self.account(at, was, alarm);
        if let Err(error) = told {
            self.end(at, Some(format!("{error:#}")));
        }
    }

    /// Books what a turn has changed.
    fn account(&mut self, at: usize, was: Standing, alarm: Option<u64>) {
        let Some(seat) = self.seats.get(at) else { return };
        if was < Standing::Open && seat.standing >= Standing::Open {
            self.live.connected.fetch_add(1, Relaxed);
            self.live.opened.fetch_add(1, Relaxed);
            self.opening -= 1;
        }
        if was < Standing::Ready && seat.standing == Standing::Ready {
            self.live.ready.fetch_add(1, Relaxed);
        }
        if let Some(wakes_at) = seat.listener.wakes_at()
            && alarm != Some(wakes_at)
        {
            self.alarms.push(Reverse((wakes_at, at)));
        }
    }

    /// A connection is over; its listener may want another. `why` is none of the server's when it is `None`.
    fn end(&mut self, at: usize, why: Option<String>) {
        let Some(seat) = self.seats.get_mut(at) else { return };
        match seat.standing {
            Standing::Closed | Standing::Waiting => return,
            Standing::Opening => self.opening -= 1,
            Standing::Open => drop(self.live.connected.fetch_sub(1, Relaxed)),
            Standing::Ready => {
                self.live.connected.fetch_sub(1, Relaxed);
                self.live.ready.fetch_sub(1, Relaxed);
            }
        }
        self.room.now = self.clock.now();
        match seat.close(&mut self.room, why) {
            None => drop(self.live.ended.fetch_add(1, Relaxed)),
            Some(at_time) => self.alarms.push(Reverse((at_time, at))),
        }
    }

    fn open_some(&mut self) {
        while self.opening < self.at_once
            && let Some(at) = self.waiting.pop_front()
        {
            let Some(seat) = self.seats.get_mut(at) else { continue };
            let endpoint = usize::try_from(seat.index).unwrap_or_default() % self.endpoints.len().max(1);
            let Some(endpoint) = self.endpoints.get(endpoint) else { continue };
            self.opening += 1;
            if let Err(error) = seat.open(endpoint, Token(at), &self.room) {
                self.end(at, Some(format!("{error:#}")));
            }
        }
    }

    fn next_alarm(&self) -> Option<u64> {
        self.alarms.peek().map(|Reverse((at, _))| *at)
    }

    /// Wakes those whose time has come; a closed one is opened again.
    fn ring(&mut self) {
        while let Some(&Reverse((time, at))) = self.alarms.peek()
            && time <= self.clock.now()
        {
            self.alarms.pop();
            let Some(seat) = self.seats.get_mut(at) else { continue };
            if seat.standing == Standing::Closed {
                if seat.again.is_some_and(|again| again <= time) {
                    (seat.standing, seat.again) = (Standing::Waiting, None);
                    self.waiting.push_back(at);
                }
                continue;
            }
            let (was, due) = (seat.standing, seat.listener.wakes_at());
            if due.is_none_or(|due| due > time) {
                continue;
            }
            self.room.now = self.clock.now();
            let told = seat.wake(&mut self.room);
            self.account(at, was, None);
            if let Err(error) = told {
                self.end(at, Some(format!("{error:#}")));
            }
        }
    }

    fn gather(self) -> Part<L::Summary> {
        let Meter { measured, bytes, .. } = self.room.meter;
        let mut part = Part { summaries: Vec::new(), measured, bytes, ends: BTreeMap::new() };
        for seat in self.seats {
            for end in seat.ends {
                *part.ends.entry(end).or_default() += 1;
            }
            let closed = seat.standing == Standing::Closed;
            part.summaries.push((seat.index, seat.listener.summary(closed)));
        }
        part
    }
}
