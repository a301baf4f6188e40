//! Every key and channel name there is. User-supplied names go into keys through one function that escapes them, so that no
//! name can leave its place or its hash tag; channels carry names verbatim, because exact subscriptions make them harmless.
//!
//! | name | type | holds |
//! |---|---|---|
//! | `cs:{pNN}:cb:<id>` | hash | a callback's record |
//! | `cs:{pNN}:open:<user>` | sorted set | a user's open callbacks by the time of asking |
//! | `cs:{pNN}:deadlines` | sorted set | the partition's open callbacks by deadline |
//! | `cs:{pNN}:idem:<user>:<key>` | string | which callback a key opened: `<id>\|<digest>` |
//! | `cs:{pNN}:task:<user>:<task>` | hash | a cancelled task of one user |
//! | `cs:{pNN}:tasks:<task>` | hash | every user's task of that name is cancelled, as far as they are in the partition |
//! | `cs:{pNN}:idle:<user>` | sorted set | tasks (`<user>:<task>`) that the user cancelled without closing anything, by the end of that |
//! | `cs:{pNN}:idle` | sorted set | the same of guests |
//! | `cs:{pNN}:replies` | sorted set | decisions that are still to be pushed to reply lists, by the time of deciding |
//! | `cs:reply:<name>` | list | decisions, for whoever pops them |
//! | `cs:inbox` | stream | what producers want done; what is done is not in it any more. Its consumer group is only its name |
//! | `cs:inbox:dead` | stream | what was wrong in it, with the reason |
//! | `cs:inbox:lease` | string | the node that reads the inbox |
//! | `cs:{pNN}:beats` | sorted set | the partition's heartbeats (`<user>:<task>`) by their next beat |
//! | `cs:{pNN}:beat:<user>:<task>` | hash | a heartbeat |
//! | `cs:{pNN}:receipt:<id>` | hash | the receipt of a message that wants to be acknowledged |
//! | `cs:{pNN}:receipts:<user>:<key>` | string | which receipt a key opened: `<id>\|<digest>` |
//! | `cs:{pNN}:conns:<user>` | sorted set | a user's connections (`<node>:<connection>`) by the time of coming |
//! | `cs:{pNN}:leases:<user>` | sorted set | the same by the end of their lease |
//! | `cs:{pNN}:closing:<user>` | set | those that were told to close |
//! | `cs:{<topic>}:places` | sorted set | places in a topic (`<node>:<user>`) by the end of their lease |
//! | `cs:{<topic>}:members` | hash | a topic's members, each with the number of its places |
//! | `cs:{<address>}:history` | stream | messages of an address |
//! | `cs:{<address>}:meta` | hash | epoch and newest offset of an address, and the epoch before |
//! | `cs:{<address>}:before` | stream | what is left of the epoch before, which another run of Redis had begun |
//! | `cs:{<address>}:idem:<key>` | string | what a key published: `<digest>\|<position>` |
//! | `cs:{cs:inbox}:dead`, `cs:{cs:inbox}:lease` | | these two in a Redis Cluster, where they share the inbox's slot |
//! | `cs:{nodes}` | sorted set | node ids by the end of their announcement |
//! | `cs:{nodes}:<node>` | string | a node's status |

use std::fmt::Write;

use countersign_protocol::{
    Address, CallbackId, IdempotencyKey, MessageId, NodeId, Partition, ReplyName, TaskId, TopicName, UserId,
};

use crate::{Channel, channel::Named};

