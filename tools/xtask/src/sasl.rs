//! What memcached's SASL needs around it: a mechanism list and a user database.
//!
//! Debian's memcached asks Cyrus SASL; Seawall reads a plain file. One user,
//! given to both.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Environment for both servers: `MEMCACHED_SASL_PWDB` for Seawall, the path of
/// a Cyrus configuration for memcached.
pub fn environment(folder: &Path, user_and_password: &str) -> Result<Vec<(String, String)>> {
    let (user, password) = user_and_password.split_once(':').context("user:password")?;
    let database = folder.join("sasldb2");
    crate::install::apt(&["sasl2-bin"], &["saslpasswd2"])?;
    let mut child = Command::new("saslpasswd2")
        .args(["-p", "-c", "-a", "memcached", "-f"])
        .arg(&database)
        .arg(user)
        .stdin(Stdio::piped())
        .spawn()
        .context("saslpasswd2")?;
    use std::io::Write;
    child.stdin.take().context("no stdin")?.write_all(password.as_bytes())?;
    ensure!(child.wait()?.success(), "saslpasswd2 failed");
    std::fs::write(
        folder.join("memcached.conf"),
        format!(
            "mech_list: plain\npwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {}\n",
            database.display()
        ),
    )?;
    let passwords = folder.join("passwords");
    std::fs::write(&passwords, format!("{user_and_password}\n"))?;
    let path = |path: &Path| path.display().to_string();
    Ok(vec![
        ("SASL_CONF_PATH".to_owned(), path(folder)),
        ("MEMCACHED_SASL_PWDB".to_owned(), path(&passwords)),
    ])
}
