//! What a node needs of its Redis. It is asked for on every connection of commands before that is used, because a script
//! that finds a command or a right missing fails in its middle, and Redis does not undo what it has written by then.

use std::{fmt, sync::LazyLock};

use countersign_protocol::{Address, NodeId, Partition, ReplyName, UserId};
use redis::{InfoDict, RedisError, RedisResult, Script, Value, aio::ConnectionLike, cmd, from_redis_value};

use super::{
    failure::{is_forbidden, is_unknown_command},
    keys::Keys,
};
use crate::Channel;

/// The rights of a node, each with a command that shows it.
#[derive(Debug)]
pub(super) struct Needs(Vec<Need>);

#[derive(Debug)]
struct Need {
    words: Vec<String>,
    /// What the command is to be run on, where a right to the command alone is not enough.
    on: Option<String>,
}

/// What a Redis lacks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Lacking {
    /// As the server says; empty when it does not.
    version: String,
    /// The server is older than [`OLDEST`].
    too_old: bool,
    unknown: Vec<String>,
    forbidden: Vec<String>,
}

/// What a node is set up for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    pub(super) guests: bool,
    pub(super) waits_for_replicas: bool,
    pub(super) cluster: bool,
}

impl Needs {
    pub(super) fn new(keys: &Keys, node: &NodeId, setup: Setup) -> Self {
        let key = format!("{}:cb:{SAMPLE}", keys.tag(Partition::of(&sample_user())));
        let mut needs: Vec<Need> = COMMANDS.iter().map(|command| Need::of(&command.replace("{key}", &key))).collect();
        if setup.waits_for_replicas {
            needs.push(Need::of("WAIT 1 1"));
        }
        if setup.cluster {
            needs.extend(["CLUSTER SLOTS", "ASKING"].map(Need::of));
        }
        for key in own_keys(keys, node) {
            needs.extend(["GET {}", "SET {} 1"].map(|command| Need::on(command, &key)));
        }
        let mut channels = vec![
            Channel::Broadcast,
            Channel::Nodes,
            Channel::User(sample_user()),
            Channel::Node(node.clone()),
            Channel::Probe(node.clone()),
        ];
        channels.extend(setup.guests.then_some(Channel::Guests));
        let mut names: Vec<String> = channels.iter().map(|channel| keys.channel(channel)).collect();
        names.extend(["answer", "ack"].map(|kind| format!("{}:{kind}:{SAMPLE}", keys.prefix())));
        for name in &names {
            needs.extend(["PUBLISH {} 1", "SUBSCRIBE {}"].map(|command| Need::on(command, name)));
        }
        // Producers listen there, and no node does.
        needs.push(Need::on("PUBLISH {} 1", &keys.cancelled_channel()));
        Self(needs)
    }

    /// Asks the server at the other end.
    ///
    /// # Errors
    /// When it does not answer.
    pub(super) async fn ask(&self, connection: &mut impl ConnectionLike) -> RedisResult<Option<Lacking>> {
        let mut script = SCRIPT.prepare_invoke();
        // Names hold no control characters.
        let command =
            |need: &Need| need.words.iter().map(|word| format!("{word}\t")).chain(["\n".to_owned()]).collect();
        script.arg(self.0.iter().map(command).collect::<Vec<String>>().concat());
        if let Err(error) = script.load_async(connection).await {
            return Lacking::of(connection, "SCRIPT LOAD", error).await.map(Some);
        }
        let answer: Value = match script.invoke_async(connection).await {
            Ok(answer) => answer,
            Err(error) => return Lacking::of(connection, "EVALSHA", error).await.map(Some),
        };
        let mut lacking = Lacking::default();
        if answer == Value::BulkString(b"old".to_vec()) {
            lacking.too_old = true;
        } else {
            let missing: Vec<String> = from_redis_value(answer)?;
            self.read(&missing, &mut lacking);
        }
        if lacking == Lacking::default() {
            return Ok(None);
        }
        lacking.version = version(connection).await?;
        Ok(Some(lacking))
    }

    fn read(&self, missing: &[String], lacking: &mut Lacking) {
        let found: Vec<(&Need, bool)> = missing
            .chunks_exact(2)
            .filter_map(|pair| {
                Some((self.0.get(pair[0].parse::<usize>().ok()?.checked_sub(1)?)?, pair[1] == "unknown"))
            })
            .collect();
        let whole = |need: &Need| need.on.is_none();
        let all = |command: &str| {
            let on_something = self.0.iter().filter(|need| need.command() == command).count();
            found.iter().filter(|(need, _)| need.command() == command).count() == on_something
        };
        for (need, unknown) in &found {
            let command = need.command();
            let text = match &need.on {
                None => command,
                Some(_) if all(&command) => command,
                // Without the command itself nothing can be said of what it is run on.
                Some(_) if found.iter().any(|(other, _)| whole(other) && other.command() == command) => continue,
                Some(on) => format!("{command} on {on}"),
            };
            let list = if *unknown { &mut lacking.unknown } else { &mut lacking.forbidden };
            if !list.contains(&text) {
                list.push(text);
            }
        }
    }
}

