//! Secrets and doors: where secrets come from, which are too weak, when a door may be open, and that no secret ever
//! comes out again.

use super::*;

const JWT_SECRET: &str = "0123456789abcdef0123456789abcdef";
const API_KEY: &str = "sixteen-bytes-ok";

#[test]
fn a_door_without_credentials_is_open_on_loopback_or_when_it_is_said() {
    let jwt = ("AUTH_JWT_SECRET", JWT_SECRET);
    let keys = ("AUTH_API_KEYS", API_KEY);
    let insecure = ("AUTH_INSECURE", "true");
    for (host, loopback) in [
        ("127.0.0.1", true),
        ("127.8.9.1", true),
        ("::1", true),
        ("[::1]", true),
        ("::ffff:127.0.0.1", true),
        ("localhost", true),
        ("0.0.0.0", false),
        ("::", false),
        ("10.0.0.1", false),
        ("::ffff:10.0.0.1", false),
    ] {
        let host = ("WEBSOCKET_HOST", host);
        for (pairs, open) in [
            (&[host][..], 2),
            (&[host, jwt], 1),
            (&[host, keys], 1),
            (&[host, jwt, keys], 0),
            (&[host, insecure], 2),
            (&[host, jwt, keys, insecure], 0),
        ] {
            let said = pairs.contains(&insecure);
            match from(pairs) {
                Ok((_, warnings)) => {
                    assert!(loopback || said || open == 0, "{pairs:?}");
                    assert_eq!(warnings.len(), if loopback { 0 } else { open }, "{pairs:?} {warnings:?}");
                }
                Err(error) => {
                    assert!(!loopback && !said, "{pairs:?}: {error}");
                    assert_eq!(error.problems().len(), open, "{pairs:?}: {error}");
                    for line in error.to_string().lines() {
                        assert!(line.contains("WEBSOCKET_HOST") && line.contains("AUTH_INSECURE=true"), "{line}");
                    }
                }
            }
        }
    }
}

#[test]
fn auth_insecure_never_weakens_a_door_that_has_credentials() {
    let config = accepted(&[
        ("WEBSOCKET_HOST", "0.0.0.0"),
        ("AUTH_INSECURE", "true"),
        ("AUTH_JWT_SECRET", JWT_SECRET),
        ("AUTH_API_KEYS", API_KEY),
    ]);
    assert!(!crate::auth::Clients::new(&config).is_open());
    assert!(!crate::auth::Producers::new(&config).is_open());
}

#[test]
fn weak_or_unusable_credentials_are_refused_without_being_shown() {
    for (name, value, told) in [
        ("AUTH_JWT_SECRET", "hidden-hidden-hidden-hidden-hid", "has 31 bytes; accepted: at least 32"),
        ("AUTH_API_KEYS", "hidden-hidden-1", "key 1 of 1 has 15 bytes; accepted: at least 16"),
        ("AUTH_API_KEYS", "hidden-hidden-hidden,hidden", "key 2 of 2 has 6 bytes"),
        ("AUTH_API_KEYS", "hidden hidden hidden", "key 1 of 1 has characters that no HTTP header can carry"),
        ("METRICS_KEY", "hidden hidden", "has characters that no HTTP header can carry"),
        ("REDIS_URL", "http://hidden:hidden@r1", "URL 1 of 1 has another scheme (not shown)"),
        ("REDIS_URL", "hidden", "URL 1 of 1 has another scheme (not shown)"),
        ("REDIS_URL", "redis://hidden,rediss://hidden", "have one scheme"),
        ("AUTH_JWT_SECRET", "\"hidden-hidden-hidden-hidden-hidden\"", "is in quotes"),
        ("AUTH_JWT_SECRET", "\u{feff}hidden-hidden-hidden-hidden-hidden", "begins with a byte order mark"),
        ("AUTH_API_KEYS", "hidden-hidden-hidden,'hidden-hidden-hidden'", "is in quotes"),
        ("METRICS_KEY", "'hidden-hidden'", "is in quotes"),
        ("REDIS_URL", "\"redis://u:hidden@r1\"", "is in quotes"),
        ("REDIS_URL", "redis://u:12#hidden@r1", "%23"),
        ("REDIS_URL", "redis://r0,redis://u:12#hidden@r1", "URL 2 of 2"),
        ("REDIS_URL", "redis://u:hidden@r1?db=2", "?***"),
        ("REDIS_URL", "rediss://r1?ssl_cert_reqs=none", "?***"),
        ("REDIS_URL", "redis+sentinel://u:1/hidden@r1/main", "%2F"),
        ("AUTH_JWT_PUBLIC_KEY", "hidden", "not supported by this version; use AUTH_JWT_SECRET"),
        ("AUTH_JWKS_URL", "https://hidden", "not supported by this version; use AUTH_JWT_SECRET"),
    ] {
        let error = refused(&[(name, value)]);
        assert!(error.starts_with(&format!("{name}: ")) && error.contains(told), "{error}");
        assert!(!error.contains("hidden") && error.lines().count() == 1, "{error}");
    }
    accepted(&[("AUTH_JWT_SECRET", JWT_SECRET), ("AUTH_API_KEYS", API_KEY)]);
}

