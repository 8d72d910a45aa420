//! Whoever follows a page: a shell with kubectl, helm and our programs, in a folder like a checkout's. What one block sets the next one
//! finds, as in a terminal.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use cadastre_tests::{Lab, Output, Program, Scratch, binary, eventually, repo, tools};

use crate::fragments;
use crate::page::{Block, Item, Language, Page, What};
use crate::shape::missing;

/// Of what shows after a while.
const PATIENCE: Duration = Duration::from_mins(1);

/// A terminal, so to speak.
pub struct Session<'a> {
    lab: &'a Lab,
    home: Scratch,
    path: String,
}

impl<'a> Session<'a> {
    pub fn new(lab: &'a Lab) -> Result<Self> {
        let home = Scratch::new()?;
        for name in ["charts", "Cargo.toml"] {
            symlink(repo().join(name).canonicalize()?, home.path().join(name))?;
        }
        let bin = home.folder("bin")?;
        let (agent, node) = (binary("cadastre-agent")?, &lab.nodes[0]);
        // In the node, as it is about that node.
        fs::copy(&agent, node.path("/tmp/cadastre-agent")?)?;
        executable(&bin.join("cadastre-agent"), &format!("exec {} /tmp/cadastre-agent \"$@\"", node.entrance()))?;
        symlink(binary("cadastre-operator")?, bin.join("cadastre-operator"))?;
        let folder = agent.parent().context("programs lie in no folder")?;
        executable(&bin.join("make"), &make(folder))?;
        fs::create_dir(home.path().join(".kube"))?;
        fs::copy(lab.cp.kubeconfig_admin()?, home.path().join(".kube/config"))?;
        let path = std::env::var("PATH").context("PATH")?;
        let path = format!("{}:{}:{path}", bin.display(), tools().display());
        home.write("exported", "")?;
        Ok(Self { lab, home, path })
    }

