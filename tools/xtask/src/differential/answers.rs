//! Answers cut into named fields, so that a rule can speak of one of them.
//!
//! Whatever isn't understood becomes a `line` or a `rest`, which must be equal
//! byte by byte; so reading too little makes the comparison stricter.

use std::borrow::Cow;

use super::stream::Protocol;

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// What rules call it.
    pub name: Cow<'static, str>,
    /// Its bytes.
    pub bytes: Cow<'a, [u8]>,
}

fn field<'a>(name: &'static str, bytes: &'a [u8]) -> Field<'a> {
    Field { name: Cow::Borrowed(name), bytes: Cow::Borrowed(bytes) }
}

/// All fields of one connection's answers.
pub fn fields(protocol: Protocol, answers: &[u8]) -> Vec<Field<'_>> {
    match protocol {
        Protocol::Text => text_fields(answers),
        Protocol::Binary => binary_fields(answers),
    }
}

/// The CAS uniques in them, in order.
pub fn cas_values(protocol: Protocol, answers: &[u8]) -> Vec<u64> {
    fields(protocol, answers)
        .iter()
        .filter(|field| field.name.ends_with(".cas"))
        .filter_map(|field| std::str::from_utf8(&field.bytes).ok()?.parse().ok())
        .filter(|cas| *cas != 0)
        .collect()
}

fn text_fields(mut rest: &[u8]) -> Vec<Field<'_>> {
    let mut fields = Vec::new();
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = rest.split_at(end + 1);
        rest = after;
        let words: Vec<&[u8]> = line.trim_ascii_end().split(|byte| *byte == b' ').collect();
        let value_bytes = match words[0] {
            b"VALUE" => {
                classic_value(&words, &mut fields);
                words.get(3)
            }
            b"VA" => {
                fields.push(field("meta.code", words[0]));
                fields.extend(words.get(1).map(|bytes| field("meta.value_bytes", bytes)));
                meta_flags(words.get(2..).unwrap_or(&[]), &mut fields);
                words.get(1)
            }
            b"HD" | b"EN" | b"NF" | b"NS" | b"EX" => {
                fields.push(field("meta.code", words[0]));
                meta_flags(&words[1..], &mut fields);
                None
            }
            b"ME" => {
                debug_line(&words, &mut fields);
                None
            }
            b"STAT" => {
                let name = String::from_utf8_lossy(words.get(1).unwrap_or(&&b""[..])).into_owned();
                fields.push(Field {
                    name: Cow::Owned(format!("stat.{name}")),
                    bytes: Cow::Owned(words.get(2..).unwrap_or(&[]).join(&b' ')),
                });
                None
            }
            b"VERSION" => {
                fields.push(field("version", line));
                None
            }
            _ => {
                fields.push(field("line", line));
                None
            }
        };
        let Some(value_bytes) = value_bytes else { continue };
        let Some(length) = std::str::from_utf8(value_bytes).ok().and_then(|text| text.parse().ok())
        else {
            continue;
        };
        let length: usize = length;
        let (value, after) = rest.split_at((length + 2).min(rest.len()));
        fields.push(field("value", value));
        rest = after;
    }
    if !rest.is_empty() {
        fields.push(field("rest", rest));
    }
    fields
}

fn classic_value<'a>(words: &[&'a [u8]], fields: &mut Vec<Field<'a>>) {
    const NAMES: [&str; 5] = ["VALUE", "value.key", "value.flags", "value.bytes", "value.cas"];
    for (index, word) in words.iter().enumerate() {
        fields.push(field(NAMES.get(index).copied().unwrap_or("value.more"), word));
    }
}

fn meta_flags<'a>(words: &[&'a [u8]], fields: &mut Vec<Field<'a>>) {
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        match word.split_first() {
            // The mark of a base64 key stands right behind it.
            Some((b'k', key)) if words.next_if(|word| **word == b"b").is_some() => {
                fields.push(Field {
                    name: Cow::Borrowed("meta.key"),
                    bytes: Cow::Owned([key, b" b"].concat()),
                });
            }
            Some((b'k', key)) => fields.push(field("meta.key", key)),
            Some((b'c', cas)) => fields.push(field("meta.cas", cas)),
            Some((b't', ttl)) => fields.push(field("meta.ttl", ttl)),
            Some((b'l', seconds)) => fields.push(field("meta.last_access", seconds)),
            _ => fields.push(field("meta.flag", word)),
        }
    }
}

fn debug_line<'a>(words: &[&'a [u8]], fields: &mut Vec<Field<'a>>) {
    for (index, word) in words.iter().enumerate() {
        // A base64 key may hold one too.
        let equals = word.iter().position(|byte| *byte == b'=').filter(|_| index > 1);
        let Some(equals) = equals else {
            fields.push(field("me.key", word));
            continue;
        };
        let name = String::from_utf8_lossy(&word[..equals]).into_owned();
        fields.push(Field {
            name: Cow::Owned(format!("me.{name}")),
            bytes: Cow::Borrowed(&word[equals + 1..]),
        });
    }
}

fn binary_fields(mut rest: &[u8]) -> Vec<Field<'_>> {
    let mut fields = Vec::new();
    while rest.len() >= 24 && rest[0] == 0x81 {
        let (head, after) = rest.split_at(24);
        let body_bytes = u32::from_be_bytes(head[8..12].try_into().expect("four bytes")) as usize;
        let key_bytes = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let extras_bytes = usize::from(head[4]);
        let (body, after) = after.split_at(body_bytes.min(after.len()));
        rest = after;
        let cas = u64::from_be_bytes(head[16..24].try_into().expect("eight bytes"));
        match head[1] {
            // Version and statistics: their bodies differ in length.
            0x0b => {
                fields.push(field("binary.version.head", &head[..8]));
                fields.push(field("version", body));
            }
            0x10 if key_bytes > 0 && body.len() >= extras_bytes + key_bytes => {
                let (key, value) = body[extras_bytes..].split_at(key_bytes);
                let name = format!("stat.{}", String::from_utf8_lossy(key));
                fields.push(Field { name: Cow::Owned(name), bytes: Cow::Borrowed(value) });
            }
            _ => {
                fields.push(field("binary.head", &head[..16]));
                let cas = Cow::Owned(cas.to_string().into_bytes());
                fields.push(Field { name: Cow::Borrowed("binary.cas"), bytes: cas });
                fields.push(field("binary.body", body));
            }
        }
    }
    if !rest.is_empty() {
        fields.push(field("rest", rest));
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classic_and_meta_answers_yield_their_cas() {
        let answers = b"VALUE a 0 3 17\r\nc99\r\nEND\r\nHD c18 Oc7\r\nVA 2 c19 t-1\r\nxx\r\n";
        assert_eq!(cas_values(Protocol::Text, answers), [17, 18, 19]);
    }

    #[test]
    fn a_packet_without_its_body_is_still_compared() {
        let mut packet = vec![0x81; 1];
        packet.extend([0; 23]);
        packet[11] = 9;
        let fields = fields(Protocol::Binary, &packet);
        assert_eq!(fields.iter().filter(|field| field.name == "binary.head").count(), 1);
    }
}
