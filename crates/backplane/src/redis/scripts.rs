//! The Lua of every verb, in files of their own, run by their digest. What verbs of callbacks share (`prelude.lua`), and what
//! those of numbered addresses (`numbering.lua`) and of the inbox (`inbox.lua`) share, is put before each of them. Nothing that
//! comes from outside is ever a part of a script's text.

use std::sync::LazyLock;

use redis::{Cmd, Pipeline, Script, ScriptInvocation};

/// Every verb, once: its field, and where its text comes from.
macro_rules! scripts {
    ($($verb:ident: $script:expr,)*) => {
        /// Every verb.
        #[derive(Debug)]
        pub(super) struct Scripts {
            $(pub(super) $verb: Script,)*
        }

        /// The scripts, with their digests.
        pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts { $($verb: $script,)* });

        impl Scripts {
            /// All of them, to be loaded when a connection is made.
            pub(super) fn all(&self) -> impl Iterator<Item = &Script> {
                [$(&self.$verb),*].into_iter()
            }
        }
    };
}

scripts! {
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
    inbox_next: after(INBOX, include_str!("lua/inbox_next.lua")),
    inbox_publish: on_numbering(&format!("{INBOX}\n{}", include_str!("lua/inbox_publish.lua"))),
    inbox_bury: Script::new(include_str!("lua/inbox_bury.lua")),
    hold_places: after(include_str!("lua/places.lua"), include_str!("lua/hold_places.lua")),
    members: after(include_str!("lua/places.lua"), include_str!("lua/members.lua")),
    connect: after(include_str!("lua/connections.lua"), include_str!("lua/connect.lua")),
    hold_connections: after(include_str!("lua/connections.lua"), include_str!("lua/hold_connections.lua")),
    user_connections: after(include_str!("lua/connections.lua"), include_str!("lua/user_connections.lua")),
    disconnect: after(include_str!("lua/connections.lua"), include_str!("lua/disconnect.lua")),
}

/// What verbs of callbacks share.
pub(super) const PRELUDE: &str = include_str!("lua/prelude.lua");

/// What verbs of the inbox share.
const INBOX: &str = include_str!("lua/inbox.lua");

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
