//! Notes of the engine as Events that `kubectl describe` and `kubectl get events` show.

use cadastre_api::{CONFIG_NAME, GROUP, OPERATOR_MANAGER};
use cadastre_engine::{Note, Regarding};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;

/// Where Events about objects without a namespace go.
pub const NAMESPACE: &str = "default";

/// The API server refuses longer notes.
const LONGEST_NOTE: usize = 1024;

/// The Event. `instance` is this process.
pub fn event(note: &Note, instance: &str, now: Timestamp) -> Event {
    let regarding = reference(&note.regarding);
    let name = format!("{}.{:x}", regarding.name.as_deref().unwrap_or_default(), now.as_nanosecond());
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(NAMESPACE.into()), ..ObjectMeta::default() },
        action: Some("Assign".into()),
        event_time: Some(MicroTime(now)),
        note: Some(shorten(&note.message)),
        reason: Some(note.reason.into()),
        regarding: Some(regarding),
        reporting_controller: Some(OPERATOR_MANAGER.into()),
        reporting_instance: Some(instance.into()),
        type_: Some(if note.warning { "Warning" } else { "Normal" }.into()),
        ..Event::default()
    }
}

fn reference(regarding: &Regarding) -> ObjectReference {
    let ours = format!("{GROUP}/v1alpha1");
    let (api_version, kind, name, uid) = match regarding {
        Regarding::Node { name, uid } => ("v1".into(), "Node", name.clone(), Some(uid.clone())),
        Regarding::Config { uid } => (ours, "IPAMConfig", CONFIG_NAME.into(), Some(uid.clone())),
        Regarding::Pool { name } => (ours, "IPPool", name.clone(), None),
    };
    ObjectReference {
        api_version: Some(api_version),
        kind: Some(kind.into()),
        name: Some(name),
        uid,
        ..ObjectReference::default()
    }
}

fn shorten(message: &str) -> String {
    if message.len() <= LONGEST_NOTE {
        return message.to_owned();
    }
    let end = message.floor_char_boundary(LONGEST_NOTE - '…'.len_utf8());
    format!("{}…", &message[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert_eq!(shorten("short"), "short");
        let long = shorten(&"ä".repeat(600));
        assert!(long.len() <= LONGEST_NOTE && long.ends_with("ä…"), "{long}");
    }

    #[test]
    fn names_the_object_and_differs_each_time() {
        let note = Note {
            regarding: Regarding::Node { name: "n".into(), uid: "u".into() },
            warning: true,
            reason: "PoolExhausted",
            message: "m".into(),
        };
        let event = event(&note, "i", Timestamp::UNIX_EPOCH);
        assert_eq!(event.metadata.name.as_deref(), Some("n.0"));
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        assert_eq!(event.regarding.unwrap().uid.as_deref(), Some("u"));
    }
}
