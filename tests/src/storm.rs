//! One fault in the middle of everything: questions that are open when it begins and answered while it lasts, questions
//! put while it lasts, questions whose deadline falls into it, and questions after it. What everybody saw is audited.

use std::time::Duration;

use crate::api::Api;
use crate::audit::{Figures, Report, audit};
use crate::caller::{Ask, GIVES_UP};
use crate::cluster::Cluster;
use crate::history::Notebook;
use crate::scene::Scene;

/// Who takes part, and through which doors.
#[derive(Debug)]
pub struct Storm {
    /// Begins the names of its users, so that several can follow one another in one cluster.
    pub name: String,
    /// How many users there are, each with a laptop and a phone.
    pub users: usize,
    /// How many questions each user gets of each kind.
    pub each: usize,
    /// Where callers ask, in turn when they get no reply.
    pub doors: Vec<Api>,
    /// How long a caller hears nothing before it hangs up: longer than any node that runs needs.
    pub gives_up: Duration,
    /// Where laptops connect, in turn (`ws://…/ws`).
    pub laptops: Vec<String>,
    /// Where phones connect.
    pub phones: Vec<String>,
}

/// Until the deadline of the questions that nobody answers, in seconds: it falls into a fault of more than that.
const SILENT: f64 = 1.5;

impl Storm {
    /// Forty questions of each kind for ten users, everything through nginx.
    pub fn through_nginx(cluster: &Cluster) -> Self {
        let url = vec![cluster.nginx().ws_url()];
        let doors = vec![cluster.balanced_api()];
        Self { name: String::new(), users: 10, each: 4, doors, gives_up: GIVES_UP, laptops: url.clone(), phones: url }
    }

    /// The same straight to the nodes: callers in the order `doors`, laptops and phones in theirs.
    pub fn straight_to(cluster: &Cluster, doors: &[usize], laptops: &[usize], phones: &[usize]) -> Self {
        let urls = |order: &[usize]| order.iter().map(|index| cluster.node(*index).ws_url()).collect();
        Self {
            doors: doors.iter().map(|index| cluster.api(*index)).collect(),
            laptops: urls(laptops),
            phones: urls(phones),
            ..Self::through_nginx(cluster)
        }
    }

    /// Holds the figures against what such a storm has to come to, and prints them.
    #[track_caller]
    pub fn expect_weathered(report: Report, questions: usize, scenario: &str) -> Figures {
        let figures = report.expect_clean(scenario);
        assert_eq!((figures.questions, figures.callbacks), (4 * questions, 4 * questions), "{figures:?}");
        let by = |status: &str| figures.ended.get(status).copied().unwrap_or_default();
        assert_eq!(by("confirmed") + by("declined"), 3 * questions, "people decided: {figures:?}");
        assert_eq!(by("timed_out"), questions, "the clock decided: {figures:?}");
        figures
    }

    /// Lets it happen. `fault` begins, lasts and is over when it returns; it may write down who stood still.
    pub async fn around(self, cluster: &mut Cluster, fault: impl AsyncFnOnce(&mut Cluster, &Notebook)) -> Report {
        let mut scene = Scene::open();
        scene.callers_give_up_after(self.gives_up);
        for user in 0..self.users {
            scene.person(&self.user(user), "laptop", &self.laptops);
            scene.person(&self.user(user), "phone", &self.phones);
        }
        scene.connected(2 * self.users).await;

        // Open when it begins: half of them are being answered just then, the others are answered while it lasts.
        self.ask(&mut scene, "open", |ask, number| ask.answered_in(1 + number % 2));
        self.ask(&mut scene, "silent", |ask, _| ask.unanswered(SILENT));
        scene.shown(2 * self.questions()).await;
        scene.go_to(1);
        let notebook = scene.notebook().clone();
        let asking = async {
            scene.go_to(2);
            self.ask(&mut scene, "during", |ask, _| ask);
        };
        tokio::join!(fault(cluster, &notebook), asking);
        self.ask(&mut scene, "after", |ask, _| ask);
        audit(&scene.over().await)
    }

    /// How many questions there are of each of the four kinds.
    pub fn questions(&self) -> usize {
        self.users * self.each
    }

    fn user(&self, number: usize) -> String {
        format!("{}user-{number}", self.name)
    }

    fn ask(&self, scene: &mut Scene, kind: &str, put_off: impl Fn(Ask, u64) -> Ask) {
        for user in 0..self.users {
            for number in 0..self.each {
                let ask = Ask::new(self.user(user), format!("{kind}-{user}-{number}"));
                let number = u64::try_from(number).expect("a handful");
                scene.ask(&put_off(ask, number), &self.doors);
            }
        }
    }
}
