//! Values of settings: from a user's text, and back.

use super::table::{EPHEMERAL_PORT, Kind, Setting};

/// A checked value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// On or off.
    Switch(bool),
    /// A number, or bytes.
    Number(u64),
    /// A text, path, word or character.
    Text(String),
    /// A list.
    List(Vec<String>),
}

/// Reads `text` as the setting wants it; the error says what it expects.
pub fn parse(setting: &Setting, text: &str) -> Result<Value, String> {
    let text = text.trim();
    let wrong = || Err(format!("{text:?} is not {}", setting.expects()));
    match setting.kind {
        Kind::Switch => match text {
            "true" | "yes" | "on" | "1" => Ok(Value::Switch(true)),
            "false" | "no" | "off" | "0" => Ok(Value::Switch(false)),
            _ => wrong(),
        },
        Kind::Count(least, most) => match text.parse::<u64>() {
            Ok(number) if (least..=most).contains(&number) => Ok(Value::Number(number)),
            _ => wrong(),
        },
        Kind::Port => match text.parse::<i64>() {
            Ok(-1) => Ok(Value::Number(EPHEMERAL_PORT)),
            Ok(port @ 0..=65_535) => Ok(Value::Number(port as u64)),
            _ => wrong(),
        },
        Kind::Bytes(least, most, unit) => match bytes(text, unit) {
            Some(number) if (least..=most).contains(&number) => Ok(Value::Number(number)),
            _ => wrong(),
        },
        Kind::Octal => match u64::from_str_radix(text, 8) {
            Ok(number) if number <= 0o7777 => Ok(Value::Number(number)),
            _ => wrong(),
        },
        Kind::Character => match text.as_bytes() {
            [byte] if byte.is_ascii() => Ok(Value::Text(text.into())),
            _ => wrong(),
        },
        Kind::Choice(words) if !words.contains(&text) => match nearest(text, words.iter().copied())
        {
            Some(word) => {
                Err(format!("{text:?} is not {}; did you mean {word}?", setting.expects()))
            }
            None => wrong(),
        },
        Kind::Choice(_) | Kind::Text | Kind::Path => Ok(Value::Text(text.into())),
        Kind::List => Ok(Value::List(list(text))),
    }
}

/// The words of a comma-separated list.
pub fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// `64`, `64m`, `1.5g`, `512KiB`; a bare number counts `unit` bytes.
fn bytes(text: &str, unit: u64) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let factor = match suffix.trim().to_ascii_lowercase().as_str() {
        "" => unit,
        "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let number = number.parse::<f64>().ok()?;
    let product = number * factor as f64;
    (product.is_finite() && product < 1e18).then_some(product as u64)
}

/// A size as a person writes it: the largest unit that divides it.
pub fn bytes_text(bytes: u64) -> String {
    for (shift, unit) in [(40, "t"), (30, "g"), (20, "m"), (10, "k")] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// The value as a user would write it.
pub fn text(setting: &Setting, value: &Value) -> String {
    match (value, setting.kind) {
        (Value::Switch(on), _) => on.to_string(),
        (Value::Number(number), Kind::Bytes(..)) => bytes_text(*number),
        (Value::Number(EPHEMERAL_PORT), Kind::Port) => "-1".into(),
        (Value::Number(number), Kind::Octal) => format!("{number:o}"),
        (Value::Number(number), _) => number.to_string(),
        (Value::Text(text), _) => text.clone(),
        (Value::List(words), _) => words.join(","),
    }
}

/// The candidate nearest to `word`, if it is near enough to be a slip.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let bound = 1 + word.len() / 3;
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= bound)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::table::by_key;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let memory = by_key("memory.limit").unwrap();
        for (text, expected) in
            [("64", 64 << 20), ("2g", 2 << 30), ("1.5g", 3 << 29), ("512 MiB", 512 << 20)]
        {
            assert_eq!(parse(memory, text), Ok(Value::Number(expected)), "{text}");
        }
        for text in ["", "-1", "64x", "1", "1e99g", "99999999999999999999"] {
            // "1" is below the bound of 2 MiB.
            assert!(parse(memory, text).is_err(), "{text}");
        }
        let value_max = by_key("memory.value_max").unwrap();
        assert_eq!(parse(value_max, "1048576"), Ok(Value::Number(1 << 20)));
    }

    #[test]
    fn a_slip_in_a_word_names_the_nearest() {
        let eviction = by_key("memory.eviction").unwrap();
        let error = parse(eviction, "clockpro").unwrap_err();
        assert!(error.ends_with("did you mean clock-pro?"), "{error}");
    }

    #[test]
    fn defaults_are_valid_and_print_as_written() {
        for setting in crate::settings::table::SETTINGS {
            let value = parse(setting, setting.default)
                .unwrap_or_else(|error| panic!("{}: {error}", setting.key));
            let again = parse(setting, &text(setting, &value)).unwrap();
            assert_eq!(value, again, "{}", setting.key);
        }
    }
}
