//! Reads the three sources and gathers every mistake.

use super::foreign;
use super::table::{self, ACCEPTED, EXTENDED, Extended, Kind, REFUSED, SETTINGS, Setting};
use super::value::{self, Value, nearest};
use super::{Effective, Source};
use lexopt::Arg;
use std::ffi::OsString;

/// A mistake in the configuration: where it stands and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The flag, variable, or `file:line:column`.
    pub place: String,
    /// What is wrong and what would be right.
    pub text: String,
}

/// What the command line asks for beside settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Intent {
    /// Serve clients.
    #[default]
    Run,
    /// Print help.
    Help,
    /// Print the version.
    Version,
    /// Print the licence.
    License,
    /// Print the man page (for packagers).
    ManPage,
    /// Check the configuration and print it.
    CheckConfig,
    /// Begin the cluster anew, after most keepers' directories were lost.
    Recover,
}

/// Everything that was found.
#[derive(Debug)]
pub struct Collected {
    /// What to do.
    pub intent: Intent,
    /// Values in force; meaningful if there are no problems.
    pub effective: Effective,
    /// Mistakes, in reading order.
    pub problems: Vec<Problem>,
    /// Keepers that are lost for good, for [`Intent::Recover`].
    pub lost: Vec<String>,
    /// Accepted without effect: worth a line in the log.
    pub notes: Vec<String>,
}

/// A value that a source gives to a setting.
struct Given {
    setting: &'static Setting,
    text: String,
    place: Source,
}

/// Reads command line, environment and the file that they name.
pub fn collect(
    args: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (String, String)>,
    read_file: impl Fn(&str) -> std::io::Result<String>,
) -> Collected {
    let mut out = Collected {
        intent: Intent::Run,
        effective: Effective::defaults(),
        problems: Vec::new(),
        lost: Vec::new(),
        notes: Vec::new(),
    };
    let mut file = None;
    let flags = flags(args, &mut file, &mut out);
    let variables = variables(env, &mut file, &mut out);
    if let Some(path) = file {
        match read_file(&path) {
            Ok(text) => {
                for given in toml_file(&path, &text, &mut out) {
                    apply(given, &mut out);
                }
            }
            Err(error) => out.problems.push(Problem {
                place: format!("--config {path}"),
                text: format!("cannot be read: {error}"),
            }),
        }
    }
    for given in variables.into_iter().chain(flags) {
        apply(given, &mut out);
    }
    out
}

fn apply(given: Given, out: &mut Collected) {
    match value::parse(given.setting, &given.text) {
        Ok(parsed) => {
            let row = out.effective.row_mut(given.setting.key);
            // A repeated flag of a list adds to it; another source replaces it.
            let repeats = matches!((&row.2, &given.place), (Source::Flag(_), Source::Flag(_)));
            match (&mut row.1, parsed) {
                (Value::List(old), Value::List(new)) if repeats => old.extend(new),
                (slot, parsed) => *slot = parsed,
            }
            row.2 = given.place;
        }
        Err(text) => out.problems.push(Problem { place: given.place.to_string(), text }),
    }
}

fn flags(
    args: impl IntoIterator<Item = OsString>,
    file: &mut Option<String>,
    out: &mut Collected,
) -> Vec<Given> {
    let mut given = Vec::new();
    let mut verbosity = 0u64;
    let mut parser = lexopt::Parser::from_args(args);
    loop {
        let name = match parser.next() {
            Ok(None) => break,
            Err(error) => {
                out.problems
                    .push(Problem { place: "command line".into(), text: error.to_string() });
                continue;
            }
            Ok(Some(Arg::Value(word))) => {
                let word = word.to_string_lossy().into_owned();
                out.problems.push(Problem {
                    place: word,
                    text: "is not an option; seawalld takes only options".into(),
                });
                continue;
            }
            Ok(Some(Arg::Short(letter))) => letter.to_string(),
            Ok(Some(Arg::Long(name))) => name.to_owned(),
        };
        let dashed =
            if name.chars().count() == 1 { format!("-{name}") } else { format!("--{name}") };
        match name.as_str() {
            "h" | "help" => out.intent = Intent::Help,
            "V" | "version" => out.intent = Intent::Version,
            "i" | "license" => out.intent = Intent::License,
            "man-page" => out.intent = Intent::ManPage,
            "check-config" => out.intent = Intent::CheckConfig,
            "cluster-recover" => match parser.value() {
                Ok(names) => {
                    out.intent = Intent::Recover;
                    out.lost.extend(value::list(&names.to_string_lossy()));
                }
                Err(_) => out.problems.push(Problem {
                    place: dashed,
                    text: "needs the names of the keepers that are lost for good".into(),
                }),
            },
            "config" => match parser.value() {
                Ok(path) => *file = Some(path.to_string_lossy().into_owned()),
                Err(_) => out.problems.push(Problem { place: dashed, text: "needs a file".into() }),
            },
            "v" | "verbose" => {
                verbosity = (verbosity + 1).min(3);
                let setting = table::by_key("process.verbosity").expect("in the table");
                given.push(Given {
                    setting,
                    text: verbosity.to_string(),
                    place: Source::Flag(dashed),
                });
            }
            "o" | "extended" => match parser.value() {
                Ok(options) => extended(&options.to_string_lossy(), &mut given, out),
                Err(_) => out
                    .problems
                    .push(Problem { place: dashed, text: "needs a list of options".into() }),
            },
            _ => one_flag(&name, dashed, &mut parser, &mut given, out),
        }
    }
    given
}

