//! The tests' way to a real Redis, in real time, as a user with the rights of `deploy/redis/users.acl` and no others. The tests share one server and have a prefix each; who breaks links has
//! a server to itself.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use countersign_backplane::{
    Backplane, Channel, Interest, Listener, Settings,
    redis::{RedisOptions, connect},
};
use countersign_protocol::NodeId;

use crate::{
    fixture::Fixture,
    support::{RedisServer, fresh_prefix},
};

pub(crate) struct OnRedis {
    server: Arc<RedisServer>,
    settings: Settings,
}

impl OnRedis {
    fn on(server: Arc<RedisServer>, mut settings: Settings) -> Self {
        settings.prefix = fresh_prefix();
        Self { server, settings }
    }
}

#[async_trait]
impl Fixture for OnRedis {
    async fn start(settings: Settings) -> Self {
        Self::on(RedisServer::shared(), settings)
    }

    async fn start_alone(settings: Settings) -> Self {
        Self::on(Arc::new(RedisServer::start_for_few_rights()), settings)
    }

    async fn connect(&self, node: NodeId, interest: Arc<Interest>, listener: Arc<dyn Listener>) -> Arc<dyn Backplane> {
        let options = RedisOptions::new(&self.server.url_with_few_rights(), node);
        connect(options, self.settings.clone(), &interest, &listener).expect("the options are right")
    }

    async fn publish_raw(&self, channel: &Channel, bytes: &[u8]) {
        let name = format!("{}:{}", self.settings.prefix, channel.name());
        let reply = self.server.command(&[b"PUBLISH", name.as_bytes(), bytes]);
        assert!(reply.starts_with(':'), "PUBLISH was answered {reply:?}");
    }

    async fn advance(&self, by: Duration) {
        tokio::time::sleep(by).await;
    }

    async fn break_links(&self) {
        self.server.kill();
    }

    async fn mend_links(&self) {
        self.server.start_again();
    }

    async fn remember(&self) {
        self.server.save();
    }

    async fn recall(&self) {
        self.server.start_again();
    }
}