#[test]
fn several_urls_are_split_and_the_hosts_of_one_sentinel_url_stay_together() {
    let sentinels = "redis+sentinel://s1:26379,s2:26379,s3:26379/main/0";
    assert_eq!(secrets(&accepted(&[("REDIS_URL", sentinels)]).redis_urls), [sentinels]);
    let error = refused(&[("REDIS_URL", "redis+sentinel://s1,s2/main,redis+sentinel://s3/main")]);
    assert!(error.contains("separate the sentinels in it by commas") && error.lines().count() == 1, "{error}");
    let config = accepted(&[("REDIS_URL", "rediss://a:1 , rediss://b:2")]);
    assert_eq!(secrets(&config.redis_urls), ["rediss://a:1", "rediss://b:2"]);
}

#[test]
fn every_secret_is_also_read_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let jwt = file("jwt", format!("{JWT_SECRET}\r\n").as_bytes());
    let keys = file("keys", b"first-key-in-a-file\nsecond-key-in-file, third-key-in-a-file\n\n");
    let redis = file("redis", b"redis://r1\n");
    let metrics = file("metrics", b"scrape");
    let config = accepted(&[
        ("AUTH_JWT_SECRET_FILE", &jwt),
        ("AUTH_API_KEYS_FILE", &keys),
        ("REDIS_URL_FILE", &redis),
        ("METRICS_KEY_FILE", &metrics),
        ("AUTH_JWT_SECRET", ""),
    ]);
    assert_eq!(config.jwt_secret.unwrap().expose_secret(), JWT_SECRET);
    assert_eq!(secrets(&config.api_keys), ["first-key-in-a-file", "second-key-in-file", "third-key-in-a-file"]);
    assert_eq!(secrets(&config.redis_urls), ["redis://r1"]);
    assert_eq!(config.metrics_key.unwrap().expose_secret(), "scrape");

    let big = file("big", &vec![b'x'; 100_000]);
    for (pairs, told) in [
        (vec![("AUTH_JWT_SECRET_FILE", jwt.as_str()), ("AUTH_JWT_SECRET", JWT_SECRET)], "given twice"),
        (vec![("AUTH_JWT_SECRET_FILE", "/nonexistent/secret")], "\"/nonexistent/secret\", which cannot be read"),
        (vec![("AUTH_JWT_SECRET_FILE", folder.path().to_str().unwrap())], "which cannot be read"),
        (vec![("AUTH_JWT_SECRET_FILE", &file("empty", b"\n\n"))], "which is empty"),
        (vec![("AUTH_JWT_SECRET_FILE", &file("odd", b"\xff\xfe"))], "which is not UTF-8"),
        (vec![("AUTH_JWT_SECRET_FILE", &big)], "which is longer than 65536 bytes"),
        (vec![("AUTH_JWT_SECRET_FILE", &file("blank", format!("{JWT_SECRET} \n").as_bytes()))], "ends with a blank"),
        (vec![("AUTH_JWT_SECRET_FILE", &file("tab", format!("{JWT_SECRET}\t").as_bytes()))], "ends with a blank"),
        (vec![("AUTH_API_KEYS_FILE", &file("first", b" first-key-in-a-file"))], "begins or ends with a blank"),
        (vec![("AUTH_JWT_SECRET_FILE", &file("bom", format!("\u{feff}{JWT_SECRET}").as_bytes()))], "byte order mark"),
        (vec![("AUTH_JWT_SECRET_FILE", &file("quoted", format!("\"{JWT_SECRET}\"\n").as_bytes()))], "is in quotes"),
        (vec![("AUTH_JWT_SECRET_FILE", &metrics)], "has 6 bytes"),
        (vec![("AUTH_JWT_PUBLIC_KEY_FILE", &jwt)], "not supported by this version"),
    ] {
        let error = refused(&pairs);
        assert!(error.contains(told) && error.lines().count() == 1, "{error}");
        assert!(!error.contains(JWT_SECRET) && !error.contains("scrape"), "{error}");
    }
}

#[test]
fn no_secret_is_in_any_output() {
    let (config, warnings) = from(EVERYTHING).unwrap();
    let with_one_more = |pair| EVERYTHING.iter().copied().chain([pair]).collect::<Vec<_>>();
    let outputs = [
        config.describe(),
        format!("{config:?} {config:#?} {:?}", config.settings()),
        format!("{warnings:?}"),
        refused(&with_one_more(("WEBSOCKET_PORT", "x"))),
        refused(&with_one_more(("AUTH_JWT_SECRET_FILE", "/nonexistent"))),
        format!("{:?}", from(&with_one_more(("REDIS_URL", "hidden"))).unwrap_err()),
        format!("{:?} {:?}", crate::auth::Clients::new(&config), crate::auth::Producers::new(&config)),
    ];
    for output in outputs {
        assert!(!output.is_empty() && !output.contains("hidden"), "{output}");
    }
}
