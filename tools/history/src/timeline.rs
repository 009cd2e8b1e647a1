//! Draws a few operations above each other.
//!
//! Columns are the distinct moments, evenly spaced: what matters is what came
//! before what, and real durations differ by orders of magnitude.
//!
//! ```text
//!   client 1  write 7     |===|                      0.000 .. 0.010 ms
//!   client 2  write 8             |===|              0.020 .. 0.030 ms
//!   client 1  read: 7                     |===|      0.040 .. 0.050 ms
//!   client 3  delete      |=====================?    0.000 ..  unknown
//! ```

use crate::violation::Evidence;
use std::fmt::{self, Write};

/// Characters from one moment to the next.
const STEP: usize = 4;

/// Draws `evidence`, in the order given.
pub(crate) fn draw(out: &mut impl Write, evidence: &[Evidence]) -> fmt::Result {
    let moments = moments(evidence);
    let Some(&origin_ns) = moments.first() else { return Ok(()) };
    let column = |at_ns: u64| STEP * moments.partition_point(|&moment| moment < at_ns);
    let columns = STEP * moments.len();
    let who_width = width(evidence.iter().map(|line| &line.who));
    let what_width = width(evidence.iter().map(|line| &line.what));
    for line in evidence {
        let from = column(line.from_ns);
        let mut bar = " ".repeat(from) + "|";
        let (to, end) = line.to_ns.map_or((columns, '?'), |to_ns| (column(to_ns), '|'));
        if to > from {
            bar.extend(std::iter::repeat_n('=', to - from - 1));
            bar.push(end);
        }
        let since = |at_ns: u64| format!("{:.3}", (at_ns - origin_ns) as f64 / 1e6);
        let until = line.to_ns.map_or("unknown".to_owned(), |to_ns| since(to_ns) + " ms");
        writeln!(
            out,
            "  {:who_width$}  {:what_width$}  {bar:width$}  {} .. {until}",
            line.who,
            line.what,
            since(line.from_ns),
            width = columns + 1,
        )?;
    }
    writeln!(out, "  (milliseconds after {origin_ns} ns)")
}

/// Distinct moments, in order.
fn moments(evidence: &[Evidence]) -> Vec<u64> {
    let ends = evidence.iter().filter_map(|line| line.to_ns);
    let mut moments: Vec<u64> = evidence.iter().map(|line| line.from_ns).chain(ends).collect();
    moments.sort_unstable();
    moments.dedup();
    moments
}

fn width<'a>(texts: impl Iterator<Item = &'a String>) -> usize {
    texts.map(|text| text.chars().count()).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_shows_what_came_before_what() {
        let line = |who: &str, what: &str, from_ns, to_ns| Evidence {
            from_ns,
            to_ns,
            who: who.to_owned(),
            what: what.to_owned(),
        };
        let evidence = [
            line("client 1", "write 7", 1_000_000, Some(1_010_000)),
            line("client 3", "delete", 1_000_000, None),
            line("client 2", "write 8", 1_020_000, Some(1_030_000)),
            line("client 1", "read: 7", 1_040_000, Some(1_040_000)),
        ];
        let mut text = String::new();
        draw(&mut text, &evidence).unwrap();
        let expected = "
  client 1  write 7  |===|                  0.000 .. 0.010 ms
  client 3  delete   |===================?  0.000 .. unknown
  client 2  write 8          |===|          0.020 .. 0.030 ms
  client 1  read: 7                  |      0.040 .. 0.040 ms
  (milliseconds after 1000000 ns)
";
        assert_eq!(text, &expected[1..]);
    }
}
