//! The program as a user runs it, against two small servers in this process:
//! one that answers on the memcached port, one on the admin port.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output};

/// Answers each line (and skips values) with what `answer` says.
fn memcached(answer: impl Fn(&str) -> String + Send + Sync + Clone + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let mut output = stream.try_clone().expect("a socket");
                let mut lines = BufReader::new(stream).lines();
                while let Some(Ok(line)) = lines.next() {
                    if line.starts_with("set ") {
                        lines.next();
                    }
                    // The client may be gone; that is its right.
                    let _ = output.write_all(answer(&line).as_bytes());
                }
            });
        }
    });
    address
}

/// Answers `METHOD /path` with a status and a body.
fn admin(answer: impl Fn(&str) -> (u16, String) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head);
            let request = head
                .rsplit_once(" HTTP/")
                .map_or("", |_| head.split(" HTTP/").next().unwrap_or(""));
            let (status, body) = answer(request);
            let _ = write!(
                stream,
                "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
    address
}

/// Everything a healthy node says.
fn healthy_memcached() -> String {
    memcached(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["version"] => "VERSION 1.6.45\r\n".into(),
            ["stats"] => "STAT version 1.6.45\r\nSTAT uptime 60\r\nSTAT bytes 2048\r\n\
                STAT limit_maxbytes 67108864\r\nSTAT curr_connections 3\r\nSTAT max_connections 1024\r\n\
                STAT evictions 0\r\nEND\r\n"
                .into(),
            ["stats", "items"] => "STAT items:4:number 7\r\nSTAT items:4:age 60\r\nEND\r\n".into(),
            ["set", ..] => "STORED\r\n".into(),
            ["get", key] => format!("VALUE {key} 0 5\r\nprobe\r\nEND\r\n"),
            ["delete", "missing"] => "NOT_FOUND\r\n".into(),
            ["delete", _] => "DELETED\r\n".into(),
            ["md", "YSBi", "b"] => "HD\r\n".into(),
            ["invalidate", "tag" | "ns", ..] => format!("INVALIDATED {}\r\n", words.len() - 2),
            ["lru_crawler", "metadump", "all"] => {
                "key=user%3A1 exp=-1 la=1 cas=1 fetch=yes cls=4 size=90\r\n\
                 key=cart%FF exp=99999999999 la=1 cas=2 fetch=no cls=5 size=120\r\nEND\r\n"
                    .into()
            }
            _ => "ERROR\r\n".into(),
        }
    })
}

fn healthy_admin() -> String {
    admin(|request| {
        let body = match request {
            "GET /readyz" => r#"{"ready":true,"reasons":[]}"#,
            "GET /cores" => {
                r#"[{"core":0,"local_requests_total":6,"hops_sent_total":4,"gets_total":6,"get_hits_total":5,
                    "sets_total":2,"evictions_total":0,"items":7,"memory_bytes":1024,
                    "memory_limit_bytes":4096,"connections":3,"backend":"io_uring"},
                   {"core":1,"local_requests_total":20,"connections":2,"backend":"io_uring"}]"#
            }
            "GET /hot" => {
                r#"[{"core":0,"key":"user:1","share":0.02,"requests_per_second":10.4},
                    {"core":1,"key":"Yf9i","encoding":"base64","share":0.25,"requests_per_second":1200}]"#
            }
            "GET /config" => {
                r#"[{"key":"listen.port","value":"11311","source":"flag -p","default":"11211"},
                    {"key":"memory.limit","value":"64","source":"default","default":"64"}]"#
            }
            "POST /snapshot" => {
                r#"{"state":"saving","items":1,"value_bytes":100,"fraction":0.1,"seconds":0.1,"error":null}"#
            }
            "GET /snapshot" => {
                r#"{"state":"done","items":1200,"value_bytes":204800,"fraction":1.0,"seconds":2.0,"error":null}"#
            }
            _ => return (404, "no such page\n".into()),
        };
        (200, body.into())
    })
}

