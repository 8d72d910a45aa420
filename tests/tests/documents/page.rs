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
use std::str::FromStr;

use anyhow::{Context as _, Error, Result, bail, ensure};
use cadastre_tests::repo;
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

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
        let (mut items, mut next, mut open) = (Vec::new(), Next::default(), None);
        for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
            let line = text[..range.start].matches('\n').count() + 1;
            let what = match event {
                Event::Start(Tag::CodeBlock(kind)) => {
                    open = Some((language(&kind), String::new()));
                    continue;
                }
                Event::Start(Tag::HtmlBlock) => {
                    open = Some((Ok(Language::Text), String::new()));
                    continue;
                }
                Event::Text(part) | Event::Html(part) => {
                    if let Some((_, text)) = &mut open {
                        *text += &part;
                    }
                    continue;
                }
                Event::End(TagEnd::CodeBlock) => {
                    open.take().map(|(language, text)| Ok(Some(What::Block(next.take(language?, text)))))
                }
                Event::End(TagEnd::HtmlBlock) => open.take().map(|(_, text)| next.comment(&text)),
                Event::InlineHtml(text) => Some(next.comment(&text)),
                Event::Code(span) => Some(Ok(Some(What::Inline(span.into_string())))),
                _ => None,
            };
            let what = what.transpose().with_context(|| format!("{name}:{line}"))?.flatten();
            items.extend(what.map(|what| Item { line, what }));
        }
        ensure!(next == Next::default(), "{name}: its last comment is about no block");
        Ok(Self { name: name.to_owned(), items })
    }
}

fn language(kind: &CodeBlockKind) -> Result<Language> {
    match kind {
        CodeBlockKind::Fenced(language) => language.parse(),
        CodeBlockKind::Indented => bail!("a block is fenced"),
    }
}

/// What comments said of the block that follows.
#[derive(Debug, Default, PartialEq, Eq)]
struct Next {
    on_each_node: bool,
    code: i32,
    not_run: Option<String>,
}

impl Next {
    fn take(&mut self, language: Language, text: String) -> Block {
        let Self { on_each_node, code, not_run } = std::mem::take(self);
        Block { language, text, on_each_node, code, not_run }
    }

    fn comment(&mut self, html: &str) -> Result<Option<What>> {
        let text = html.trim().strip_prefix("<!--").and_then(|text| text.strip_suffix("-->"));
        let text = text.with_context(|| format!("of HTML only comments are known: {html}"))?.trim();
        let (key, rest) = text.split_once(':').unwrap_or((text, ""));
        let rest = rest.trim();
        match key {
            "first" => return Ok(Some(What::First(rest.to_owned()))),
            "then" => return Ok(Some(What::Then(rest.to_owned()))),
            "on each node" => self.on_each_node = true,
            "fails" => self.code = rest.parse().context("`fails` wants an exit code")?,
            "not run" if rest.is_empty() => bail!("`not run` wants a reason"),
            "not run" => self.not_run = Some(rest.to_owned()),
            // Tables that are generated.
            _ if key.starts_with("begin ") || key.starts_with("end ") => {}
            _ => bail!("no such comment: {key:?}"),
        }
        Ok(None)
    }
}

#[test]
fn a_page_is_taken_apart() -> Result<()> {
    let text = "Look at `kubectl get nodes`.\n\n<!-- first:\na -->\n<!-- fails: 3 -->\n```sh\nb\n  c\n```\n\n- x\n\n  ```text\n  d\n  ```\n<!-- begin x -->\n";
    let page = Page::parse("p.md", text)?;
    let sh = Block { language: Language::Sh, text: "b\n  c\n".into(), on_each_node: false, code: 3, not_run: None };
    let read = Block { language: Language::Text, text: "d\n".into(), code: 0, ..sh.clone() };
    let whats: Vec<What> = page.items.into_iter().map(|item| item.what).collect();
    let inline = What::Inline("kubectl get nodes".into());
    assert_eq!(whats, [inline, What::First("a".into()), What::Block(sh), What::Block(read)]);
    let wrong =
        ["```\na\n```", "```bash\n```", "    a", "<br>", "<!-- furst: a -->", "<!-- not run: -->", "<!-- fails: 1 -->"];
    for wrong in wrong {
        assert!(Page::parse("p.md", wrong).is_err(), "{wrong}");
    }
    Ok(())
}
