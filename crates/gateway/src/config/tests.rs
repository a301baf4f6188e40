//! The environment from end to end: what it gives, and what is refused.

use std::{ffi::OsString, os::unix::ffi::OsStringExt};

use secrecy::ExposeSecret;

use super::*;

mod credentials;

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn from(pairs: Pairs<'_>) -> Result<(Config, Vec<Warning>), ConfigError> {
    Config::from_env(pairs.iter().map(|(name, value)| (name.into(), value.into())))
}

fn accepted(pairs: Pairs<'_>) -> Config {
    match from(pairs) {
        Ok((config, _)) => config,
        Err(error) => panic!("{pairs:?}: {error}"),
    }
}

fn refused(pairs: Pairs<'_>) -> String {
    from(pairs).err().unwrap_or_else(|| panic!("{pairs:?} was accepted")).to_string()
}

fn secrets(secrets: &[SecretString]) -> Vec<&str> {
    secrets.iter().map(ExposeSecret::expose_secret).collect()
}

#[test]
fn an_empty_environment_gives_the_defaults_of_the_table() {
    let (config, warnings) = from(&[]).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.listen_address().to_string(), "127.0.0.1:8765");
    assert_eq!(config.max_connections, 10_000);
    assert_eq!(config.ping_interval, Duration::from_secs(30));
    assert_eq!(config.ping_timeout, Duration::from_secs(10));
    assert_eq!(config.callback_timeout, Duration::from_secs(300));
    assert_eq!(config.callback_on_timeout, OnTimeout::Proceed);
    assert_eq!((config.max_message_bytes, config.publish_max_bytes), (65_536, 1_048_576));
    assert_eq!((config.outbox_bytes, config.outbox_frames), (1_048_576, 10_000));
    assert_eq!(config.slow_consumer, SlowConsumer::Close);
    assert!(!config.compression && !config.insecure);
    assert_eq!(config.allowed_origins, AllowedOrigins::default());
    assert_eq!(config.user_connections, UserConnections::default());
    assert!(config.redis_urls.is_empty() && config.api_keys.is_empty());
    assert!(config.jwt_secret.is_none() && config.metrics_key.is_none());
    assert_eq!(config.redis_prefix, "cs");
    assert_eq!(config.history, HistorySizes { default: 100, overrides: HistoryOverrides::default() });
    assert_eq!(config.callback_max_timeout, Duration::from_secs(604_800));
    assert_eq!(config.drain_timeout, Duration::from_secs(25));
    assert_eq!((config.log_format, config.log_filter.as_str()), (None, "info"));
    assert_eq!(Config::default().describe().lines().count(), TABLE.len());
    assert!(Config::default().validate().is_ok());
    assert!(config.settings().iter().all(|setting| setting.is_default || setting.name == "NODE_ID"));
}

#[test]
fn two_nodes_without_a_name_have_different_ones() {
    let [a, b] = [Config::default(), Config::default()].map(|config| config.node_id.to_string());
    assert!(a.len() == 8 && a.bytes().all(|byte| byte.is_ascii_hexdigit()), "{a}");
    assert_ne!(a, b);
}

