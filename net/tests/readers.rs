//! Many clients that ask for more than their sockets take, some of whom read.

mod node;

use node::{Client, start, stats_of, ways};
use std::io::Read;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// What all connections hold, as the node says; its bound in this test.
fn connection_bytes(client: &mut Client<TcpStream>) -> u64 {
    stats_of(client)["seawall_connection_bytes"].parse().unwrap()
}

#[test]
fn clients_that_read_are_never_closed_and_memory_stays_bounded() {
    const CLIENTS: usize = 60;
    const BYTES_MAX: usize = 2 << 20;
    for (value_bytes, keys) in [(20_000, 64), (5_000, 100), (100_000, 32), (1_500, 200)] {
        for way in ways() {
            let node = start(way, |config| config.reactor.connection_bytes_max = BYTES_MAX);
            let mut honest = Client::new(&node);
            let names: Vec<String> = (0..keys).map(|key| format!("key{key}")).collect();
            for (number, name) in names.iter().enumerate() {
                honest.set(name, &vec![number as u8; value_bytes]);
            }
            let request = format!("get {}\r\n", names.join(" "));
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let readers: Vec<_> = (0..CLIENTS)
                    .map(|_| {
                        scope.spawn(|| {
                            let mut client = Client::new(&node);
                            for _ in 0..2 {
                                client.send(request.as_bytes());
                            }
                            for name in names.iter().chain(&names).enumerate() {
                                let (at, name) = (name.0 % keys, name.1);
                                assert_eq!(
                                    client.line(),
                                    format!("VALUE {name} 0 {value_bytes}\r\n")
                                );
                                let mut value = vec![0; value_bytes + 2];
                                client.stream.read_exact(&mut value).unwrap();
                                assert!(value[..value_bytes].iter().all(|byte| *byte == at as u8));
                                if at == keys - 1 {
                                    assert_eq!(client.line(), "END\r\n");
                                }
                            }
                        })
                    })
                    .collect();
                let watcher = scope.spawn(|| {
                    let mut most = 0;
                    while !over.load(Relaxed) {
                        most = most.max(connection_bytes(&mut honest));
                    }
                    most
                });
                let ends: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
                over.store(true, Relaxed);
                let most = watcher.join().unwrap();
                let closed = ends.iter().filter(|end| end.is_err()).count();
                let what = format!("{keys} x {value_bytes} on {way:?}");
                assert_eq!(closed, 0, "{what}: clients that read were closed");
                let bound = BYTES_MAX as u64 * u64::from(way.1);
                assert!(most <= bound, "{what}: connections held {most} of {bound}");
            });
            let stats = stats_of(&mut Client::new(&node));
            assert_eq!(stats["seawall_connections_closed_for_memory"], "0");
        }
    }
}

#[test]
fn clients_that_do_not_read_take_little_and_hinder_nobody() {
    for way in ways() {
        let node = start(way, |config| config.reactor.connection_bytes_max = 2 << 20);
        let mut honest = Client::new(&node);
        let names: Vec<String> = (0..64).map(|key| format!("key{key}")).collect();
        names.iter().for_each(|name| honest.set(name, &[7; 20_000]));
        let request = format!("get {}\r\n", names.join(" ")).repeat(20);
        let mut silent: Vec<_> = (0..40).map(|_| Client::new(&node)).collect();
        silent.iter_mut().for_each(|client| client.send(request.as_bytes()));
        for _ in 0..200 {
            assert_eq!(honest.get("key1").map(|value| value.len()), Some(20_000));
            let bytes = connection_bytes(&mut honest);
            assert!(bytes <= u64::from(way.1) * (2 << 20), "{bytes} on {way:?}");
        }
        // There is room for all of them in what they may hold, so all may stay.
        let stats = stats_of(&mut honest);
        assert_eq!(stats["seawall_connections_closed_for_memory"], "0", "on {way:?}");
        // Whoever reads at last gets everything.
        let client = &mut silent[0];
        for _ in 0..20 {
            for name in &names {
                assert_eq!(client.line(), format!("VALUE {name} 0 20000\r\n"));
                let mut value = vec![0; 20_002];
                client.stream.read_exact(&mut value).unwrap();
            }
            assert_eq!(client.line(), "END\r\n");
        }
    }
}
