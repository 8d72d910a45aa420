//! Configurations of other networks in the folder of ours.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::place::PlaceError;

/// Runtimes read only these (`.conf`, `.conflist`, `.json`).
const READ: [&str; 3] = ["conf", "conflist", "json"];

/// Ending of a configuration that makes room for ours.
const BACKUP: &str = ".cadastre_bak";

/// Renames one, so that no runtime takes it.
pub fn set_aside(folder: &Path, name: &str) -> Result<(), PlaceError> {
    rename(&folder.join(name), &folder.join(format!("{name}{BACKUP}")))
}

/// Names of the configurations in `folder` that are not ours, in the order in which runtimes take them.
pub fn of(folder: &Path) -> Result<Vec<String>, PlaceError> {
    let mut names = names(folder)?;
    names.retain(|name| is_other(name));
    names.sort();
    Ok(names)
}

fn is_other(name: &str) -> bool {
    let is_read = Path::new(name).extension().is_some_and(|ending| READ.iter().any(|read| ending == *read));
    is_read && !name.starts_with('.') && name != super::conflist::NAME
}

/// Gives those that were renamed their names back, but where there is a new one of that name.
pub fn restore(folder: &Path) -> Vec<PlaceError> {
    let names = match names(folder) {
        Ok(names) => names,
        Err(error) => return vec![error],
    };
    let backups = names.iter().filter_map(|backup| Some((backup, backup.strip_suffix(BACKUP)?)));
    // What was never renamed is not ours to rename; least of all to our own name, when ours has just been removed.
    let backups = backups.filter(|(_, name)| is_other(name));
    // A link may lead to where only the node sees.
    let is_free = |name: &str| fs::symlink_metadata(folder.join(name)).is_err();
    let (free, taken): (Vec<_>, Vec<_>) = backups.partition(|(_, name)| is_free(name));
    for (backup, _) in taken {
        tracing::warn!(backup, "there is a new configuration of that name, so this one stays renamed");
    }
    free.into_iter().filter_map(|(backup, name)| rename(&folder.join(backup), &folder.join(name)).err()).collect()
}

pub(super) fn names(folder: &Path) -> Result<Vec<String>, PlaceError> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(PlaceError::of("read", folder))?;
    Ok(entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

fn rename(from: &Path, to: &Path) -> Result<(), PlaceError> {
    fs::rename(from, to).map_err(|source| match source.kind() {
        ErrorKind::IsADirectory => PlaceError::of("replace", to)(source),
        _ => PlaceError::of("rename", from)(source),
    })?;
    tracing::info!(from = %from.display(), to = %to.display(), "renamed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    /// What is there after it.
    fn restored(folder: &TempDir, files: &[&str]) -> Vec<String> {
        for name in files {
            fs::write(folder.path().join(name), name).unwrap();
        }
        assert!(restore(folder.path()).is_empty());
        let mut names = names(folder.path()).unwrap();
        names.sort();
        names
    }

    #[test]
    fn only_what_can_have_been_renamed_gets_its_name_back() {
        let others =
            ["05-cadastre.conflist.cadastre_bak", ".x.conf.cadastre_bak", "README.cadastre_bak", ".cadastre_bak"];
        let there = restored(&TempDir::new().unwrap(), &[others.as_slice(), &["10-x.conf.cadastre_bak"]].concat());
        let mut expected = [others.as_slice(), &["10-x.conf"]].concat();
        expected.sort_unstable();
        assert_eq!(there, expected);
    }

    #[test]
    fn a_link_that_leads_nowhere_keeps_its_name() {
        let folder = TempDir::new().unwrap();
        let link = folder.path().join("10-x.conf");
        symlink("/nowhere/10-x.conf", &link).unwrap();
        assert_eq!(restored(&folder, &["10-x.conf.cadastre_bak"]), ["10-x.conf", "10-x.conf.cadastre_bak"]);
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("/nowhere/10-x.conf"));
    }
}