/// A value for every variable that has one, none of them the default.
const EVERYTHING: Pairs<'_> = &[
    ("WEBSOCKET_HOST", "10.0.0.7"),
    ("WEBSOCKET_PORT", "0"),
    ("WEBSOCKET_MAX_CONNECTIONS", "50"),
    ("WEBSOCKET_PING_INTERVAL", "0.5"),
    ("WEBSOCKET_PING_TIMEOUT", "2.25"),
    ("WEBSOCKET_CALLBACK_TIMEOUT", "60"),
    ("WEBSOCKET_CALLBACK_ON_TIMEOUT", "fail"),
    ("WEBSOCKET_MAX_MESSAGE_BYTES", "1024"),
    ("PUBLISH_MAX_BYTES", "2048"),
    ("WEBSOCKET_OUTBOX_BYTES", "4096"),
    ("WEBSOCKET_OUTBOX_FRAMES", "64"),
    ("WEBSOCKET_SLOW_CONSUMER", "drop"),
    ("WEBSOCKET_SHARDS", "3"),
    ("WEBSOCKET_COMPRESSION", "on"),
    ("WEBSOCKET_ALLOWED_ORIGINS", "same-host,https://*.example.com"),
    ("WEBSOCKET_USER_CONNECTIONS", "5:refuse"),
    ("WEBSOCKET_TOPICS", "7"),
    ("REDIS_URL", "redis://:hidden-password@r1:6379,redis://r2:6379"),
    ("REDIS_PREFIX", "my-app_1.x"),
    ("REDIS_WAIT_REPLICAS", "1"),
    ("REDIS_TLS_CA_FILE", "/etc/redis/ca.pem"),
    ("REDIS_TLS_CERT_FILE", "/etc/redis/node.pem"),
    ("REDIS_TLS_KEY_FILE", "/etc/redis/node.key"),
    ("HISTORY_SIZE", "0"),
    ("HISTORY_TTL", "60"),
    ("HISTORY_OVERRIDES", "room:=0,workflow:=1000"),
    ("CALLBACK_RETENTION", "120"),
    ("CALLBACK_MAX_TIMEOUT", "90"),
    ("CALLBACK_USER_LIMIT", "9"),
    ("CALLBACK_CANCEL_LIMIT", "8"),
    ("PRESENCE_TTL", "5"),
    ("AUTH_JWT_SECRET", "hidden-jwt-secret-hidden-jwt-secret"),
    ("AUTH_JWT_AUDIENCE", "countersign"),
    ("AUTH_API_KEYS", "hidden-first-api-key,hidden-second-api-key"),
    ("AUTH_INSECURE", "true"),
    ("METRICS_KEY", "hidden-metrics-key"),
    ("LIMIT_HTTP_CONNECTIONS", "70"),
    ("LIMIT_WAITS", "0"),
    ("DRAIN_DELAY", "1.5"),
    ("DRAIN_TIMEOUT", "3"),
    ("LOG_FORMAT", "pretty"),
    ("RUST_LOG", "warn,countersign_gateway=debug"),
    ("NODE_ID", "node-7"),
];

#[test]
fn every_variable_reaches_its_field_and_is_printed_as_it_was_given() {
    let unsupported = TABLE.iter().filter(|variable| matches!(variable.accepts, Accepts::Nothing(_))).count();
    assert_eq!(EVERYTHING.len() + unsupported, TABLE.len());
    let config = accepted(EVERYTHING);
    let settings = config.settings();
    for (name, value) in EVERYTHING {
        let setting = settings.iter().find(|setting| setting.name == *name).expect(name);
        let secret = TABLE.iter().any(|variable| variable.name == *name && variable.secret);
        assert_eq!(setting.value, if secret { "[set]" } else { value }, "{name}");
        assert!(!setting.is_default, "{name}");
    }
    assert_eq!(config.ping_timeout, Duration::from_millis(2250));
    assert_eq!(secrets(&config.redis_urls), ["redis://:hidden-password@r1:6379", "redis://r2:6379"]);
    assert_eq!(secrets(&config.api_keys), ["hidden-first-api-key", "hidden-second-api-key"]);
    assert_eq!(config.history.size_for("workflow:1"), 1000);
}

#[test]
fn what_is_printed_can_be_given_back() {
    let config = accepted(EVERYTHING);
    let printed: Vec<(&str, String)> = config
        .settings()
        .into_iter()
        .map(|setting| {
            let given = EVERYTHING.iter().find(|(name, _)| setting.value == "[set]" && *name == setting.name);
            (setting.name, given.map_or(setting.value, |(_, secret)| (*secret).to_owned()))
        })
        .filter(|(_, value)| value != "[not set]")
        .collect();
    let again = accepted(&printed.iter().map(|(name, value)| (*name, value.as_str())).collect::<Vec<_>>());
    assert_eq!(again.describe(), config.describe());
}

#[test]
fn values_are_trimmed_and_an_empty_one_is_absent() {
    let config = accepted(&[("WEBSOCKET_PORT", " 80\n"), ("WEBSOCKET_MAX_CONNECTIONS", ""), ("REDIS_URL", "  ")]);
    assert_eq!((config.port, config.max_connections, config.redis_urls.len()), (80, 10_000, 0));
    assert!(accepted(&[("AUTH_JWT_PUBLIC_KEY", ""), ("AUTH_JWKS_URL", " ")]).jwt_secret.is_none());
}

