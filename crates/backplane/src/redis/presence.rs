//! Presence in Redis: under the hash tag of each topic a sorted set of places by the end of their lease, and a hash of the
//! members. One script a topic takes, renews, gives up and looks after what has expired, at O(log n) for each place; all the
//! topics of a call go in one round trip.

use std::time::Duration;

use async_trait::async_trait;
use countersign_protocol::{TopicName, UserId, payload::JsonText};
use redis::{Script, ScriptInvocation, Value, from_redis_value};

use super::{
    RedisBackplane, failure::CommandError, keys::escape, lanes::Step, messages::unreadable, millis, retry::repeat,
    scripts::SCRIPTS,
};
use crate::{
    BackplaneError, Channel, Result,
    presence::{Members, Places, Presence, Told},
};

#[async_trait]
impl Presence for RedisBackplane {
    async fn hold_places(&self, places: Vec<Places>, lease: Duration) -> Vec<Result<Told>> {
        let load = [&SCRIPTS.hold_places];
        let mut results: Vec<Result<Told>> = places.iter().map(|_| Ok(Told::default())).collect();
        let mut open: Vec<usize> = (0..places.len()).collect();
        // Another turn only for topics in which more has expired than one run gives up.
        while !open.is_empty() {
            let steps: Vec<_> = open.iter().map(|at| Step::Script(self.hold(&places[*at], lease))).collect();
            let answers = match repeat(|| self.lanes.pipeline(&load, &steps)).await {
                Ok(tried) => tried.value,
                Err(error) => {
                    let error = BackplaneError::from(error);
                    for at in open {
                        results[at] = Err(error.clone());
                    }
                    break;
                }
            };
            let mut again = Vec::new();
            for (at, answer) in open.into_iter().zip(answers) {
                match answer.and_then(read_told) {
                    Ok((more, told)) => {
                        if let Ok(before) = &mut results[at] {
                            before.joined += told.joined;
                            before.left += told.left;
                        }
                        if more {
                            again.push(at);
                        }
                    }
                    Err(error) => results[at] = Err(error.into()),
                }
            }
            open = again;
        }
        results
    }

    async fn members(&self, topic: &TopicName, most: usize) -> Result<Members> {
        let mut script = self.on_topic(&SCRIPTS.members, topic);
        script.arg(most);
        loop {
            let answer = repeat(|| self.lanes.script(&script)).await?.value;
            let (more, count, users): (bool, u64, Vec<String>) = from_redis_value(answer).map_err(unreadable)?;
            if more {
                continue;
            }
            let users = users.iter().map(|user| UserId::parse(user)).collect::<Result<Vec<_>, _>>();
            let mut users = users.map_err(unreadable)?;
            users.sort_unstable();
            return Ok(Members { users, count });
        }
    }
}

impl RedisBackplane {
    fn on_topic(&self, script: &'static Script, topic: &TopicName) -> ScriptInvocation<'static> {
        let mut invocation = script.prepare_invoke();
        invocation
            .key(self.keys.places(topic))
            .key(self.keys.members(topic))
            .arg(self.keys.channel(&Channel::Presence(topic.clone())))
            .arg(JsonText(topic.as_str()).to_string())
            .arg(MOST_EXPIRED);
        invocation
    }

    fn hold(&self, places: &Places, lease: Duration) -> ScriptInvocation<'static> {
        let Places { topic, hold, let_go } = places;
        let mut script = self.on_topic(&SCRIPTS.hold_places, topic);
        script.arg(millis(lease).max(1)).arg(escape(self.node.as_str())).arg(hold.len());
        for user in hold.iter().chain(let_go) {
            script.arg(user.as_str());
        }
        script
    }
}

fn read_told(answer: Value) -> Result<(bool, Told), CommandError> {
    let (more, joined, left) = from_redis_value(answer).map_err(unreadable)?;
    Ok((more, Told { joined, left }))
}

/// Expired places that one run gives up: each takes four commands, so these take some 2 ms of Redis.
const MOST_EXPIRED: usize = 500;
