//! A node starts with what it was given, or says what is wrong and does not start.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use harness::{Node, PATIENCE, eventually};

#[tokio::test]
async fn a_wrong_value_names_the_variable_and_ends_with_64() {
    let wrong = [
        ("WEBSOCKET_MAX_CONNECTIONS", "many"),
        ("WEBSOCKET_MAX_CONNECTIONS", "-1"),
        ("WEBSOCKET_PING_INTERVAL", "30s"),
        ("WEBSOCKET_HOST", "nowhere.example"),
        ("WEBSOCKET_CALLBACK_ON_TIMEOUT", "explode"),
        ("WEBSOCKET_SLOW_CONSUMER", "wait"),
        ("REDIS_URL", "http://127.0.0.1"),
        ("HISTORY_OVERRIDES", "room"),
        ("AUTH_JWT_SECRET", "short"),
        ("LOG_FORMAT", "xml"),
    ];
    for (name, value) in wrong {
        let exit = Node::builder().env(name, value).refused().await;
        assert_eq!(exit.code, Some(64), "{name}={value}: {}", exit.log);
        assert!(exit.log.contains(name), "{name}={value}: {}", exit.log);
        assert!(exit.log.contains("accepted"), "{name}={value}: {}", exit.log);
    }
}

#[tokio::test]
async fn everything_that_is_wrong_is_told_at_once() {
    let exit = Node::builder()
        .env("WEBSOCKET_MAX_CONNECTIONS", "many")
        .env("HISTORY_SIZE", "few")
        .env("DRAIN_TIMEOUT", "soon")
        .refused()
        .await;
    assert_eq!(exit.code, Some(64));
    for name in ["WEBSOCKET_MAX_CONNECTIONS", "HISTORY_SIZE", "DRAIN_TIMEOUT"] {
        assert!(exit.log.contains(name), "{name}: {}", exit.log);
    }
}

#[tokio::test]
async fn a_door_without_credentials_is_not_opened_to_the_world() {
    let key = "producer-key-0123456789";
    let secret = "0123456789abcdef0123456789abcdef";
    let world = Node::builder().env("WEBSOCKET_HOST", "0.0.0.0");
    for (builder, missing) in [
        (world.clone(), "AUTH_JWT_SECRET"),
        (world.clone(), "AUTH_API_KEYS"),
        (world.clone().env("AUTH_API_KEYS", key), "AUTH_JWT_SECRET"),
        (world.clone().env("AUTH_JWT_SECRET", secret), "AUTH_API_KEYS"),
    ] {
        let exit = builder.refused().await;
        assert_eq!(exit.code, Some(64), "{}", exit.log);
        assert!(exit.log.contains(missing), "{missing}: {}", exit.log);
    }
}

#[tokio::test]
async fn an_unknown_name_gets_a_warning_with_the_nearest_known_one() {
    let node = Node::builder().env("WEBSOCKET_MAX_CONECTIONS", "5").start().await;
    let warns = |line: &String| line.contains("WEBSOCKET_MAX_CONECTIONS") && line.contains("WEBSOCKET_MAX_CONNECTIONS");
    assert!(node.process().log().iter().any(warns), "{:#?}", node.process().log());
}

#[tokio::test]
async fn the_configuration_is_printed_and_secrets_are_not() {
    let secret = "swordfish-swordfish-swordfish-swordfish";
    let node = Node::builder()
        .env("AUTH_JWT_SECRET", secret)
        .env("AUTH_API_KEYS", format!("{secret}-key"))
        .env("WEBSOCKET_MAX_CONNECTIONS", "4321")
        .start()
        .await;
    eventually(PATIENCE, "the configuration in the log", || async { node.has_logged("4321").then_some(()) }).await;
    assert!(!node.has_logged("swordfish"), "{:#?}", node.process().log());
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let exit = Node::builder().env("WEBSOCKET_PORT", &port).refused().await;
    assert!(exit.code.is_some_and(|code| code != 0), "{exit:?}");
    assert!(exit.log.contains(&port), "{}", exit.log);
}

#[tokio::test]
async fn the_probe_tells_whether_a_node_is_ready() {
    let node = Node::builder().start().await;
    let port = node.address().rsplit_once(':').map(|(_, port)| port.to_owned()).expect("host and port");
    let probe = Node::builder().env("WEBSOCKET_PORT", &port);
    assert_eq!(probe.clone().run(&["health"]).await.code, Some(0));
    node.kill();
    let exit = probe.run(&["health"]).await;
    assert!(exit.code.is_some_and(|code| code != 0), "{exit:?}");
}

#[tokio::test]
async fn help_and_version_are_printed() {
    let help = Node::builder().run(&["--help"]).await;
    assert_eq!(help.code, Some(0));
    assert!(help.log.contains("WEBSOCKET_PORT") && help.log.contains("8765"), "{}", help.log);
    assert_eq!(Node::builder().run(&["--version"]).await.code, Some(0));
}