#[test]
fn a_wrong_value_names_the_variable_what_was_given_and_what_is_accepted() {
    let cases: &[(&str, &[&str])] = &[
        ("WEBSOCKET_HOST", &["example.com", "127.0.0.1:8765", "*"]),
        ("WEBSOCKET_PORT", &["http", "-1", "65536", "80.5", "0x50", "tcp://10.0.0.1:80", "8 0"]),
        ("WEBSOCKET_MAX_CONNECTIONS", &["0", "10000001", "99999999999999999999999", "many"]),
        ("WEBSOCKET_PING_INTERVAL", &["0", "30s", "-5", "inf", "1e9", "86401"]),
        ("WEBSOCKET_PING_TIMEOUT", &["0", "0.01"]),
        ("WEBSOCKET_CALLBACK_ON_TIMEOUT", &["Proceed", "confirm", "true"]),
        ("PUBLISH_MAX_BYTES", &["1MB", "127"]),
        ("WEBSOCKET_SLOW_CONSUMER", &["wait", "CLOSE"]),
        ("WEBSOCKET_COMPRESSION", &["deflate", "2"]),
        ("WEBSOCKET_ALLOWED_ORIGINS", &["*", "app.example.com", "https://app.example.com/"]),
        ("WEBSOCKET_USER_CONNECTIONS", &["5:kick", "none"]),
        ("REDIS_PREFIX", &["a:b", "{cs}", "é"]),
        ("HISTORY_SIZE", &["-1", "1.5"]),
        ("HISTORY_OVERRIDES", &["room:", "room:=many", "room:=1,room:=2"]),
        ("HISTORY_TTL", &["0", "0.5"]),
        ("AUTH_INSECURE", &["maybe", "insecure"]),
        ("DRAIN_TIMEOUT", &["0", "never"]),
        ("LOG_FORMAT", &["JSON", "text"]),
        ("RUST_LOG", &["=,=", "countersign=loud"]),
        ("NODE_ID", &["a\u{7}b"]),
    ];
    for (name, values) in cases {
        let variable = table::find(name).unwrap();
        for value in *values {
            let error = refused(&[(name, value)]);
            assert_eq!(error.lines().count(), 1, "{error}");
            assert!(error.starts_with(&format!("{name}: {value:?} is not accepted")), "{error}");
            assert!(error.ends_with(&variable.accepts.to_string()), "{error}");
        }
    }
}

#[test]
fn all_wrong_values_are_told_at_once_and_nothing_that_only_follows_from_them() {
    let error = refused(&[
        ("WEBSOCKET_PORT", "x"),
        ("WEBSOCKET_HOST", "0.0.0.0"),
        ("DRAIN_TIMEOUT", "x"),
        ("DRAIN_DELAY", "3000"),
        ("AUTH_JWT_SECRET_FILE", "/nonexistent/secret"),
        ("AUTH_API_KEYS", "short"),
        ("LOG_FORMAT", "x"),
        ("WEBSOCKET_CALLBACK_TIMEOUT", "700000"),
    ]);
    let mut told: Vec<&str> = error.lines().map(|line| line.split(':').next().unwrap()).collect();
    told.sort_unstable();
    let expected = [
        "AUTH_API_KEYS",
        "AUTH_JWT_SECRET",
        "DRAIN_TIMEOUT",
        "LOG_FORMAT",
        "WEBSOCKET_CALLBACK_TIMEOUT",
        "WEBSOCKET_PORT",
    ];
    assert_eq!(told, expected, "{error}");
}

#[test]
fn no_value_can_break_a_line_of_the_error() {
    let error = refused(&[("WEBSOCKET_PORT", "1\n2\u{1b}[31m\u{2028}"), ("NODE_ID", "a\nb")]);
    assert_eq!(error.lines().count(), 2, "{error:?}");
    assert!(!error.contains(['\u{1b}', '\u{2028}']), "{error:?}");
    let error = refused(&[("WEBSOCKET_PORT", &"9".repeat(100_000))]);
    assert!(error.len() < 500, "{} bytes", error.len());
}

