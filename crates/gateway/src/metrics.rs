//! What Prometheus scrapes. One registry a node; only the log, which a process has one of, is
//! counted for all. No label value ever comes from a client. [`TABLE`] says
//! what it means when a number moves; a test holds it against what is really exposed.

mod table;

use std::time::{Duration, Instant};

use countersign_backplane::{Link, Observation, callbacks::Swept, presence::Told};
use countersign_protocol::Status;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
    exponential_buckets,
};

use crate::{
    hub::{Load, Missed, Turn},
    log_queue,
};

pub use table::TABLE;

/// The handles of a node's metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) connections: IntGauge,
    connections_total: IntCounterVec,
    rooms: IntGauge,
    messages_in: IntCounterVec,
    action_errors: IntCounterVec,
    action_seconds: Histogram,
    heard: IntCounter,
    refused: IntCounter,
    out: IntCounter,
    bytes_out: IntCounter,
    failed: IntCounter,
    delivery_seconds: Histogram,
    holes: IntCounterVec,
    outbox_frames: IntGauge,
    slow_consumers: IntCounter,
    dropped: IntCounter,
    ping_seconds: Histogram,
    ping_timeouts: IntCounter,
    callbacks_open: IntGauge,
    callbacks_opened: IntCounter,
    callbacks_ended: IntCounterVec,
    answer_seconds: Histogram,
    receipts_opened: IntCounter,
    acks: IntCounter,
    ack_seconds: Histogram,
    heartbeats_sent: IntCounter,
    waits: IntGauge,
    http_connections: IntGauge,
    limited: IntCounterVec,
    presence_places: IntGauge,
    presence_told: IntCounterVec,
    user_connections: IntGauge,
    user_connections_ended: IntCounterVec,
    published: IntCounter,
    inbox_entries: IntCounterVec,
    inbox_waiting: IntGauge,
    http_requests: IntCounterVec,
    log_lines_dropped: IntCounter,
    link_up: Gauge,
    probe_seconds: Histogram,
    backplane_seconds: Histogram,
    backplane_errors: IntCounterVec,
    subscriber_connects: IntCounter,
    node_id_shared: IntGauge,
}

/// How a connection attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    Accepted,
    RefusedLimit,
    RefusedUserLimit,
    RefusedToken,
    RefusedOrigin,
    RefusedNotReady,
    Failed,
}

impl Attempt {
    const ALL: [Self; 7] = [
        Self::Accepted,
        Self::RefusedLimit,
        Self::RefusedUserLimit,
        Self::RefusedToken,
        Self::RefusedOrigin,
        Self::RefusedNotReady,
        Self::Failed,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::RefusedLimit => "refused_limit",
            Self::RefusedUserLimit => "refused_user_limit",
            Self::RefusedToken => "refused_token",
            Self::RefusedOrigin => "refused_origin",
            Self::RefusedNotReady => "refused_not_ready",
            Self::Failed => "failed",
        }
    }
}

/// How an entry of the inbox ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Dead,
}

impl Outcome {
    fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Dead => "dead",
        }
    }
}

/// What became of a user's connections by an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ordered {
    Replaced,
    Refused,
    Disconnected,
    Closed,
}

impl Ordered {
    const ALL: [Self; 4] = [Self::Replaced, Self::Refused, Self::Disconnected, Self::Closed];

    fn label(self) -> &'static str {
        match self {
            Self::Replaced => "replaced",
            Self::Refused => "refused",
            Self::Disconnected => "disconnected",
            Self::Closed => "closed",
        }
    }
}

/// A limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    HttpConnections,
    SilentConnections,
    Waits,
}

impl Limit {
    const ALL: [Self; 3] = [Self::HttpConnections, Self::SilentConnections, Self::Waits];

    fn label(self) -> &'static str {
        match self {
            Self::HttpConnections => "http_connections",
            Self::SilentConnections => "silent_connections",
            Self::Waits => "waits",
        }
    }
}

/// Registers one collector of the table.
struct Builder {
    registry: Registry,
}

