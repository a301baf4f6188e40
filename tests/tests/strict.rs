//! What is not understood is refused on every call, and does nothing: unknown and repeated fields of the query, bodies where none is
//! expected, unknown members and keys that come twice, and `null` where absence would mean everybody.

#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "a test has a handful of futures, not one for each connection")]

use harness::{Cluster, Device, Node, PATIENCE, RedisServer, Reply, eventually};
use reqwest::Method;
use serde_json::{Value, json};

/// One call of producers as it should be.
struct Call {
    method: Method,
    path: &'static str,
    /// A field of the query that it has, with a value.
    field: Option<&'static str>,
    /// The body that it takes.
    body: Option<Value>,
    /// Whether what is in the body is the producer's own.
    free: bool,
}

fn call(method: Method, path: &'static str, field: Option<&'static str>, body: Option<Value>) -> Call {
    let free = path.ends_with("/messages") || path.ends_with("/broadcast");
    Call { method, path, field, body, free }
}

/// Every route under `/v1`.
fn calls() -> Vec<Call> {
    let message = || Some(json!({"type": "x"}));
    let question = json!({"user_id": "a", "task_id": "t", "step_result": {"message": "m", "status": "s"}});
    let id = "/v1/callbacks/07-000000000000000000000000000000ab";
    let messages = json!({"messages": [{"address": "broadcast", "message": {"type": "x"}}]});
    let record = "/v1/callbacks/07-000000000000000000000000000000ab/record";
    vec![
        call(Method::POST, "/v1/broadcast", Some("ack=false"), message()),
        call(Method::POST, "/v1/users/a/messages", Some("ack=false"), message()),
        call(Method::POST, "/v1/topics/t/messages", Some("ack=false"), message()),
        call(Method::POST, "/v1/batch", None, Some(messages)),
        call(Method::GET, "/v1/users/a", None, None),
        call(Method::DELETE, "/v1/users/a/connections", Some("connection_id=x"), None),
        call(Method::GET, "/v1/topics/t/presence", None, None),
        call(Method::GET, "/v1/topics/t/history", Some("limit=1"), None),
        call(Method::GET, "/v1/messages/07-000000000000000000000000000000ab", None, None),
        call(Method::POST, "/v1/notifications", Some("wait=0"), Some(question)),
        call(Method::GET, "/v1/callbacks", Some("user_id=a"), None),
        call(Method::GET, id, Some("wait=0"), None),
        call(Method::DELETE, id, None, None),
        call(Method::GET, record, None, None),
        call(Method::GET, "/v1/tasks/t", Some("user_id=a"), None),
        call(Method::POST, "/v1/tasks/t/cancel", Some("user_id=a"), Some(json!({"user_id": "a"}))),
        call(Method::DELETE, "/v1/tasks/t/cancel", Some("user_id=a"), None),
        call(Method::PUT, "/v1/tasks/t/heartbeat", None, Some(json!({"user_id": "a"}))),
        call(Method::DELETE, "/v1/tasks/t/heartbeat", Some("user_id=a"), None),
        call(Method::GET, "/v1/status", None, None),
    ]
}

async fn raw(node: &Node, method: &Method, path: &str, body: Option<String>) -> (u16, String) {
    // By hand, as a client would not write a key twice.
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let mut request = client.request(method.clone(), format!("{}{path}", node.url()));
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body);
    }
    let response = request.send().await.expect("an answer");
    (response.status().as_u16(), response.text().await.expect("a body"))
}