fn is_named(short: Option<char>, long: &str, name: &str) -> bool {
    name == long || short.is_some_and(|letter| name.len() == 1 && name.starts_with(letter))
}

fn one_flag(
    name: &str,
    dashed: String,
    parser: &mut lexopt::Parser,
    given: &mut Vec<Given>,
    out: &mut Collected,
) {
    let long = dashed.starts_with("--");
    let mut problem = |text: String| out.problems.push(Problem { place: dashed.clone(), text });
    if let Some(setting) =
        SETTINGS.iter().find(|setting| is_named(setting.short, setting.long, name))
    {
        let text = if setting.kind == Kind::Switch {
            // `-CF` is two switches; only a long one may say `=false`.
            long.then(|| parser.optional_value())
                .flatten()
                .map_or_else(|| "true".into(), |text| text.to_string_lossy().into_owned())
        } else {
            match parser.value() {
                Ok(text) => text.to_string_lossy().into_owned(),
                Err(_) => return problem(format!("needs a value: {}", setting.expects())),
            }
        };
        return given.push(Given { setting, text, place: Source::Flag(dashed) });
    }
    if let Some(&(_, _, argument, why)) = ACCEPTED.iter().find(|row| is_named(row.0, row.1, name)) {
        let text = parser.value().unwrap_or_default();
        if let Some(complaint) = argument.complaint(&text.to_string_lossy()) {
            return problem(complaint);
        }
        out.notes.push(format!("{dashed} has no effect: {why}"));
        return;
    }
    if let Some(&(_, _, takes_value, instead)) =
        REFUSED.iter().find(|row| is_named(row.0, row.1, name))
    {
        if takes_value {
            let _ = parser.value();
        }
        return problem(format!("is not supported; {instead}"));
    }
    if long {
        let _ = parser.optional_value();
    }
    let known = SETTINGS.iter().map(|setting| setting.long).chain([
        "config",
        "help",
        "version",
        "extended",
        "cluster-recover",
    ]);
    problem(match nearest(name, known) {
        Some(near) if name.len() > 1 => format!("unknown option; did you mean --{near}?"),
        _ => "unknown option; --help lists them".into(),
    });
}

fn extended(options: &str, given: &mut Vec<Given>, out: &mut Collected) {
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (name, text) = option.split_once('=').unwrap_or((option, ""));
        let place = format!("-o {name}");
        match EXTENDED.iter().find(|row| row.0 == name).map(|row| row.1) {
            Some(Extended::Sets(key, fixed)) => {
                let setting = table::by_key(key).expect("a test checks it");
                let text = if fixed.is_empty() { text } else { fixed };
                given.push(Given { setting, text: text.into(), place: Source::Flag(place) });
            }
            Some(Extended::Accepted(argument)) => match argument.complaint(text) {
                Some(text) => out.problems.push(Problem { place, text }),
                None => {
                    out.notes.push(format!("{place} has no effect: Seawall tunes this by itself"))
                }
            },
            Some(Extended::Refused(instead)) => {
                out.problems.push(Problem { place, text: format!("is not supported; {instead}") });
            }
            None => {
                let text = match nearest(name, EXTENDED.iter().map(|row| row.0)) {
                    Some(near) => format!("unknown extended option; did you mean {near}?"),
                    None => "unknown extended option".into(),
                };
                out.problems.push(Problem { place, text });
            }
        }
    }
}

