//! Cache-aside in one call: a hundred visitors ask for the same page, and it is
//! made once.
//!
//! ```text
//! seawalld -p 11211 &
//! cargo run -p seawall-client --example cache_aside -- 127.0.0.1:11211
//! ```

use seawall_client::{Client, ClientOptions, LoadOptions, Loaded};
use std::time::{Duration, Instant};

/// Stands for a database: slow, and better not asked a hundred times at once.
async fn make_page(number: u32) -> Result<Option<Loaded>, std::io::Error> {
    println!("  making page {number}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    match number {
        // What is not there may be remembered, too.
        404 => Ok(None),
        _ => Ok(Some(Loaded::new(format!("<h1>Page {number}</h1>")).tag("pages"))),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut servers: Vec<String> = std::env::args().skip(1).collect();
    if servers.is_empty() {
        servers.push("127.0.0.1:11211".into());
    }
    let client = Client::connect(ClientOptions::new(servers)).await?;
    let options = LoadOptions::default()
        .ttl(Duration::from_secs(60))
        .ttl_jitter(0.1)
        .stale_for(Duration::from_secs(30))
        .negative_ttl(Duration::from_secs(5));

    for number in [1, 1, 404] {
        let began = Instant::now();
        println!("a hundred visitors want page {number}");
        let visitors: Vec<_> = (0..100)
            .map(|_| {
                let (client, options) = (client.clone(), options.clone());
                tokio::spawn(async move {
                    let key = format!("page:{number}");
                    client.get_or_load(key, &options, move || make_page(number)).await
                })
            })
            .collect();
        let mut served = 0;
        for visitor in visitors {
            served += usize::from(visitor.await??.is_some());
        }
        println!("  {served} got it, all were answered in {:?}", began.elapsed());
    }
    // Whoever changes a page's template makes all pages anew.
    client.invalidate_tag("pages").await?;
    println!("{:?}", client.counters());
    Ok(())
}
