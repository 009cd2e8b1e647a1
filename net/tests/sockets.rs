//! A node over real sockets: both backends, one core and two.
//!
//! The command language is tested elsewhere; here a handful of commands serve
//! to see that every byte arrives, in order, whatever the client does.

mod node;

use node::{Client, PATIENCE, over_all, set, start, stats_of, until, ways};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use seawall_net::control::ControlOp;
use seawall_net::listener::ListenAddress;
use seawall_net::node::{Node, NodeConfig};
use seawall_net::sys::{BackendChoice, BackendOptions};

#[test]
fn sets_and_gets_by_several_clients_pipelined() {
    over_all(|node| {
        let mut clients: Vec<_> = (0..8).map(|_| Client::new(&node)).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            let mut requests = Vec::new();
            for key in 0..200 {
                requests.extend(set(
                    &format!("k{number}:{key}"),
                    format!("v{number}:{key}").as_bytes(),
                ));
            }
            client.send(&requests);
        }
        for client in &mut clients {
            for _ in 0..200 {
                assert_eq!(client.line(), "STORED\r\n");
            }
        }
        // Everybody reads what their neighbour wrote.
        let count = clients.len();
        for (number, client) in clients.iter_mut().enumerate() {
            let whose = (number + 1) % count;
            let requests: String = (0..200).map(|key| format!("get k{whose}:{key}\r\n")).collect();
            client.send(requests.as_bytes());
            for key in 0..200 {
                let value = client.value(&format!("k{whose}:{key}")).unwrap();
                assert_eq!(value, format!("v{whose}:{key}").into_bytes());
            }
        }
    });
}

#[test]
fn a_pipeline_ten_thousand_deep_is_answered_in_order() {
    over_all(|node| {
        let mut client = Client::new(&node);
        let keys: Vec<String> = (0..10_000).map(|key| format!("key-{key}")).collect();
        let writes: Vec<u8> =
            keys.iter().flat_map(|key| set(key, key.repeat(5).as_bytes())).collect();
        let reads: String = keys.iter().map(|key| format!("get {key}\r\n")).collect();
        // Written by another thread, or both sides would wait for each other.
        let mut writer = client.stream.get_ref().try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            writer.write_all(&writes).unwrap();
            writer.write_all(reads.as_bytes()).unwrap();
        });
        for _ in &keys {
            assert_eq!(client.line(), "STORED\r\n");
        }
        for key in &keys {
            assert_eq!(client.value(key).unwrap(), key.repeat(5).into_bytes());
        }
        thread.join().unwrap();
    });
}

#[test]
fn a_client_that_never_reads_can_leave() {
    over_all(|node| {
        let mut slow = Client::new(&node);
        slow.set("large", &vec![7; 500_000]);
        slow.send("get large\r\n".repeat(500).as_bytes());
        std::thread::sleep(Duration::from_millis(20));
        drop(slow);
        let curr = &node.shared().curr_connections;
        until("the connection is gone", || curr.load(Ordering::Relaxed) == 0);
    });
}

#[test]
fn requests_dribbled_byte_by_byte() {
    over_all(|node| {
        let mut client = Client::new(&node);
        for byte in set("dribbled", b"a value that comes slowly") {
            client.send(&[byte]);
        }
        assert_eq!(client.line(), "STORED\r\n");
        for byte in b"get dribbled\r\n" {
            client.send(&[*byte]);
        }
        assert_eq!(client.value("dribbled").unwrap(), b"a value that comes slowly");
    });
}

#[test]
fn large_values_in_pieces_of_every_size() {
    over_all(|node| {
        let mut client = Client::new(&node);
        let value: Vec<u8> = (0..900_001u32).map(|byte| (byte * 7) as u8).collect();
        for piece in [1_000, 4_096, 16_384, 70_000, 2_000_000] {
            let key = format!("pieces-{piece}");
            for part in set(&key, &value).chunks(piece) {
                client.send(part);
            }
            assert_eq!(client.line(), "STORED\r\n");
            assert!(client.get(&key).unwrap() == value);
        }
    });
}

