//! A Redis and some gateways, standing for a run: `local` puts one up, `series` one after the other. Redis and nodes can
//! be taken away and brought back at the same addresses.

use std::{env, fs, path::PathBuf};

use anyhow::{Context, Result, ensure};

use super::start::{Ending, Gateway, LOAD_CORE, SERVER_CORE, Started, free_port, pin_own, start_redis};
use crate::{
    args::{DoorKind, Server},
    dialect::Dialect,
    outage::recovery::Switch,
};

/// Whether Redis has its data after it was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    Forgotten,
    Kept,
}

/// What is to be put up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting<'a> {
    pub(crate) binary: &'a PathBuf,
    /// Clients connect to the last, producers call the first.
    pub(crate) nodes: u16,
    /// Gateways on one core, everything else on another.
    pub(crate) is_pinned: bool,
    /// `None`: the embedded backplane.
    pub(crate) redis: Option<Memory>,
    pub(crate) variables: &'a [(String, String)],
    pub(crate) door: Option<DoorKind>,
}

#[derive(Debug)]
pub(crate) struct Stage<'a> {
    setting: Setting<'a>,
    ending: Ending,
    redis: Option<(Started, u16)>,
    /// Where Redis keeps its data, for as long as the stage stands.
    folder: Option<Folder>,
    nodes: Vec<(Started, u16)>,
}

/// A folder that goes with its owner.
#[derive(Debug)]
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays behind is only litter.
        drop(fs::remove_dir_all(&self.0));
    }
}

impl<'a> Stage<'a> {
    pub(crate) fn start(setting: Setting<'a>, ending: &Ending) -> Result<Self> {
        ensure!(
            setting.redis.is_some() || setting.nodes == 1,
            "the embedded backplane is one node's own: take --nodes 1"
        );
        if setting.is_pinned {
            pin_own(LOAD_CORE)?;
        }
        let mut stage = Self { setting, ending: ending.clone(), redis: None, folder: None, nodes: Vec::new() };
        if let Some(memory) = setting.redis {
            let port = free_port()?;
            if memory == Memory::Kept {
                let folder = Folder(env::temp_dir().join(format!("countersign-bench-redis-{port}")));
                fs::create_dir_all(&folder.0).with_context(|| format!("making {}", folder.0.display()))?;
                stage.folder = Some(folder);
            }
            stage.redis = Some((stage.start_redis(port)?, port));
        }
        for number in 1..=setting.nodes {
            let port = free_port()?;
            stage.nodes.push((stage.start_node(number, port)?, port));
        }
        Ok(stage)
    }

    /// As the commands see it.
    pub(crate) fn server(&self) -> Server {
        let port = |at: Option<&(Started, u16)>| at.map_or(0, |(_, port)| *port);
        let (first, last) = (port(self.nodes.first()), port(self.nodes.last()));
        Server {
            urls: vec![format!("ws://127.0.0.1:{last}/ws")],
            http: vec![format!("http://127.0.0.1:{first}")],
            redis: self.redis_url(),
            door: self.setting.door,
            dialect: Dialect::Countersign,
            redis_prefix: "cs".to_owned(),
            api_key: None,
            pids: self.nodes.iter().map(|(node, _)| node.pid()).collect(),
            beside: self.redis.iter().map(|(redis, _)| redis.pid()).collect(),
        }
    }

    /// Of all nodes, for clients that are to be spread over them.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(|(_, port)| format!("ws://127.0.0.1:{port}/ws")).collect()
    }

    /// Kills the node to which clients are connected, and starts it again.
    pub(crate) fn restart_node(&mut self) -> Result<()> {
        let (node, port) = self.nodes.pop().context("there is no node")?;
        drop(node);
        let node = self.start_node(self.setting.nodes, port)?;
        self.nodes.push((node, port));
        Ok(())
    }

    pub(crate) fn switch_redis(&mut self, switch: Switch) -> Result<()> {
        let port = self.redis.as_ref().map(|(_, port)| *port).context("there is no Redis")?;
        match switch {
            Switch::Off => {
                if let Some((redis, _)) = &self.redis {
                    redis.kill();
                }
            }
            Switch::On => self.redis = Some((self.start_redis(port)?, port)),
        }
        Ok(())
    }

    fn redis_url(&self) -> Option<String> {
        self.redis.as_ref().map(|(_, port)| format!("redis://127.0.0.1:{port}"))
    }

    fn start_redis(&self, port: u16) -> Result<Started> {
        start_redis(&self.ending, port, self.folder.as_ref().map(|folder| folder.0.as_path()))
    }

    fn start_node(&self, number: u16, port: u16) -> Result<Started> {
        let (redis, core) = (self.redis_url(), self.setting.is_pinned.then_some(SERVER_CORE));
        let (binary, variables) = (self.setting.binary, self.setting.variables);
        Gateway { binary, number, port, redis: redis.as_deref(), core, variables }.start(&self.ending)
    }
}
