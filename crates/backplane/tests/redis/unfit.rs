//! A Redis that cannot run the scripts: too old, with commands that were renamed, or with a user that lacks a right. It
//! answers pings and carries publications, and yet no question could be put.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use countersign_backplane::{
    BackplaneError, Callbacks, Cluster, HistoryPolicy, Link, Messages, Presence, Publication, Settings,
    callbacks::Canceller, listener::Failure, presence::Places,
};
use countersign_protocol::{Address, Payload, TopicName};
use futures_util::future::join_all;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::broadcast,
    task::JoinHandle,
    time::timeout,
};

use crate::{
    node::{Node, PATIENCE, question, task, user},
    server::Server,
};

/// Waits until the node is not ready for want of something, and returns what it says.
async fn lacking(node: &Node) -> String {
    let mut link = node.link();
    let unfit = |link: &Link| matches!(link, Link::Down(why) if why.contains("cannot run what the node needs"));
    let told = timeout(PATIENCE, link.wait_for(unfit)).await.map(|link| link.unwrap().clone());
    let Ok(Link::Down(why)) = told else {
        panic!("the node does not say what is missing: {:?}", *node.link().borrow())
    };
    assert!(why.contains("Redis 7.0"), "the oldest that will do: {why}");
    why
}

#[tokio::test]
async fn a_user_without_a_right_that_the_scripts_need_makes_a_node_not_ready_until_it_is_given() {
    let server = Server::start();
    let client = server.client().await;
    let rights = crate::support::shipped_rights();
    let cases = [
        ("-time", "no right to TIME (the"),
        ("-pexpiretime", "no right to PEXPIRETIME (the"),
        ("-evalsha", "no right to EVALSHA (the"),
        ("-script|load", "no right to SCRIPT LOAD (the"),
        ("-publish", "no right to PUBLISH (the"),
        ("-xgroup|create -hscan", "no right to HSCAN, XGROUP CREATE (the"),
        ("resetkeys ~cs:{p*", "GET on cs:inbox"),
        ("resetkeys ~cs:{* ~cs:inbox*", "no right to GET on cs:reply:needs, SET on cs:reply:needs (the"),
        (
            "resetchannels &cs:user:* &cs:node* &cs:probe:* &cs:broadcast &cs:ack:* &cs:cancelled",
            "SUBSCRIBE on cs:answer:",
        ),
    ];
    let all = cases.into_iter().enumerate().map(|(number, (change, named))| {
        let (mut client, rights, name) = (client.clone(), rights.clone(), format!("gateway{number}"));
        let url = server.url().replace("redis://", &format!("redis://{name}:secret@"));
        async move {
            let _: () = client.ask(&format!("ACL SETUSER {name} reset on >secret {rights} {change}")).await;
            let node = Node::start(&url, Settings::default());
            let why = lacking(&node).await;
            assert!(why.contains(named) && why.contains("(7."), "{change}: {why}");
            let refused = node.open(question("alice", "t")).await;
            assert!(
                matches!(&refused, Err(BackplaneError::Unavailable(why)) if why.contains("users.acl")),
                "{refused:?}"
            );
            assert!(node.ear.memory().failures().any(|failure| failure == Failure::Unfit));
            let _: () = client.ask(&format!("ACL SETUSER {name} resetkeys {rights}")).await;
            node.until_link(true).await;
            node.open(question("alice", "t")).await.unwrap();
        }
    });
    join_all(all).await;
}

#[tokio::test]
async fn a_redis_with_a_command_that_was_renamed_makes_a_node_not_ready() {
    for command in ["EVALSHA", "SCRIPT", "PEXPIRETIME", "TIME"] {
        let server = Server::with(&["--rename-command", command, ""]);
        let node = Node::start(&server.url(), Settings::default());
        let why = lacking(&node).await;
        assert!(why.contains(&format!("does not know {command}")), "{why}");
    }
}

#[tokio::test]
async fn a_redis_that_is_too_old_makes_a_node_not_ready_and_is_named() {
    let old = OldRedis::start().await;
    let node = Node::start(&old.url(), Settings::default());
    let why = lacking(&node).await;
    assert!(why.contains("this Redis (6.2.14)") && why.contains("too old"), "{why}");
}

