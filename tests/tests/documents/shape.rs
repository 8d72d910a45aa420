//! Whether a command prints what a page shows. Addresses, names with numbers, counts and times are others each time: what has
//! a digit stands for anything that has one. `…` stands for any word, and for the rest of its line at the end of one. The page may leave
//! lines out, but not bring its own.

const UNITS: [&str; 4] = ["s", "min", "h", "d"];

/// The first line of the page that is missing in what was said.
pub fn missing<'a>(page: &'a str, said: &str) -> Option<&'a str> {
    let mut said = said.lines();
    page.lines()
        .filter(|line| !matches!(line.trim(), "" | "…"))
        .find(|line| !said.by_ref().any(|candidate| is_like(&words(line), &words(candidate))))
}

/// The words of a line; a time such as `2 h 3 min` is one.
fn words(line: &str) -> Vec<&str> {
    let mut words: Vec<&str> = Vec::new();
    let mut in_time = false;
    for word in line.split_whitespace() {
        let bare = word.trim_end_matches([',', ';', ')']);
        if UNITS.contains(&bare) && words.last().is_some_and(|last| is_number(last)) {
            if in_time {
                words.pop();
            }
            in_time = true;
        } else {
            in_time &= is_number(word);
            words.push(word);
        }
    }
    words
}

fn is_number(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_like(page: &[&str], said: &[&str]) -> bool {
    let (page, open) = match page {
        [words @ .., "…"] => (words, true),
        words => (words, false),
    };
    let enough = if open { said.len() >= page.len() } else { said.len() == page.len() };
    enough && page.iter().zip(said).all(|(page, said)| is_word_like(page, said))
}

fn is_word_like(page: &str, said: &str) -> bool {
    let has_digit = |word: &str| word.bytes().any(|byte| byte.is_ascii_digit());
    page == said || page.contains('…') || (has_digit(page) && has_digit(said))
}

#[test]
fn what_differs_each_time_may_differ() {
    let said =
        "NAME   POD CIDRS        AGE\nnode-a [\"10.0.0.0/24\"]  12s\nsince 1 min 2 s ago\nlast (x) 3 s ago, well\n";
    for page in [
        "NAME POD CIDRS AGE\nnode-a [\"10.0.7.0/24\"] 3d",
        "since 5 s ago",
        "since 2 h 3 min ago\n…\nlast (x) 4 min ago, well",
        "NAME …",
    ] {
        assert_eq!(missing(page, said), None);
    }
    for page in
        ["NAME CIDRS AGE", "node-b [\"10.0.7.0/24\"] 3d", "since ago", "since 5 s ago\nNAME …", "last …\nlast …"]
    {
        assert!(missing(page, said).is_some(), "{page}");
    }
}
