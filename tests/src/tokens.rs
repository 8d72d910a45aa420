//! The tokens by which a control plane knows its administrator, its controllers and its nodes: new ones for each, since
//! whoever has the administrator's can run anything on the nodes.

use std::collections::BTreeMap;

/// The administrator's user name.
pub(crate) const ADMIN: &str = "admin";
pub(crate) const MANAGER: &str = "system:kube-controller-manager";
pub(crate) const SCHEDULER: &str = "system:kube-scheduler";

/// What users and their groups are by RBAC.
#[derive(Debug)]
pub(crate) struct Tokens(BTreeMap<String, String>);

impl Tokens {
    pub fn new(nodes: &[String]) -> Self {
        let users = [ADMIN, MANAGER, SCHEDULER].into_iter().map(str::to_owned).chain(nodes.iter().map(|n| user_of(n)));
        Self(users.map(|user| (user, format!("{:032x}", rand::random::<u128>()))).collect())
    }

    /// The token of a user; nobody's if there is no such user.
    pub fn of(&self, user: &str) -> &str {
        self.0.get(user).map_or("", String::as_str)
    }

    /// The token of a node's kubelet.
    pub fn of_node(&self, node: &str) -> &str {
        self.of(&user_of(node))
    }

    /// The file as the API server reads it.
    pub fn csv(&self) -> String {
        let lines = self.0.iter().map(|(user, token)| format!("{token},{user},{user},\"{}\"\n", group_of(user)));
        lines.collect()
    }
}

fn user_of(node: &str) -> String {
    format!("system:node:{node}")
}

fn group_of(user: &str) -> &'static str {
    match user {
        ADMIN => "system:masters",
        _ if user.starts_with("system:node:") => "system:nodes",
        _ => "",
    }
}
