//! `ipam.resolvConf`: a resolver file whose content becomes the result's `dns`, as in host-local. Read before anything is
//! asked of the agent, since an address that is given and then cannot be printed would be held by nobody.

use std::fs::File;
use std::io::{self, Read};

use cadastre_messages::code;
use serde_json::{Map, Value};

use crate::error::Error;
use crate::netconf::field;

/// Longest file read, in bytes: resolv.conf(5) knows of nothing that comes near.
const LONGEST: u64 = 1024 * 1024;

/// `nameservers`, `domain`, `search`, `options`, as far as the file has them; empty without a file.
pub fn of(ipam: &Map<String, Value>) -> Result<Map<String, Value>, Error> {
    match field(ipam, "resolvConf") {
        None => Ok(Map::new()),
        Some(Value::String(path)) if path.is_empty() => Ok(Map::new()),
        Some(Value::String(path)) => read(path).map(|text| parse(&text)).map_err(|error| {
            let message = format!("ipam.resolvConf {path:?} cannot be read: {error}");
            Error::new(code::IO, message, "name a resolver file of this node, or leave the key out")
        }),
        other => Err(Error::of_key("ipam.resolvConf", other, "name a file by its path, or leave it out")),
    }
}

fn read(path: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Lines of a keyword and its values; others say nothing.
pub fn parse(text: &str) -> Map<String, Value> {
    let mut dns = Map::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace();
        let (Some(keyword), Some(first)) = (words.next(), words.next()) else { continue };
        let rest = std::iter::once(first).chain(words);
        match keyword {
            "nameserver" => append(&mut dns, "nameservers", rest.take(1)),
            "domain" => drop(dns.insert("domain".into(), first.into())),
            "search" => append(&mut dns, "search", rest),
            "options" => append(&mut dns, "options", rest),
            _ => {}
        }
    }
    dns
}

fn append<'a>(dns: &mut Map<String, Value>, key: &str, words: impl Iterator<Item = &'a str>) {
    if let Value::Array(list) = dns.entry(key).or_insert_with(|| Value::Array(Vec::new())) {
        list.extend(words.map(Value::from));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keywords_and_their_values() {
        let table = [
            ("", json!({})),
            ("# nameserver 192.0.2.1\n; search x\n\n  \nnameserver\nsortlist a\n", json!({})),
            ("nameserver 192.0.2.1\n", json!({ "nameservers": ["192.0.2.1"] })),
            (
                "\tnameserver 192.0.2.1 x\r\nnameserver fd00::1\ndomain a\ndomain b c\nsearch a b\nsearch c\noptions ndots:5\noptions rotate",
                json!({
                    "nameservers": ["192.0.2.1", "fd00::1"],
                    "domain": "b",
                    "search": ["a", "b", "c"],
                    "options": ["ndots:5", "rotate"],
                }),
            ),
        ];
        for (text, expected) in table {
            assert_eq!(Value::from(parse(text)), expected, "{text:?}");
        }
    }

    #[test]
    fn a_key_that_names_no_file_is_refused() {
        let of =
            |value: Value| of(&Map::from_iter([("resolvConf".to_owned(), value)])).map_err(|error| error.failure.code);
        assert_eq!(of(json!("")), Ok(Map::new()));
        assert_eq!(of(json!(7)), Err(code::BAD_CONFIG));
        assert_eq!(of(json!("/nonexistent/resolv.conf")), Err(code::IO));
        assert_eq!(of(json!("/")), Err(code::IO));
    }
}