#[test]
fn what_is_not_utf8_is_refused_where_it_matters_and_ignored_elsewhere() {
    let odd = || OsString::from_vec(vec![b'8', 0xff]);
    let error = Config::from_env([("WEBSOCKET_PORT".into(), odd())]).unwrap_err().to_string();
    assert!(error.starts_with("WEBSOCKET_PORT: WEBSOCKET_PORT is not UTF-8"), "{error}");
    assert!(Config::from_env([("AUTH_JWT_SECRET_FILE".into(), odd())]).is_err());
    let (_, warnings) =
        Config::from_env([("PATH".into(), odd()), (odd(), odd()), ("REDIS_PORT".into(), odd())]).unwrap();
    assert_eq!(warnings, []);
    let name = OsString::from_vec(b"WEBSOCKET_P\xff\nRT".to_vec());
    let (_, warnings) = Config::from_env([(name, odd())]).unwrap();
    let warning = warnings[0].to_string();
    assert!(warning.contains("did you mean WEBSOCKET_PORT?") && warning.lines().count() == 1, "{warning}");
}

#[test]
fn an_unknown_name_that_looks_like_ours_is_a_warning_with_the_nearest_one() {
    let (_, warnings) = from(&[
        ("WEBSOCKET_PROT", "secret-looking-value"),
        ("AUTH_API_KEY", "secret-looking-value"),
        ("HISTORY_OVERIDES", "x"),
        ("WEBSOCKET_PORT_FILE", "x"),
        ("REDIS_PORT", "tcp://10.0.0.1:6379"),
        ("REDIS_SERVICE_HOST", "10.0.0.1"),
        ("websocket_port", "1"),
        ("HISTSIZE", "1000"),
    ])
    .unwrap();
    let told: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "AUTH_API_KEY: there is no such variable; did you mean AUTH_API_KEYS?",
            "HISTORY_OVERIDES: there is no such variable; did you mean HISTORY_OVERRIDES?",
            "WEBSOCKET_PORT_FILE: there is no such variable; did you mean WEBSOCKET_PORT?",
            "WEBSOCKET_PROT: there is no such variable; did you mean WEBSOCKET_PORT?",
        ]
    );
}

#[test]
fn a_value_without_effect_is_a_warning() {
    for (pairs, variable) in [
        (&[("REDIS_WAIT_REPLICAS", "1")][..], "REDIS_WAIT_REPLICAS"),
        (&[("AUTH_JWT_AUDIENCE", "me")], "AUTH_JWT_AUDIENCE"),
    ] {
        let (_, warnings) = from(pairs).unwrap();
        assert!(
            matches!(&warnings[..], [Warning::NoEffect { variable: told, .. }] if *told == variable),
            "{warnings:?}"
        );
    }
}

#[test]
fn values_that_do_not_go_together_name_both_variables() {
    for (pairs, both) in [
        (
            &[("WEBSOCKET_CALLBACK_TIMEOUT", "100"), ("CALLBACK_MAX_TIMEOUT", "99")][..],
            ["WEBSOCKET_CALLBACK_TIMEOUT", "CALLBACK_MAX_TIMEOUT"],
        ),
        (&[("CALLBACK_MAX_TIMEOUT", "299")], ["WEBSOCKET_CALLBACK_TIMEOUT", "CALLBACK_MAX_TIMEOUT"]),
        (&[("DRAIN_DELAY", "25")], ["DRAIN_DELAY", "DRAIN_TIMEOUT"]),
    ] {
        let error = refused(pairs);
        assert!(error.lines().count() == 1 && both.iter().all(|name| error.contains(name)), "{error}");
    }
    accepted(&[("WEBSOCKET_CALLBACK_TIMEOUT", "100"), ("CALLBACK_MAX_TIMEOUT", "100")]);
    accepted(&[("DRAIN_DELAY", "24.9")]);
    accepted(&[("WEBSOCKET_OUTBOX_BYTES", "1024"), ("PUBLISH_MAX_BYTES", "1048576")]);
    let by_hand = Config { ping_timeout: Duration::ZERO, ..Config::default() };
    assert!(by_hand.validate().unwrap_err().to_string().starts_with("WEBSOCKET_PING_TIMEOUT: 0 is not accepted"));
}
