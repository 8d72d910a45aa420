//! `CNI_ARGS`: the pod behind a call, in `KEY=VALUE;KEY=VALUE`.
//!
//! Keys that nobody here knows are ignored, whether or not `IgnoreUnknown` is set: a runtime that learns a new key must
//! not stop every pod.

use cadastre_messages::Pod;

/// The value of `key`, which may itself hold `=`; the last one counts. Empty is absent.
pub fn value<'a>(args: &'a str, key: &str) -> Option<&'a str> {
    args.split(';')
        .filter_map(|pair| pair.split_once('='))
        .rfind(|(name, _)| name.trim() == key)
        .map(|(_, value)| value)
        .filter(|value| !value.is_empty())
}

/// The pod, if the runtime names one fully.
pub fn pod(args: &str) -> Option<Pod> {
    pod_of(|key| value(args, key))
}

/// The pod, from wherever the runtime's arguments are kept.
pub fn pod_of<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Option<Pod> {
    Some(Pod {
        namespace: value("K8S_POD_NAMESPACE")?.to_owned(),
        name: value("K8S_POD_NAME")?.to_owned(),
        uid: value("K8S_POD_UID").map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_among_anything() {
        let table = [
            ("", None),
            ("IP", None),
            ("IP=", None),
            ("XIP=1", None),
            ("IP=10.0.0.1", Some("10.0.0.1")),
            ("IgnoreUnknown=1;IP=a=b=c;X=Y", Some("a=b=c")),
            (";;=;IP=1;IP=2;", Some("2")),
            ("A=1; IP=2", Some("2")),
        ];
        for (args, expected) in table {
            assert_eq!(value(args, "IP"), expected, "{args}");
        }
    }

    #[test]
    fn a_pod_needs_namespace_and_name() {
        let full =
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=nginx;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u1";
        let nginx = Pod { namespace: "default".into(), name: "nginx".into(), uid: Some("u1".into()) };
        assert_eq!(pod(full), Some(nginx.clone()));
        assert_eq!(pod("K8S_POD_NAMESPACE=default;K8S_POD_NAME=nginx"), Some(Pod { uid: None, ..nginx }));
        assert_eq!(pod("K8S_POD_NAMESPACE=default"), None);
        assert_eq!(pod("K8S_POD_NAMESPACE=;K8S_POD_NAME=nginx"), None);
        assert_eq!(pod("IP=1"), None);
    }
}