impl Need {
    fn of(command: &str) -> Self {
        Self { words: command.split(' ').map(str::to_owned).collect(), on: None }
    }

    /// `{}` is what it is run on.
    fn on(command: &str, on: &str) -> Self {
        let words = command.split(' ').map(|word| word.replace("{}", on)).collect();
        Self { words, on: Some(on.to_owned()) }
    }

    /// The command's name, with its subcommand.
    fn command(&self) -> String {
        let name = self.words.first().map_or("", String::as_str);
        match self.words.get(1) {
            Some(sub) if CONTAINERS.contains(&name) => format!("{name} {sub}"),
            _ => name.to_owned(),
        }
    }
}

impl Lacking {
    /// What an error says that `command` was answered with.
    ///
    /// # Errors
    /// The error, if it says something else; or the server does not answer.
    async fn of(connection: &mut impl ConnectionLike, command: &str, error: RedisError) -> RedisResult<Self> {
        let named = vec![command.to_owned()];
        let lacking = if is_unknown_command(&error) {
            Self { unknown: named, ..Self::default() }
        } else if is_forbidden(&error) {
            Self { forbidden: named, ..Self::default() }
        } else {
            return Err(error);
        };
        Ok(Self { version: version(connection).await?, ..lacking })
    }
}

/// One line for whoever runs this Redis.
impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this Redis")?;
        if !self.version.is_empty() {
            write!(f, " ({})", self.version)?;
        }
        f.write_str(" cannot run what the node needs:")?;
        if self.too_old {
            f.write_str(" it is too old (redis.acl_check_cmd is missing);")?;
        }
        if !self.unknown.is_empty() {
            write!(f, " it does not know {} (too old, or renamed);", self.unknown.join(", "))?;
        }
        if !self.forbidden.is_empty() {
            let all = self.forbidden.join(", ");
            write!(f, " its user has no right to {all} (the rights that are needed are in deploy/redis/users.acl);")?;
        }
        write!(f, " {OLDEST} is the oldest that will do")
    }
}

/// One section at a time: before 7.0 two are a syntax error.
async fn version(connection: &mut impl ConnectionLike) -> RedisResult<String> {
    match cmd("INFO").arg("server").query_async::<InfoDict>(connection).await {
        Ok(info) => Ok(info.get("redis_version").unwrap_or_default()),
        Err(error) if error.is_io_error() => Err(error),
        Err(_) => Ok(String::new()),
    }
}

/// Keys beside those of partitions, one for each pattern that rights may be given by. Those of topics are left out: rights
/// to them may be narrower, and who has none is refused by the script before it writes.
fn own_keys(keys: &Keys, node: &NodeId) -> Vec<String> {
    let reply = ReplyName::parse(SAMPLE).expect("a short word is a legal name");
    let addresses = [Address::Broadcast, Address::User(sample_user())];
    let mut own: Vec<String> =
        addresses.iter().flat_map(|address| [keys.history(address), keys.numbering(address)]).collect();
    own.extend([
        keys.nodes(),
        keys.node(node),
        keys.inbox(),
        keys.inbox_dead(),
        keys.inbox_lease(),
        keys.reply(&reply),
    ]);
    own
}

fn sample_user() -> UserId {
    UserId::parse(SAMPLE).expect("a short word is a legal id")
}

/// In the place of names.
const SAMPLE: &str = "needs";
/// Apart from the verbs, because it is loaded before them.
static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/needs.lua")));

/// What refuses older ones, and what their operators read.
const OLDEST: &str = "Redis 7.0, or any Valkey,";
/// Commands whose second word is a command.
const CONTAINERS: [&str; 4] = ["SCRIPT", "CLUSTER", "XGROUP", "XINFO"];