#[test]
fn connections_come_and_go() {
    over_all(|node| {
        for round in 0..300 {
            let mut client = Client::new(&node);
            client.set("round", format!("{round}").as_bytes());
            if round % 3 == 0 {
                client.send(b"quit\r\n");
                assert!(client.is_closed());
            }
        }
        let mut together: Vec<_> = (0..200).map(|_| Client::new(&node)).collect();
        for client in &mut together {
            assert_eq!(client.get("round").unwrap(), b"299");
        }
        drop(together);
        let curr = &node.shared().curr_connections;
        until("all are gone", || curr.load(Ordering::Relaxed) == 0);
        assert_eq!(node.shared().total_connections.load(Ordering::Relaxed), 500);
    });
}

#[test]
fn connections_spread_evenly_over_the_cores() {
    for way in ways().into_iter().filter(|way| way.1 == 2) {
        let node = start(way, |_| {});
        let mut clients: Vec<_> = (0..50).map(|_| Client::new(&node)).collect();
        for client in &mut clients {
            client.get("nothing");
        }
        assert_eq!([node.connections(0), node.connections(1)], [25, 25]);
    }
}

#[test]
fn beyond_the_connection_limit_a_client_is_told() {
    for way in ways() {
        let node = start(way, |config| config.settings.connections_max = 3);
        let mut inside: Vec<_> = (0..3).map(|_| Client::new(&node)).collect();
        for client in &mut inside {
            client.get("nothing");
        }
        let mut outside = Client::new(&node);
        assert_eq!(outside.line(), "ERROR Too many open connections\r\n");
        assert!(outside.is_closed());
        assert_eq!(node.shared().rejected_connections.load(Ordering::Relaxed), 1);
        drop(inside.pop());
        let curr = &node.shared().curr_connections;
        until("one has left", || curr.load(Ordering::Relaxed) == 2);
        let mut again = Client::new(&node);
        again.set("there", b"is room");
    }
}

#[test]
fn beyond_the_connection_limit_a_client_may_wait_instead() {
    for way in ways() {
        let node = start(way, |config| {
            config.settings.connections_max = 3;
            config.settings.connections_max_fast = false;
        });
        let mut inside: Vec<_> = (0..3).map(|_| Client::new(&node)).collect();
        for client in &mut inside {
            client.set("known", b"value");
        }
        let mut waiting: Vec<_> = (0..2).map(|_| Client::new(&node)).collect();
        for client in &mut waiting {
            client.send(b"get known\r\n");
        }
        let shared = node.shared();
        until("accepting stops", || !shared.accepting.load(Ordering::Relaxed));
        waiting[0].stream.get_ref().set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(waiting[0].stream.fill_buf().is_err(), "it is not served yet");
        waiting[0].stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        inside.truncate(1);
        for client in &mut waiting {
            assert_eq!(client.value("known").unwrap(), b"value");
        }
        assert_eq!(shared.listen_disabled.load(Ordering::Relaxed), 1);
        assert_eq!(shared.rejected_connections.load(Ordering::Relaxed), 0);
        drop((inside, waiting));
        until("accepting again", || shared.accepting.load(Ordering::Relaxed));
        Client::new(&node).set("known", b"again");
    }
}

#[test]
fn a_silent_client_is_closed_and_a_busy_one_is_not() {
    for way in ways() {
        let node = start(way, |config| config.settings.idle_timeout_seconds = 1);
        let mut silent = Client::new(&node);
        silent.get("nothing");
        let mut busy = Client::new(&node);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(3300) {
            busy.get("nothing");
            std::thread::sleep(Duration::from_millis(100));
        }
        silent.stream.get_ref().set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        assert!(silent.is_closed());
        busy.get("nothing");
    }
}

