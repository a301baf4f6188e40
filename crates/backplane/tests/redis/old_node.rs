//! A node of version 0.1, as far as Redis can see one: its scripts (`tests/fixtures/lua-0.1`), with the keys and arguments
//! that it gave them. A rolling upgrade runs such nodes beside new ones on the same records.

use countersign_protocol::{CallbackId, Partition};
use redis::{ToRedisArgs, Value, from_redis_value};
use serde_json::{Value as Json, json};

use crate::server::Client;

/// The scripts that verbs of callbacks, heartbeats and receipts began with.
const PRELUDE: &str = include_str!("../fixtures/lua-0.1/prelude.lua");
/// The scripts that verbs of numbered addresses began with.
const NUMBERING: &str = include_str!("../fixtures/lua-0.1/numbering.lua");

macro_rules! old_script {
    ($verb:literal) => {
        include_str!(concat!("../fixtures/lua-0.1/", $verb, ".lua"))
    };
}

/// See the module.
pub(crate) struct OldNode {
    pub(crate) client: Client,
    run: String,
}

/// Something to be given to a script.
fn arg(value: impl ToRedisArgs) -> Vec<u8> {
    value.to_redis_args().pop().unwrap_or_default()
}

macro_rules! args {
    ($($value:expr),* $(,)?) => { vec![$(arg($value)),*] };
}

pub(crate) fn tag(user: &str) -> String {
    format!("cs:{{p{}}}", Partition::of(&crate::node::user(user)))
}

fn words(answer: Value) -> Vec<Value> {
    from_redis_value(answer).unwrap()
}

fn text(value: &Value) -> String {
    from_redis_value(value.clone()).unwrap()
}

/// A record as an old node read it; the decision too.
fn read_record(told: &Value) -> Json {
    let parts: Vec<Vec<u8>> = from_redis_value(told.clone()).unwrap();
    assert_eq!(parts.len(), 10, "an old node reads ten parts");
    let text = |n: usize| String::from_utf8(parts[n].clone()).unwrap();
    let terms: Vec<u64> = text(3).split(' ').take(2).map(|ms| ms.parse().unwrap()).collect();
    json!({
        "id": text(0), "user": text(1), "task": text(2), "asked": terms[0] as f64 / 1000.0,
        "deadline": terms[1] as f64 / 1000.0, "message": text(4),
        "decision": if text(5).is_empty() { Json::Null } else { serde_json::from_str(&text(5)).unwrap() },
    })
}

fn decision(text: &Value) -> Json {
    let text: String = from_redis_value(text.clone()).unwrap();
    serde_json::from_str(&text).unwrap()
}

impl OldNode {
    pub(crate) async fn new(mut client: Client) -> Self {
        let info: String = client.ask("INFO server").await;
        let replication: String = client.ask("INFO replication").await;
        let first = |info: &str, name: &str| {
            let id = info.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            u32::from_str_radix(id.get(..8).unwrap(), 16).unwrap()
        };
        let run = first(&info, "run_id:") ^ first(&replication, "master_replid:");
        Self { client, run: format!("{run:08x}") }
    }

    async fn run(&mut self, text: &str, keys: &[String], args: &[Vec<u8>]) -> Value {
        let mut command = redis::cmd("EVAL");
        command.arg(text).arg(keys.len()).arg(keys).arg(args);
        self.client.run(&command).await
    }

    /// A verb of callbacks, and the replies that it made, which this node does not push.
    async fn verb(&mut self, verb: &str, user: &str, keys: &[String], args: Vec<Vec<u8>>) -> Value {
        let text = format!("{PRELUDE}\nlocal function verb()\n{verb}\nend\nreturn with_replies(verb())");
        let mut all = args![tag(user), "cs", 0, 3_600_000];
        all.extend(args);
        let answer = self.run(&text, keys, &all).await;
        match &answer {
            Value::Array(parts) if matches!(parts.first(), Some(Value::BulkString(word)) if word == b"replies") => {
                parts[1].clone()
            }
            _ => answer,
        }
    }

    async fn numbered(&mut self, verb: &str, keys: &[String], args: Vec<Vec<u8>>) -> Value {
        let mut all = args![format!("{:016x}", fastrand::u64(..))];
        all.extend(args);
        all.push(arg(&self.run));
        self.run(&format!("{NUMBERING}\n{verb}"), keys, &all).await
    }

    /// The word, and the record.
    pub(crate) async fn open(&mut self, asked: &crate::rolling::Asked) -> (String, Json) {
        let (tag, user, task) = (tag(asked.user), asked.user, asked.task);
        let mut keys = vec![
            format!("{tag}:cb:{}", asked.id),
            format!("{tag}:open:{user}"),
            format!("{tag}:deadlines"),
            format!("{tag}:task:{user}:{task}"),
            format!("{tag}:tasks:{task}"),
        ];
        if !asked.key.is_empty() {
            keys.push(format!("{tag}:idem:{user}:{}", asked.key));
        }
        let args = args![
            asked.id.to_string(),
            user,
            task,
            asked.head(),
            asked.timeout_ms,
            "decline",
            u8::from(asked.plain),
            1000,
            asked.key,
            if asked.key.is_empty() { "" } else { "digest" },
            asked.reply_to,
            "old",
        ];
        let answer = words(self.verb(old_script!("open"), user, &keys, args).await);
        (text(&answer[0]), read_record(&answer[2]))
    }

