//! How a story ends: everything works again, everybody hears what it wants to hear, the accounts add up, everybody leaves and
//! nothing is left behind.

use std::time::Duration;

use countersign_protocol::NodeId;
use tokio::time::sleep;

use super::{account::Wrong, client::Client, story::Story};

impl Story {
    /// From now on everything works.
    pub(super) async fn recover(&mut self) {
        self.chronicle.event("everything works again");
        self.weather.calm_down();
        for host in 0..self.hosts.len() {
            let id = NodeId::parse(&self.hosts[host].name).expect("a name");
            self.memory.restore(&id);
            if self.hosts[host].up.as_ref().is_none_or(|(node, _)| node.shutdown.has_begun()) {
                self.kill(host).await;
                self.start(host);
            }
        }
    }

    /// Until everybody hears what it wants to hear, and then until nothing is under way.
    pub(super) async fn settle(&mut self) -> Result<(), Wrong> {
        let mut quiet = 0;
        for _ in 0..400 {
            sleep(Duration::from_millis(100)).await;
            for at in 0..self.clients.len() {
                self.clients[at].hurries();
                self.read(at, usize::MAX)?;
                if self.clients[at].host().is_none() {
                    self.come(at, 0);
                }
                let unheard = self.clients[at].unheard();
                if !unheard.is_empty() {
                    self.clients[at].subscribes(&unheard, true, &self.chronicle);
                }
            }
            self.look()?;
            quiet = if self.clients.iter().all(Client::is_settled) { quiet + 1 } else { 0 };
            if quiet > 20 {
                return Ok(());
            }
        }
        let unsettled: Vec<_> = self
            .clients
            .iter()
            .filter(|client| !client.is_settled())
            .map(|client| (&client.name, client.wanted()))
            .collect();
        Err(format!("not everybody hears what it wants to hear, when everything works: {unsettled:?}"))
    }

    pub(super) fn add_up(&self) -> Result<(), Wrong> {
        self.clients.iter().try_for_each(|client| client.adds_up(&self.chronicle))
    }

    /// Everybody leaves, and nothing is left behind.
    pub(super) async fn leave(&mut self) -> Result<(), Wrong> {
        for client in &mut self.clients {
            client.closes();
            client.goes(&self.chronicle, "home");
        }
        sleep(Duration::from_secs(10)).await;
        let up = self.hosts.iter().filter_map(|host| host.up.as_ref());
        // What an ended node held ends by itself.
        if up.clone().any(|(node, _)| node.presence.count() > 0) {
            return Err("everybody has left, and there are places taken".to_owned());
        }
        for (node, interest) in up.chain(&self.ended) {
            let (load, wanted) = (node.hub.load(), interest.wanted());
            if (load.connections, load.rooms, load.waiting, wanted) != (0, 0, 0, OWN_CHANNEL) {
                return Err(format!("everybody has left, and there is {load:?}, {wanted} channels wanted"));
            }
        }
        for host in 0..self.hosts.len() {
            self.kill(host).await;
        }
        for task in self.tasks.drain(..) {
            let ended = tokio::time::timeout(Duration::from_secs(60), task).await;
            ended.map_err(|_| "a task does not end".to_owned())?.map_err(|error| error.to_string())?;
        }
        for (node, _) in &self.ended {
            node.shutdown.finished().await;
        }
        Ok(())
    }
}

/// On which a node is told what is for it alone.
const OWN_CHANNEL: usize = 1;
