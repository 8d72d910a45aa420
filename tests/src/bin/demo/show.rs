//! What the audience sees: numbered headlines with the time, commands as a person would type them, and what they print.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;
use cadastre_tests::{Output, Program, repo};

const BOLD: &str = "1";
const GREEN: &str = "32";
const CYAN: &str = "36";

/// Prints to standard output, in colour if that is a terminal.
pub struct Show {
    out: io::Stdout,
    start: Instant,
    steps: AtomicUsize,
    colour: bool,
    /// What commands are printed without: where the checkout lies, and `$DEMO` for the folder of this run.
    shorter: Vec<(String, &'static str)>,
}

impl Show {
    pub fn new() -> Result<Self> {
        let shorter = vec![(format!("{}/", repo().canonicalize()?.display()), "")];
        let (out, start) = (io::stdout(), Instant::now());
        let colour = out.is_terminal();
        Ok(Self { out, start, steps: AtomicUsize::new(0), colour, shorter })
    }

    /// Calls the folder of this run `$DEMO` from now on.
    pub fn folder(&mut self, folder: &Path) {
        self.shorter.push((folder.display().to_string(), "$DEMO"));
        self.output(&format!("DEMO={}", folder.display()));
    }

    /// A step begins.
    pub fn step(&self, headline: &str) {
        let number = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        let seconds = self.start.elapsed().as_secs_f64();
        self.line(&format!("\n{}", self.paint(BOLD, &format!("[{seconds:5.1} s] {number}. {headline}"))));
    }

    /// Something that is so, and has been checked.
    pub fn so(&self, fact: &str) {
        self.line(&format!("  {} {fact}", self.paint(GREEN, "✓")));
    }

    /// A command line.
    pub fn command(&self, command: &str) {
        let short = self.shorter.iter().fold(command.to_owned(), |text, (long, short)| text.replace(long, short));
        self.line(&format!("  {}", self.paint(CYAN, &format!("$ {short}"))));
    }

    /// What a command printed.
    pub fn output(&self, text: &str) {
        text.trim_end().lines().for_each(|one| self.line(&format!("    {one}")));
    }

    /// Shows a command, runs it, and shows what it prints, on either stream.
    pub async fn run(&self, program: &Program) -> Result<Output> {
        self.command(&program.to_string());
        let output = program.run().await?;
        self.output(&output.stdout);
        self.output(&output.stderr);
        Ok(output)
    }

    /// How long it took until now.
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// A reader that closes the pipe, such as `head`, does not end the demo: it still cleans up.
    fn line(&self, text: &str) {
        let mut out = self.out.lock();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
