//! The page that a node serves at `/`, used as a newcomer would use it, in a real browser.
//!
//! Where neither chromium nor chromedriver is installed these tests are skipped, and say so; with `CI` set they fail.

#![allow(clippy::panic, reason = "a test has one way to say that the page is not as it should be")]

use harness::browser::{Browser, Page};
use harness::{Node, PATIENCE, RedisServer, eventually, token};
use serde_json::json;
use std::time::Duration;

/// A browser, or `None` with a reason on stderr where there is none to start.
async fn browser() -> Option<Browser> {
    if let Some(program) = Browser::missing() {
        assert!(std::env::var_os("CI").is_none(), "{program} is not installed, and CI skips nothing");
        eprintln!("SKIPPED: {program} is not installed; the console was not tested in a browser");
        return None;
    }
    Some(Browser::start().await)
}

async fn node() -> Node {
    Node::builder().fixed_port().start().await
}

/// Opens the console and connects as this user.
async fn connected<'a>(browser: &'a Browser, node: &Node, user: &str) -> Page<'a> {
    let page = browser.open(&node.url()).await;
    page.fill("#user-id", user).await;
    page.click("#connect").await;
    page.wait_for_count("#connection-state[data-state=open]", 1).await;
    page.wait_for_text("#who", user).await;
    page
}

/// Sends the page's task step to a user, with these options (one a line).
async fn send_task_step(page: &Page<'_>, user: &str, task: &str, question: &str, options: &str) {
    page.fill("#ask-user", user).await;
    page.fill("#ask-task", task).await;
    page.fill("#ask-message", question).await;
    page.fill("#ask-options", options).await;
    page.click("#ask-send").await;
}

async fn no_complaints(browser: &Browser) {
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "the browser's console: {complaints:#?}");
}

#[tokio::test]
async fn a_task_step_sent_from_the_page_is_answered_on_it_and_the_confirmation_comes_back() {
    let Some(browser) = browser().await else { return };
    let node = node().await;
    let alice = connected(&browser, &node, "alice").await;
    let bob = connected(&browser, &node, "bob").await;

    send_task_step(&alice, "alice", "import-7", "Load the other 995 rows?", "").await;
    alice.wait_for_text(".callback .callback-message", "Load the other 995 rows?").await;
    alice.wait_for_text(".callback .facts", "validated_rows").await;
    alice.wait_for_text(".callback .timer", ":").await;
    alice.fill(".callback .feedback", "Yes, and keep <b>the</b> faulty ones").await;
    alice.click(".callback .proceed").await;

    alice.wait_for_text("#asks .ask[data-status=confirmed] .verdict", "confirmed by alice, the task goes on").await;
    alice.wait_for_text("#asks .ask-feedback", "Yes, and keep <b>the</b> faulty ones").await;
    alice.wait_for_count(".callback", 0).await;
    alice.wait_for_text("#decided", "confirmed").await;

    // Bob's page has heard of nothing: a message published afterwards is there, the question is not.
    node.api().post("/v1/users/bob/messages", &json!({"message": "for bob"})).await;
    bob.wait_for_text("#feed", "for bob").await;
    assert_eq!(bob.count("[data-callback-id]").await, 0);
    no_complaints(&browser).await;
}

#[tokio::test]
async fn an_option_is_chosen_and_the_waiting_backend_gets_its_choice() {
    let Some(browser) = browser().await else { return };
    let node = node().await;
    let page = connected(&browser, &node, "alice").await;
    send_task_step(&page, "alice", "train-7", "The loss stands still. What now?", "Lower the rate\n! Stop").await;
    page.wait_for_count(".callback .option", 2).await;
    assert_eq!(page.count(".callback .proceed").await, 0);
    page.click(".callback .option.decline").await;
    page.wait_for_text("#asks .ask[data-status=declined] .ask-choice", "Stop").await;
    no_complaints(&browser).await;
}

#[tokio::test]
async fn both_devices_of_a_user_see_the_question_and_its_end_and_a_reload_brings_it_back() {
    let Some(browser) = browser().await else { return };
    let node = node().await;
    let desk = connected(&browser, &node, "alice").await;
    let phone = connected(&browser, &node, "alice").await;
    send_task_step(&desk, "alice", "deploy-1", "Ship it?", "").await;
    phone.wait_for_text(".callback-message", "Ship it?").await;
    phone.reload().await;
    phone.wait_for_text(".callback-message", "Ship it?").await;
    phone.click(".callback .decline").await;
    desk.wait_for_count(".callback", 0).await;
    desk.wait_for_text("#decided", "declined").await;
    desk.wait_for_count(".ask[data-status=declined]", 1).await;
    no_complaints(&browser).await;
}

