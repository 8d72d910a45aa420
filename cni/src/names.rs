//! Which container IDs, network names and interface names the specification allows.
//!
//! They are checked because a caller that breaks these rules is broken, because the agent's records should hold nothing
//! that no runtime can ask for again, and because those of an ADD become names of files that are looked for.

/// Container IDs and network names: alphanumeric, then also `_`, `.`, `-`.
pub fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// Interface names, by the kernel's rule (`dev_valid_name`): 1–15 bytes.
pub fn is_interface(text: &str) -> bool {
    const LONGEST: usize = 16 - 1; // IFNAMSIZ less the closing zero
    let forbidden = |letter: char| matches!(letter, '/' | ':') || letter.is_whitespace();
    (1..=LONGEST).contains(&text.len()) && text != "." && text != ".." && !text.contains(forbidden)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers() {
        for good in ["a", "0", "net", "cilium-ingress-node.1", "A_b.C-d", "0123456789abcdef"] {
            assert!(is_identifier(good), "{good}");
        }
        for bad in ["", "-a", ".a", "_a", "a b", "a/b", "../a", "1234%%%", "ä", "a\n"] {
            assert!(!is_identifier(bad), "{bad}");
        }
    }

    #[test]
    fn interfaces() {
        for good in ["eth0", "a", "net1.100", "123456789012345", "-", "..."] {
            assert!(is_interface(good), "{good}");
        }
        for bad in ["", "1234567890123456", ".", "..", "test/test", "test:test", "test test", "a\t", "ethernet-äöüß"]
        {
            assert!(!is_interface(bad), "{bad}");
        }
    }
}
