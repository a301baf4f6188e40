//! What stands in a numbered message behind its number and time: one long run of a letter, or what a progress report has.
//! The second kind is for measuring compression, to which a run of a letter would be nothing at all and random bytes too
//! much.

use std::fmt::Write as _;

use clap::ValueEnum;
use fastrand::Rng;

/// What a message is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Content {
    /// The letter x.
    #[default]
    Pad,
    /// The fields of a progress report: names that repeat, ids, numbers and sentences that do not.
    Progress,
}

impl Content {
    /// So many different messages take turns.
    pub(super) fn variants(self) -> u64 {
        match self {
            Self::Pad => 1,
            Self::Progress => 16,
        }
    }

    /// The rest of an object, from behind a comma to its end, in exactly so many bytes, of which the shortest rest is
    /// `"pad":""}`. All characters are ASCII.
    pub(super) fn rest(self, variant: u64, bytes: usize) -> String {
        match self {
            Self::Pad => filled("pad", bytes, String::new(), &mut || "x".to_owned()),
            Self::Progress => progress(&mut Rng::with_seed(variant), bytes),
        }
    }
}

const WORDS: &[&str] = &[
    "validated",
    "rows",
    "of",
    "the",
    "import",
    "finished",
    "with",
    "warnings",
    "while",
    "waiting",
    "for",
    "approval",
    "model",
    "epoch",
    "loss",
    "checkpoint",
    "written",
    "to",
    "bucket",
    "retrying",
    "upstream",
    "timeout",
    "customer",
    "invoice",
    "missing",
    "field",
    "schema",
    "updated",
    "worker",
    "queue",
    "drained",
    "batch",
];
const STATES: &[&str] = &["ok", "ok", "ok", "failed", "skipped", "running"];

fn word(rng: &mut Rng) -> &'static str {
    rng.choice(WORDS).copied().unwrap_or_default()
}

fn progress(rng: &mut Rng, bytes: usize) -> String {
    let mut text = String::new();
    let head = format!(
        r#""type":"task_progress","task_id":"task_{:08x}","step":{},"status":"{}","#,
        rng.u32(..),
        rng.u8(1..20),
        rng.choice(STATES).copied().unwrap_or_default()
    );
    // In a message that is too short for them, the fields are left out.
    if head.len() + r#""msg":""}"#.len() <= bytes {
        text.push_str(&head);
    }
    let mut items = Vec::new();
    loop {
        let item = format!(
            r#"{{"id":"{:012x}","name":"{}_{}","state":"{}","ms":{}.{},"at":17{:08}.{:02},"rows":{}}}"#,
            rng.u64(..) >> 16,
            word(rng),
            word(rng),
            rng.choice(STATES).copied().unwrap_or_default(),
            rng.u16(1..4000),
            rng.u8(..10),
            rng.u32(..100_000_000),
            rng.u8(..100),
            rng.u32(..1_000_000)
        );
        let taken: usize = items.iter().map(|item: &String| item.len() + 1).sum();
        // A tenth of the message is prose.
        if text.len() + taken + item.len() + r#""items":[],"msg":""}"#.len() > bytes * 9 / 10 {
            break;
        }
        items.push(item);
    }
    if !items.is_empty() {
        write!(text, r#""items":[{}],"#, items.join(",")).expect("writing to memory cannot fail");
    }
    filled("msg", bytes, text, &mut || format!("{} ", word(rng)))
}

/// `text` and a last field of whatever length is left.
fn filled(name: &str, bytes: usize, mut text: String, more: &mut dyn FnMut() -> String) -> String {
    write!(text, r#""{name}":""#).expect("writing to memory cannot fail");
    let end = bytes.saturating_sub(2);
    while text.len() < end {
        text.push_str(&more());
    }
    text.truncate(end.max(name.len() + 4));
    text.push_str("\"}");
    text
}

#[cfg(test)]
mod tests {
    use countersign_ws::Deflater;

    use super::*;

    #[test]
    fn a_progress_report_is_json_of_its_length_that_shrinks_as_json_does() {
        for (bytes, least, most) in [(120, 0.6, 1.1), (1_000, 0.3, 0.7), (10_000, 0.2, 0.6)] {
            let mut seen = std::collections::BTreeSet::new();
            for variant in 0..Content::Progress.variants() {
                let text = format!("{{{}", Content::Progress.rest(variant, bytes));
                assert_eq!(text.len(), bytes + 1);
                assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap().is_object(), "{text}");
                let deflated =
                    Deflater::new(1).compress(text.as_bytes(), 15).map_or(text.len(), |deflated| deflated.len());
                let ratio = deflated as f64 / text.len() as f64;
                assert!(ratio > least && ratio < most, "{bytes} bytes shrink to {ratio}: {text}");
                seen.insert(text);
            }
            assert_eq!(seen.len(), 16, "messages differ");
        }
    }
}