/// Every command of the scripts and of the node itself, but for those of `own_keys`, of channels and of topologies. A test
/// holds it against their text.
const COMMANDS: &[&str] = &[
    "EVALSHA 0 1 {key}",
    "SCRIPT LOAD 0",
    "UNSUBSCRIBE",
    "TIME",
    "DEL {key}",
    "EXISTS {key}",
    "GET {key}",
    "HDEL {key} 1",
    "HEXISTS {key} 1",
    "HGET {key} 1",
    "HGETALL {key}",
    "HINCRBY {key} 1 1",
    "HLEN {key}",
    "HMGET {key} 1",
    "HSCAN {key} 0",
    "HSET {key} 1 1",
    "HSETNX {key} 1 1",
    "MGET {key}",
    "PEXPIRE {key} 1",
    "PEXPIREAT {key} 1",
    "PEXPIRETIME {key}",
    "RPUSH {key} 1",
    "SADD {key} 1",
    "SCARD {key}",
    "SET {key} 1",
    "SISMEMBER {key} 1",
    "SREM {key} 1",
    "XADD {key} * 1 1",
    "XDEL {key} 1",
    "XGROUP CREATE {key} 1 0",
    "XINFO GROUPS {key}",
    "XINFO STREAM {key}",
    "XLEN {key}",
    "XRANGE {key} - +",
    "XREAD STREAMS {key} 0",
    "XTRIM {key} MAXLEN 1",
    "ZADD {key} 1 1",
    "ZCARD {key}",
    "ZCOUNT {key} 0 1",
    "ZRANGE {key} 0 1",
    "ZREM {key} 1",
    "ZREMRANGEBYSCORE {key} 0 1",
    "ZSCORE {key} 1",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn needs() -> Needs {
        let setup = Setup { guests: true, waits_for_replicas: true, cluster: true };
        Needs::new(&Keys::new("cs"), &NodeId::parse("n1").unwrap(), setup)
    }

    /// Words in capitals that stand in quotes after one of `before`, in every file under `src/redis` that ends so.
    fn commands_in(files: &str, before: &[&str]) -> BTreeSet<String> {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/redis");
        let (mut folders, mut found) = (vec![root], BTreeSet::new());
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == files) {
                    let text = std::fs::read_to_string(path).unwrap();
                    for before in before {
                        let commands = text.split(before).skip(1).filter_map(|rest| rest.split(['\'', '"']).next());
                        let whole =
                            |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase());
                        found.extend(commands.filter(whole).map(str::to_owned));
                    }
                }
            }
        }
        found
    }

    #[test]
    fn every_command_of_the_scripts_and_of_the_node_is_asked_for() {
        let mut used = commands_in("lua", &["redis.call('", "redis.pcall('", "redis.call, '", "set('"]);
        assert!(used.len() > 35 && used.contains("PEXPIRETIME") && used.contains("HSET"), "{used:?}");
        used.extend(commands_in("rs", &["cmd(\""]));
        assert!(used.contains("XREAD") && used.contains("ASKING"), "{used:?}");
        // Sentinels are other servers, and a Redis that forbids INFO is taken as it is.
        for other in ["SENTINEL", "INFO"] {
            assert!(used.remove(other), "{other}");
        }
        let asked: BTreeSet<String> = needs().0.into_iter().filter_map(|need| need.words.into_iter().next()).collect();
        let forgotten: Vec<_> = used.difference(&asked).collect();
        assert!(forgotten.is_empty(), "{forgotten:?} are used, and missing them is not noticed");
    }

    #[test]
    fn the_shipped_rights_are_the_ones_that_are_asked_for_and_few_others() {
        let shipped = include_str!("../../../../deploy/redis/users.acl");
        let granted: BTreeSet<String> = shipped
            .split_whitespace()
            .filter_map(|word| word.strip_prefix('+'))
            .map(|command| command.replace('|', " ").to_uppercase())
            .collect();
        let asked: BTreeSet<String> = needs().0.iter().map(Need::command).collect();
        assert_eq!(asked.difference(&granted).collect::<Vec<_>>(), [""; 0]);
        // What a connection says when it begins, and what a Redis may forbid.
        let others: Vec<_> = granted.difference(&asked).map(String::as_str).collect();
        assert_eq!(others, ["AUTH", "HELLO", "INFO", "PING", "SELECT"]);
    }

    #[test]
    fn what_is_missing_is_named_once_and_without_what_follows_from_it() {
        let needs = needs();
        let number = |text: &str| {
            let at = needs.0.iter().position(|need| need.words.join(" ").starts_with(text));
            (at.unwrap_or_else(|| panic!("{text}")) + 1).to_string()
        };
        let missing: Vec<String> = [
            ("TIME", "forbidden"),
            ("PEXPIRETIME ", "unknown"),
            ("XGROUP ", "unknown"),
            ("SET cs:{p", "forbidden"),
            ("SET cs:inbox 1", "forbidden"),
            ("GET cs:inbox:dead", "forbidden"),
            ("SUBSCRIBE cs:answer:", "forbidden"),
        ]
        .into_iter()
        .flat_map(|(text, why)| [number(text), why.to_owned()])
        .collect();
        let mut lacking = Lacking { version: "7.0.15".to_owned(), ..Lacking::default() };
        needs.read(&missing, &mut lacking);
        assert_eq!(
            lacking.to_string(),
            "this Redis (7.0.15) cannot run what the node needs: it does not know PEXPIRETIME, XGROUP CREATE (too old, or \
             renamed); its user has no right to TIME, SET, GET on cs:inbox:dead, SUBSCRIBE on cs:answer:needs (the rights that are \
             needed are in deploy/redis/users.acl); Redis 7.0, or any Valkey, is the oldest that will do"
        );
    }
}
