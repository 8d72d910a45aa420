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
    let is_read =
        |name: &str| Path::new(name).extension().is_some_and(|ending| READ.iter().any(|read| ending == *read));
    let mut names = names(folder)?;
    names.retain(|name| is_read(name) && !name.starts_with('.') && name != super::conflist::NAME);
    names.sort();
    Ok(names)
}

/// Gives those that were renamed their names back, but where there is a new one of that name.
pub fn restore(folder: &Path) -> Vec<PlaceError> {
    let names = match names(folder) {
        Ok(names) => names,
        Err(error) => return vec![error],
    };
    let backups = names.iter().filter_map(|backup| Some((backup, backup.strip_suffix(BACKUP)?)));
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
