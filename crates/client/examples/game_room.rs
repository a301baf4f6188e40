//! A game room: the host keeps the state and publishes it at every tick, players publish their moves. Whoever comes is on the
//! board, and whoever goes, or whose machine dies, is off it. Ticks are worth nothing once they are over: start a gateway with
//! `HISTORY_OVERRIDES=game:=0`, then
//! `cargo run -p countersign-client --example game_room -- ws://127.0.0.1:8765/ws arena host` and, in other terminals, the same
//! with the names of players, who steer with the lines h, j, k and l.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::{collections::BTreeMap, time::Duration};

use countersign_client::{Client, Event, Result, UserId};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

/// Twenty times a second.
const TICK: Duration = Duration::from_millis(50);

/// What everybody sees.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Board {
    pub(crate) tick: u64,
    pub(crate) players: BTreeMap<UserId, (i64, i64)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Move {
    player: UserId,
    dx: i64,
    dy: i64,
}

/// Runs a game, for ever.
pub(crate) async fn host(url: &str, game: &str) -> Result<()> {
    let (board_topic, moves) = (format!("game:{game}"), format!("game:{game}:moves"));
    let me = UserId::parse("host")?;
    let mut connection = Client::new(url)?.user_id(me.as_str())?.connect().await?;
    connection.subscribe(&moves).await?;
    let mut board = Board::default();
    let here = connection.watch(&board_topic).await?;
    board.players.extend(here.members.into_iter().map(|player| (player, (0, 0))));
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let remote = connection.remote();
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                board.tick += 1;
                board.players.remove(&me);
                // A tick that was cut off is followed by the next one. Nobody waits for it here, because replies come only
                // while events are taken.
                let (remote, topic, board) = (remote.clone(), board_topic.clone(), board.clone());
                tokio::spawn(async move { remote.publish(&topic, &board).await.ok() });
            }
            event = connection.next() => match event {
                Some(Event::Joined(who)) => drop(board.players.entry(who.user_id).or_default()),
                Some(Event::Left(who)) => drop(board.players.remove(&who.user_id)),
                Some(Event::Presence(list)) => {
                    let mut before = std::mem::take(&mut board.players);
                    let place = |player| (before.remove(&player).unwrap_or_default(), player);
                    board.players = list.members.into_iter().map(place).map(|(at, player)| (player, at)).collect();
                }
                Some(Event::Message(message)) => {
                    if let Ok(Move { player, dx, dy }) = serde_json::from_value(message.body.into())
                        && let Some((x, y)) = board.players.get_mut(&player)
                    {
                        *x += dx.clamp(-1, 1);
                        *y += dy.clamp(-1, 1);
                    }
                }
                Some(_) => {}
                None => return Ok(()),
            },
        }
    }
}

/// Plays: makes every move that comes, and shows every board. Ends with the moves.
pub(crate) async fn play(
    url: &str,
    game: &str,
    name: &str,
    mut moves: mpsc::Receiver<(i64, i64)>,
    show: impl Fn(Board),
) -> Result<()> {
    let mut connection = Client::new(url)?.user_id(name)?.connect().await?;
    connection.subscribe(&format!("game:{game}")).await?;
    let (player, topic) = (UserId::parse(name)?, format!("game:{game}:moves"));
    loop {
        tokio::select! {
            step = moves.recv() => match step {
                Some((dx, dy)) => drop(connection.publish(&topic, &Move { player: player.clone(), dx, dy }).await?),
                None => return Ok(()),
            },
            event = connection.next() => match event {
                Some(Event::Message(message)) => {
                    if let Ok(board) = serde_json::from_value(message.body.into()) {
                        show(board);
                    }
                }
                Some(_) => {}
                None => return Ok(()),
            },
        }
    }
}

#[tokio::main]
#[allow(dead_code, reason = "tests take the game without the terminal")]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let mut word = |default: &str| words.next().unwrap_or_else(|| default.to_owned());
    let (url, game, name) = (word("ws://127.0.0.1:8765/ws"), word("arena"), word("host"));
    if name == "host" {
        return Ok(host(&url, &game).await?);
    }
    let (steered, moves) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(std::result::Result::ok) {
            let step = match line.trim() {
                "h" => (-1, 0),
                "j" => (0, 1),
                "k" => (0, -1),
                "l" => (1, 0),
                _ => continue,
            };
            if steered.blocking_send(step).is_err() {
                return;
            }
        }
    });
    play(&url, &game, &name, moves, |board| println!("{}: {:?}", board.tick, board.players)).await?;
    Ok(())
}
