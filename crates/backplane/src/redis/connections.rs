//! Connections by user in Redis, under the user's partition. Renewals go in one script for many users of a partition, and
//! one round trip for all partitions, so that a thousand users cost no more than sixty-four scripts.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use countersign_protocol::{ConnectionId, NodeId, Partition, UserId};
use redis::{Script, ScriptInvocation, Value, from_redis_value};

use super::{
    RedisBackplane,
    failure::CommandError,
    keys::{escape, unescape},
    lanes::Step,
    messages::unreadable,
    millis,
    record::seconds,
    retry::repeat,
    scripts::SCRIPTS,
};
use crate::{
    Result,
    connections::{
        Admission, ConnectionLimit, Connections, HeldConnection, HeldConnections, OneMore, UserConnection,
        UserConnections,
    },
};

#[async_trait]
impl Connections for RedisBackplane {
    async fn connect(
        &self,
        user: &UserId,
        connection: &ConnectionId,
        limit: ConnectionLimit,
        lease: Duration,
    ) -> Result<Admission> {
        let mut script = self.on_connections(&SCRIPTS.connect, user, lease);
        let one_more = match limit.one_more {
            OneMore::ReplaceOldest => "replace",
            OneMore::Refuse => "refuse",
        };
        script.arg(escape(user.as_str())).arg(self.held(connection)).arg(limit.most).arg(one_more);
        loop {
            let answer = repeat(|| self.lanes.script(&script)).await?.value;
            let (word, replaced): (String, u64) = from_redis_value(answer).map_err(unreadable)?;
            match word.as_str() {
                "admitted" => return Ok(Admission::Admitted { replaced }),
                "refused" => return Ok(Admission::Refused),
                _ => {}
            }
        }
    }

    async fn hold_connections(
        &self,
        held: HeldConnections,
        limit: ConnectionLimit,
        lease: Duration,
    ) -> Result<Vec<ConnectionId>> {
        let steps: Vec<_> = by_partition(&held).values().map(|part| self.renewal(part, limit, lease)).collect();
        if steps.is_empty() {
            return Ok(Vec::new());
        }
        let load = [&SCRIPTS.hold_connections];
        let answers = repeat(|| async {
            let answers = self.lanes.pipeline(&load, &steps).await?;
            answers.into_iter().collect::<Result<Vec<Value>, CommandError>>()
        });
        let mut to_close = Vec::new();
        for answer in answers.await?.value {
            for connection in from_redis_value::<Vec<String>>(answer).map_err(unreadable)? {
                to_close.push(read_held(&connection)?.1);
            }
        }
        Ok(to_close)
    }

    async fn connections(&self, user: &UserId, most: usize) -> Result<UserConnections> {
        // A key of any user's lease: reading renews nothing.
        let mut script = self.on_connections(&SCRIPTS.user_connections, user, Duration::ZERO);
        script.arg(escape(user.as_str())).arg(most.max(1));
        loop {
            let answer = repeat(|| self.lanes.script(&script)).await?.value;
            let (more, count, held): (bool, u64, Vec<(String, f64)>) = from_redis_value(answer).map_err(unreadable)?;
            if !more {
                let connections = held.iter().take(most).map(|(held, since)| read_connection(held, *since));
                return Ok(UserConnections { connections: connections.collect::<Result<_, _>>()?, count });
            }
        }
    }

    async fn disconnect(&self, user: &UserId, only: Option<&ConnectionId>, lease: Duration) -> Result<u64> {
        let mut script = self.on_connections(&SCRIPTS.disconnect, user, lease);
        script.arg(escape(user.as_str()));
        if let Some(only) = only {
            script.arg(only.as_str());
        }
        let mut closed = 0;
        loop {
            let answer = repeat(|| self.lanes.script(&script)).await?.value;
            let (more, now): (bool, u64) = from_redis_value(answer).map_err(unreadable)?;
            closed += now;
            if !more {
                return Ok(closed);
            }
        }
    }
}

/// What is to be done in one partition.
#[derive(Default)]
struct Part<'a> {
    hold: Vec<&'a HeldConnection>,
    let_go: Vec<&'a (UserId, ConnectionId)>,
}

fn by_partition(held: &HeldConnections) -> BTreeMap<Partition, Part<'_>> {
    let mut parts: BTreeMap<Partition, Part<'_>> = BTreeMap::new();
    for connection in &held.hold {
        parts.entry(Partition::of(&connection.user)).or_default().hold.push(connection);
    }
    for whose in &held.let_go {
        parts.entry(Partition::of(&whose.0)).or_default().let_go.push(whose);
    }
    parts
}

impl RedisBackplane {
    fn on_connections(&self, script: &'static Script, user: &UserId, lease: Duration) -> ScriptInvocation<'static> {
        let mut invocation = script.prepare_invoke();
        invocation
            .key(self.keys.connections(user))
            .arg(self.keys.tag(Partition::of(user)))
            .arg(self.keys.prefix())
            .arg(millis(lease).max(1));
        invocation
    }

    fn renewal(&self, part: &Part<'_>, limit: ConnectionLimit, lease: Duration) -> Step<'static> {
        let some_user = part.hold.first().map(|held| &held.user).or_else(|| part.let_go.first().map(|(user, _)| user));
        let some_user = some_user.expect("a part has at least one connection");
        let mut script = self.on_connections(&SCRIPTS.hold_connections, some_user, lease);
        script.arg(limit.most).arg(part.hold.len());
        for HeldConnection { user, connection, age } in &part.hold {
            script.arg(escape(user.as_str())).arg(self.held(connection)).arg(millis(*age));
        }
        for (user, connection) in &part.let_go {
            script.arg(escape(user.as_str())).arg(self.held(connection));
        }
        Step::Script(script)
    }

    /// `<node>:<connection>`.
    fn held(&self, connection: &ConnectionId) -> String {
        format!("{}:{connection}", escape(self.node.as_str()))
    }
}

fn read_held(held: &str) -> Result<(NodeId, ConnectionId), CommandError> {
    let (node, connection) =
        held.split_once(':').ok_or_else(|| CommandError::unreadable("a connection is of another version"))?;
    let node = unescape(node).ok_or_else(|| CommandError::unreadable("a connection's node is of another version"))?;
    Ok((NodeId::parse(&node).map_err(unreadable)?, ConnectionId::parse(connection).map_err(unreadable)?))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole milliseconds since 1970")]
fn read_connection(held: &str, since: f64) -> Result<UserConnection, CommandError> {
    let (node_id, connection_id) = read_held(held)?;
    Ok(UserConnection { connection_id, node_id, connected_at: seconds(since.max(0.0) as u64) })
}