fn variables(
    env: impl IntoIterator<Item = (String, String)>,
    file: &mut Option<String>,
    out: &mut Collected,
) -> Vec<Given> {
    let mut given = Vec::new();
    let mut variables: Vec<_> =
        env.into_iter().filter(|(name, _)| name.starts_with("SEAWALL_")).collect();
    variables.sort();
    let mut links = Vec::new();
    for (name, text) in variables {
        if foreign::is_service_link(&name, &text) {
            links.push(name);
        } else if name == "SEAWALL_CONFIG" {
            file.get_or_insert(text);
        } else if let Some(setting) = SETTINGS.iter().find(|setting| setting.env() == name) {
            given.push(Given {
                setting,
                place: Source::Environment(format!("{name}={text}")),
                text,
            });
        } else if !foreign::is_of_seawallctl(&name) {
            unknown_variable(name, out);
        }
    }
    out.notes.extend(foreign::note(&links));
    given
}

/// A slip is a mistake. What resembles no setting is somebody else's.
fn unknown_variable(name: String, out: &mut Collected) {
    let prefix = "SEAWALL_";
    let known: Vec<String> = SETTINGS.iter().map(Setting::env).collect();
    let known: Vec<&str> = known.iter().filter_map(|name| name.strip_prefix(prefix)).collect();
    let word = name.strip_prefix(prefix).unwrap_or(&name);
    // SEAWALL_PORT lacks only the section.
    let sectionless = known.iter().find(|known| known.ends_with(&format!("_{word}"))).copied();
    match sectionless.or_else(|| nearest(word, known.iter().copied())) {
        Some(near) => out.problems.push(Problem {
            text: format!("unknown setting; did you mean {prefix}{near}?"),
            place: name,
        }),
        None => out.notes.push(format!(
            "{name} in the environment is no setting and is ignored; --help lists them"
        )),
    }
}