#[test]
fn draining_finishes_what_is_under_way() {
    over_all(|node| {
        let address = node.tcp_address().unwrap();
        let mut idle = Client::new(&node);
        idle.set("large", &vec![1; 200_000]);
        let mut reading = Client::new(&node);
        reading.send("get large\r\n".repeat(100).as_bytes());
        // Its first answer is here: the others are under way.
        assert!(reading.value("large").is_some());
        let mut halfway = Client::new(&node);
        halfway.send(b"set half 0 0 4\r\nab");
        std::thread::sleep(Duration::from_millis(50));
        let reader = std::thread::spawn(move || {
            for _ in 0..99 {
                assert_eq!(reading.value("large").unwrap().len(), 200_000);
            }
            assert!(reading.is_closed());
        });
        let finisher = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            halfway.send(b"cd\r\n");
            assert_eq!(halfway.line(), "STORED\r\n");
            assert!(halfway.is_closed());
        });
        let drained = node.drain(Duration::from_secs(15));
        assert_eq!(drained.connections_left, 0, "{drained:?}");
        assert!(idle.is_closed());
        reader.join().unwrap();
        finisher.join().unwrap();
        assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
        // A drained node still answers the control thread.
        node.broadcast(&ControlOp::Stats, PATIENCE).unwrap();
        node.stop();
        assert!(node.broadcast(&ControlOp::Stats, PATIENCE).is_err());
    });
}

#[test]
fn draining_gives_up_when_its_time_is_over() {
    for way in ways() {
        let node = start(way, |_| {});
        let mut stuck = Client::new(&node);
        stuck.send(b"set half 0 0 4\r\nab");
        std::thread::sleep(Duration::from_millis(50));
        let drained = node.drain(Duration::from_millis(100));
        assert_eq!(drained.connections_left, 1);
        node.stop();
        assert!(stuck.is_closed());
    }
}