#[tokio::test]
async fn every_call_refuses_what_it_does_not_understand() {
    let node = Node::builder().start().await;
    // Names the provider of TLS that plain HTTP needs too.
    node.api().get("/v1/status").await.expect_status(200);
    let mut tried = 0;
    for Call { method, path, field, body, free } in calls() {
        let right = field.map_or_else(|| path.to_owned(), |field| format!("{path}?{field}"));
        let text = body.as_ref().map(Value::to_string);
        let (status, answer) = raw(&node, &method, &right, text.clone()).await;
        assert!(status < 300 || status == 404, "{method} {right} is a right call: {status} {answer}");
        let mut wrong = vec![
            (format!("{path}?surprise=1"), text.clone()),
            (format!("{path}?%ff=1"), text.clone()),
            (format!("{path}?surprise=%ff"), text.clone()),
        ];
        if let Some(field) = field {
            wrong.push((format!("{path}?{field}&{field}"), text.clone()));
            wrong.push((format!("{path}?{field}&surprise=1"), text.clone()));
        }
        match &text {
            None => wrong.push((right.clone(), Some("{}".to_owned()))),
            Some(text) => {
                if !free {
                    wrong.push((right.clone(), Some(text.replacen('{', r#"{"surprise":1,"#, 1))));
                }
            }
        }
        for (path, body) in wrong {
            let (status, answer) = raw(&node, &method, &path, body.clone()).await;
            assert_eq!(status, 400, "{method} {path} {body:?}: {answer}");
            assert!(answer.contains(r#""code":"invalid"#), "{method} {path} {body:?}: {answer}");
            tried += 1;
        }
    }
    println!("calls {}, wrong ones tried and refused {tried}", calls().len());
}

#[tokio::test]
async fn one_connection_is_closed_by_its_id_and_no_other() {
    let redis = RedisServer::start().await;
    closes_one(Node::builder().start().await).await;
    closes_one(Node::builder().redis(&redis).start().await).await;
}

async fn closes_one(node: Node) {
    let mut first = Device::of_user(&node.ws_url(), "alice").await;
    let mut second = Device::of_user(&node.ws_url(), "alice").await;
    let listed = || async {
        let found = node.api().get("/v1/users/alice").await.expect_status(200);
        (found["count"] == 2).then_some(())
    };
    eventually(PATIENCE, "both are registered", listed).await;
    let nobody = node.api().delete("/v1/users/alice/connections?connection_id=x").await.expect_status(200);
    assert_eq!(nobody["disconnected"], 0);
    first.ping().await;
    let id = second.welcome()["connection_id"].as_str().expect("an id").to_owned();
    let others = node.api().delete(&format!("/v1/users/bob/connections?connection_id={id}")).await.expect_status(200);
    assert_eq!(others["disconnected"], 0, "it is not bob's");
    second.ping().await;
    let one = node.api().delete(&format!("/v1/users/alice/connections?connection_id={id}")).await.expect_status(200);
    assert_eq!(one, json!({"user_id": "alice", "disconnected": 1}));
    assert_eq!(second.closed().await.code, 4503);
    first.ping().await;
}

#[tokio::test]
async fn nothing_is_not_everybody() {
    let cluster = Cluster::start(1).await;
    let api = cluster.api(0);
    api.ask("alice", "t", json!({})).await;
    let null = json!({"user_id": null});
    let refused = api.post("/v1/tasks/t/cancel", &null).await.expect_status(400);
    assert_eq!(refused["field"], "user_id", "{refused}");
    let redis = cluster.redis();
    for body in [r#"{"task_id":"t","user_id":null}"#, r#"{"task_id":"t","surprise":1}"#] {
        let _id: String = redis.query(&["XADD", "cs:inbox", "*", "op", "cancel", "body", body]).await;
    }
    let dead = || async { (redis.query::<u64>(&["XLEN", "cs:inbox:dead"]).await == 2).then_some(()) };
    eventually(PATIENCE, "both are dead letters", dead).await;
    let open = api.get("/v1/callbacks?user_id=alice").await.expect_status(200);
    assert_eq!(open["callbacks"].as_array().map(Vec::len), Some(1), "{open}");
    let gone = api.post("/v1/tasks/t/cancel", &json!({})).await.expect_status(200);
    assert_eq!(gone["callbacks_closed"], 1, "no user at all is everybody: {gone}");
}

#[tokio::test]
async fn a_socket_is_asked_for_in_words_that_are_understood() {
    let node = Node::builder().start().await;
    let many = "topic=a&".repeat(1_500);
    for (query, says) in [
        ("user_id=alice&topics=a", "topics"),
        ("user_id=alice&user_id=bob", "user_id"),
        ("user_id=alice&token=a&access_token=b", "access_token"),
        ("user_id=%ff", "UTF-8"),
        (many.as_str(), "1024"),
    ] {
        let refused = Device::dial(&format!("{}?{query}", node.ws_url()), &[]).await.expect_err(query);
        assert_eq!(refused.status, 400, "{refused:?}");
        assert!(refused.body.contains(says), "{refused:?}");
    }
    let url = format!("{}?user_id=alice&topic=a&topic=b&since=a@:0&since=b@:0", node.ws_url());
    let mut alice = Device::dial(&url, &[]).await.expect("all of this is understood");
    alice.expect_type("subscription_confirmed").await;
}

#[tokio::test]
async fn who_it_is_comes_before_what_is_wanted() {
    let node = Node::builder()
        .env("AUTH_JWT_SECRET", "0123456789abcdef0123456789abcdef")
        .env("AUTH_API_KEYS", "producer-key-0123456789")
        .start()
        .await;
    for query in ["topic=", "since=x", "surprise=1", "topic=user:bob&token=nonsense"] {
        let mut stranger = Device::dial(&format!("{}?{query}", node.ws_url()), &[]).await.expect("an upgrade");
        assert_eq!(stranger.closed().await.code, 4500, "{query}");
    }
}

#[tokio::test]
async fn a_format_holds_or_cannot_be_asked_for() {
    let node = Node::builder().start().await;
    let with =
        |format: &str| json!({"schema": {"type": "object", "properties": {"a": {"type": "string", "format": format}}}});
    let refused: Reply = node.api().notify("alice", "t", "?wait=0", with("mac")).await;
    assert_eq!((refused.status, &refused.body["field"]), (400, &json!("schema.properties.a.format")), "{refused:?}");
    let id = node.api().ask("alice", "t", with("email")).await;
    let mut alice = Device::of_user(&node.ws_url(), "alice").await;
    let wrong = alice.confirm_with(&id, json!({"proceed": true, "data": {"a": "ann"}})).await;
    assert_eq!(wrong["reason"], "invalid", "{wrong}");
    let right = alice.confirm_with(&id, json!({"proceed": true, "data": {"a": "ann@example.com"}})).await;
    assert_eq!(right["type"], "confirmation_accepted", "{right}");
}