    /// The record, if there is one.
    pub(crate) async fn read(&mut self, user: &str, id: CallbackId) -> Option<Json> {
        let key = format!("{}:cb:{id}", tag(user));
        let answer = words(self.verb(old_script!("read"), user, &[key], args![id.to_string()]).await);
        (text(&answer[0]) == "found").then(|| read_record(&answer[2]))
    }

    /// The word, and the decision if there is one.
    pub(crate) async fn confirm(&mut self, said: &crate::rolling::Said) -> (String, Json) {
        let key = format!("{}:cb:{}", tag(said.asked.user), said.asked.id);
        let proceed = said.proceed;
        let args = args![
            said.asked.id.to_string(),
            said.by.unwrap_or(""),
            serde_json::to_string(said.by.unwrap_or("guest")).unwrap(),
            u8::from(said.judged),
            if proceed { "confirmed" } else { "declined" },
            proceed.to_string(),
            "\"because\"",
            serde_json::to_string(&said.choice).unwrap(),
            "null",
            format!("{}:{}", if said.by.is_some() { 'u' } else { 'g' }, said.name),
            "connection",
            "old",
        ];
        let answer = words(self.verb(old_script!("confirm"), said.asked.user, &[key], args).await);
        let word = text(&answer[0]);
        let told = match word.as_str() {
            "accepted" | "resolved" => decision(&answer[2]),
            _ => Json::Null,
        };
        (word, told)
    }

    /// The word and the decision.
    pub(crate) async fn withdraw(&mut self, user: &str, id: CallbackId) -> (String, Json) {
        let key = format!("{}:cb:{id}", tag(user));
        let args = args![id.to_string(), format!("m:{}", fastrand::u64(..))];
        let answer = words(self.verb(old_script!("withdraw"), user, &[key], args).await);
        (text(&answer[0]), decision(&answer[2]))
    }

    /// How many callbacks it closed.
    pub(crate) async fn cancel(&mut self, user: &str, task: &str, by: &str) -> u64 {
        let tag = tag(user);
        let keys = [format!("{tag}:task:{user}:{task}"), format!("{tag}:open:{user}"), format!("{tag}:deadlines")];
        let args = args![user, task, by, 3_600_000, format!("m:{}", fastrand::u64(..))];
        let answer = words(self.verb(old_script!("cancel_task"), user, &keys, args).await);
        from_redis_value(answer[1].clone()).unwrap()
    }

    /// How many callbacks it closed in the user's partition.
    pub(crate) async fn cancel_named(&mut self, user: &str, task: &str) -> u64 {
        let tag = tag(user);
        let keys = [format!("{tag}:tasks:{task}"), format!("{tag}:deadlines")];
        let args = args![task, "producer", 3_600_000, format!("m:{}", fastrand::u64(..))];
        let answer = words(self.verb(old_script!("cancel_tasks_named"), user, &keys, args).await);
        answer[1..].chunks(2).map(|pair| from_redis_value::<u64>(pair[1].clone()).unwrap()).sum()
    }

    /// Who cancelled the task ('' for nobody), and what is open of it.
    pub(crate) async fn task(&mut self, user: &str, task: &str) -> (String, Vec<String>) {
        let tag = tag(user);
        let keys = [format!("{tag}:task:{user}:{task}"), format!("{tag}:tasks:{task}"), format!("{tag}:open:{user}")];
        let answer = words(self.verb(old_script!("task"), user, &keys, args![user, task]).await);
        (text(&answer[0]), answer[2..].iter().map(text).collect())
    }

