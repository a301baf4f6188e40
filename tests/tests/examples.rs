//! The rooms that the client's examples show, on real nodes: each example's own code, without its terminal.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

#[path = "../../crates/client/examples/chat_room.rs"]
mod chat_room;
#[path = "../../crates/client/examples/game_room.rs"]
mod game_room;
#[path = "../../crates/client/examples/shared_document.rs"]
mod shared_document;

use std::time::Duration;

use game_room::Board;
use harness::{Cluster, PATIENCE};
use shared_document::Editor;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Somebody in the chat.
struct Chatter {
    says: mpsc::Sender<String>,
    shown: mpsc::Receiver<String>,
    task: JoinHandle<()>,
}

impl Chatter {
    fn enters(cluster: &Cluster, node: usize, name: &'static str) -> Self {
        let url = cluster.node(node).ws_url();
        let (says, lines) = mpsc::channel(16);
        let (show, shown) = mpsc::channel(100);
        let task = tokio::spawn(async move {
            let show = |line| show.try_send(line).expect("a test reads what is shown");
            chat_room::chat(&url, "lobby", name, lines, show).await.expect("a chat without trouble");
        });
        Self { says, shown, task }
    }

    async fn says(&self, text: &str) {
        self.says.send(text.to_owned()).await.expect("the chat goes on");
    }

    async fn sees(&mut self, expected: &str) {
        let line = timeout(PATIENCE, self.shown.recv()).await.expect(expected);
        assert_eq!(line.as_deref(), Some(expected));
    }

    async fn goes(self) {
        drop(self.says);
        self.task.await.expect("the chat ended well");
    }
}

#[tokio::test]
async fn the_chat_room_shows_who_is_here_and_what_they_say() {
    let cluster = Cluster::start(2).await;
    let mut alice = Chatter::enters(&cluster, 0, "alice");
    alice.sees("* 1 here: alice").await;
    let mut bob = Chatter::enters(&cluster, 1, "bob");
    bob.sees("* 2 here: alice, bob").await;
    alice.sees("* bob is here").await;
    alice.says("hello").await;
    bob.sees("alice: hello").await;
    alice.sees("alice: hello").await;
    bob.says("hello yourself").await;
    alice.sees("bob: hello yourself").await;
    bob.goes().await;
    alice.sees("* bob is gone").await;
    alice.goes().await;
}

#[tokio::test]
async fn a_shared_document_is_one_document_though_a_node_dies() {
    let cluster = Cluster::builder(2).env("HISTORY_OVERRIDES", "doc:=1000").start().await;
    let through_nginx = cluster.nginx().ws_url();
    let straight = cluster.node(1).ws_url();
    let mut first = Editor::open(&straight, "plan", "alice").await.expect("a document");
    let (halfway, dies) = tokio::sync::oneshot::channel();
    let mut halfway = Some(halfway);
    let editing = async {
        for n in 0..20 {
            first.append(&format!("alice {n}")).await.expect("an edit");
            if n == 10 {
                halfway.take().map(|halfway| halfway.send(()));
            }
        }
        first
    };
    let others = async {
        // One of these two is on the node that dies, because nginx gives each node one.
        let open = async |user: &str| Editor::open(&through_nginx, "plan", user).await.expect("a document");
        let (mut bob, mut carol) = (open("bob").await, open("carol").await);
        let edit = async |editor: &mut Editor, name: &str| {
            for n in 0..20 {
                editor.append(&format!("{name} {n}")).await.expect("an edit");
            }
        };
        futures_util::join!(edit(&mut bob, "bob"), edit(&mut carol, "carol"));
        (bob, carol)
    };
    let killing = async {
        dies.await.expect("alice comes half the way");
        assert!(
            cluster.node(0).metric("countersign_connections", "").await >= 1.0,
            "somebody is on the node that dies"
        );
        cluster.node(0).kill();
    };
    let all = async { futures_util::join!(editing, others, killing) };
    let (alice, (bob, carol), ()) = timeout(Duration::from_secs(40), all).await.expect("everybody gets to the end");
    let mut late = Editor::open(&straight, "plan", "late").await.expect("a document");
    let mut editors = [alice, bob, carol];
    let version = editors.iter().map(|editor| editor.document.version).max().expect("three editors");
    for editor in editors.iter_mut().chain([&mut late]) {
        while editor.document.version < version {
            timeout(PATIENCE, editor.hear()).await.expect("what is missing comes").expect("it is all there");
        }
    }
    let lines = late.document.lines.clone();
    assert_eq!(lines.len(), 60, "each edit once: {lines:?}");
    for editor in &editors {
        assert_eq!((&editor.document.lines, editor.document.version), (&lines, version));
    }
    for name in ["alice", "bob", "carol"] {
        let own: Vec<&String> = lines.iter().filter(|line| line.starts_with(name)).collect();
        let expected: Vec<String> = (0..20).map(|n| format!("{name} {n}")).collect();
        assert_eq!(own, expected.iter().collect::<Vec<_>>());
    }
}

/// Waits for a board that fits.
async fn board(boards: &mut mpsc::Receiver<Board>, what: &str, fits: impl Fn(&Board) -> bool) -> Board {
    let wait = async {
        loop {
            let board = boards.recv().await.expect("the game goes on");
            if fits(&board) {
                return board;
            }
        }
    };
    timeout(PATIENCE, wait).await.expect(what)
}

#[tokio::test]
async fn the_game_room_ticks_and_its_players_come_move_and_go() {
    let cluster = Cluster::builder(2).env("HISTORY_OVERRIDES", "game:=0").env("PRESENCE_TTL", "3").start().await;
    let host_url = cluster.node(0).ws_url();
    let host = tokio::spawn(async move { game_room::host(&host_url, "arena").await });
    let player = |node: usize, name: &'static str| {
        let url = cluster.node(node).ws_url();
        let (steer, moves) = mpsc::channel(16);
        let (show, boards) = mpsc::channel(1000);
        let task = tokio::spawn(async move {
            // A test that looks at another player meanwhile misses some boards.
            game_room::play(&url, "arena", name, moves, |board| drop(show.try_send(board))).await
        });
        (steer, boards, task)
    };
    let at = |board: &Board, name: &str| {
        board.players.iter().find(|(player, _)| player.as_str() == name).map(|(_, place)| *place)
    };
    let (alice, mut alices, alices_task) = player(0, "alice");
    let (bob, mut bobs, bobs_task) = player(1, "bob");
    let first = board(&mut alices, "both on the board", |board| board.players.len() == 2).await;
    for step in [(1, 0), (1, 0), (0, -1)] {
        alice.send(step).await.expect("alice plays");
    }
    bob.send((-1, 0)).await.expect("bob plays");
    let moved = |board: &Board| at(board, "alice") == Some((2, -1)) && at(board, "bob") == Some((-1, 0));
    let second = board(&mut bobs, "everybody's moves", moved).await;
    assert!(second.tick > first.tick);
    drop(bob);
    bobs_task.await.expect("no panic").expect("bob ends well");
    board(&mut alices, "bob off the board", |board| at(board, "bob").is_none() && board.tick > second.tick).await;
    drop(alice);
    alices_task.await.expect("no panic").expect("alice ends well");
    host.abort();
}