#[test]
fn unix_sockets_and_ipv6() {
    for way in ways() {
        let directory = std::env::temp_dir().join(format!(
            "seawall-{}-{}-{:?}",
            std::process::id(),
            way.1,
            way.0
        ));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("seawall.sock");
        let node = start(way, |config| {
            config.listen = vec![
                ListenAddress::Unix { path: path.clone(), mask: 0o600 },
                ListenAddress::Tcp("[::1]:0".parse().unwrap()),
            ];
        });
        let stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut local = Client { stream: BufReader::new(stream) };
        local.set("from", b"unix");
        let mut remote = Client::new(&node);
        assert!(remote.stream.get_ref().peer_addr().unwrap().is_ipv6());
        assert_eq!(remote.get("from").unwrap(), b"unix");
        local.send(b"quit\r\n");
        let mut rest = Vec::new();
        local.stream.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
        drop(node);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}

#[test]
fn a_half_closed_client_gets_every_answer() {
    over_all(|node| {
        let mut client = Client::new(&node);
        for key in 0..50 {
            client.set(&format!("key-{key}"), format!("value-{key}").as_bytes());
        }
        let requests: String = (0..20_000).map(|key| format!("get key-{}\r\n", key % 50)).collect();
        let writer = client.stream.get_ref().try_clone().unwrap();
        let thread = std::thread::spawn(move || {
            (&writer).write_all(requests.as_bytes()).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        for key in 0..20_000 {
            let key = key % 50;
            let value = client.value(&format!("key-{key}")).unwrap();
            assert_eq!(value, format!("value-{key}").into_bytes());
        }
        assert!(client.is_closed());
        thread.join().unwrap();
    });
}

#[test]
fn core_ports_lead_to_their_core() {
    for way in ways().into_iter().filter(|way| way.1 == 2) {
        // Some pair of neighbouring ports is free.
        let node = (20_000..60_000u16)
            .step_by(97)
            .skip(std::process::id() as usize % 100)
            .find_map(|base| {
                let mut config = NodeConfig::local(64 << 20);
                config.cores = Some(2);
                config.backend = way.0;
                config.core_ports = Some(base);
                Node::start(config).ok()
            })
            .unwrap();
        let ports: Vec<SocketAddr> = node.addresses()[1..]
            .iter()
            .map(|address| match address {
                ListenAddress::Tcp(address) => *address,
                other => panic!("{other}"),
            })
            .collect();
        assert_eq!(ports[1].port(), ports[0].port() + 1);
        let mut clients: Vec<_> = (0..5).map(|_| Client::to(ports[1])).collect();
        clients.push(Client::to(ports[0]));
        for client in &mut clients {
            client.set("key", b"value");
        }
        assert_eq!([node.connections(0), node.connections(1)], [1, 5]);
    }
}

#[test]
fn a_taken_port_is_an_error_with_advice() {
    let first = start((BackendChoice::Epoll, 1), |_| {});
    let mut config = NodeConfig::local(64 << 20);
    config.listen = vec![first.addresses()[0].clone()];
    let error = Node::start(config).unwrap_err().to_string();
    assert!(error.contains("address already in use") && error.contains("ss -ltnp"), "{error}");
}

#[test]
fn impossible_settings_are_refused() {
    let refused = |change: fn(&mut NodeConfig)| {
        let mut config = NodeConfig::local(64 << 20);
        change(&mut config);
        Node::start(config).unwrap_err().to_string()
    };
    assert!(refused(|config| config.cores = Some(0)).contains("0 data cores"));
    assert!(refused(|config| config.cores = Some(100)).contains("KiB of memory for each"));
    assert!(refused(|config| config.listen.clear()).contains("no address"));
    let beyond = refused(|config| {
        config.cores = Some(2);
        config.core_ports = Some(65_535);
    });
    assert!(beyond.contains("no port for core 1"), "{beyond}");
}

#[test]
fn the_control_thread_is_answered_under_load() {
    over_all(|node| {
        let address = node.tcp_address().unwrap();
        std::thread::scope(|scope| {
            for number in 0..3 {
                scope.spawn(move || {
                    let mut client = Client::to(address);
                    for round in 0..1000 {
                        let key = format!("{number}-{round}");
                        client.set(&key, b"value");
                        assert!(client.get(&key).is_some());
                    }
                });
            }
            for _ in 0..50 {
                let answers = node.broadcast(&ControlOp::Stats, PATIENCE).unwrap();
                assert_eq!(answers.len(), node.cores().len());
            }
        });
    });
}

/// Clients that leave in the middle of everything, over and over; an honest
/// one must not notice.
#[test]
fn misbehaving_clients_do_not_disturb_an_honest_one() {
    over_all(|node| {
        let address = node.tcp_address().unwrap();
        let large = vec![b'x'; 300_000];
        Client::to(address).set("large", &large);
        std::thread::scope(|scope| {
            let rude = |rounds: usize, act: fn(&mut TcpStream, usize)| {
                scope.spawn(move || {
                    for round in 0..rounds {
                        let mut stream = TcpStream::connect(address).unwrap();
                        act(&mut stream, round);
                    }
                });
            };
            // Half a request.
            rude(100, |stream, round| {
                let request = set("half", &[b'h'; 50_000]);
                let _ = stream.write_all(&request[..round * 499]);
            });
            // Requests whose answers nobody reads.
            rude(60, |stream, round| {
                let _ = stream.write_all("get large\r\n".repeat(round).as_bytes());
            });
            // Part of the answers.
            rude(60, |stream, _| {
                let _ = stream.write_all("get large\r\n".repeat(20).as_bytes());
                let mut some = vec![0; 100_000];
                let _ = stream.read_exact(&mut some);
            });
            // Noise.
            rude(60, |stream, round| {
                let noise: Vec<u8> =
                    (0..20_000).map(|byte| (byte * round * 31 + byte) as u8).collect();
                let _ = stream.write_all(&noise);
            });
            let mut honest = Client::to(address);
            for round in 0..2000 {
                let key = format!("honest-{}", round % 100);
                let value = format!("{round}").into_bytes();
                honest.set(&key, &value);
                assert_eq!(honest.get(&key).unwrap(), value);
            }
        });
        let curr = &node.shared().curr_connections;
        until("all are gone", || curr.load(Ordering::Relaxed) == 0);
        let mut last = Client::to(address);
        assert!(last.get("large").is_none_or(|value| value == large));
    });
}

#[test]
fn a_watcher_sees_connections_and_reads_of_every_core() {
    over_all(|node| {
        let mut watcher = Client::new(&node);
        watcher.send(b"watch fetchers connevents\r\n");
        assert_eq!(watcher.line(), "OK\r\n");
        let mut client = Client::new(&node);
        for key in 0..20 {
            client.get(&format!("watched-{key}"));
        }
        drop(client);
        let mut reads = 0;
        let mut opened = false;
        loop {
            let line = watcher.line();
            opened |= line.contains("type=conn_new rip=127.0.0.1");
            reads += usize::from(line.contains("type=item_get key=watched-"));
            if line.contains("type=conn_close") {
                break;
            }
        }
        assert!(opened);
        // Lines of different cores are not ordered among each other.
        while reads < 20 {
            reads += usize::from(watcher.line().contains("type=item_get key=watched-"));
        }
    });
}

#[test]
fn connections_are_numbered_alike_by_stats_and_watchers() {
    over_all(|node| {
        let mut watcher = Client::new(&node);
        watcher.send(b"watch fetchers\r\n");
        assert_eq!(watcher.line(), "OK\r\n");
        let mut clients: Vec<_> = (0..6).map(|_| Client::new(&node)).collect();
        let mut numbers = std::collections::BTreeSet::new();
        for client in &mut clients {
            let key = client.stream.get_ref().local_addr().unwrap().to_string();
            client.get(&key);
            let line = watcher.line();
            assert!(line.contains("type=item_get"), "{line}");
            let number = line.split("cfd=").nth(1).unwrap().split(' ').next().unwrap().to_owned();
            let stats = stats_lines(client, "conns");
            assert!(stats.contains(&format!("STAT {number}:addr tcp:{key}\r\n")), "{stats:?}");
            numbers.insert(number);
        }
        assert_eq!(numbers.len(), clients.len());
    });
}

#[test]
fn stats_conns_lists_the_listeners() {
    over_all(|node| {
        let mut client = Client::new(&node);
        let lines = stats_lines(&mut client, "conns");
        let listener = lines.iter().position(|line| line.starts_with("STAT 0:")).unwrap();
        let listener = &lines[listener..listener + 3];
        assert!(listener[0].starts_with("STAT 0:addr tcp:127.0.0.1:"), "{lines:?}");
        assert_eq!(listener[1], "STAT 0:state conn_listening\r\n");
        assert!(listener[2].starts_with("STAT 0:secs_since_last_cmd "));
        assert_eq!(lines.iter().filter(|line| line.contains("conn_listening")).count(), 1);
    });
}

#[test]
fn a_close_that_nobody_asked_for_is_an_error() {
    over_all(|node| {
        let mut watcher = Client::new(&node);
        watcher.send(b"watch connevents\r\n");
        assert_eq!(watcher.line(), "OK\r\n");
        for (sent, reason) in [
            (&b"quit\r\n"[..], "normal"),
            (b"GET / HTTP/1.1\r\nHost: seawall\r\n\r\n", "error"),
            (&[b'x'; 3000], "error"),
        ] {
            let mut client = Client::new(&node);
            client.send(sent);
            assert!(client.is_closed());
            assert!(watcher.line().contains("type=conn_new"));
            let line = watcher.line();
            assert!(line.contains("type=conn_close"), "{line}");
            assert!(line.contains(&format!("reason={reason} cfd=")), "{line}");
        }
        drop(Client::new(&node));
        assert!(watcher.line().contains("type=conn_new"));
        assert!(watcher.line().contains("reason=normal"));
    });
}

#[test]
fn the_memory_limit_grows_as_far_as_the_arena() {
    over_all(|node| {
        let mut client = Client::new(&node);
        let before = limit_of(&mut client);
        for megabytes in [before / (1 << 20) * 2, before / (1 << 20)] {
            client.send(format!("cache_memlimit {megabytes}\r\n").as_bytes());
            assert_eq!(client.line(), "OK\r\n");
            assert_eq!(limit_of(&mut client), megabytes << 20);
        }
        client.send(b"cache_memlimit 100000000\r\n");
        assert_eq!(client.line(), "MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust\r\n");
        assert_eq!(limit_of(&mut client), before);
    });
}

fn limit_of(client: &mut Client<TcpStream>) -> u64 {
    let lines = stats_lines(client, "");
    let line = lines.iter().find_map(|line| line.strip_prefix("STAT limit_maxbytes ")).unwrap();
    line.trim_end().parse().unwrap()
}

fn stats_lines(client: &mut Client<TcpStream>, what: &str) -> Vec<String> {
    client.send(format!("stats {what}\r\n").as_bytes());
    let mut lines = Vec::new();
    loop {
        match client.line() {
            end if end == "END\r\n" => return lines,
            line => lines.push(line),
        }
    }
}

#[test]
fn few_and_small_receive_buffers_serve_many_clients() {
    for way in ways() {
        let node = start(way, |config| {
            config.backend_options =
                BackendOptions { receive_buffers: 2, receive_buffer_bytes: 256, ..tiny_queues() };
            config.reactor.backlog_bytes_max = 4 << 10;
        });
        let address = node.tcp_address().unwrap();
        std::thread::scope(|scope| {
            for number in 0..8 {
                scope.spawn(move || {
                    let mut client = Client::to(address);
                    let value: Vec<u8> = (0..60_000u32).map(|byte| (byte * number) as u8).collect();
                    let key = format!("starved-{number}");
                    for _ in 0..5 {
                        client.set(&key, &value);
                        assert!(client.get(&key).unwrap() == value);
                        client.send("get starved-none\r\n".repeat(500).as_bytes());
                        for _ in 0..500 {
                            assert_eq!(client.line(), "END\r\n");
                        }
                    }
                });
            }
        });
    }
}

fn tiny_queues() -> BackendOptions {
    BackendOptions { submissions: 4, completions: 8, ..BackendOptions::default() }
}

#[test]
fn busy_polling_serves_and_sleeps() {
    for way in ways() {
        let node = start(way, |config| config.reactor.busy_poll = Duration::from_micros(50));
        let mut client = Client::new(&node);
        for round in 0..200 {
            client.set("key", format!("{round}").as_bytes());
            assert_eq!(client.get("key").unwrap(), format!("{round}").into_bytes());
        }
    }
}

#[test]
fn a_multiget_of_ten_thousand_keys() {
    over_all(|node| {
        let mut client = Client::new(&node);
        let keys: Vec<String> = (0..10_000).map(|key| format!("m{key}")).collect();
        for chunk in keys.chunks(500) {
            let requests: Vec<u8> = chunk.iter().flat_map(|key| set(key, key.as_bytes())).collect();
            client.send(&requests);
            for _ in chunk {
                assert_eq!(client.line(), "STORED\r\n");
            }
        }
        let request = format!("get {}\r\n", keys.join(" "));
        let mut writer = client.stream.get_ref().try_clone().unwrap();
        let thread = std::thread::spawn(move || writer.write_all(request.as_bytes()).unwrap());
        for key in &keys {
            assert_eq!(client.line(), format!("VALUE {key} 0 {}\r\n", key.len()));
            assert_eq!(client.line(), format!("{key}\r\n"));
        }
        assert_eq!(client.line(), "END\r\n");
        thread.join().unwrap();
    });
}

/// Values beyond what one batch or one buffer may hold, asked for many times
/// over at once: they are sent in place, from the core that owns them.
#[test]
fn values_that_never_finish_leave_memory_and_small_items_alone() {
    for way in ways() {
        let node = start(way, |config| {
            config.settings.memory_bytes_max = 16 << 20;
            config.settings.arriving_wait_ms = 50;
        });
        let mut honest = Client::new(&node);
        let keys: Vec<_> = (0..2_000).map(|key| format!("small{key}")).collect();
        for key in &keys {
            honest.set(key, b"kept");
        }
        // Forty megabytes are announced, half of it is sent, nobody goes on.
        let mut stopped = Vec::new();
        for number in 0..40 {
            let mut client = Client::new(&node);
            client.send(format!("set half{number} 0 0 1000000\r\n").as_bytes());
            stopped.push(client);
        }
        let half = vec![b'h'; 500_000];
        let sent = stopped.iter_mut().filter(|client| {
            let _ = client.stream.get_ref().set_write_timeout(Some(Duration::from_millis(200)));
            (&mut client.stream.get_ref()).write_all(&half).is_ok()
        });
        assert!(sent.count() > 0);
        for key in &keys {
            assert_eq!(honest.get(key).as_deref(), Some(&b"kept"[..]), "{key} on {way:?}");
        }
        honest.set("another", b"small");
        // A large one has no room, and is told so; the connection goes on.
        honest.send(&set("large", &vec![b'l'; 900_000]));
        assert_eq!(honest.line(), "SERVER_ERROR out of memory storing object\r\n");
        assert_eq!(honest.get("large"), None);
        // They leave, and there is room again.
        drop(stopped);
        until("room for a large value", || {
            honest.send(&set("large", &vec![b'l'; 900_000]));
            honest.line() == "STORED\r\n"
        });
    }
}

#[test]
fn many_large_values_at_once_wait_for_each_other() {
    for way in ways() {
        // Room for four at a time on one core, and for two on each of two.
        let node = start(way, |config| {
            config.settings.memory_bytes_max = 64 << 20;
            config.settings.arriving_bytes_max = 4 << 20;
            config.settings.arriving_wait_ms = 20_000;
        });
        std::thread::scope(|scope| {
            for number in 0..16 {
                let node = &node;
                scope.spawn(move || {
                    let mut client = Client::new(node);
                    let value = vec![number as u8; 900_000];
                    for round in 0..5 {
                        client.set(&format!("value{number}:{round}"), &value);
                    }
                });
            }
        });
    }
}

#[test]
fn past_their_memory_the_connection_that_holds_most_is_closed() {
    for way in ways() {
        let node = start(way, |config| {
            config.reactor.connection_bytes_max = 256 << 10;
            config.settings.output_bytes_high_water = 1 << 20;
        });
        let mut honest = Client::new(&node);
        honest.set("large", &vec![b'l'; 200_000]);
        // Each of them asks for much and reads nothing.
        let mut greedy: Vec<_> = (0..64).map(|_| Client::new(&node)).collect();
        for client in &mut greedy {
            // It may be closed before it has asked for all.
            let _ = client.stream.get_mut().write_all(&b"get large\r\n".repeat(100));
        }
        until("some are closed", || {
            let stats = stats_of(&mut honest);
            stats["seawall_connections_closed_for_memory"].parse::<u64>().unwrap() > 0
        });
        for _ in 0..10 {
            assert_eq!(honest.get("large").map(|value| value.len()), Some(200_000));
        }
    }
}

#[test]
fn lone_requests_visit_the_shard_of_a_core_that_sleeps() {
    for way in ways().into_iter().filter(|way| way.1 == 2) {
        let node = start(way, |_| {});
        let mut client = Client::new(&node);
        // Long ones are pinned by the visitor and sent piece by piece.
        let value =
            |key: usize| vec![key as u8; if key.is_multiple_of(20) { 100_000 } else { key % 300 }];
        for key in 0..200 {
            client.set(&format!("key{key}"), &value(key));
        }
        for key in 0..200 {
            assert_eq!(client.get(&format!("key{key}")), Some(value(key)), "{key} on {way:?}");
        }
        let stats = stats_of(&mut client);
        let number = |name: &str| stats[name].parse::<u64>().unwrap();
        assert!(number("seawall_visits") > 0, "on {way:?}");
        // Wherever they were executed, they were counted once.
        assert_eq!((number("cmd_set"), number("get_hits")), (200, 200));
    }
}
