use seawall_net::{auth::Users, core::Shutdown, listener::*, node::*};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let port: u16 = args[1].parse().unwrap();
    let mut config = NodeConfig::local(64 << 20);
    config.cores = Some(args[2].parse().unwrap());
    config.listen = vec![ListenAddress::Tcp(std::net::SocketAddr::from(([127, 0, 0, 1], port)))];
    for a in &args[3..] {
        match a.as_str() {
            "sasl" => {
                config.settings.sasl = true;
                config.users = Users::parse(b"user:pass\n").unwrap();
            }
            "auth" => {
                config.settings.auth_file = Some("x".into());
                config.users = Users::parse(b"user:pass\n").unwrap();
            }
            "nocas" => {
                config.settings.cas = false;
                config.shard.versions = false;
            }
            _ => panic!(),
        }
    }
    let _ = Shutdown::Now;
    let _node = Node::start(config).unwrap();
    loop {
        std::thread::sleep(std::time::Duration::from_secs(1000));
    }
}
