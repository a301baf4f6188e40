//! Lists of open callbacks: complete, in order, each once.

use std::collections::{BTreeMap, BTreeSet};

use countersign_backplane::Settings;
use countersign_protocol::{CallbackId, TaskId};

use crate::{
    fixture::{Fixture, Node},
    words::{accepted, answer, ask, closed, task, user},
};

pub(crate) async fn a_users_open_callbacks_are_complete_and_in_the_order_of_asking<F: Fixture>() {
    let fixture = F::start(Settings::default()).await;
    let nodes = [fixture.node("one").await, fixture.node("two").await];
    let mut asked = Vec::new();
    for n in 0..120 {
        // Ids in falling order, so that no other order passes for the one of asking.
        let mut open = ask("alice", &format!("t{}", n % 2));
        open.id = CallbackId::new(open.id.partition(), u128::MAX - n);
        open.message_head = crate::words::head(open.id, "alice");
        nodes[usize::from(n % 3 == 0)].open(open.clone()).await.unwrap();
        nodes[0].open(ask("bob", "t0")).await.unwrap();
        asked.push(open);
    }
    for (n, open) in asked.iter().enumerate() {
        match n % 10 {
            3 => drop(accepted(nodes[0].confirm(answer(open.id, "alice", true)).await.unwrap())),
            7 => drop(closed(nodes[1].withdraw(open.id).await.unwrap())),
            _ => {}
        }
    }
    let expected: Vec<_> =
        asked.iter().enumerate().filter(|(n, _)| n % 10 != 3 && n % 10 != 7).map(|(_, open)| open).collect();
    let open = nodes[1].open_callbacks(&user("alice")).await.unwrap();
    assert_eq!(
        open.iter().map(|callback| callback.id).collect::<Vec<_>>(),
        expected.iter().map(|open| open.id).collect::<Vec<_>>()
    );
    for (callback, open) in open.iter().zip(&expected) {
        assert_eq!((&callback.user, &callback.task, &callback.decision), (&open.user, &open.task, &None));
        assert!(callback.message.as_str().starts_with(&open.message_head));
    }
    for name in ["t0", "t1"] {
        let of_task = |task: &TaskId| *task == crate::words::task(name);
        let expected: Vec<_> = expected.iter().filter(|open| of_task(&open.task)).map(|open| open.id).collect();
        assert_eq!(nodes[0].task(&user("alice"), &task(name)).await.unwrap().open, expected);
    }
    assert_eq!(nodes[0].open_callbacks(&user("bob")).await.unwrap().len(), 120);
    assert_eq!(nodes[0].open_callbacks(&user("carol")).await.unwrap(), []);
}

/// Turns all pages, and calls `between` after each; how often each callback was seen.
async fn pages(node: &Node, most: usize, mut between: impl AsyncFnMut(usize)) -> BTreeMap<CallbackId, usize> {
    let (mut seen, mut cursor, mut turned) = (BTreeMap::new(), None, 0);
    loop {
        let (page, next) = node.all_open_callbacks(cursor.as_ref(), most).await.unwrap();
        assert!(page.len() <= most * 2 + 64, "a page of about {most} has {}", page.len());
        for callback in page {
            assert_eq!(callback.decision, None);
            *seen.entry(callback.id).or_default() += 1;
        }
        between(turned).await;
        turned += 1;
        assert!(turned < 2000, "the pages never end");
        cursor = match next {
            Some(next) => Some(next),
            None => return seen,
        };
    }
}

async fn fifty_users<F: Fixture>() -> (F, Node, BTreeSet<CallbackId>) {
    let fixture = F::start(Settings::default()).await;
    let node = fixture.node("one").await;
    let mut open = BTreeSet::new();
    for n in 0..50 {
        for _ in 0..=n % 5 {
            let question = ask(&format!("user {n}"), "t");
            node.open(question.clone()).await.unwrap();
            open.insert(question.id);
        }
    }
    (fixture, node, open)
}

pub(crate) async fn the_pages_of_all_open_callbacks_show_each_once<F: Fixture>() {
    let (_fixture, node, open) = fifty_users::<F>().await;
    let once: BTreeMap<_, _> = open.iter().map(|id| (*id, 1)).collect();
    for most in [1, 2, 7, 64, 149, 150, 1000] {
        assert_eq!(pages(&node, most, async |_| {}).await, once, "about {most} a page");
    }
    for nonsense in
        ["", "nonsense", "99:99", "-1:0", "07-ab", "0:0:0", "☃", "18446744073709551615:18446744073709551615"]
    {
        let (_, _) = node.all_open_callbacks(Some(&nonsense.to_owned()), 10).await.unwrap();
    }
    let first = node.all_open_callbacks(None, 10).await.unwrap().0;
    let anew = node.all_open_callbacks(Some(&"nonsense".to_owned()), 10).await.unwrap().0;
    let ids = |page: &[countersign_backplane::Callback]| page.iter().map(|callback| callback.id).collect::<Vec<_>>();
    assert_eq!(ids(&anew), ids(&first), "a cursor that is none begins anew");
}

pub(crate) async fn what_stays_open_while_the_pages_turn_is_shown_once<F: Fixture>() {
    let (_fixture, node, open) = fifty_users::<F>().await;
    let ended: Vec<_> = open.iter().copied().filter(|id| id.to_string().ends_with(['3', '7'])).collect();
    assert!(ended.len() > 10);
    let seen = pages(&node, 10, async |turned| {
        if let Some(id) = ended.get(turned) {
            closed(node.withdraw(*id).await.unwrap());
            node.open(ask("user 1", "t")).await.unwrap();
        }
    })
    .await;
    for id in &open {
        let times = seen.get(id).copied().unwrap_or_default();
        assert!(if ended.contains(id) { times <= 1 } else { times == 1 }, "{id} was shown {times} times");
    }
    assert!(node.link().borrow().is_up());
}
