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