fn ctl(server: &str, admin: &str, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_seawallctl"))
        .args(["--server", server, "--admin", admin])
        .args(args)
        .output()
        .expect("it starts")
}

/// Standard output of a command that must succeed.
fn text(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn every_command_shows_a_table_and_json() {
    let (server, admin) = (healthy_memcached(), healthy_admin());
    let folder = std::env::temp_dir().join(format!("seawallctl-{}", std::process::id()));
    let file = folder.display().to_string();
    for (args, expected) in [
        (&["stats"][..], "limit_maxbytes                67108864  64.0 MiB"),
        (&["stats", "items"], "    4       7   60"),
        (&["hot"], "1  25.0%       1,200  a\\xffb"),
        (&["invalidate", "key", "x", "a b"], "2 of 2 keys deleted"),
        (&["invalidate", "tag", "news"], "1 tag invalidated"),
        (
            &["invalidate", "ns", "a", "b", "c", "d", "e", "f", "g", "h", "i"],
            "9 namespaces invalidated",
        ),
        (&["dump"], "  yes  user:1"),
        (&["dump", "--keys", "--prefix", "user"], "user:1\n"),
        (&["dump", "--out", &file], "2 items written to"),
        (&["config"], "listen.port   11311  flag -p  11211"),
        (&["config", "--changed"], "listen.port"),
        (&["check"], "ok    socket loop  io_uring on 2 cores"),
        (&["snapshot"], "snapshot done: 1,200 items, 200.0 KiB of values, 2.0 s"),
        (&["top", "--once", "--interval", "0.1"], "of limit  connections"),
    ] {
        let shown = text(&ctl(&server, &admin, args));
        // Widths are the table's own matter.
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(squeezed(&shown).contains(&squeezed(expected)), "{args:?}\n{shown}");
        let json = text(&ctl(&server, &admin, &[args, &["--json"]].concat()));
        if args.contains(&"--out") {
            continue;
        }
        // A dump is one object a line; all others are one document.
        let documents: Vec<&str> =
            if args[0] == "dump" { json.lines().collect() } else { vec![&json] };
        for document in documents {
            serde_json::from_str::<serde_json::Value>(document)
                .unwrap_or_else(|error| panic!("{args:?}: {error}\n{json}"));
        }
    }
    assert!(std::fs::read_to_string(&folder).expect("written").lines().count() == 2);
    std::fs::remove_file(&folder).expect("our own file");
}

#[test]
fn a_missing_key_is_told_by_the_exit_code() {
    let server = healthy_memcached();
    let output = ctl(&server, "127.0.0.1:1", &["invalidate", "key", "missing", "there"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("not found: missing"));
}

#[test]
fn an_unready_node_fails_the_check_with_its_reasons() {
    let server = healthy_memcached();
    let admin =
        admin(|_| (503, r#"{"ready":false,"reasons":["the snapshot is being loaded"]}"#.into()));
    let output = ctl(&server, &admin, &["check"]);
    assert_eq!(output.status.code(), Some(2));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("FAIL  ready        the snapshot is being loaded"), "{shown}");
}

#[test]
fn nobody_there_is_told_with_advice() {
    let unused = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = unused.local_addr().expect("bound").to_string();
    drop(unused);
    for (args, expected) in [
        (
            &["stats"][..],
            format!(
                "seawallctl: cannot reach {address}: connection refused\n  is seawalld running?"
            ),
        ),
        (
            &["hot"],
            format!("seawallctl: cannot reach the admin port {address}: connection refused\n"),
        ),
    ] {
        let output = ctl(&address, &address, args);
        assert_eq!(output.status.code(), Some(2));
        let shown = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(shown.starts_with(&expected), "{shown}");
    }
    let output = ctl(&address, &address, &["check"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn another_memcached_is_recognised() {
    let server = memcached(|_| "ERROR\r\n".into());
    let output = ctl(&server, "127.0.0.1:1", &["invalidate", "tag", "a"]);
    assert_eq!(output.status.code(), Some(2));
    let shown = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(shown.contains("is --server a Seawall node"), "{shown}");
}
