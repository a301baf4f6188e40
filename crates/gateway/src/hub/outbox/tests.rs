//! What waits, what is written, what is left out: against a kernel that takes as much as a test says.

use std::{
    io,
    sync::Arc,
    sync::Mutex,
    task::{Context, Poll, Waker},
};

use countersign_protocol::{Address, Position, close};

use super::*;
use crate::hub::Facts;

/// A socket that takes so many bytes before it would block.
#[derive(Default)]
pub(crate) struct Kernel {
    state: Mutex<(usize, Vec<u8>, usize)>,
}

impl Kernel {
    pub(crate) fn taking(bytes: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new((bytes, Vec::new(), 0)) })
    }

    pub(crate) fn take(&self, bytes: usize) {
        self.state.lock().unwrap().0 += bytes;
    }

    /// The texts that have arrived whole, and how many writes it took.
    pub(crate) fn texts(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let (mut texts, mut bytes) = (Vec::new(), state.1.as_slice());
        while let [_, short, rest @ ..] = bytes {
            let (length, rest) = match *short {
                126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
                short => (usize::from(short), rest),
            };
            let Some(text) = rest.get(..length) else { break };
            texts.push(String::from_utf8_lossy(text).into_owned());
            bytes = &rest[length..];
        }
        texts
    }

    fn writes(&self) -> usize {
        self.state.lock().unwrap().2
    }
}

