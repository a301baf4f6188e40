//! What each metric means when it moves: the text of `/metrics`, of the README, and of nothing else.

/// Name, kind, and what it means when it moves.
pub const TABLE: &[(&str, &str, &str)] = &[
    (
        "countersign_connections",
        "gauge",
        "Connections that this node holds now. Uneven between nodes: look at the balancer.",
    ),
    (
        "countersign_connections_total",
        "counter",
        "Connection attempts by result: accepted, refused_limit, refused_user_limit, refused_token, refused_origin, refused_not_ready, failed. Success rate = accepted / all.",
    ),
    ("countersign_rooms", "gauge", "Addresses that somebody on this node listens to."),
    (
        "countersign_messages_in_total",
        "counter",
        "Actions of clients, by action. A jump of one kind is a client in a loop.",
    ),
    (
        "countersign_action_errors_total",
        "counter",
        "Actions answered with an error, by code. Rises after a deploy: client and gateway disagree.",
    ),
    ("countersign_action_seconds", "histogram", "From a client's action to its reply."),
    ("countersign_messages_heard_total", "counter", "Messages that this node heard from the backplane."),
    (
        "countersign_messages_refused_total",
        "counter",
        "Publications that are no message, or that have the position of another one: a producer writes something else than JSON objects, or makes positions up. The log names the channel.",
    ),
    ("countersign_messages_out_total", "counter", "Frames handed to connections' outboxes."),
    ("countersign_bytes_out_total", "counter", "Bytes of these frames."),
    ("countersign_messages_failed_total", "counter", "Frames that could not be written because the connection broke."),
    (
        "countersign_delivery_seconds",
        "histogram",
        "From hearing messages to having handed them to the kernel for every connection; one observation for each turn, which is all that one read brought. Grows when the node has too little CPU.",
    ),
    (
        "countersign_holes_total",
        "counter",
        "Addresses that were checked for missed messages after an interruption, by result: filled, or gap (members were told that messages are missing).",
    ),
    ("countersign_outbox_frames", "gauge", "Frames that wait in outboxes. Grows with slow readers."),
    ("countersign_slow_consumers_total", "counter", "Connections closed with 4001 because their outbox was full."),
    (
        "countersign_messages_dropped_total",
        "counter",
        "Messages that slow readers missed and were told of, with WEBSOCKET_SLOW_CONSUMER=drop.",
    ),
    ("countersign_ping_seconds", "histogram", "Round trip of WebSocket pings: the quality of people's connections."),
    ("countersign_ping_timeouts_total", "counter", "Connections closed with 4002 because nothing came back."),
    ("countersign_callbacks_open", "gauge", "Open callbacks of the whole cluster, as of the last sweep."),
    ("countersign_callbacks_opened_total", "counter", "Callbacks opened through this node."),
    (
        "countersign_callbacks_ended_total",
        "counter",
        "Callbacks ended by a step of this node, by status. Many timed_out: people do not see or do not answer.",
    ),
    (
        "countersign_callback_answer_seconds",
        "histogram",
        "From asking to the decision, for waits held since the question was put through this node.",
    ),
    (
        "countersign_receipts_opened_total",
        "counter",
        "Messages that want to be acknowledged, published through this node.",
    ),
    (
        "countersign_acks_total",
        "counter",
        "Acknowledgements taken by this node. Falls behind the receipts: people are away, or clients do not acknowledge.",
    ),
    (
        "countersign_ack_seconds",
        "histogram",
        "From publishing to the first acknowledgement, for waits held since the message was published through this node.",
    ),
    ("countersign_heartbeats_sent_total", "counter", "Heartbeat messages that sweeps of this node sent."),
    ("countersign_waits", "gauge", "Waits for decisions and acknowledgements that this node holds."),
    (
        "countersign_http_connections",
        "gauge",
        "HTTP connections that this node holds now, beside WebSockets. Near LIMIT_HTTP_CONNECTIONS: callers do not reuse connections, or hold more waits than planned.",
    ),
    (
        "countersign_limited_total",
        "counter",
        "What was not done because a limit was reached, by limit: http_connections (a request was answered 503), silent_connections (one that had asked for nothing was closed for another), waits (answered without waiting).",
    ),
    (
        "countersign_presence_places",
        "gauge",
        "Places in topics that this node holds for its users, and topics that it looks after for those who hear joined and left.",
    ),
    (
        "countersign_presence_told_total",
        "counter",
        "Changes of topics' members that this node's steps told, by event: joined, left. Many more than people come and go: nodes do not renew in time (PRESENCE_TTL).",
    ),
    (
        "countersign_user_connections",
        "gauge",
        "Connections that this node has registered for its users. Far from countersign_connections without guests: the backplane does not answer.",
    ),
    (
        "countersign_user_connections_ordered_total",
        "counter",
        "Connections of users by order: replaced and refused (WEBSOCKET_USER_CONNECTIONS), disconnected (by a producer), and closed (on this node, whoever ordered it).",
    ),
    ("countersign_published_total", "counter", "Messages published through this node's doors."),
    (
        "countersign_inbox_entries_total",
        "counter",
        "Entries of the inbox that this node has finished, by outcome: done, or dead (moved to cs:inbox:dead with the reason).",
    ),
    (
        "countersign_inbox_waiting",
        "gauge",
        "Entries that wait in the inbox, as the node that reads it sees them; 0 on the others. Grows: producers are faster, or Redis does not answer.",
    ),
    ("countersign_http_requests_total", "counter", "Requests at the producers' door, by status class."),
    (
        "countersign_log_lines_dropped_total",
        "counter",
        "Lines of the log that could not be written. Rises: the reader of standard output stands still or is too slow.",
    ),
    ("countersign_link_up", "gauge", "1 while the node hears itself through the backplane. 0: not ready."),
    ("countersign_probe_seconds", "histogram", "How long the node takes to hear itself: pub/sub lag."),
    ("countersign_backplane_seconds", "histogram", "Round trip of commands to the backplane."),
    ("countersign_backplane_errors_total", "counter", "Commands that failed, by kind."),
    (
        "countersign_subscriber_connects_total",
        "counter",
        "Subscriber connections made, one for persons and one for crowds; every further one is a reconnect. Rises steadily: Redis cuts the subscriber (output buffer) or the network does.",
    ),
    (
        "countersign_node_id_shared",
        "gauge",
        "1 while another live node announces itself with this node's NODE_ID: give every node one of its own.",
    ),
];
