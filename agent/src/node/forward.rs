//! Whether the kernel passes packets on. The interface plugins turn that on with each pod; this is for who turns it off again.

use std::fs;
use std::path::Path;

use cadastre_core::Family;

/// Turns forwarding on for each family that has it off. Says why not, if it cannot.
pub fn forward(sysctls: &Path, families: impl Iterator<Item = Family>) -> Option<String> {
    let mut troubles = families.filter_map(|family| turn_on(sysctls, family).err());
    troubles.next()
}

fn turn_on(sysctls: &Path, family: Family) -> Result<(), String> {
    let (name, file) = match family {
        Family::V4 => ("net.ipv4.ip_forward", "ipv4/ip_forward"),
        Family::V6 => ("net.ipv6.conf.all.forwarding", "ipv6/conf/all/forwarding"),
    };
    let path = sysctls.join(file);
    let failed = |error| {
        format!("{name} is not 1 and cannot be set ({error}): set it on the node, or packets of pods stay on it")
    };
    if fs::read_to_string(&path).map_err(failed)?.trim() == "1" {
        return Ok(());
    }
    fs::write(&path, "1\n").map_err(failed)?;
    tracing::info!(sysctl = name, "forwarding was off; it is on now");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_turned_on_or_the_reason_is_said() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("ipv4/ip_forward");
        fs::create_dir(folder.path().join("ipv4")).unwrap();
        fs::write(&file, "0\n").unwrap();
        assert_eq!(forward(folder.path(), [Family::V4].into_iter()), None);
        assert_eq!(fs::read_to_string(&file).unwrap(), "1\n");
        let said = forward(folder.path(), Family::ALL.into_iter()).unwrap();
        assert!(said.starts_with("net.ipv6.conf.all.forwarding is not 1 and cannot be set (No such file"), "{said}");
    }
}