/// Names under one prefix.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
    /// Keys of one script share a slot.
    cluster: bool,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), cluster: false }
    }

    /// In a Redis Cluster.
    pub(super) fn of_cluster(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), cluster: true }
    }

    /// The first part of every name.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The channel's name: the prefix, a colon, and the rest verbatim.
    pub(super) fn channel(&self, channel: &Channel) -> String {
        format!("{}:{}", self.prefix, channel.name())
    }

    /// The channel that [`Self::channel`] calls so, if there is one.
    pub(super) fn named<'a>(&self, channel: &'a [u8]) -> Option<Named<'a>> {
        Named::read(channel.strip_prefix(self.prefix.as_bytes())?.strip_prefix(b":")?)
    }

    /// The channel on which producers hear cancellations.
    pub(super) fn cancelled_channel(&self) -> String {
        format!("{}:cancelled", self.prefix)
    }

    /// The channel of a task's topic, also of one whose name is too long for a topic: nobody listens there.
    pub(super) fn task_channel(&self, task: &TaskId) -> String {
        format!("{}:topic:task:{task}", self.prefix)
    }

    /// What every key of a partition begins with: one hash tag, so one slot of Redis Cluster.
    pub(super) fn tag(&self, partition: Partition) -> String {
        format!("{}:{{p{partition}}}", self.prefix)
    }

    pub(super) fn record(&self, id: CallbackId) -> String {
        format!("{}:cb:{id}", self.tag(id.partition()))
    }

    pub(super) fn pending(&self, user: &UserId) -> String {
        format!("{}:open:{}", self.tag(Partition::of(user)), escape(user.as_str()))
    }

    pub(super) fn deadlines(&self, partition: Partition) -> String {
        format!("{}:deadlines", self.tag(partition))
    }

    pub(super) fn callback_result(&self, user: &UserId, key: &IdempotencyKey) -> String {
        format!("{}:idem:{}:{}", self.tag(Partition::of(user)), escape(user.as_str()), escape(key.as_str()))
    }

    pub(super) fn cancelled_task(&self, user: &UserId, task: &TaskId) -> String {
        format!("{}:task:{}:{}", self.tag(Partition::of(user)), escape(user.as_str()), escape(task.as_str()))
    }

    pub(super) fn cancelled_tasks(&self, partition: Partition, task: &TaskId) -> String {
        format!("{}:tasks:{}", self.tag(partition), escape(task.as_str()))
    }

    /// A user's cancelled tasks that closed nothing.
    pub(super) fn idle_cancellations(&self, user: &UserId) -> String {
        format!("{}:{}", self.idle_cancellations_of_guests(Partition::of(user)), escape(user.as_str()))
    }

    /// The same of guests, who have no name: of a partition.
    pub(super) fn idle_cancellations_of_guests(&self, partition: Partition) -> String {
        format!("{}:idle", self.tag(partition))
    }

    /// What is still to be pushed to reply lists.
    pub(super) fn replies(&self, partition: Partition) -> String {
        format!("{}:replies", self.tag(partition))
    }

    /// A reply list. Producers write this key themselves, so the name stands in it verbatim; it is the last part, so it
    /// cannot be taken for another one.
    pub(super) fn reply(&self, name: &ReplyName) -> String {
        format!("{}:reply:{name}", self.prefix)
    }

    pub(super) fn inbox(&self) -> String {
        format!("{}:inbox", self.prefix)
    }

    /// The dead letters of the inbox.
    pub(super) fn inbox_dead(&self) -> String {
        self.beside_the_inbox("dead")
    }

    /// Which node reads the inbox.
    pub(super) fn inbox_lease(&self) -> String {
        self.beside_the_inbox("lease")
    }

    /// Producers write `cs:inbox` themselves, so its slot is that of its whole name.
    fn beside_the_inbox(&self, name: &str) -> String {
        let prefix = &self.prefix;
        if self.cluster { format!("{prefix}:{{{prefix}:inbox}}:{name}") } else { format!("{prefix}:inbox:{name}") }
    }

    pub(super) fn heartbeats(&self, partition: Partition) -> String {
        format!("{}:beats", self.tag(partition))
    }

    pub(super) fn heartbeat(&self, user: &UserId, task: &TaskId) -> String {
        format!("{}:beat:{}", self.tag(Partition::of(user)), heartbeat_member(user, task))
    }

    pub(super) fn receipt(&self, id: MessageId) -> String {
        format!("{}:receipt:{id}", self.tag(id.partition()))
    }

    pub(super) fn receipt_result(&self, user: &UserId, key: &IdempotencyKey) -> String {
        format!("{}:receipts:{}:{}", self.tag(Partition::of(user)), escape(user.as_str()), escape(key.as_str()))
    }

    pub(super) fn history(&self, address: &Address) -> String {
        format!("{}:{{{}}}:history", self.prefix, escape(&address.to_string()))
    }

    pub(super) fn numbering(&self, address: &Address) -> String {
        format!("{}:{{{}}}:meta", self.prefix, escape(&address.to_string()))
    }

    /// What is left of the numbering before, as `numbering.lua` names it.
    #[cfg(test)]
    pub(super) fn history_before(&self, address: &Address) -> String {
        format!("{}:{{{}}}:before", self.prefix, escape(&address.to_string()))
    }

    pub(super) fn message_result(&self, address: &Address, key: &IdempotencyKey) -> String {
        format!("{}:{{{}}}:idem:{}", self.prefix, escape(&address.to_string()), escape(key.as_str()))
    }

    /// A topic's places, under the hash tag that its history has.
    pub(super) fn places(&self, topic: &TopicName) -> String {
        format!("{}:{{{}}}:places", self.prefix, escape(&Address::Topic(topic.clone()).to_string()))
    }

    pub(super) fn members(&self, topic: &TopicName) -> String {
        format!("{}:{{{}}}:members", self.prefix, escape(&Address::Topic(topic.clone()).to_string()))
    }

    pub(super) fn connections(&self, user: &UserId) -> String {
        format!("{}:conns:{}", self.tag(Partition::of(user)), escape(user.as_str()))
    }

    pub(super) fn nodes(&self) -> String {
        format!("{}:{{nodes}}", self.prefix)
    }

    pub(super) fn node(&self, node: &NodeId) -> String {
        format!("{}:{{nodes}}:{}", self.prefix, escape(node.as_str()))
    }

    /// One is written before a `WAIT`, so that the wait covers what other connections wrote before: one at every master that
    /// has partitions.
    pub(super) fn durability_marks(&self) -> Vec<String> {
        if self.cluster {
            Partition::all().map(|partition| format!("{}:mark", self.tag(partition))).collect()
        } else {
            vec![format!("{}:mark", self.prefix)]
        }
    }
}

