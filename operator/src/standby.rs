//! An operator that does not lead: it looks at what is recorded, so that settings that would be refused show before it
//! ever leads. In a rollout that stops at its first pod, that is all the new pod ever does.

use std::time::Duration;

use cadastre_api::IPAMConfig;
use cadastre_engine::{Action, Answer, EngineSettings, announce, refusals};
use k8s_openapi::jiff::Timestamp;

use crate::health::Health;
use crate::outcome::{Failure, with_causes};
use crate::requests::{RequestError, Requests};

/// A setting that was put right on the cluster's side shows within this.
const LOOK: Duration = Duration::from_secs(5);
/// Half of which no answer is one.
const PATIENCE: Duration = Duration::from_secs(4);

/// Looks for ever.
pub async fn stand_by(requests: &Requests, settings: &EngineSettings, health: &Health) {
    let mut announced = false;
    loop {
        let looked = tokio::time::timeout(PATIENCE, recorded(requests)).await;
        match looked.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            Ok(config) => {
                health.refusals(Ok(&refusals(settings, config.as_ref())));
                health.stands_by();
                announced = announced || say(requests, settings, config.as_ref()).await;
            }
            Err(error) => health.refusals(Err(format!("IPAMConfig cannot be read: {error}"))),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What the cluster records, if anything yet.
pub async fn recorded(requests: &Requests) -> Result<Option<IPAMConfig>, String> {
    match requests.send(&Action::GetConfig).await {
        Ok(Answer::Config(config)) => Ok(Some(*config)),
        Ok(_) => Ok(None),
        Err(RequestError::Unreadable(error)) => Err(with_causes(&error)),
        Err(RequestError::Kube(error)) => match Failure::of(&error, false) {
            Failure::NotFound => Ok(None),
            Failure::Refused(message) => Err(message),
            _ => Err(with_causes(&error)),
        },
    }
}

/// Says in condition and Events what is refused, or no longer is. Whether there is nothing left to say: it is said once,
/// or two operators with different settings would contradict each other for ever.
async fn say(requests: &Requests, settings: &EngineSettings, config: Option<&IPAMConfig>) -> bool {
    let Some(config) = config else { return false };
    // Who holds the blocks is the leader's knowledge, and it names them.
    let Some((config, notes)) = announce(settings, config, &|_| String::new(), Timestamp::now()) else { return true };
    if let Err(error) = requests.send(&Action::ReplaceConfigStatus(Box::new(config))).await {
        tracing::warn!(error = with_causes(&error), "the condition could not be set: trying again");
        return false;
    }
    for note in notes {
        if let Err(error) = requests.send(&Action::Publish(note)).await {
            tracing::warn!(error = with_causes(&error), "the Event was not published");
        }
    }
    true
}
