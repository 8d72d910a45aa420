//! What anybody may send or leave to plugin and agent, as targets for arbitrary bytes: each is a function that panics if
//! something does not hold. What has to hold stands beside the code (`fuzzing.rs` in `cni` and `agent`); here is how a file
//! of the corpus says it.
//!
//! ```text
//! plugin_call     five lines of environment (command, container ID, interface, netns, args), stdin, NUL, the agent's answer
//! plugin_reply    what the agent says            agent_socket    lines of callers, and events (`!`)
//! plugin_files    files: name, content           agent_journal   a number that says what the rest is
//!                                                agent_files     files: folder/name, content
//! ```

mod files;

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use files::File;

/// A target.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: [(&str, Target); 6] = [
    ("agent_files", agent_files),
    ("agent_journal", agent_journal),
    ("agent_socket", agent_socket),
    ("plugin_call", plugin_call),
    ("plugin_files", plugin_files),
    ("plugin_reply", plugin_reply),
];

/// The plugin's environment and stdin, and what it makes of an answer.
pub fn plugin_call(data: &[u8]) {
    let mut lines = data.splitn(6, |byte| *byte == b'\n');
    let variables = [(); 5].map(|()| lines.next().unwrap_or_default());
    let rest = lines.next().unwrap_or_default();
    let mut parts = rest.splitn(2, |byte| *byte == 0);
    cadastre_cni::fuzzing::call(variables, parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
}

/// The agent's reply, as the plugin reads it.
pub fn plugin_reply(data: &[u8]) {
    cadastre_cni::fuzzing::reply(data);
}

/// host-local's folder, an entry of libcni's cache and a resolver file, as the plugin reads them.
pub fn plugin_files(data: &[u8]) {
    let files: Vec<File<'_>> = files::of(data).collect();
    let contents: Vec<&[u8]> = files.iter().map(|file| file.content).collect();
    in_folder(|folder| {
        for file in &files {
            file.write(folder);
        }
        cadastre_cni::fuzzing::files(folder, &contents);
    });
}

/// Lines to the agent's socket, one after the other.
pub fn agent_socket(data: &[u8]) {
    cadastre_agent::serve::fuzzing::lines(data);
}

/// The agent's journal.
pub fn agent_journal(data: &[u8]) {
    in_folder(|folder| cadastre_agent::journal::fuzzing::file(folder, data));
}

/// libcni's cache and tombstones, as the agent reads them.
pub fn agent_files(data: &[u8]) {
    in_folder(|folder| {
        let mut strays = String::new();
        for file in files::of(data) {
            match file.name.split_once('/') {
                Some((within @ ("results" | "multus/results" | "tombstones"), name)) => {
                    File { name, ..file }.write(&folder.join(within));
                }
                _ => strays.push_str(&String::from_utf8_lossy(file.content)),
            }
        }
        cadastre_agent::survey::fuzzing::folder(folder, &strays);
    });
}

/// In memory where that is possible: nothing here has to last.
fn in_folder(run: impl FnOnce(&Path)) {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
    match folder {
        Ok(folder) => run(folder.path()),
        Err(error) => eprintln!("skipped, as no folder can be made: {error}"),
    }
}
