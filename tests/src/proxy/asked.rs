//! A request as the proxy sees it.

use std::fmt;
use std::time::Instant;

use http::Method;
use http::request::Parts;

/// One request.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    pub path: String,
    pub query: String,
    /// When it came.
    pub at: Instant,
    /// It was the first, second, … of its [`Asked::kind`].
    pub nth: usize,
}

impl Asked {
    pub(super) fn new(parts: &Parts) -> Self {
        Self {
            method: parts.method.clone(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            at: Instant::now(),
            nth: 1,
        }
    }

    pub fn is_write(&self) -> bool {
        self.method != Method::GET
    }

    pub fn is_watch(&self) -> bool {
        !self.is_write() && self.query.split('&').any(|pair| pair == "watch=true" || pair == "watch=1")
    }

    /// Of a whole collection; one that asks for a single object only looks at the version.
    pub fn is_list(&self) -> bool {
        let looks = self.query.split('&').any(|pair| pair == "limit=1");
        !self.is_write() && !self.is_watch() && self.name().is_empty() && !looks
    }

    /// The plural, as in `ipamnodes`.
    pub fn resource(&self) -> &str {
        self.words().next().unwrap_or_default()
    }

    /// Empty for a list, a watch, and a create.
    pub fn name(&self) -> &str {
        self.words().nth(1).unwrap_or_default()
    }

    /// As in `status`; empty for the object itself.
    pub fn subresource(&self) -> &str {
        self.words().nth(2).unwrap_or_default()
    }

    /// `POST ipamnodes`, `PUT ipamconfigs/status`: what is done, to whichever object.
    pub fn kind(&self) -> String {
        let part = if self.subresource().is_empty() { String::new() } else { format!("/{}", self.subresource()) };
        format!("{} {}{part}", self.method, self.resource())
    }

    /// Resource, name and subresource: what comes after `/api/v1` or `/apis/GROUP/VERSION`, and after the namespace.
    fn words(&self) -> impl Iterator<Item = &str> {
        let version = if self.path.starts_with("/api/") { 2 } else { 3 };
        let words = self.path.split('/').skip(1).skip(version);
        let namespaced = self.path.split('/').nth(version + 1) == Some("namespaces") && words.clone().count() > 2;
        words.skip(if namespaced { 2 } else { 0 })
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: Method, uri: &str) -> Asked {
        Asked::new(&http::Request::builder().method(method).uri(uri).body(()).unwrap().into_parts().0)
    }

    #[test]
    fn paths_are_read_as_the_api_server_does() {
        let status = asked(Method::PATCH, "/apis/cadastre.io/v1alpha1/ipamnodes/n1/status?fieldManager=a");
        assert_eq!((status.to_string().as_str(), status.is_write()), ("PATCH ipamnodes/status n1", true));
        let lease = asked(Method::POST, "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases");
        assert_eq!((lease.kind().as_str(), lease.name()), ("POST leases", ""));
        let node = asked(Method::GET, "/api/v1/nodes/n1");
        assert_eq!((node.resource(), node.name(), node.is_write(), node.is_list()), ("nodes", "n1", false, false));
        let watch = asked(Method::GET, "/api/v1/nodes?&watch=true&timeoutSeconds=290");
        assert!(watch.is_watch() && !watch.is_list());
        assert!(asked(Method::GET, "/api/v1/nodes?&limit=100").is_list());
        assert!(!asked(Method::GET, "/api/v1/nodes?&limit=1").is_list());
    }
}