#[tokio::test]
async fn a_topic_that_nobody_may_publish_to_is_refused_before_anything_is_written() {
    let server = Server::start();
    let node = Node::up(&server.url(), Settings::default()).await;
    let mut client = server.client().await;
    let _: () = client
        .ask("ACL SETUSER default resetchannels &cs:user:* &cs:broadcast &cs:node* &cs:probe:* &cs:answer:* &cs:ack:* &cs:cancelled &cs:topic:open*")
        .await;
    let topic = |name: &str| TopicName::parse(name).unwrap();
    let kept = |name: &str| Publication {
        address: Address::Topic(topic(name)),
        message: Payload::parse(Bytes::from_static(b"{}")).unwrap(),
        history: HistoryPolicy { size: 3, ttl: PATIENCE },
        key: None,
    };
    let refused = node.publish(kept("secret")).await;
    assert!(matches!(&refused, Err(BackplaneError::Unavailable(why)) if why.contains("NOPERM")), "{refused:?}");
    let places = Places { topic: topic("secret"), hold: vec![user("alice")], let_go: vec![] };
    node.hold_places(vec![places], PATIENCE).await.pop().unwrap().unwrap_err();
    assert_eq!(client.keys().await, [""; 0], "nothing was written");
    node.publish(kept("open:1")).await.unwrap();
    // A cancellation is told to the task's topic, too; where that is refused, it holds all the same.
    let asked = question("alice", "t");
    node.open(asked.clone()).await.unwrap();
    let cancelled = node.cancel_task(&user("alice"), &task("t"), &Canceller::Producer).await.unwrap();
    assert_eq!(cancelled.callbacks_closed, 1);
    assert!(node.task(&user("alice"), &task("t")).await.unwrap().cancelled.is_some());
}

/// Answers as Redis 6.2.14 does to what a node says; it carries publications, so everything looks well from outside.
struct OldRedis {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl OldRedis {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let published = broadcast::Sender::new(100);
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, published.clone()));
            }
        });
        Self { address, task }
    }

    fn url(&self) -> String {
        format!("redis://{}/", self.address)
    }
}

impl Drop for OldRedis {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, published: broadcast::Sender<(String, String)>) -> std::io::Result<()> {
    let (reads, mut writes) = stream.into_split();
    let mut reads = BufReader::new(reads);
    let mut heard = published.subscribe();
    let mut channels: Vec<String> = Vec::new();
    loop {
        let words = tokio::select! {
            words = command(&mut reads) => words?,
            told = heard.recv() => {
                let Ok((channel, payload)) = told else { return Ok(()) };
                if channels.contains(&channel) {
                    let text = format!("*3\r\n{}{}{}", bulk("message"), bulk(&channel), bulk(&payload));
                    writes.write_all(text.as_bytes()).await?;
                }
                continue;
            }
        };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let answer = match words.as_slice() {
            ["INFO", _, _, ..] => "-ERR syntax error\r\n".to_owned(),
            ["INFO", ..] => bulk("# Server\r\nredis_version:6.2.14\r\nredis_mode:standalone\r\n"),
            ["SCRIPT", "LOAD", text] => bulk(redis::Script::new(text).get_hash()),
            // To lua/needs.lua, as 6.2.14 answers it; any other script fails there at the first command that it does not know.
            ["EVALSHA", ..] => bulk("old"),
            ["PUBLISH", channel, payload] => {
                published.send(((*channel).to_owned(), (*payload).to_owned())).ok();
                ":1\r\n".to_owned()
            }
            ["SUBSCRIBE", asked @ ..] => {
                channels.extend(asked.iter().map(|channel| (*channel).to_owned()));
                let confirmed = |channel: &&str| format!("*3\r\n{}{}:1\r\n", bulk("subscribe"), bulk(channel));
                asked.iter().map(confirmed).collect::<Vec<_>>().concat()
            }
            _ => "+OK\r\n".to_owned(),
        };
        writes.write_all(answer.as_bytes()).await?;
    }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// The words of one command.
async fn command(reads: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<Vec<String>> {
    async fn number(reads: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<usize> {
        let mut line = String::new();
        reads.read_line(&mut line).await?;
        let digits = line.get(1..).unwrap_or_default().trim();
        digits.parse().map_err(|_| std::io::ErrorKind::UnexpectedEof.into())
    }
    let mut words = Vec::new();
    for _ in 0..number(reads).await? {
        let mut word = vec![0; number(reads).await? + 2];
        reads.read_exact(&mut word).await?;
        word.truncate(word.len() - 2);
        words.push(String::from_utf8_lossy(&word).into_owned());
    }
    Ok(words)
}