/// What a heartbeat is called in its partition's index: the part of its key that follows the last fixed one.
pub(super) fn heartbeat_member(user: &UserId, task: &TaskId) -> String {
    format!("{}:{}", escape(user.as_str()), escape(task.as_str()))
}

/// A user-supplied name as a part of a key: letters, digits and `._~@-` stay, every other byte is `%` and two hex digits.
/// So `:`, `{`, `}` and `%` have one meaning each in a key. The same function is `escape` of `lua/prelude.lua`.
pub(super) fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"._~@-".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            write!(escaped, "%{byte:02X}").expect("writing to a string cannot fail");
        }
    }
    escaped
}

/// What [`escape`] made of a name, back again; `None` for what it never makes.
pub(super) fn unescape(escaped: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            bytes.push(digit()? * 16 + digit()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: &str) -> UserId {
        UserId::parse(id).unwrap()
    }

    fn tag(key: &str) -> &str {
        // What Redis Cluster hashes: between the first `{` and the first `}` after it.
        key.split_once('{').unwrap().1.split_once('}').unwrap().0
    }

    #[test]
    fn no_name_leaves_its_place_in_a_key() {
        let keys = Keys::new("cs");
        assert_eq!(escape("a:b{c}%d e*ü"), "a%3Ab%7Bc%7D%25d%20e%2A%C3%BC");
        assert_eq!(escape("az.AZ_09~@-"), "az.AZ_09~@-");
        for name in ["a:b{c}%d e*ü", "%41", "", "az.AZ_09~@-"] {
            assert_eq!(unescape(&escape(name)).as_deref(), Some(name));
        }
        assert_eq!((unescape("%4"), unescape("%zz")), (None, None));
        let id = |user_id: &str, key: &str| {
            keys.callback_result(&user(user_id), &IdempotencyKey::parse(key).unwrap())
                .split_once("idem")
                .unwrap()
                .1
                .to_owned()
        };
        assert_ne!(id("a:b", "c"), id("a", "b:c"));
        assert_ne!(id("a%3Ab", "c"), id("a:b", "c"));
    }

    #[test]
    fn all_keys_of_a_user_share_one_hash_tag_whatever_the_name() {
        let keys = Keys::new("cs");
        for name in ["alice", "}{", "{x}", "a:b", "{p00}", "ü"] {
            let (id, task, key) = (user(name), TaskId::parse(name).unwrap(), IdempotencyKey::parse(name).unwrap());
            let partition = Partition::of(&id);
            let expected = format!("p{partition}");
            let (callback, message) = (CallbackId::new(partition, 7), MessageId::new(partition, 7));
            for key in [
                keys.record(callback),
                keys.pending(&id),
                keys.deadlines(partition),
                keys.replies(partition),
                keys.callback_result(&id, &key),
                keys.cancelled_task(&id, &task),
                keys.cancelled_tasks(partition, &task),
                keys.heartbeats(partition),
                keys.heartbeat(&id, &task),
                keys.receipt(message),
                keys.receipt_result(&id, &key),
            ] {
                assert_eq!(tag(&key), expected, "{key}");
            }
        }
    }

    #[test]
    fn all_keys_of_an_address_share_its_hash_tag() {
        let keys = Keys::new("cs");
        for (address, expected) in [
            ("broadcast", "broadcast"),
            ("user:a}b", "user%3Aa%7Db"),
            ("topic:task:42", "topic%3Atask%3A42"),
            ("topic:nodes", "topic%3Anodes"),
        ] {
            let address = Address::parse(address).unwrap();
            let key = IdempotencyKey::parse("{k}").unwrap();
            for key in [
                keys.history(&address),
                keys.numbering(&address),
                keys.history_before(&address),
                keys.message_result(&address, &key),
            ] {
                assert_eq!(tag(&key), expected);
            }
        }
    }

    #[test]
    fn in_a_cluster_everything_of_the_inbox_shares_its_slot() {
        use crate::redis::slots::slot_of;
        let keys = Keys::of_cluster("cs");
        for key in [keys.inbox_dead(), keys.inbox_lease()] {
            assert_eq!(slot_of(key.as_bytes()), slot_of(keys.inbox().as_bytes()), "{key}");
        }
        assert_eq!(Keys::new("cs").inbox_dead(), "cs:inbox:dead");
    }

    #[test]
    fn channels_carry_names_verbatim() {
        let keys = Keys::new("cs");
        for (address, channel) in
            [("broadcast", "cs:broadcast"), ("user:a:{b}*", "cs:user:a:{b}*"), ("topic:task:42", "cs:topic:task:42")]
        {
            let named = Channel::from(&Address::parse(address).unwrap());
            assert_eq!(keys.channel(&named), channel);
            assert_eq!(keys.named(channel.as_bytes()), Some(named.named()));
        }
        assert_eq!((keys.named(b"broadcast"), keys.named(b"css:broadcast")), (None, None));
    }
}
