//! The Lua of every verb, in files of their own, run by their digest. What verbs of callbacks share (`prelude.lua`), and what
//! those of numbered addresses share (`numbering.lua`), is put before each of them. Nothing that comes from outside is ever a part of a script's text.

use std::sync::LazyLock;

use redis::{Cmd, Pipeline, Script, ScriptInvocation};

/// Every verb.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) open: Script,
    pub(super) confirm: Script,
    pub(super) read: Script,
    pub(super) withdraw: Script,
    pub(super) cancel_task: Script,
    pub(super) cancel_tasks_named: Script,
    pub(super) task: Script,
    pub(super) open_callbacks: Script,
    pub(super) list: Script,
    pub(super) sweep: Script,
    pub(super) start_heartbeat: Script,
    pub(super) stop_heartbeat: Script,
    pub(super) beat: Script,
    pub(super) open_receipt: Script,
    pub(super) deliver: Script,
    pub(super) ack: Script,
    pub(super) publish: Script,
    pub(super) history: Script,
    pub(super) position: Script,
    pub(super) announce: Script,
    pub(super) claim_replies: Script,
    pub(super) reply: Script,
    pub(super) inbox_hold: Script,
    pub(super) inbox_release: Script,
    pub(super) inbox_next: Script,
    pub(super) inbox_done: Script,
    pub(super) inbox_bury: Script,
    pub(super) hold_places: Script,
    pub(super) members: Script,
    pub(super) connect: Script,
    pub(super) hold_connections: Script,
    pub(super) user_connections: Script,
    pub(super) disconnect: Script,
}

/// The scripts, with their digests.
pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
    open: on_callbacks(include_str!("lua/open.lua")),
    confirm: on_callbacks(include_str!("lua/confirm.lua")),
    read: on_callbacks(include_str!("lua/read.lua")),
    withdraw: on_callbacks(include_str!("lua/withdraw.lua")),
    cancel_task: on_callbacks(include_str!("lua/cancel_task.lua")),
    cancel_tasks_named: on_callbacks(include_str!("lua/cancel_tasks_named.lua")),
    task: on_callbacks(include_str!("lua/task.lua")),
    open_callbacks: on_callbacks(include_str!("lua/open_callbacks.lua")),
    list: on_callbacks(include_str!("lua/list.lua")),
    sweep: on_callbacks(include_str!("lua/sweep.lua")),
    start_heartbeat: on_callbacks(include_str!("lua/start_heartbeat.lua")),
    stop_heartbeat: on_callbacks(include_str!("lua/stop_heartbeat.lua")),
    beat: on_callbacks(include_str!("lua/beat.lua")),
    open_receipt: on_callbacks(include_str!("lua/open_receipt.lua")),
    deliver: on_callbacks(include_str!("lua/deliver.lua")),
    ack: on_callbacks(include_str!("lua/ack.lua")),
    publish: on_numbering(include_str!("lua/publish.lua")),
    history: on_numbering(include_str!("lua/history.lua")),
    position: on_numbering(include_str!("lua/position.lua")),
    announce: Script::new(include_str!("lua/announce.lua")),
    claim_replies: on_callbacks(include_str!("lua/claim_replies.lua")),
    reply: Script::new(include_str!("lua/reply.lua")),
    inbox_hold: Script::new(include_str!("lua/inbox_hold.lua")),
    inbox_release: Script::new(include_str!("lua/inbox_release.lua")),
    inbox_next: Script::new(include_str!("lua/inbox_next.lua")),
    inbox_done: Script::new(include_str!("lua/inbox_done.lua")),
    inbox_bury: Script::new(include_str!("lua/inbox_bury.lua")),
    hold_places: after(include_str!("lua/places.lua"), include_str!("lua/hold_places.lua")),
    members: after(include_str!("lua/places.lua"), include_str!("lua/members.lua")),
    connect: after(include_str!("lua/connections.lua"), include_str!("lua/connect.lua")),
    hold_connections: after(include_str!("lua/connections.lua"), include_str!("lua/hold_connections.lua")),
    user_connections: after(include_str!("lua/connections.lua"), include_str!("lua/user_connections.lua")),
    disconnect: after(include_str!("lua/connections.lua"), include_str!("lua/disconnect.lua")),
});

impl Scripts {
    /// All of them, to be loaded when a connection is made.
    pub(super) fn all(&self) -> [&Script; 33] {
        let Self {
            open,
            confirm,
            read,
            withdraw,
            cancel_task,
            cancel_tasks_named,
            task,
            open_callbacks,
            list,
            sweep,
            start_heartbeat,
            stop_heartbeat,
            beat,
            open_receipt,
            deliver,
            ack,
            publish,
            history,
            position,
            announce,
            claim_replies,
            reply,
            inbox_hold,
            inbox_release,
            inbox_next,
            inbox_done,
            inbox_bury,
            hold_places,
            members,
            connect,
            hold_connections,
            user_connections,
            disconnect,
        } = self;
        [
            open,
            confirm,
            read,
            withdraw,
            cancel_task,
            cancel_tasks_named,
            task,
            open_callbacks,
            list,
            sweep,
            start_heartbeat,
            stop_heartbeat,
            beat,
            open_receipt,
            deliver,
            ack,
            publish,
            history,
            position,
            announce,
            claim_replies,
            reply,
            inbox_hold,
            inbox_release,
            inbox_next,
            inbox_done,
            inbox_bury,
            hold_places,
            members,
            connect,
            hold_connections,
            user_connections,
            disconnect,
        ]
    }
}

/// What verbs of callbacks share.
pub(super) const PRELUDE: &str = include_str!("lua/prelude.lua");

/// A verb may return anywhere in its text, so it is made a function, whose result is told with the replies that it made.
fn on_callbacks(verb: &str) -> Script {
    Script::new(&format!("{PRELUDE}\nlocal function verb()\n{verb}\nend\nreturn with_replies(verb())"))
}

/// The lane adds the run to a verb's arguments.
fn on_numbering(verb: &str) -> Script {
    Script::new(&format!("{}\n{verb}", include_str!("lua/numbering.lua")))
}

/// The command of a script.
pub(super) fn evalsha(script: &ScriptInvocation<'_>) -> Cmd {
    let mut pipeline = Pipeline::new();
    pipeline.invoke_script(script);
    pipeline.cmd_iter().next().cloned().expect("one script is one command")
}

/// A verb with what it shares with others.
fn after(shared: &str, verb: &str) -> Script {
    Script::new(&format!("{shared}\n{verb}"))
}