impl Builder {
    fn help(name: &str) -> &'static str {
        TABLE.iter().find(|(known, ..)| *known == name).map(|(.., help)| *help).expect("every metric is in the table")
    }

    fn register<C: prometheus::core::Collector + Clone + 'static>(&self, collector: C) -> C {
        self.registry.register(Box::new(collector.clone())).expect("names are unique");
        collector
    }

    fn counter(&self, name: &str) -> IntCounter {
        self.register(IntCounter::new(name, Self::help(name)).expect("a legal name"))
    }

    fn counters(&self, name: &str, label: &str) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, Self::help(name)), &[label]).expect("a legal name"))
    }

    fn gauge(&self, name: &str) -> IntGauge {
        self.register(IntGauge::new(name, Self::help(name)).expect("a legal name"))
    }

    /// From `first` seconds, each bucket twice the one before.
    fn histogram(&self, name: &str, first: f64) -> Histogram {
        let buckets = exponential_buckets(first, 2.0, 16).expect("legal buckets");
        self.register(
            Histogram::with_opts(HistogramOpts::new(name, Self::help(name)).buckets(buckets)).expect("a legal name"),
        )
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let build = Builder { registry: Registry::new() };
        let connections_total = build.counters("countersign_connections_total", "result");
        for attempt in Attempt::ALL {
            connections_total.with_label_values(&[attempt.label()]);
        }
        let inbox_entries = build.counters("countersign_inbox_entries_total", "outcome");
        for outcome in [Outcome::Done, Outcome::Dead] {
            inbox_entries.with_label_values(&[outcome.label()]);
        }
        let presence_told = build.counters("countersign_presence_told_total", "event");
        for event in ["joined", "left"] {
            presence_told.with_label_values(&[event]);
        }
        let user_connections_ended = build.counters("countersign_user_connections_ordered_total", "order");
        for ordered in Ordered::ALL {
            user_connections_ended.with_label_values(&[ordered.label()]);
        }
        let limited = build.counters("countersign_limited_total", "limit");
        for limit in Limit::ALL {
            limited.with_label_values(&[limit.label()]);
        }
        let link_up = Gauge::new("countersign_link_up", Builder::help("countersign_link_up")).expect("a legal name");
        #[cfg(target_os = "linux")]
        build
            .registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("names are unique");
        Self {
            connections: build.gauge("countersign_connections"),
            connections_total,
            rooms: build.gauge("countersign_rooms"),
            messages_in: build.counters("countersign_messages_in_total", "action"),
            action_errors: build.counters("countersign_action_errors_total", "code"),
            action_seconds: build.histogram("countersign_action_seconds", 0.000_1),
            heard: build.counter("countersign_messages_heard_total"),
            refused: build.counter("countersign_messages_refused_total"),
            out: build.counter("countersign_messages_out_total"),
            bytes_out: build.counter("countersign_bytes_out_total"),
            failed: build.counter("countersign_messages_failed_total"),
            delivery_seconds: build.histogram("countersign_delivery_seconds", 0.000_05),
            holes: build.counters("countersign_holes_total", "result"),
            outbox_frames: build.gauge("countersign_outbox_frames"),
            slow_consumers: build.counter("countersign_slow_consumers_total"),
            dropped: build.counter("countersign_messages_dropped_total"),
            ping_seconds: build.histogram("countersign_ping_seconds", 0.001),
            ping_timeouts: build.counter("countersign_ping_timeouts_total"),
            callbacks_open: build.gauge("countersign_callbacks_open"),
            callbacks_opened: build.counter("countersign_callbacks_opened_total"),
            callbacks_ended: build.counters("countersign_callbacks_ended_total", "status"),
            answer_seconds: build.histogram("countersign_callback_answer_seconds", 0.005),
            receipts_opened: build.counter("countersign_receipts_opened_total"),
            acks: build.counter("countersign_acks_total"),
            ack_seconds: build.histogram("countersign_ack_seconds", 0.005),
            heartbeats_sent: build.counter("countersign_heartbeats_sent_total"),
            waits: build.gauge("countersign_waits"),
            http_connections: build.gauge("countersign_http_connections"),
            limited,
            presence_places: build.gauge("countersign_presence_places"),
            presence_told,
            user_connections: build.gauge("countersign_user_connections"),
            user_connections_ended,
            published: build.counter("countersign_published_total"),
            inbox_entries,
            inbox_waiting: build.gauge("countersign_inbox_waiting"),
            http_requests: build.counters("countersign_http_requests_total", "status"),
            log_lines_dropped: build.counter("countersign_log_lines_dropped_total"),
            link_up: build.register(link_up),
            probe_seconds: build.histogram("countersign_probe_seconds", 0.000_1),
            backplane_seconds: build.histogram("countersign_backplane_seconds", 0.000_05),
            backplane_errors: build.counters("countersign_backplane_errors_total", "kind"),
            subscriber_connects: build.counter("countersign_subscriber_connects_total"),
            node_id_shared: build.gauge("countersign_node_id_shared"),
            registry: build.registry,
        }
    }

    /// The text that Prometheus reads, with the gauges as they are now.
    pub(crate) fn render(&self, load: Load, waits: usize, link: &Link) -> String {
        self.rooms.set(count(load.rooms));
        self.outbox_frames.set(count(load.waiting));
        self.waits.set(count(waits));
        self.link_up.set(if link.is_up() { 1.0 } else { 0.0 });
        self.log_lines_dropped.inc_by(log_queue::take_dropped());
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("writing to memory cannot fail");
        String::from_utf8(text).expect("the text format is UTF-8")
    }

    pub(crate) fn attempt(&self, attempt: Attempt) {
        self.connections_total.with_label_values(&[attempt.label()]).inc();
    }

    pub(crate) fn action(&self, name: &str) {
        self.messages_in.with_label_values(&[name]).inc();
    }

    pub(crate) fn action_took(&self, took: Duration) {
        self.action_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn action_error(&self, code: &str) {
        self.action_errors.with_label_values(&[code]).inc();
    }

    pub(crate) fn heard(&self, messages: usize) {
        self.heard.inc_by(messages as u64);
    }

    pub(crate) fn refused_payload(&self) {
        self.refused.inc();
    }

    pub(crate) fn delivered(&self, turn: &Turn) {
        self.out.inc_by(turn.frames as u64);
        self.bytes_out.inc_by(turn.bytes as u64);
    }

    pub(crate) fn caught_up(&self, missed: &Missed) {
        let result = match missed {
            Missed::Messages(..) => "filled",
            Missed::Gap(..) | Missed::Torn(..) => "gap",
        };
        self.holes.with_label_values(&[result]).inc();
    }

    pub(crate) fn written(&self, heard_at: Instant) {
        self.delivery_seconds.observe(heard_at.elapsed().as_secs_f64());
    }

    pub(crate) fn not_written(&self, frames: usize) {
        self.failed.inc_by(frames as u64);
    }

    pub(crate) fn slow_consumer(&self) {
        self.slow_consumers.inc();
    }

    /// Messages left out for readers that were too slow.
    pub(crate) fn dropped(&self, messages: u64) {
        self.dropped.inc_by(messages);
    }

    pub(crate) fn pong(&self, took: Duration) {
        self.ping_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn ping_timeout(&self) {
        self.ping_timeouts.inc();
    }

    pub(crate) fn callback_opened(&self) {
        self.callbacks_opened.inc();
    }

    pub(crate) fn callback_ended(&self, status: Status) {
        self.callbacks_ended_by(status, 1);
    }

    pub(crate) fn callbacks_ended_by(&self, status: Status, how_many: u64) {
        self.callbacks_ended.with_label_values(&[status.as_str()]).inc_by(how_many);
    }

    pub(crate) fn answered_after(&self, seconds: f64) {
        self.answer_seconds.observe(seconds.max(0.0));
    }

    pub(crate) fn receipt_opened(&self) {
        self.receipts_opened.inc();
    }

    pub(crate) fn acked(&self) {
        self.acks.inc();
    }

    pub(crate) fn acked_after(&self, seconds: f64) {
        self.ack_seconds.observe(seconds.max(0.0));
    }

    pub(crate) fn swept(&self, swept: Swept) {
        self.callbacks_open.set(i64::try_from(swept.open).unwrap_or(i64::MAX));
        self.callbacks_ended_by(Status::TimedOut, swept.timed_out);
        self.heartbeats_sent.inc_by(swept.beats);
    }

    /// HTTP connections that are open now.
    pub(crate) fn open_http_connections(&self, connections: usize) {
        self.http_connections.set(count(connections));
    }

    pub(crate) fn limited(&self, limit: Limit) {
        self.limited.with_label_values(&[limit.label()]).inc();
    }

    /// What this node holds in the backplane, now.
    pub(crate) fn held(&self, places: usize, user_connections: usize) {
        self.presence_places.set(count(places));
        self.user_connections.set(count(user_connections));
    }

    pub(crate) fn presence_told(&self, told: Told) {
        self.presence_told.with_label_values(&["joined"]).inc_by(told.joined);
        self.presence_told.with_label_values(&["left"]).inc_by(told.left);
    }

    pub(crate) fn user_connections(&self, ordered: Ordered, how_many: u64) {
        self.user_connections_ended.with_label_values(&[ordered.label()]).inc_by(how_many);
    }

    pub(crate) fn published(&self, messages: usize) {
        self.published.inc_by(messages as u64);
    }

    pub(crate) fn inbox_entries(&self, outcome: Outcome, how_many: usize) {
        self.inbox_entries.with_label_values(&[outcome.label()]).inc_by(how_many as u64);
    }

    pub(crate) fn inbox_waiting(&self, entries: u64) {
        self.inbox_waiting.set(i64::try_from(entries).unwrap_or(i64::MAX));
    }

    pub(crate) fn http_request(&self, status: u16) {
        let class = match status {
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        self.http_requests.with_label_values(&[class]).inc();
    }

    pub(crate) fn observed(&self, observation: Observation) {
        match observation {
            Observation::RoundTrip(took) => self.backplane_seconds.observe(took.as_secs_f64()),
            Observation::CommandFailed(failure) => self.backplane_errors.with_label_values(&[failure.as_str()]).inc(),
            Observation::Probe(took) => self.probe_seconds.observe(took.as_secs_f64()),
            Observation::SubscriberConnected => self.subscriber_connects.inc(),
            Observation::NodeIdShared(shared) => self.node_id_shared.set(i64::from(shared)),
            Observation::Clock(_) => {}
        }
    }

    /// The figures of `GET /v1/status`, under the names that the in-process manager had.
    pub(crate) fn summary(&self) -> Summary {
        let total: u64 =
            Attempt::ALL.iter().map(|attempt| self.connections_total.with_label_values(&[attempt.label()]).get()).sum();
        let accepted = self.connections_total.with_label_values(&[Attempt::Accepted.label()]).get();
        let actions = self.action_seconds.get_sample_count();
        Summary {
            total_connections: accepted,
            failed_connections: total - accepted,
            messages_sent: self.out.get(),
            messages_failed: self.failed.get(),
            avg_response_time: if actions == 0 { 0.0 } else { self.action_seconds.get_sample_sum() / actions as f64 },
        }
    }

    /// Whether another live node has this node's id.
    pub(crate) fn node_id_is_shared(&self) -> bool {
        self.node_id_shared.get() != 0
    }

    /// Open callbacks of the whole cluster, as of the last sweep.
    pub(crate) fn open_callbacks(&self) -> i64 {
        self.callbacks_open.get()
    }
}

/// What a node has done since it started, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Summary {
    /// Accepted since start.
    pub total_connections: u64,
    /// Refused or failed since start.
    pub failed_connections: u64,
    /// Frames handed to connections since start.
    pub messages_sent: u64,
    /// Frames that could not be written.
    pub messages_failed: u64,
    /// Mean seconds from a client's action to its reply.
    pub avg_response_time: f64,
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_exactly_what_is_exposed() {
        let metrics = Metrics::new();
        metrics.action("ping");
        metrics.caught_up(&Missed::Messages(Vec::new(), countersign_protocol::Position::beginning()));
        metrics.action_error("invalid_json");
        metrics.callback_ended(Status::Confirmed);
        metrics.http_request(200);
        metrics.observed(Observation::CommandFailed(countersign_backplane::listener::Failure::Timeout));
        let text = metrics.render(Load { connections: 0, rooms: 0, waiting: 0 }, 0, &Link::Up);
        let mut exposed: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE countersign_"))
            .map(|rest| format!("countersign_{rest}"))
            .collect();
        let mut known: Vec<_> = TABLE.iter().map(|(name, kind, _)| format!("{name} {kind}")).collect();
        exposed.sort();
        known.sort();
        assert!(known.len() > 20);
        assert_eq!(exposed, known);
    }
}
