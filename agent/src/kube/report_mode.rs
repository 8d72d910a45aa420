//! Says it when the configured mode is not the recorded one: log and Event. The metric, the condition and readiness say it,
//! too; and the recorded mode goes on.

use cadastre_api::reason;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Client, Resource};

use super::{Links, OwnNode, chain, reporter};

pub async fn run(client: Client, mut links: Links, mut node: OwnNode) {
    let recorder = Recorder::new(client, reporter(&links));
    // The message that was said last, and whether it was said as an Event.
    let mut said: (Option<String>, bool) = (None, true);
    loop {
        let differs = links.outlook.borrow_and_update().mode_differs(links.identity.configured);
        if differs != said.0 {
            if let Some(message) = &differs {
                tracing::error!("{message}");
            } else {
                tracing::info!("configured and recorded mode agree again");
            }
            said = (differs, false);
        }
        let own = node.borrow_and_update().clone();
        if let ((Some(message), false), Some(own)) = (&said, own) {
            let event = Event {
                type_: EventType::Warning,
                reason: reason::MODE_DIFFERS.to_owned(),
                note: Some(message.clone()),
                action: "Serve".to_owned(),
                secondary: None,
            };
            match recorder.publish(&event, &own.object_ref(&())).await {
                Ok(()) => said.1 = true,
                Err(error) => tracing::warn!(error = chain(&error), "the Event cannot be written"),
            }
        }
        tokio::select! {
            changed = links.outlook.changed() => if changed.is_err() { return },
            changed = node.changed() => if changed.is_err() { return },
        }
    }
}
