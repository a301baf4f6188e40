//! What is wrong with this Redis and does not keep a node from using it, said once, when it is first reached. A Redis that does not say what it is (managed ones
//! forbid `INFO` at times) is taken as it is.

use std::{sync::Arc, time::Duration};

use redis::{InfoDict, cmd, from_redis_value};

use super::lanes::Lanes;

/// Looks at the first Redis that answers, and ends.
pub(super) async fn run(lanes: Arc<Lanes>) {
    for section in ["server", "memory"] {
        let answer = loop {
            match lanes.command(cmd("INFO").arg(section)).await {
                Err(error) if error.transient => tokio::time::sleep(AGAIN_AFTER).await,
                answer => break answer,
            }
        };
        match answer.map(from_redis_value::<InfoDict>) {
            Ok(Ok(info)) => {
                for warning in judge(&info, lanes.is_cluster()) {
                    tracing::warn!("{warning}");
                }
            }
            Ok(Err(error)) => tracing::debug!(%error, "INFO of Redis is of another form"),
            Err(error) => tracing::debug!(%error, "Redis does not allow INFO; its settings are not checked"),
        }
    }
}

fn judge(info: &InfoDict, cluster: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    if !cluster && info.get::<String>("redis_mode").is_some_and(|mode| mode == "cluster") {
        warnings.push(
            "this Redis is one server of a Redis Cluster and refuses what the others have; give REDIS_URL the URLs of several, \
             separated by commas"
                .to_owned(),
        );
    }
    if let Some(policy) = info.get::<String>("maxmemory_policy").filter(|policy| policy != "noeviction") {
        warnings.push(format!(
            "maxmemory-policy of Redis is {policy:?}: when memory is short, open questions are forgotten; set it to \"noeviction\""
        ));
    }
    warnings
}

const AGAIN_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_that_evicts_and_a_single_server_of_a_cluster_are_warned_of() {
        let judged = |text: &str| judge(&InfoDict::new(text), false);
        assert_eq!(judged("redis_version:7.0.15\r\nmaxmemory_policy:noeviction\r\n"), [""; 0]);
        assert_eq!(judged("").len(), 0);
        assert!(judged("redis_version:7.2.4\r\nmaxmemory_policy:allkeys-lru\r\n")[0].contains("allkeys-lru"));
        assert!(judged("redis_mode:cluster\r\n")[0].contains("REDIS_URL"));
        assert_eq!(judge(&InfoDict::new("redis_mode:cluster\r\n"), true), [""; 0]);
    }
}