fn toml_file(path: &str, text: &str, out: &mut Collected) -> Vec<Given> {
    let place = |offset: Option<usize>| {
        let before = &text[..offset.unwrap_or(0).min(text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.len() - before.rfind('\n').map_or(0, |at| at + 1) + 1;
        format!("{path}:{line}:{column}")
    };
    let document = match toml_edit::Document::parse(text.to_owned()) {
        Ok(document) => document,
        Err(error) => {
            let offset = error.span().map(|span| span.start);
            out.problems
                .push(Problem { place: place(offset), text: error.message().trim().to_owned() });
            return Vec::new();
        }
    };
    let mut given = Vec::new();
    for (section, item) in document.iter() {
        let section_at = document.key(section).and_then(|key| key.span()).map(|span| span.start);
        let Some(table) = item.as_table_like() else {
            out.problems.push(Problem { place: place(section_at), text: unknown_key(section) });
            continue;
        };
        for (name, item) in table.iter() {
            let key = format!("{section}.{name}");
            let key_at = table.key(name).and_then(|key| key.span()).map(|span| span.start);
            let at = place(key_at);
            match (table::by_key(&key), plain(item)) {
                (None, _) => out.problems.push(Problem { place: at, text: unknown_key(&key) }),
                (Some(setting), None) => out.problems.push(Problem {
                    place: at,
                    text: format!("{key} is {}, not {}", item.type_name(), setting.expects()),
                }),
                (Some(setting), Some(text)) => {
                    given.push(Given { setting, text, place: Source::File(at) })
                }
            }
        }
    }
    given
}

fn unknown_key(key: &str) -> String {
    match nearest(key, SETTINGS.iter().map(|setting| setting.key)) {
        Some(near) => format!("unknown setting {key}; did you mean {near}?"),
        None => format!("unknown setting {key}; --help lists them"),
    }
}

/// A TOML value as the text that a flag would have been given.
fn plain(item: &toml_edit::Item) -> Option<String> {
    let scalar = |value: &toml_edit::Value| match value {
        toml_edit::Value::String(text) => Some(text.value().clone()),
        toml_edit::Value::Integer(number) => Some(number.value().to_string()),
        toml_edit::Value::Float(number) => Some(number.value().to_string()),
        toml_edit::Value::Boolean(on) => Some(on.value().to_string()),
        _ => None,
    };
    match item.as_value()? {
        toml_edit::Value::Array(array) => {
            array.iter().map(scalar).collect::<Option<Vec<_>>>().map(|words| words.join(","))
        }
        value => scalar(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str], env: &[(&str, &str)], file: &str) -> Collected {
        let args =
            std::iter::once("seawalld").chain(args.iter().copied()).skip(1).map(OsString::from);
        let env = env.iter().map(|(name, text)| (name.to_string(), text.to_string()));
        collect(args, env, |_| Ok(file.to_owned()))
    }

    fn shown(collected: &Collected, key: &str) -> (String, String) {
        let (setting, value, source) = collected.effective.row(key);
        (value::text(setting, value), source.to_string())
    }

    #[test]
    fn memcached_command_lines_work_unchanged() {
        let found = run(
            &[
                "-d",
                "-m64",
                "-p",
                "11311",
                "-u",
                "nobody",
                "-l",
                "127.0.0.1,::1",
                "-c1024",
                "-t",
                "4",
                "-vv",
                "-I",
                "2m",
                "-U",
                "0",
                "-P",
                "/run/m.pid",
                "-o",
                "idle_timeout=30,no_maxconns_fast,hashpower=20",
                "-f",
                "1.25",
                "-CFM",
            ],
            &[],
            "",
        );
        assert_eq!(found.problems, []);
        for (key, expected) in [
            ("memory.limit", "64m"),
            ("listen.port", "11311"),
            ("listen.address", "127.0.0.1,::1"),
            ("connections.max", "1024"),
            ("process.verbosity", "2"),
            ("memory.value_max", "2m"),
            ("connections.idle_timeout", "30"),
            ("connections.refuse_fast", "no"),
            ("protocol.disable_cas", "true"),
            ("protocol.disable_flush_all", "true"),
            ("memory.no_eviction", "true"),
        ] {
            assert_eq!(shown(&found, key).0, expected, "{key}");
        }
        assert_eq!(found.notes.len(), 2, "{:?}", found.notes);
    }

    #[test]
    fn later_sources_win_and_are_named() {
        let file = "[memory]\nlimit = \"1g\"\neviction = 'lru'\n[cores]\ncount = 3\n";
        let found =
            run(&["--config", "s.toml", "-t", "2"], &[("SEAWALL_MEMORY_LIMIT", "2g")], file);
        assert_eq!(found.problems, []);
        assert_eq!(shown(&found, "cores.count"), ("2".into(), "-t".into()));
        assert_eq!(shown(&found, "memory.limit"), ("2g".into(), "SEAWALL_MEMORY_LIMIT=2g".into()));
        assert_eq!(shown(&found, "memory.eviction"), ("lru".into(), "s.toml:3:1".into()));
        assert_eq!(shown(&found, "listen.port"), ("11211".into(), "default".into()));
    }

    #[test]
    fn all_mistakes_are_reported_at_once_with_place_and_nearest_name() {
        let file = "[memory]\nlimt = 64\n\n[cores]\ncount = \"many\"\n";
        let found = run(
            &["--config", "s.toml", "--prot=11311", "-m", "tiny", "-Z", "-o", "idle_timeot=3"],
            &[("SEAWALL_CORES_CUONT", "1")],
            file,
        );
        let all: Vec<String> =
            found.problems.iter().map(|p| format!("{}: {}", p.place, p.text)).collect();
        let text = all.join("\n");
        for expected in [
            "--prot: unknown option; did you mean --port?",
            "s.toml:2:1: unknown setting memory.limt; did you mean memory.limit?",
            "s.toml:5:1: \"many\" is not a whole number from 0 to 256",
            "-m: \"tiny\" is not a size from 2m to 32t",
            "-Z: is not supported; TLS",
            "-o idle_timeot: unknown extended option; did you mean idle_timeout?",
            "SEAWALL_CORES_CUONT: unknown setting; did you mean SEAWALL_CORES_COUNT?",
        ] {
            assert!(text.contains(expected), "{expected}\nnot in\n{text}");
        }
    }

    #[test]
    fn what_is_not_ours_in_the_environment_does_not_keep_the_node_from_starting() {
        let address = "tcp://10.0.0.7:11211";
        let links = [
            ("SEAWALL_SERVICE_HOST", "10.0.0.7"),
            ("SEAWALL_SERVICE_PORT", "11211"),
            ("SEAWALL_PORT", address),
            ("SEAWALL_PORT_11211_TCP", address),
            ("SEAWALL_LISTEN_PORT", address),
            ("SEAWALL_ADMIN", "127.0.0.1:9150"),
            ("SEAWALL_HELM_CHART_REVISION", "7"),
            ("SEAWALL_MEMORY_LIMIT", "2g"),
        ];
        let found = run(&[], &links, "");
        assert_eq!(found.problems, []);
        assert_eq!(shown(&found, "memory.limit").0, "2g");
        assert_eq!(shown(&found, "listen.port"), ("11211".into(), "default".into()));
        let [other, service] = found.notes.as_slice() else { panic!("{:?}", found.notes) };
        assert!(other.starts_with("SEAWALL_HELM_CHART_REVISION"), "{other}");
        assert!(service.contains("and 4 more") && service.contains("Kubernetes"), "{service}");
        // A value that is none is a mistake still, and so is a name that is nearly one.
        let found = run(&[], &[("SEAWALL_LISTEN_PORT", "http"), ("SEAWALL_PORT", "1")], "");
        assert_eq!(found.problems.len(), 2, "{:?}", found.problems);
    }

    #[test]
    fn a_broken_file_says_where() {
        let found = run(&["--config", "s.toml"], &[], "[memory]\nlimit = = 3\n");
        assert_eq!(found.problems.len(), 1);
        assert!(found.problems[0].place.starts_with("s.toml:2:"), "{:?}", found.problems);
    }

    /// What stands as problem for these options of `-o`.
    fn of_extended(options: &str) -> Vec<String> {
        run(&["-o", options], &[], "").problems.into_iter().map(|problem| problem.text).collect()
    }

    #[test]
    fn extended_options_are_taken_and_refused_as_memcached_does() {
        for options in [
            "no_inline_ascii_resp,inline_ascii_resp,no_chunked_items,no_modern,resp_obj_mem_limit",
            "hashpower=20,hash_algorithm=murmur3,slab_automove_ratio=0.5,slab_automove=1",
            "lru_crawler_tocrawl=0,hot_max_factor=0.2,temporary_ttl=61,no_drop_privileges",
        ] {
            assert_eq!(of_extended(options), [""; 0], "{options}");
        }
        for option in [
            "inline_ascii_response",
            "no_inline_ascii_response",
            "hashpower",
            "hashpower=x",
            "hashpower=1",
            "hash_algorithm=md5",
            "slab_automove_ratio=2",
            "slab_automove_window=1",
            "tail_repair_time",
            "read_buf_mem_limit",
            "no_track_sizes",
            "nonsense",
        ] {
            assert_eq!(of_extended(option).len(), 1, "{option}");
        }
    }

    #[test]
    fn what_cannot_be_done_says_why_and_what_to_do() {
        for (options, words) in [
            ("ext_path=/x:1G,ext_item_size=100", "leave all ext_* options out"),
            ("ssl_ca_cert=/x,ssl_min_version=2,ssl_kernel_tls", "put a TLS proxy before the node"),
            ("proxy_config=/x", "run the proxy"),
        ] {
            let texts = of_extended(options);
            assert_eq!(texts.len(), options.split(',').count());
            assert!(texts.iter().all(|text| text.contains(words)), "{texts:?}");
        }
    }

    #[test]
    fn flags_without_effect_want_what_memcached_wants() {
        for args in [["-f", "1.25"], ["-n", "48"], ["-N", "4"]] {
            assert_eq!(run(&args, &[], "").problems, [], "{args:?}");
        }
        for args in
            [["-f", "1"], ["-f", "x"], ["-n", "0"], ["-N", "0"], ["-p", "70000"], ["-p", "-2"]]
        {
            assert_eq!(run(&args, &[], "").problems.len(), 1, "{args:?}");
        }
        assert_eq!(shown(&run(&["-p", "-1"], &[], ""), "listen.port").0, "-1");
    }

    #[test]
    fn extended_options_point_into_the_table() {
        for (name, meaning) in EXTENDED {
            if let Extended::Sets(key, _) = meaning {
                assert!(table::by_key(key).is_some(), "{name}");
            }
        }
    }

    #[test]
    fn flags_and_keys_are_unique() {
        let mut names: Vec<String> = Vec::new();
        for setting in SETTINGS {
            names.push(setting.long.to_owned());
            names.push(setting.key.to_owned());
            names.extend(setting.short.map(String::from));
        }
        let accepted = ACCEPTED.iter().map(|row| (row.0, row.1));
        for (short, long) in accepted.chain(REFUSED.iter().map(|row| (row.0, row.1))) {
            names.push(long.to_owned());
            names.extend(short.map(String::from));
        }
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
