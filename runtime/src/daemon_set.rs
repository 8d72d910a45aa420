//! How a command line names a `DaemonSet`: the agent its own, `cadastre-operator test` the one whose pods it tries.

use std::str::FromStr;

/// A `DaemonSet`, as `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonSetName {
    pub namespace: String,
    pub name: String,
}

impl FromStr for DaemonSetName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, name) = text.split_once('/').ok_or("not NAMESPACE/NAME")?;
        if namespace.is_empty() || name.is_empty() || name.contains('/') {
            return Err("not NAMESPACE/NAME");
        }
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_set_has_a_namespace() {
        let name = DaemonSetName { namespace: "kube-system".into(), name: "cadastre-agent".into() };
        assert_eq!("kube-system/cadastre-agent".parse(), Ok(name));
        for wrong in ["cadastre-agent", "/x", "x/", "a/b/c"] {
            assert!(wrong.parse::<DaemonSetName>().is_err(), "{wrong}");
        }
    }
}