impl Sink for Arc<Kernel> {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.state.lock().unwrap();
        let taken = bytes.len().min(state.0);
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.0 -= taken;
        state.1.extend_from_slice(&bytes[..taken]);
        state.2 += 1;
        Ok(taken)
    }

    fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state.lock().unwrap().0 > 0 { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

fn limits(bytes: usize, frames: u32) -> OutboxLimits {
    OutboxLimits { bytes, frames, when_full: WhenFull::Close }
}

fn outbox(kernel: &Arc<Kernel>, bytes: usize, frames: u32) -> Outbox {
    Outbox::new(limits(bytes, frames), None, Box::new(Arc::clone(kernel)))
}

/// A frame of so many bytes on the wire, short enough for the shortest header.
fn frame(bytes: usize) -> Frame {
    Frame::plain("x".repeat(bytes - 2))
}

fn attention(outbox: &Outbox) -> Option<Attention> {
    match outbox.poll_attention(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(attention) => Some(attention),
        Poll::Pending => None,
    }
}

fn message(text: &str, offset: u64) -> Frame {
    let facts = Facts {
        position: Some(Position::new("e", offset)),
        may_be_dropped: Some(Address::Broadcast),
        ..Facts::default()
    };
    Frame::with(text.as_bytes(), facts)
}

#[test]
fn what_waits_is_written_in_order_and_in_one_call() {
    let kernel = Kernel::taking(1000);
    let outbox = outbox(&kernel, 100, 10);
    let frames: Vec<Frame> = ["one", "two", "three"].map(Frame::plain).into();
    assert!(outbox.put(&frames), "nobody else is about to write");
    assert!(!outbox.put(&[Frame::plain("four")]), "somebody is");
    assert_eq!(kernel.texts(), Vec::<String>::new());
    outbox.write();
    assert_eq!((kernel.texts().join(" "), kernel.writes(), outbox.depth()), ("one two three four".into(), 1, 0));
    assert!(outbox.put(&[Frame::plain("five")]));
}

#[test]
fn connections_that_get_the_same_get_the_same_run_and_others_their_own() {
    let kernels: Vec<_> = (0..3).map(|_| Kernel::taking(1000)).collect();
    let outboxes: Vec<_> = kernels.iter().map(|kernel| outbox(kernel, 100, 10)).collect();
    let (one, two, three) = (Frame::plain("one"), Frame::plain("two"), Frame::plain("three"));
    let given = [vec![one.clone(), two.clone()], vec![one.clone(), two.clone()], vec![one, three]];
    for (outbox, frames) in outboxes.iter().zip(&given) {
        assert!(outbox.put(frames));
    }
    for outbox in &outboxes {
        outbox.write();
    }
    let heard: Vec<_> = kernels.iter().map(|kernel| kernel.texts().join(" ")).collect();
    assert_eq!(heard, ["one two", "one two", "one three"]);
}

#[test]
fn what_the_kernel_does_not_take_waits_and_goes_on_in_the_middle_of_a_frame() {
    for first in 1..20 {
        let kernel = Kernel::taking(first);
        let outbox = outbox(&kernel, 100, 10);
        assert!(outbox.put(&[Frame::plain("hello"), Frame::plain("world"), Frame::plain("again")]));
        outbox.write();
        assert!(
            !outbox.put(&[Frame::plain("later")]),
            "only the connection's own task writes while the kernel is full"
        );
        assert_eq!(attention(&outbox), None);
        kernel.take(7);
        assert_eq!(attention(&outbox), None);
        kernel.take(100);
        assert_eq!(attention(&outbox), None);
        assert_eq!((kernel.texts().join(" "), outbox.depth()), ("hello world again later".into(), 0), "{first}");
    }
}

#[test]
fn a_full_outbox_closes_the_connection_and_frees_what_waited() {
    for (bytes, frames) in [(10, 100), (1000, 2)] {
        let outbox = outbox(&Kernel::taking(0), bytes, frames);
        for _ in 0..3 {
            outbox.push(&frame(5));
        }
        assert_eq!((attention(&outbox), outbox.depth()), (Some(Attention::Close(close::SLOW)), 0));
        outbox.push(&frame(5));
        assert_eq!((attention(&outbox), outbox.depth()), (Some(Attention::Close(close::SLOW)), 0));
    }
}

#[test]
fn what_the_kernel_takes_needs_no_room() {
    let kernel = Kernel::taking(1_000_000);
    let outbox = outbox(&kernel, 10, 2);
    let frames: Vec<Frame> = (0..100).map(|_| frame(5)).collect();
    assert!(outbox.put(&frames), "the rest has to be written");
    outbox.write();
    assert_eq!((attention(&outbox), kernel.texts().len()), (None, 100));
}

#[test]
fn the_largest_single_message_always_fits() {
    let outbox = outbox(&Kernel::taking(0), 10, 10);
    outbox.push(&Frame::plain("x".repeat(5000)));
    assert_eq!((attention(&outbox), outbox.depth()), (None, 1));
}

#[test]
fn what_a_connection_is_owed_fits_and_takes_no_room_from_the_rest() {
    let outbox = outbox(&Kernel::taking(0), 10, 2);
    for _ in 0..5 {
        outbox.owe(&Frame::plain("x".repeat(5000)));
    }
    outbox.push(&frame(5));
    outbox.push(&frame(5));
    assert_eq!((attention(&outbox), outbox.depth()), (None, 7));
    outbox.push(&frame(5));
    assert_eq!(attention(&outbox), Some(Attention::Close(close::SLOW)));
}

#[test]
fn a_drain_lets_what_waits_go_out_first() {
    let kernel = Kernel::taking(0);
    let outbox = outbox(&kernel, 100, 10);
    outbox.push(&Frame::plain("last"));
    outbox.close(close::DRAIN);
    assert_eq!(attention(&outbox), None);
    kernel.take(100);
    assert_eq!(attention(&outbox), Some(Attention::Close(close::DRAIN)));
    assert_eq!(kernel.texts(), ["last"]);
}

#[test]
fn the_last_frame_follows_the_rest_of_a_frame_that_was_begun_and_nothing_else() {
    let kernel = Kernel::taking(4);
    let outbox = outbox(&kernel, 14, 10);
    for text in ["begun", "waits", "too much"] {
        outbox.push(&Frame::plain(text));
        outbox.write();
    }
    assert_eq!(attention(&outbox), Some(Attention::Close(close::SLOW)));
    kernel.take(100);
    let last = outbox.last(Frame::plain("goodbye"));
    assert_eq!(futures_util::FutureExt::now_or_never(last), Some(()));
    assert_eq!(kernel.texts(), ["begun", "goodbye"]);
}

#[test]
fn a_slow_reader_that_prefers_it_misses_messages_and_hears_which_before_it_hears_more() {
    let kernel = Kernel::taking(0);
    let outbox =
        Outbox::new(OutboxLimits { when_full: WhenFull::Drop, ..limits(20, 2) }, None, Box::new(Arc::clone(&kernel)));
    for offset in 1..=5 {
        outbox.push(&message(&format!("m{offset}"), offset));
    }
    assert_eq!((attention(&outbox), outbox.depth(), outbox.take_dropped()), (None, 2, 3));
    // Room for one: the news comes before the message that fits again.
    kernel.take(4);
    assert_eq!(attention(&outbox), None);
    outbox.push(&message("m6", 6));
    kernel.take(1000);
    assert_eq!(attention(&outbox), None);
    let heard = kernel.texts();
    assert_eq!(heard.len(), 4, "{heard:?}");
    assert_eq!((heard[0].as_str(), heard[1].as_str(), heard[3].as_str()), ("m1", "m2", "m6"));
    let news: serde_json::Value = serde_json::from_str(&heard[2]).unwrap();
    let expected = serde_json::json!({
        "type": "messages_dropped", "topic": "broadcast", "count": 3, "position": {"epoch": "e", "offset": 2},
    });
    assert_eq!(news, expected, "a client that asks for what came after offset 2 gets the three");
}

#[test]
fn the_news_of_what_was_left_out_comes_also_when_nothing_follows() {
    let kernel = Kernel::taking(0);
    let outbox =
        Outbox::new(OutboxLimits { when_full: WhenFull::Drop, ..limits(20, 1) }, None, Box::new(Arc::clone(&kernel)));
    outbox.push(&message("m1", 1));
    outbox.push(&message("m2", 2));
    kernel.take(1000);
    assert_eq!((attention(&outbox), kernel.texts().len()), (None, 2));
    assert!(kernel.texts()[1].contains(r#""count":1"#));
}

#[test]
fn what_is_no_message_is_never_left_out() {
    let outbox =
        Outbox::new(OutboxLimits { when_full: WhenFull::Drop, ..limits(20, 1) }, None, Box::new(Kernel::taking(0)));
    outbox.push(&message("m1", 1));
    outbox.push(&Frame::plain("a reply"));
    assert_eq!(attention(&outbox), Some(Attention::Close(close::SLOW)));
}

#[test]
fn a_drain_tells_what_was_left_out_and_then_closes() {
    let kernel = Kernel::taking(0);
    let limits = OutboxLimits { when_full: WhenFull::Drop, ..limits(20, 1) };
    let outbox = Outbox::new(limits, None, Box::new(Arc::clone(&kernel)));
    outbox.push(&message("m1", 1));
    outbox.push(&message("m2", 2));
    outbox.close(close::DRAIN);
    assert_eq!(attention(&outbox), None);
    kernel.take(1000);
    assert_eq!(attention(&outbox), Some(Attention::Close(close::DRAIN)));
    assert_eq!(kernel.texts().len(), 2);
}

#[test]
fn what_was_left_out_is_told_before_what_is_replayed_of_its_address() {
    let kernel = Kernel::taking(0);
    let limits = OutboxLimits { when_full: WhenFull::Drop, ..limits(20, 1) };
    let outbox = Outbox::new(limits, None, Box::new(Arc::clone(&kernel)));
    outbox.push(&message("m1", 1));
    outbox.push(&message("m2", 2));
    outbox.owe(&message("m2", 2));
    kernel.take(1000);
    assert_eq!(attention(&outbox), None);
    let heard = kernel.texts();
    assert_eq!((heard.len(), heard[0].as_str(), heard[2].as_str()), (3, "m1", "m2"));
    assert!(heard[1].contains("messages_dropped"), "{heard:?}");
}

#[test]
fn replays_that_wait_leave_less_room_for_the_next_and_who_does_not_take_them_is_not_listened_to() {
    let kernel = Kernel::taking(0);
    let outbox = outbox(&kernel, 100, 1000);
    let replay: Vec<Frame> = (1..=30).map(|offset| message("12345678", offset)).collect();
    assert!(outbox.may_replay(&replay) && outbox.has_room());
    for frame in &replay {
        outbox.owe(frame);
    }
    assert!(!outbox.may_replay(&replay), "four outboxes are the most");
    assert!(!outbox.may_replay(&[Frame::plain("x".repeat(1000))]), "nor one of any size");
    assert!(!outbox.has_room());
    kernel.take(1_000_000);
    assert_eq!(attention(&outbox), None);
    assert!(outbox.may_replay(&replay) && outbox.has_room());
    assert!(outbox.may_replay(&[Frame::plain("x".repeat(1000))]), "one of any size fits into an empty outbox");
}

#[test]
fn the_news_of_what_was_left_out_comes_before_a_gap_that_takes_the_client_further() {
    let kernel = Kernel::taking(0);
    let limits = OutboxLimits { when_full: WhenFull::Drop, ..limits(1 << 20, 1) };
    let outbox = Outbox::new(limits, None, Box::new(Arc::clone(&kernel)));
    for offset in 1..=3 {
        outbox.push(&message(&offset.to_string(), offset));
    }
    outbox.owe(&Frame::plain("gap"));
    kernel.take(usize::MAX >> 1);
    outbox.write();
    assert_eq!(attention(&outbox), None);
    let texts = kernel.texts();
    assert!(texts[1].starts_with("{\"type\":\"messages_dropped\""), "{texts:?}");
    assert_eq!((texts[0].as_str(), &texts[2..]), ("1", &["gap".to_owned()][..]));
}
