//! Help and man page, both printed from the table.

use super::table::{ACCEPTED, EXTENDED, SETTINGS, Setting};

fn flag(setting: &Setting) -> String {
    let mut text = match setting.short {
        Some(letter) => format!("-{letter}, --{}", setting.long),
        None => format!("    --{}", setting.long),
    };
    if !setting.placeholder().is_empty() {
        text.push('=');
        text.push_str(setting.placeholder());
    }
    text
}

fn default(setting: &Setting) -> String {
    match setting.default {
        "" => "none".into(),
        text => text.into(),
    }
}

/// The text of `--help`.
pub fn help() -> String {
    let mut out = format!(
        "seawalld {}: a cache server that any memcached client can use\n\n\
         usage: seawalld [OPTION...]\n\
         memcached's flags mean what they mean there. Every setting is also an environment\n\
         variable and a key of the TOML file that --config names; the command line wins.\n",
        env!("CARGO_PKG_VERSION")
    );
    let mut section = "";
    for setting in SETTINGS {
        let this = setting.key.split('.').next().unwrap_or_default();
        if this != section {
            section = this;
            out.push_str(&format!("\n[{section}]\n"));
        }
        out.push_str(&format!(
            "  {:<36} {} (default: {})\n",
            flag(setting),
            setting.help,
            default(setting)
        ));
    }
    out.push_str("\nother\n");
    for (flag, text) in [
        (
            "    --cluster-recover=<list>",
            "begin the cluster anew on this node, which must not run, and end; the list names the keepers whose directories are lost for good",
        ),
        ("    --config=<file>", "read settings from a TOML file (also SEAWALL_CONFIG)"),
        (
            "    --check-config",
            "check the configuration, print every setting with its source, and exit",
        ),
        (
            "-o, --extended=<list>",
            "memcached's extended options; those of its internals are accepted without effect",
        ),
        ("-h, --help", "print this and exit"),
        ("-V, --version", "print the version and exit"),
        ("-i, --license", "print the licence and exit"),
        ("    --man-page", "print the man page (roff) and exit"),
    ] {
        out.push_str(&format!("  {flag:<36} {text}\n"));
    }
    let accepted: Vec<String> = ACCEPTED.iter().map(|row| format!("--{}", row.1)).collect();
    out.push_str(&format!("\naccepted without effect: {}\n", accepted.join(", ")));
    out.push_str(
        "environment: SEAWALL_ and the key in capitals, such as SEAWALL_MEMORY_LIMIT=2g\n",
    );
    out.push_str("file:        [memory]\n             limit = \"2g\"\n");
    out
}

/// The man page, in roff.
pub fn man_page() -> String {
    let escape = |text: &str| text.replace('\\', "\\\\").replace('-', "\\-");
    let mut out = format!(
        ".TH SEAWALLD 8 \"\" \"seawalld {}\"\n.SH NAME\nseawalld \\- a cache server that any memcached client can use\n\
         .SH SYNOPSIS\n.B seawalld\n[\\fIOPTION\\fR...]\n.SH DESCRIPTION\nAccepts memcached's flags with memcached's meaning. \
         Every setting is also an environment variable and a key of the TOML file that \\fB\\-\\-config\\fR names; \
         the command line wins over the environment, the environment over the file.\n.SH OPTIONS\n",
        env!("CARGO_PKG_VERSION")
    );
    for setting in SETTINGS {
        out.push_str(&format!(
            ".TP\n.B {}\n{}. TOML key \\fB{}\\fR, environment \\fB{}\\fR, default {}.\n",
            escape(flag(setting).trim()),
            escape(setting.help),
            escape(setting.key),
            escape(&setting.env()),
            escape(&default(setting)),
        ));
    }
    let names: Vec<&str> = EXTENDED.iter().map(|row| row.0).collect();
    out.push_str(&format!(
        ".TP\n.B \\-o, \\-\\-extended=<list>\nmemcached's extended options: {}.\n",
        escape(&names.join(", "))
    ));
    out.push_str(".SH SEE ALSO\nseawallctl(1), memcached(1)\n");
    out
}

/// `docs/settings.md`, which a test keeps equal to this.
#[cfg(test)]
fn markdown() -> String {
    let mut out = String::from(
        "# Settings\n\nEvery setting is a flag, an environment variable and a key of the TOML file that `--config FILE` \
         names. A later source wins: default, file, environment, command line. `seawalld --check-config` prints what is \
         in force and where it came from; `seawallctl config` asks a running node.\n\nShort flags are memcached's, with \
         memcached's meaning. Sizes take `k`, `m`, `g`, `t`; the memory limit without a letter counts MiB, as memcached's \
         `-m` does.\n",
    );
    let mut section = "";
    for setting in SETTINGS {
        let this = setting.key.split('.').next().unwrap_or_default();
        if this != section {
            section = this;
            out.push_str(&format!("\n## [{section}]\n\n| key | flag | environment | default | meaning |\n|---|---|---|---|---|\n"));
        }
        out.push_str(&format!(
            "| `{}` | `{}` | `{}` | {} | {}; {} |\n",
            setting.key,
            flag(setting).trim(),
            setting.env(),
            default(setting),
            setting.help.replace('|', "\\|"),
            setting.expects().replace('|', "\\|"),
        ));
    }
    out.push_str("\n## memcached's flags without effect\n\n");
    for (short, long, _, why) in ACCEPTED {
        let short = short.map(|letter| format!("`-{letter}`, ")).unwrap_or_default();
        out.push_str(&format!("- {short}`--{long}`: {why}\n"));
    }
    out.push_str("\n## memcached's flags that are refused\n\n");
    for (short, long, _, instead) in super::table::REFUSED {
        let short = short.map(|letter| format!("`-{letter}`, ")).unwrap_or_default();
        out.push_str(&format!("- {short}`--{long}`: {instead}\n"));
    }
    out.push_str("\n## `-o` options\n\n");
    for (name, meaning) in EXTENDED {
        let text = match meaning {
            super::table::Extended::Sets(key, "") => format!("sets `{key}`"),
            super::table::Extended::Sets(key, value) => format!("sets `{key}` to {value}"),
            super::table::Extended::Accepted(_) => "accepted without effect".into(),
            super::table::Extended::Refused(instead) => format!("refused: {instead}"),
        };
        out.push_str(&format!("- `{name}`: {text}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_book_lists_every_setting() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/settings.md");
        let text = super::markdown();
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        let book = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            book == text,
            "docs/settings.md is out of date; run the test with UPDATE_SNAPSHOTS=1"
        );
    }

    #[test]
    fn help_has_memcacheds_flags() {
        let help = super::help();
        for flag in [
            "-p, --port=",
            "-m, --memory-limit=",
            "-c, --conn-limit=",
            "-t, --threads=",
            "-I, --max-item-size=",
            "-o, --extended=",
        ] {
            assert!(help.contains(flag), "{flag}\n{help}");
        }
    }
}
