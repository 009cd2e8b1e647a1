//! `seawallctl dump`: streams `lru_crawler metadump all`, one item at a time,
//! so a dump of any size needs the memory of one line.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use serde_json::{Map, Value};

use crate::cli::DumpOptions;
use crate::error::CtlError;
use crate::format;
use crate::memcached::{Client, check};

const COMMAND: &str = "lru_crawler metadump all";

pub(super) fn run(
    client: &mut Client,
    options: &DumpOptions,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), CtlError> {
    let Some(path) = &options.out else {
        dump(client, options, json, out)?;
        return Ok(());
    };
    let failed = |error| CtlError::File { path: path.display().to_string(), error };
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    let items = dump(client, options, json, &mut file).map_err(|error| match error {
        CtlError::Output(error) => failed(error),
        other => other,
    })?;
    file.flush().map_err(failed)?;
    writeln!(out, "{} items written to {}", format::grouped(items), path.display())?;
    Ok(())
}

fn dump(
    client: &mut Client,
    options: &DumpOptions,
    json: bool,
    out: &mut dyn Write,
) -> Result<u64, CtlError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    client.send(format!("{COMMAND}\r\n").as_bytes())?;
    if !json && !options.keys {
        writeln!(
            out,
            "{:>10}  {:>9}  {:>9}  {:>5}  {:>5}  key",
            "size", "expires", "idle", "class", "read"
        )?;
    }
    let mut items = 0;
    let mut line = Vec::new();
    loop {
        client.read_line(&mut line)?;
        if line == b"END" {
            return Ok(items);
        }
        let text = String::from_utf8_lossy(&line);
        check(COMMAND, &text)?;
        if text.starts_with("BUSY") {
            return Err(CtlError::Answer { command: COMMAND.into(), answer: text.into_owned() });
        }
        let Some(item) = Item::parse(&text) else {
            return Err(CtlError::Unexpected { request: COMMAND.into(), found: text.into_owned() });
        };
        if options.prefix.as_ref().is_some_and(|prefix| !item.key.starts_with(prefix.as_bytes())) {
            continue;
        }
        if options.limit == Some(items) {
            return Ok(items);
        }
        items += 1;
        match (json, options.keys) {
            (true, keys_only) => writeln!(out, "{}", item.to_json(keys_only))?,
            (false, true) => {
                out.write_all(format::printable(&item.key).as_bytes())?;
                out.write_all(b"\n")?;
            }
            (false, false) => writeln!(out, "{}", item.to_line(now))?,
        }
    }
}

/// One line of the dump.
#[derive(Debug, PartialEq, Eq)]
struct Item {
    key: Vec<u8>,
    /// The other fields, in the server's order.
    fields: Vec<(String, String)>,
}

impl Item {
    /// Reads `key=a%20b exp=-1 la=... cas=... fetch=no cls=1 size=74`.
    fn parse(line: &str) -> Option<Item> {
        let mut fields = line.split_ascii_whitespace().map(|word| word.split_once('='));
        let key = match fields.next()?? {
            ("key", key) => decode(key)?,
            _ => return None,
        };
        let fields = fields
            .map(|field| field.map(|(name, value)| (name.to_owned(), value.to_owned())))
            .collect::<Option<Vec<_>>>()?;
        Some(Item { key, fields })
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|field| field.0 == name).map(|field| field.1.as_str())
    }

    fn to_line(&self, now: u64) -> String {
        let number = |name: &str| self.field(name).and_then(|value| value.parse::<i64>().ok());
        let expires = match number("exp") {
            Some(exp) if exp > 0 => format::seconds((exp as u64).saturating_sub(now)),
            Some(_) => "never".into(),
            None => "-".into(),
        };
        let idle = match number("la") {
            Some(la) if la > 0 => format::seconds(now.saturating_sub(la as u64)),
            _ => "-".into(),
        };
        format!(
            "{:>10}  {expires:>9}  {idle:>9}  {:>5}  {:>5}  {}",
            self.field("size").unwrap_or("-"),
            self.field("cls").unwrap_or("-"),
            self.field("fetch").unwrap_or("-"),
            format::printable(&self.key)
        )
    }

    fn to_json(&self, keys_only: bool) -> Value {
        let mut object = Map::new();
        match std::str::from_utf8(&self.key) {
            Ok(key) => {
                object.insert("key".into(), key.into());
            }
            Err(_) => {
                let key = base64::engine::general_purpose::STANDARD.encode(&self.key);
                object.insert("key".into(), key.into());
                object.insert("encoding".into(), "base64".into());
            }
        }
        if !keys_only {
            for (name, value) in &self.fields {
                let value = match (value.parse::<i64>(), value.as_str()) {
                    (Ok(number), _) => number.into(),
                    (_, "yes") => true.into(),
                    (_, "no") => false.into(),
                    (_, text) => text.into(),
                };
                object.insert(name.clone(), value);
            }
        }
        object.into()
    }
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_decoded() {
        let item =
            Item::parse("key=key%3Aa%2520b%FF exp=1100 la=900 cas=17 fetch=no cls=1 size=74")
                .expect("a line");
        assert_eq!(item.key, b"key:a%20b\xff");
        assert_eq!(
            item.to_line(1000),
            r"        74     1m 40s     1m 40s      1     no  key:a%20b\xff"
        );
        assert_eq!(
            item.to_json(false).to_string(),
            r#"{"cas":17,"cls":1,"encoding":"base64","exp":1100,"fetch":false,"key":"a2V5OmElMjBi/w==","la":900,"size":74}"#
        );
        let item = Item::parse("key=a exp=-1 la=0 cas=1 fetch=yes cls=1 size=60").expect("a line");
        assert_eq!(item.to_line(1000), "        60      never          -      1    yes  a");
    }

    #[test]
    fn foreign_lines_are_refused() {
        for line in ["", "OK", "exp=1 key=a", "key=a%4", "key=a%zz exp=1", "key=a word"] {
            assert_eq!(Item::parse(line), None, "{line}");
        }
    }
}
