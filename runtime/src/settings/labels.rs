//! Labels as Kubernetes takes them. One that no node can have would leave every node out without a word.

/// The longest value, and the longest name of a key.
const LONGEST: usize = 63;

/// The longest prefix of a key: a DNS name.
const LONGEST_PREFIX: usize = 253;

/// What keeps `key: value` from being a label.
pub fn problem(key: &str, value: &str) -> Option<String> {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if !is_name(name) || prefix.is_some_and(|prefix| !is_prefix(prefix)) {
        return Some(format!("{key:?} is not the key of a label; write one like example.com/role or role"));
    }
    let good = value.is_empty() || is_name(value);
    (!good).then(|| {
        format!("{value:?} is not the value of a label; write {LONGEST} letters, digits, dots, dashes and underscores at most, the first and last of them letters or digits")
    })
}

fn is_name(text: &str) -> bool {
    let ends =
        text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.ends_with(|c: char| c.is_ascii_alphanumeric());
    ends && text.len() <= LONGEST && text.chars().all(|c| c.is_ascii_alphanumeric() || ['.', '-', '_'].contains(&c))
}

fn is_prefix(text: &str) -> bool {
    let part = |part: &str| is_name(part) && !part.contains(|c: char| c.is_ascii_uppercase() || c == '_');
    text.len() <= LONGEST_PREFIX && text.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_node_can_carry_is_a_label() {
        let long = "a".repeat(LONGEST + 1);
        for (key, value) in
            [("role", "worker"), ("example.com/role", ""), ("a/B_c.d-e", "1.2-3_4"), ("node-role.kubernetes.io/x", "")]
        {
            assert_eq!(problem(key, value), None, "{key}: {value}");
        }
        for key in ["", "/", "a/", "/a", "a/b/c", "-a", "a-", "Example.com/role", "a b", "example..com/a", &long] {
            assert!(problem(key, "").is_some_and(|what| what.contains("is not the key")), "{key}");
        }
        for value in ["-a", "a.", "a b", "a/b", &long] {
            assert!(problem("a", value).is_some_and(|what| what.contains("is not the value")), "{value}");
        }
    }
}
