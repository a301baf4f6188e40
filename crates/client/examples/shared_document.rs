//! A document that several people edit at once. Its history is its truth: edits are published to a topic, everybody applies
//! them in the order of their positions, and an edit that was made to an older version is nobody's, so its author makes it
//! again. Whoever comes late, or was cut off, hears what is missing, from the position where it was. Start a gateway with
//! `HISTORY_OVERRIDES=doc:=100000`, then in two terminals:
//! `cargo run -p countersign-client --example shared_document -- ws://127.0.0.1:8765/ws plan alice`
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::collections::BTreeSet;

use countersign_client::{Client, Connection, Error, Event, Message, Position, Result};
use serde::{Deserialize, Serialize};

/// The document, as everybody sees it who has heard as much.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Document {
    pub(crate) lines: Vec<String>,
    /// The last edit that was applied; the next one has to be made to it.
    pub(crate) version: u64,
    /// The last edit that was heard.
    heard: u64,
    /// Edits that were applied, so that a repeat is none.
    applied: BTreeSet<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Edit {
    id: String,
    base: u64,
    /// The line before which the text is put; at most the number of lines.
    at: usize,
    text: String,
}

impl Document {
    fn hear(&mut self, message: Message) {
        let Some(position) = message.position else { return };
        self.heard = position.offset;
        let Ok(edit) = serde_json::from_value::<Edit>(message.body.into()) else { return };
        if edit.base == self.version && edit.at <= self.lines.len() && self.applied.insert(edit.id) {
            self.lines.insert(edit.at, edit.text);
            self.version = position.offset;
        }
    }
}

/// A document and the way to the others.
pub(crate) struct Editor {
    connection: Connection,
    topic: String,
    pub(crate) document: Document,
}

impl Editor {
    /// Opens a document, with everything that was edited before.
    pub(crate) async fn open(url: &str, name: &str, user: &str) -> Result<Self> {
        let topic = format!("doc:{name}");
        let mut connection = Client::new(url)?.user_id(user)?.connect().await?;
        connection.subscribe_since(&topic, Position::beginning()).await?;
        Ok(Self { connection, topic, document: Document::default() })
    }

    /// Puts a line at the end; returns when everybody will see it.
    pub(crate) async fn append(&mut self, text: &str) -> Result<()> {
        let id = uuid::Uuid::new_v4().to_string();
        while !self.document.applied.contains(&id) {
            let Document { version, lines, .. } = &self.document;
            let edit = Edit { id: id.clone(), base: *version, at: lines.len(), text: text.to_owned() };
            match self.connection.publish(&self.topic, &edit).await {
                Ok(Some(position)) => {
                    while self.document.heard < position.offset {
                        self.hear().await?;
                    }
                }
                Ok(None) => return Err(Error::Unexpected(format!("{} keeps no history", self.topic))),
                // Whether it was published or not, a repeat with the same id is the same edit.
                Err(Error::Cut) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes what comes next.
    pub(crate) async fn hear(&mut self) -> Result<()> {
        match self.connection.next().await {
            Some(Event::Message(message)) => self.document.hear(message),
            Some(Event::Gap { .. }) => {
                return Err(Error::Unexpected("the history is not all there any more".to_owned()));
            }
            Some(_) => {}
            None => return Err(Error::Unexpected("the connection has ended".to_owned())),
        }
        Ok(())
    }
}

#[tokio::main]
#[allow(dead_code, reason = "tests take the editor without the terminal")]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let mut word = |default: &str| words.next().unwrap_or_else(|| default.to_owned());
    let (url, name, user) = (word("ws://127.0.0.1:8765/ws"), word("plan"), word("alice"));
    let (typed, mut lines) = tokio::sync::mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(std::result::Result::ok) {
            if typed.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let mut editor = Editor::open(&url, &name, &user).await?;
    loop {
        let before = editor.document.version;
        tokio::select! {
            line = lines.recv() => match line {
                Some(line) => editor.append(&line).await?,
                None => return Ok(()),
            },
            heard = editor.hear() => heard?,
        }
        if editor.document.version != before {
            println!("--- version {}\n{}", editor.document.version, editor.document.lines.join("\n"));
        }
    }
}
