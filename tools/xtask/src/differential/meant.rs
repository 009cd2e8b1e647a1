//! Commands whose answers differ on purpose and would change all that follows:
//! no stream has them. They are the `[[avoided]]` of `allowed.toml`.

use super::stream::{Piece, Step};

/// The stream with something harmless in the place of such commands.
pub fn without_meant(steps: Vec<Step>) -> Vec<Step> {
    let replace = |step: Step| if is_meant(&step) { Step::raw("mn\r\n") } else { step };
    steps.into_iter().map(replace).collect()
}

fn is_meant(step: &Step) -> bool {
    let Step::Send(pieces) = step else { return false };
    let text: Vec<u8> = pieces
        .iter()
        .flat_map(|piece| match piece {
            Piece::Raw(bytes) => bytes.clone(),
            Piece::Cas { .. } => b"1".to_vec(),
        })
        .collect();
    text.split(|byte| *byte == b'\n').any(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let words: Vec<&[u8]> =
            line.split(|byte| *byte == b' ').filter(|w| !w.is_empty()).collect();
        if let [b"get" | b"gets" | b"gat" | b"gats", keys @ ..] = words.as_slice() {
            // One that is too long, behind others.
            let first = keys.iter().position(|word| word.len() > 250);
            return first.is_some_and(|first| first > 0);
        }
        let [command @ [b'm', letter], _, flags @ ..] = words.as_slice() else { return false };
        let has = |flag: u8| flags.iter().any(|word| word.first() == Some(&flag));
        command.len() == 2
            && (has(b'E')
                || match letter {
                    b'g' => flags.iter().any(|f| f[0] == b'C' && is_number(&f[1..])),
                    b's' => has(b'G') || has(b'N') || flags.contains(&&b"s"[..]),
                    b'd' => has(b'x'),
                    b'a' => {
                        // 1.6.18 answers a quiet one that creates its number.
                        let creates = has(b'N') && flags.contains(&&b"q"[..]);
                        // With T only what cannot make the number longer.
                        let down = |f: &&[u8]| matches!(*f, b"MD" | b"Md" | b"M-" | b"D0");
                        creates || has(b'T') && !flags.iter().any(down)
                    }
                    _ => false,
                })
    })
}

fn is_number(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_on_purpose_is_left_out() {
        for line in [
            "mg a v E7\r\n",
            "mg a v C7\r\n",
            "ms a 1 N30\r\nx\r\n",
            "ms a 1 s\r\nx\r\n",
            " md a x\r\n",
            "ma a T30\r\n",
            "ma a q N0\r\n",
        ] {
            assert!(is_meant(&Step::raw(line)), "{line}");
        }
        for line in [
            "mg a N30\r\n",
            "mg a s C\r\n",
            "ms s 1 C7\r\nx\r\n",
            "ms E 1 T0\r\nx\r\n",
            "ma a N0\r\n",
            "ma a T30 MD\r\n",
            "set E 0 0 1\r\nx\r\n",
        ] {
            assert!(!is_meant(&Step::raw(line)), "{line}");
        }
    }
}
