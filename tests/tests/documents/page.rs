//! A page of the documentation: its fenced blocks, the commands in its sentences, and what its comments, which no reader sees,
//! say about running them.
//!
//! ```text
//! <!-- first: SHELL -->        what the page presumes, done before what follows
//! <!-- then: SHELL -->         succeeds, in a while, if what came before did its work
//! <!-- on each node -->        the next block is for the nodes' own shell
//! <!-- fails: CODE -->         the next block's last command ends with this code
//! <!-- not run: REASON -->     the next block is left alone
//! ```

use std::fs;
use std::iter::Peekable;
use std::str::{FromStr, Lines};

use anyhow::{Context as _, Error, Result, bail, ensure};
use cadastre_tests::repo;

/// What a fence says it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Commands.
    Sh,
    /// Commands after `$ `, each with what it prints.
    Console,
    Yaml,
    Json,
    /// What is read, not typed.
    Text,
}

impl FromStr for Language {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "sh" => Self::Sh,
            "console" => Self::Console,
            "yaml" => Self::Yaml,
            "json" => Self::Json,
            "text" => Self::Text,
            _ => bail!("a block says what it is, sh, console, yaml, json or text; not {text:?}"),
        })
    }
}

/// What is fenced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub language: Language,
    pub text: String,
    pub on_each_node: bool,
    /// The exit code of the last command.
    pub code: i32,
    pub not_run: Option<String>,
}

impl Block {
    pub fn is_commands(&self) -> bool {
        matches!(self.language, Language::Sh | Language::Console)
    }
}

/// What a page has for whoever runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Block(Block),
    First(String),
    Then(String),
    /// In a sentence, between backticks.
    Inline(String),
}

#[derive(Clone, Debug)]
pub struct Item {
    /// Counted from 1.
    pub line: usize,
    pub what: What,
}

#[derive(Clone, Debug)]
pub struct Page {
    /// As in `docs/usage/status.md`.
    pub name: String,
    pub items: Vec<Item>,
}

impl Page {
    pub fn read(name: &str) -> Result<Self> {
        let path = repo().join(name);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Self::parse(name, &text)
    }

    /// README.md and all of docs/usage.
    pub fn all() -> Result<Vec<Self>> {
        let mut names = vec!["README.md".to_owned()];
        for entry in fs::read_dir(repo().join("docs/usage"))? {
            names.push(format!("docs/usage/{}", entry?.file_name().display()));
        }
        names.iter().map(|name| Self::read(name)).collect()
    }

    pub fn blocks(&self) -> impl Iterator<Item = (&Item, &Block)> {
        self.items.iter().filter_map(|item| match &item.what {
            What::Block(block) => Some((item, block)),
            _ => None,
        })
    }

    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut parser = Parser { lines: text.lines().peekable(), line: 0, next: Next::default(), items: Vec::new() };
        while parser.lines.peek().is_some() {
            parser.element().with_context(|| format!("{name}:{}", parser.line))?;
        }
        ensure!(parser.next == Next::default(), "{name}: its last comment is about no block");
        Ok(Self { name: name.to_owned(), items: parser.items })
    }
}

/// What comments said of the block that follows.
#[derive(Debug, Default, PartialEq, Eq)]
struct Next {
    on_each_node: bool,
    code: i32,
    not_run: Option<String>,
}

struct Parser<'a> {
    lines: Peekable<Lines<'a>>,
    line: usize,
    next: Next,
    items: Vec<Item>,
}

impl<'a> Parser<'a> {
    fn take(&mut self) -> Option<&'a str> {
        self.line += 1;
        self.lines.next()
    }

    /// A block, a comment, or a line.
    fn element(&mut self) -> Result<()> {
        let line = self.take().unwrap_or_default();
        let (begin, text) = (self.line, line.trim_start());
        if let Some(language) = text.strip_prefix("```") {
            let block = self.block(language, line.len() - text.len())?;
            self.items.push(Item { line: begin, what: What::Block(block) });
        } else if let Some(text) = text.strip_prefix("<!--") {
            let text = self.comment(text)?;
            self.comment_means(begin, text.trim())?;
        } else {
            let spans = line.split('`').skip(1).step_by(2);
            self.items.extend(spans.map(|span| Item { line: begin, what: What::Inline(span.to_owned()) }));
        }
        Ok(())
    }

    fn block(&mut self, language: &str, indent: usize) -> Result<Block> {
        let language = language.parse()?;
        let mut text = String::new();
        loop {
            let line = self.take().context("this block has no end")?;
            if line.trim() == "```" {
                break;
            }
            // A block in a list is indented like the list.
            text += line.get(indent..).unwrap_or_default();
            text.push('\n');
        }
        let Next { on_each_node, code, not_run } = std::mem::take(&mut self.next);
        Ok(Block { language, text, on_each_node, code, not_run })
    }

    fn comment(&mut self, first: &str) -> Result<String> {
        let mut text = first.to_owned();
        while !text.trim_end().ends_with("-->") {
            text.push('\n');
            text += self.take().context("this comment has no end")?;
        }
        Ok(text.trim_end().trim_end_matches("-->").to_owned())
    }

    fn comment_means(&mut self, line: usize, text: &str) -> Result<()> {
        let (key, rest) = text.split_once(':').unwrap_or((text, ""));
        let rest = rest.trim();
        match key {
            "first" => self.items.push(Item { line, what: What::First(rest.to_owned()) }),
            "then" => self.items.push(Item { line, what: What::Then(rest.to_owned()) }),
            "on each node" => self.next.on_each_node = true,
            "fails" => self.next.code = rest.parse().context("`fails` wants an exit code")?,
            "not run" if rest.is_empty() => bail!("`not run` wants a reason"),
            "not run" => self.next.not_run = Some(rest.to_owned()),
            // Tables that are generated.
            _ if key.starts_with("begin ") || key.starts_with("end ") => {}
            _ => bail!("no such comment: {key:?}"),
        }
        Ok(())
    }
}

#[test]
fn a_page_is_taken_apart() -> Result<()> {
    let text = "Look at `kubectl get nodes`.\n<!-- first:\na -->\n<!-- fails: 3 -->\n   ```sh\n   b\n     c\n   ```\n<!-- begin x -->\n```text\nd\n```\n";
    let page = Page::parse("p.md", text)?;
    let sh = Block { language: Language::Sh, text: "b\n  c\n".into(), on_each_node: false, code: 3, not_run: None };
    let read = Block { language: Language::Text, text: "d\n".into(), code: 0, ..sh.clone() };
    let whats: Vec<(usize, What)> = page.items.into_iter().map(|item| (item.line, item.what)).collect();
    let inline = What::Inline("kubectl get nodes".into());
    assert_eq!(whats, [(1, inline), (2, What::First("a".into())), (5, What::Block(sh)), (10, What::Block(read))]);
    for wrong in
        ["```\na\n```", "```bash\n```", "<!-- furst: a -->", "<!-- not run: -->", "<!-- fails: 1 -->", "```sh\n"]
    {
        assert!(Page::parse("p.md", wrong).is_err(), "{wrong}");
    }
    Ok(())
}
