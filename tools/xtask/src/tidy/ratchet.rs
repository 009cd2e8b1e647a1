//! The exceptions of `tidy.toml`: findings by rule and file, which only shrink.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use toml_edit::DocumentMut;

use super::{Finding, SHOWN_OF_A_RULE};

/// What `tidy.toml` says.
#[derive(Debug, Default)]
pub struct Exceptions {
    /// Items that nobody names and that stay all the same, with the reason.
    pub unused_allowed: BTreeMap<String, String>,
    /// Findings that stood when the rule came, by rule and file.
    counts: BTreeMap<(String, String), usize>,
}

/// Above the counts, in the file.
const ALLOWED: &str = "unused-allowed";

impl Exceptions {
    /// Reads the file.
    pub fn parse(text: &str) -> Result<Exceptions> {
        let document: DocumentMut = text.parse()?;
        let mut out = Exceptions::default();
        for (rule, table) in document.iter() {
            let table = table.as_table().with_context(|| format!("[{rule}] is no table"))?;
            for (key, value) in table.iter() {
                if rule == ALLOWED {
                    let reason = value.as_str().unwrap_or_default();
                    ensure!(!reason.is_empty(), "{key} in [{ALLOWED}] needs a reason");
                    out.unused_allowed.insert(key.into(), reason.into());
                } else {
                    let count = value.as_integer().filter(|count| *count > 0);
                    let count = count.with_context(|| format!("{key} in [{rule}]: no number"))?;
                    out.counts.insert((rule.into(), key.into()), count as usize);
                }
            }
        }
        Ok(out)
    }

    /// Where the findings differ from what is allowed.
    pub fn complaints(&self, findings: &[Finding]) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut shown = BTreeMap::new();
        let found = by_file(findings);
        for ((rule, path), all) in &found {
            let allowed = self.counts.get(&(rule.clone(), path.clone())).copied().unwrap_or(0);
            if all.len() <= allowed {
                continue;
            }
            let shown: &mut usize = shown.entry(rule.clone()).or_default();
            *shown += 1;
            if *shown > SHOWN_OF_A_RULE {
                continue;
            }
            let few = if allowed > 0 { format!(", {allowed} of them excepted") } else { "".into() };
            complaints.push(format!("{rule}: {path} has {}{few}", all.len()));
            for finding in all.iter().take(SHOWN_OF_A_RULE) {
                complaints.push(format!("  {path}:{}: {}", finding.line, finding.text));
            }
        }
        for (rule, shown) in shown.into_iter().filter(|(_, shown)| *shown > SHOWN_OF_A_RULE) {
            complaints.push(format!("{rule}: {} more files", shown - SHOWN_OF_A_RULE));
        }
        for ((rule, path), allowed) in &self.counts {
            let left = found.get(&(rule.clone(), path.clone())).map_or(0, Vec::len);
            if left < *allowed {
                complaints.push(format!(
                    "{rule}: {path} has {left} findings, and tidy.toml allows {allowed}; \
                     to lower the number: cargo xtask tidy --record"
                ));
            }
        }
        complaints
    }

    /// The file with today's counts. Files may change places, but no rule may have
    /// more findings than before.
    pub fn recorded(&self, text: &str, findings: &[Finding]) -> Result<String> {
        let mut sums: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for ((rule, _), count) in &self.counts {
            sums.entry(rule).or_default().0 += count;
        }
        for finding in findings {
            sums.entry(finding.rule).or_default().1 += 1;
        }
        for (rule, (before, now)) in sums {
            // A rule without an entry is new.
            ensure!(
                before == 0 || now <= before,
                "{rule}: {now} findings, and {before} were allowed; `cargo xtask tidy` lists them"
            );
        }
        let head = text.find("\n# Counts").map_or(text, |end| &text[..end]);
        let mut out = format!("{}\n\n{COUNTS_HEAD}", head.trim_end());
        let mut last = "";
        for ((rule, path), all) in &by_file(findings) {
            if rule != last {
                out.push_str(&format!("\n[{rule}]\n"));
                last = rule;
            }
            out.push_str(&format!("\"{path}\" = {}\n", all.len()));
        }
        Ok(out)
    }
}

const COUNTS_HEAD: &str = "\
# Counts by rule and file of what stood when the rule came. They may only
# shrink; `cargo xtask tidy --record` writes them.
";

fn by_file(findings: &[Finding]) -> BTreeMap<(String, String), Vec<&Finding>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for finding in findings {
        found.entry((finding.rule.into(), finding.path.clone())).or_default().push(finding);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "[unused-allowed]\nkept = \"why\"\n\n# Counts\n\n[words]\n\"a.rs\" = 2\n";

    fn findings(count: usize, path: &str) -> Vec<Finding> {
        let one = |line| Finding { rule: "words", path: path.into(), line, text: "x".into() };
        (1..=count).map(one).collect()
    }

    #[test]
    fn more_findings_fail_and_fewer_ask_for_a_lower_number() {
        let exceptions = Exceptions::parse(FILE).unwrap();
        assert_eq!(exceptions.complaints(&findings(2, "a.rs")), [""; 0]);
        let more = exceptions.complaints(&findings(3, "a.rs"));
        assert_eq!(more[0], "words: a.rs has 3, 2 of them excepted");
        assert_eq!(more.len(), 4);
        let fewer = exceptions.complaints(&findings(1, "a.rs"));
        assert!(fewer[0].ends_with("to lower the number: cargo xtask tidy --record"), "{fewer:?}");
    }

    #[test]
    fn recording_follows_a_moved_file_and_refuses_a_larger_sum() {
        let exceptions = Exceptions::parse(FILE).unwrap();
        let moved = exceptions.recorded(FILE, &findings(2, "b.rs")).unwrap();
        assert!(moved.contains("\"b.rs\" = 2") && !moved.contains("a.rs"), "{moved}");
        assert!(moved.contains("kept = \"why\""));
        assert!(Exceptions::parse(&moved).unwrap().complaints(&findings(2, "b.rs")).is_empty());
        let error = exceptions.recorded(FILE, &findings(3, "b.rs")).unwrap_err().to_string();
        assert!(error.starts_with("words: 3 findings, and 2 were allowed"), "{error}");
    }

    #[test]
    fn an_allowed_item_needs_a_reason() {
        assert!(Exceptions::parse("[unused-allowed]\nkept = \"\"\n").is_err());
    }
}
