//! Several files in one: each begins with a line `== name`.

use std::fs;
use std::path::Path;

const BEGIN: &[u8] = b"== ";

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    pub name: &'a str,
    pub content: &'a [u8],
}

/// All of them. What cannot be the name of a file is left out.
pub fn of(data: &[u8]) -> impl Iterator<Item = File<'_>> {
    let mut starts: Vec<usize> =
        data.windows(BEGIN.len()).enumerate().filter(|(_, at)| *at == BEGIN).map(|(at, _)| at).collect();
    starts.retain(|at| *at == 0 || data.get(at - 1) == Some(&b'\n'));
    let ends: Vec<usize> = starts.iter().skip(1).copied().chain([data.len()]).collect();
    starts.into_iter().zip(ends).filter_map(|(start, end)| {
        let file = data.get(start + BEGIN.len()..end)?;
        let line = file.iter().position(|byte| *byte == b'\n')?;
        let (name, content) = file.split_at(line);
        Some(File { name: std::str::from_utf8(name).ok()?, content: content.get(1..)? })
    })
}

impl File<'_> {
    /// Writes it, if its name is one that stays in the folder.
    pub fn write(&self, folder: &Path) {
        let File { name, content } = self;
        if !name.is_empty() && !name.contains(['/', '\0']) && *name != "." && *name != ".." {
            // A name that is too long is no file that anybody could have left.
            drop(fs::create_dir_all(folder).and_then(|()| fs::write(folder.join(name), content)));
        }
    }
}