    /// A file beside the chart, as people have them.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        self.home.write(name, content).map(drop)
    }

    /// Runs pages from beginning to end. What fails does not keep the rest from being run.
    pub async fn follow(&self, pages: &[&str]) -> Result<()> {
        let mut wrong = String::new();
        for name in pages {
            let (page, started) = (Page::read(name)?, Instant::now());
            for item in &page.items {
                if let Err(error) = self.item(item).await {
                    write!(wrong, "\n{name}:{}: {error:#}", item.line)?;
                }
            }
            println!("{name}: {:.1} s", started.elapsed().as_secs_f64());
        }
        ensure!(wrong.is_empty(), "{wrong}");
        Ok(())
    }

    async fn item(&self, item: &Item) -> Result<()> {
        match &item.what {
            What::First(script) => self.shell(script).await?.ok().map(drop),
            What::Then(script) => {
                // The last try may be cut off without a word.
                let mut last = String::new();
                let shows = async || {
                    let said = self.shell(script).await?.ok();
                    said.inspect_err(|error| last = format!("{error:#}"))
                };
                eventually(PATIENCE, "what the page says of it", shows).await.with_context(|| last).map(drop)
            }
            What::Inline(span) => self.inline(span).await,
            What::Block(block) => self.block(block).await,
        }
    }

    async fn block(&self, block: &Block) -> Result<()> {
        match block.language {
            _ if block.not_run.is_some() => Ok(()),
            Language::Text | Language::Json => Ok(()),
            Language::Yaml if fragments::is_object(&block.text) => {
                let program = self.program("kubectl").args(["apply", "--dry-run=server", "-f", "-"]);
                program.stdin(block.text.as_str()).run().await?.ok().map(drop)
            }
            // What the page calls so from here on.
            Language::Yaml => self.file(fragments::name(&block.text), &block.text),
            Language::Console => self.console(block).await,
            Language::Sh if block.on_each_node => {
                for node in &self.lab.nodes {
                    let output = node.exec(&["bash", "-euo", "pipefail", "-c", &block.text]).await?;
                    ends_with(block.code, output)?;
                }
                Ok(())
            }
            Language::Sh => ends_with(block.code, self.shell(&block.text).await?).map(drop),
        }
    }

    /// Commands that look, each until it prints what the page shows. `echo $?` is about the one before.
    async fn console(&self, block: &Block) -> Result<()> {
        let commands = commands(&block.text)?;
        for (at, (command, page)) in commands.iter().enumerate() {
            if command == "echo $?" {
                continue;
            }
            let code = match commands.get(at + 1) {
                Some((next, code)) if next == "echo $?" => code.trim().parse()?,
                Some(_) => 0,
                None => block.code,
            };
            let shown = async || {
                let said = ends_with(code, self.shell(command).await?)?;
                match missing(page, &said) {
                    Some(line) => bail!("`{command}` does not print\n{line}\nbut\n{said}"),
                    None => Ok(()),
                }
            };
            eventually(PATIENCE, "what the page shows", shown).await?;
        }
        Ok(())
    }

    /// A command in a sentence only looks; others deserve a block. One of two words is a name.
    async fn inline(&self, span: &str) -> Result<()> {
        let words: Vec<&str> = span.split_whitespace().collect();
        match words[..] {
            ["make", _, ..] => self.shell(span).await?.ok().map(drop),
            [_, _] => Ok(()),
            ["iptables", "-L" | "-S", ..] => self.lab.nodes[0].exec(&words).await?.ok().map(drop),
            ["kubectl", ..] if looks(&words) => self.shell(span).await?.ok().map(drop),
            [program @ ("cadastre-operator" | "cadastre-agent"), command, ..] => {
                self.usage(program, command, &words).await
            }
            ["kubectl" | "helm" | "etcdutl" | "systemctl" | "nft" | "iptables", ..] => {
                bail!("`{span}` changes something, or is no whole command: give it a block of its own")
            }
            _ => Ok(()),
        }
    }

    /// The flags are there.
    async fn usage(&self, program: &str, command: &str, words: &[&str]) -> Result<()> {
        let help = Program::new(binary(program)?).args([command, "--help"]).run().await?.ok()?;
        for word in words {
            let flag = word.trim_start_matches('[').split(['=', ']']).next().unwrap_or_default();
            ensure!(!flag.starts_with('-') || help.contains(flag), "{program} {command} has no {flag}:\n{help}");
        }
        Ok(())
    }

    async fn shell(&self, script: &str) -> Result<Output> {
        let script = format!("cd; . ./exported; {script}\nexport -p > ~/exported");
        self.program("bash").args(["-euo", "pipefail", "-c", &script]).run().await
    }

    fn program(&self, name: &str) -> Program {
        let home = self.home.path();
        let program = Program::new("env").env("PATH", &self.path).env("HOME", home).env("REGISTRY", "localhost");
        let program = program.env("PAUSE", Lab::pause_image());
        program.env("KUBECONFIG", home.join(".kube/config")).arg(name)
    }
}

/// What `make` would do is all that is looked at: most of it takes minutes, and some of it runs these tests.
fn make(programs: &Path) -> String {
    format!(
        "case \"$*\" in
  *bin-path) echo {programs} ;;
  *tools-path) echo {tools} ;;
  *) PATH=${{PATH#*:}} exec make -C {repo} -n \"$@\" ;;
esac",
        programs = programs.display(),
        tools = tools().display(),
        repo = repo().display()
    )
}

fn executable(path: &Path, script: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/sh\n{script}\n"))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// What it printed, on either stream.
fn ends_with(code: i32, output: Output) -> Result<String> {
    ensure!(output.code == Some(code), "ended with {:?}, not {code}\n{}{}", output.code, output.stdout, output.stderr);
    Ok(output.stdout + &output.stderr)
}

/// Whether a kubectl command has a verb that changes nothing.
fn looks(words: &[&str]) -> bool {
    words.iter().any(|word| matches!(*word, "get" | "describe" | "logs" | "events"))
}

/// Each command with what comes after it; a backslash at the end of a line goes on in the next.
fn commands(text: &str) -> Result<Vec<(String, String)>> {
    let mut commands: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command.to_owned(), String::new())),
            (None, Some((command, shown))) if shown.is_empty() && command.ends_with('\\') => {
                command.push('\n');
                *command += line;
            }
            (None, Some((_, shown))) => {
                *shown += line;
                shown.push('\n');
            }
            (None, None) => bail!("a console begins with `$ `"),
        }
    }
    Ok(commands)
}
