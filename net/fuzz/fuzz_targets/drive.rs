//! One connection and two cores without sockets; the first byte cuts the rest
//! into packets.

#[path = "../../tests/common/mod.rs"]
mod common;

/// Feeds `data` to a fresh connection. `first` is sent before it, to fix the protocol.
pub fn drive(first: &[u8], data: &[u8]) {
    let Some((&cut, stream)) = data.split_first() else { return };
    let settings = seawall_net::core::Settings { memory_bytes_max: 8 << 20, ..Default::default() };
    let mut node = common::Node::with(2, settings, |_| {});
    let client = node.connect(0);
    node.send(client, first);
    for packet in stream.chunks(usize::from(cut) + 1) {
        node.send(client, packet);
        node.settle();
        node.clients[client].out.clear();
        node.settle();
    }
}