    /// Ids of a user's open callbacks.
    pub(crate) async fn open_callbacks(&mut self, user: &str) -> Vec<String> {
        let key = format!("{}:open:{user}", tag(user));
        let answer = words(self.verb(old_script!("open_callbacks"), user, &[key], args![user, 1]).await);
        answer[1..].iter().map(|told| read_record(told)["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Ids of a partition's open callbacks.
    pub(crate) async fn list(&mut self, user: &str) -> Vec<String> {
        let key = format!("{}:deadlines", tag(user));
        let answer = words(self.verb(old_script!("list"), user, &[key], args![0, "", 100]).await);
        answer[2..].iter().map(|told| read_record(told)["id"].as_str().unwrap().to_owned()).collect()
    }

    /// How many callbacks it timed out and how many heartbeats it sent in the user's partition; what was left in the reply
    /// outbox is pushed.
    pub(crate) async fn sweep(&mut self, user: &str) -> (u64, u64) {
        let tag = tag(user);
        let claim = self.verb(old_script!("claim_replies"), user, &[format!("{tag}:replies")], args![100, 1000]).await;
        let claimed: Vec<(String, String, Vec<u8>)> = from_redis_value(claim).unwrap();
        for (id, list, decision) in claimed {
            let list = format!("cs:reply:{list}");
            self.run(old_script!("reply"), &[list], &[arg(decision), arg(3_600_000)]).await;
            let _: u64 = self.client.ask(&format!("ZREM {tag}:replies {id}")).await;
        }
        let timed_out = self.verb(old_script!("sweep"), user, &[format!("{tag}:deadlines")], args![100]).await;
        let beats = self.verb(old_script!("beat"), user, &[format!("{tag}:beats")], args![100]).await;
        let first = |answer: Value| from_redis_value::<(u64, u64)>(answer).unwrap().0;
        (first(timed_out), first(beats))
    }

    pub(crate) async fn start_heartbeat(&mut self, user: &str, task: &str) {
        let tag = tag(user);
        let keys = [format!("{tag}:beats"), format!("{tag}:beat:{user}:{task}")];
        let args = args![format!("{user}:{task}"), user, 1, 3_600_000, r#"{"type":"heartbeat""#];
        self.verb(old_script!("start_heartbeat"), user, &keys, args).await;
    }

    pub(crate) async fn stop_heartbeat(&mut self, user: &str, task: &str) -> bool {
        let tag = tag(user);
        let keys = [format!("{tag}:beats"), format!("{tag}:beat:{user}:{task}")];
        let args = args![format!("{user}:{task}")];
        from_redis_value(self.verb(old_script!("stop_heartbeat"), user, &keys, args).await).unwrap()
    }

    /// The word and the id.
    pub(crate) async fn open_receipt(&mut self, user: &str, id: CallbackId, key: &str) -> (bool, String) {
        let tag = tag(user);
        let keys = [format!("{tag}:receipt:{id}"), format!("{tag}:receipts:{user}:{key}")];
        let args = args![id.to_string(), user, 3_600_000, "digest"];
        let answer = words(self.verb(old_script!("open_receipt"), user, &keys, args).await);
        (text(&answer[0]) == "new", text(&answer[1]))
    }

    /// Notes a delivery, and acknowledges.
    pub(crate) async fn ack(&mut self, user: &str, id: CallbackId, by: &str, connection: &str) -> bool {
        let key = [format!("{}:receipt:{id}", tag(user))];
        self.verb(old_script!("deliver"), user, &key, args![]).await;
        let args = args![id.to_string(), by, by, connection, 100];
        from_redis_value(self.verb(old_script!("ack"), user, &key, args).await).unwrap()
    }

    /// Who acknowledged, in order, as an old node read it.
    pub(crate) async fn acks(&mut self, user: &str, id: CallbackId) -> Vec<String> {
        let mut command = redis::cmd("HGETALL");
        command.arg(format!("{}:receipt:{id}", tag(user)));
        let fields: std::collections::HashMap<String, String> = self.client.run(&command).await;
        assert!(fields.contains_key("queued") && fields["user"] == user);
        let mut acks: Vec<(u64, String)> = fields
            .iter()
            .filter(|(name, _)| name.starts_with("ack:"))
            .map(|(_, value)| {
                let parts: Vec<_> = value.splitn(3, '|').collect();
                (parts[0].parse().unwrap(), parts[2].to_owned())
            })
            .collect();
        acks.sort();
        acks.into_iter().map(|(_, by)| by).collect()
    }

    /// The word and the position.
    pub(crate) async fn publish(&mut self, topic: &str, message: &str, key: &str) -> (String, String) {
        let tag = format!("cs:{{topic%3A{topic}}}");
        let keys = [format!("{tag}:history"), format!("{tag}:meta"), format!("{tag}:idem:{key}")];
        let digest = crate::rolling::digest(message);
        let args = args![format!("cs:topic:{topic}"), message, 10, 60_000, digest, 3_600_000];
        let answer = words(self.numbered(old_script!("publish"), &keys, args).await);
        (text(&answer[0]), text(&answer[1]))
    }

    /// The epoch, the newest offset and the messages.
    pub(crate) async fn history(&mut self, topic: &str) -> (String, u64, Vec<String>) {
        let tag = format!("cs:{{topic%3A{topic}}}");
        let keys = [format!("{tag}:history"), format!("{tag}:meta")];
        let answer = words(self.numbered(old_script!("history"), &keys, args!["", 0, 100]).await);
        let at = words(self.numbered(old_script!("position"), &keys, args![]).await);
        assert_eq!((text(&at[0]), text(&at[1])), (text(&answer[0]), text(&answer[1])));
        let messages = answer[4..].iter().map(|entry| {
            let (_, fields): (String, Vec<String>) = from_redis_value(entry.clone()).unwrap();
            fields[1].clone()
        });
        (text(&answer[0]), from_redis_value(answer[1].clone()).unwrap(), messages.collect())
    }
}