#[tokio::test]
async fn broadcasts_user_messages_and_topics_reach_the_pages_that_hear_them() {
    let Some(browser) = browser().await else { return };
    let node = node().await;
    let alice = connected(&browser, &node, "alice").await;
    let guest = browser.open(&node.url()).await;
    guest.click("#connect-guest").await;
    guest.wait_for_count("#connection-state[data-state=open]", 1).await;

    guest.fill("#subscribe-name", "nightly").await;
    guest.click("#subscribe").await;
    guest.wait_for_count(".chip[data-topic=nightly][data-state=confirmed]", 1).await;

    let publish = async |kind: &str, name: &str, text: &str| {
        alice.evaluate(&format!("const kind = document.getElementById('publish-kind'); kind.value = '{kind}'; kind.dispatchEvent(new Event('change'))")).await;
        if !name.is_empty() {
            alice.fill("#publish-name", name).await;
        }
        alice.fill("#publish-message", text).await;
        alice.click("#publish-send").await;
        alice.wait_for_text("#publish-status", "published").await;
    };
    publish("topic", "nightly", r#"{"type":"open_callbacks","callback_ids":[],"message":"only to the topic"}"#).await;
    publish("user", "alice", "only to alice").await;
    publish("broadcast", "", "to everybody <img src=x onerror=alert(1)>").await;

    guest.wait_for_text("#feed", "to everybody <img src=x onerror=alert(1)>").await;
    guest.wait_for_text("#feed", "only to the topic").await;
    guest.wait_for_count("#feed .message", 2).await;
    alice.wait_for_text("#feed", "to everybody").await;
    alice.wait_for_text("#feed", "only to alice").await;
    alice.wait_for_count("#feed .message", 2).await;
    alice.click("#ping").await;
    alice.wait_for_text("#round-trip", "ms").await;
    no_complaints(&browser).await;
}

#[tokio::test]
async fn cancelling_a_task_closes_its_question_and_the_backend_is_told() {
    let Some(browser) = browser().await else { return };
    let node = node().await;
    let page = connected(&browser, &node, "alice").await;
    send_task_step(&page, "alice", "import-9", "Go on?", "").await;
    page.wait_for_count(".callback", 1).await;
    page.fill("#cancel-task", "import-9").await;
    page.click("#cancel").await;
    page.wait_for_count(".callback", 0).await;
    page.wait_for_text("#asks .ask[data-status=cancelled] .verdict", "the task does not go on").await;
    page.wait_for_text("#cancel-status", "cancelled import-9").await;
    no_complaints(&browser).await;
}

#[tokio::test]
async fn silence_is_shown_as_no_decision() {
    let Some(browser) = browser().await else { return };
    let node = node().await;
    let page = connected(&browser, &node, "alice").await;
    page.click("#ask-form summary").await;
    page.fill("#ask-timeout", "1").await;
    send_task_step(&page, "alice", "import-3", "Anybody there?", "").await;
    page.wait_for_text("#asks .ask[data-status=timed_out] .verdict", "without an answer, no decision").await;
    page.wait_for_count(".callback", 0).await;
    page.wait_for_text("#decided", "timed out").await;
    no_complaints(&browser).await;
}

#[tokio::test]
async fn behind_closed_doors_the_page_asks_for_a_token_and_a_key_and_works_with_them() {
    let Some(browser) = browser().await else { return };
    let (secret, key) = ("a secret of at least thirty-two bytes", "an-api-key-of-at-least-thirty-two-bytes");
    let builder = Node::builder().env("AUTH_JWT_SECRET", secret).env("AUTH_API_KEYS", key);
    let node = builder.start().await;
    let page = browser.open(&node.url()).await;

    page.click("#connect").await;
    page.wait_for_text("#connection-note", "4500").await;
    page.click("#ask-send").await;
    page.wait_for_text("#asks .ask", "enter an API key").await;

    page.fill("#token", &token(secret, "carol", Duration::from_secs(60))).await;
    page.fill("#api-key", key).await;
    page.click("#connect").await;
    page.wait_for_text("#who", "carol").await;
    send_task_step(&page, "carol", "import-4", "May I?", "").await;
    page.click(".callback .proceed").await;
    page.wait_for_count("#asks .ask[data-status=confirmed]", 1).await;

    // Neither outlives the tab: nothing is in storage that other tabs or later visits can read.
    assert_eq!(page.evaluate("return localStorage.length + document.cookie.length").await, json!(0));
}

#[tokio::test]
async fn the_page_comes_back_by_itself_when_its_node_was_killed() {
    let Some(browser) = browser().await else { return };
    let mut node = node().await;
    let page = connected(&browser, &node, "alice").await;
    no_complaints(&browser).await;

    node.kill();
    page.wait_for_count("#connection-state[data-state=waiting], #connection-state[data-state=connecting]", 1).await;
    page.wait_for_text("#feed .notice.warn", "coming back").await;
    node.restart().await;
    page.wait_for_count("#connection-state[data-state=open]", 1).await;

    let api = node.api();
    eventually(PATIENCE, "the broadcast to be accepted", || async {
        (api.post("/v1/broadcast", &json!({"message": "after the restart"})).await.status == 200).then_some(())
    })
    .await;
    page.wait_for_text("#feed .message", "after the restart").await;

    // While the node was away, dialling it and asking for its status failed; nothing else may have gone wrong.
    let complaints = browser.complaints().await;
    let of_the_absence = |line: &String| {
        let status = line.contains("/v1/status") && line.contains("ERR_CONNECTION_REFUSED");
        status || line.contains("WebSocket connection to")
    };
    let unexpected: Vec<_> = complaints.iter().filter(|line| !of_the_absence(line)).collect();
    assert!(unexpected.is_empty(), "the browser's console: {unexpected:#?}");
}

#[tokio::test]
async fn a_question_outlives_its_node_and_the_waiting_page_gets_the_answer() {
    let Some(browser) = browser().await else { return };
    let redis = RedisServer::start().await;
    let mut node = Node::builder().redis(&redis).fixed_port().start().await;
    let page = connected(&browser, &node, "alice").await;
    send_task_step(&page, "alice", "import-5", "Still there?", "").await;
    page.wait_for_count(".callback", 1).await;

    node.kill();
    page.wait_for_text("#asks .ask-state", "outcome unknown, repeating with the same").await;
    page.fill(".callback .feedback", "given while the node was down").await;
    page.click(".callback .proceed").await;
    page.wait_for_text(".callback .outcome", "sending your answer").await;
    node.restart().await;

    page.wait_for_text("#asks .ask[data-status=confirmed] .verdict", "by alice").await;
    page.wait_for_text("#asks .ask-feedback", "given while the node was down").await;
    page.wait_for_count("#asks .ask", 1).await;
    page.wait_for_count(".callback", 0).await;
}
