//! Who may log in: the users of the text protocol's auth file (`-Y`) and of
//! SASL PLAIN (`-S`).

/// Names and passwords, read once and replaced as a whole on reload.
#[derive(Clone, Default)]
pub struct Users {
    users: Vec<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the passwords.
        write!(f, "Users({})", self.users.len())
    }
}

/// Why a file of users was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MalformedUsers {
    /// The line, from 1, that has no colon.
    pub line: usize,
}

impl std::fmt::Display for MalformedUsers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {} is not of the form user:password", self.line)
    }
}

impl std::error::Error for MalformedUsers {}

impl Users {
    /// Reads `user:password` lines. The SASL file of memcached
    /// (`MEMCACHED_SASL_PWDB`) has `user@host:password`; the host is dropped,
    /// because the one host is this node.
    pub fn parse(text: &[u8]) -> Result<Users, MalformedUsers> {
        let mut users = Vec::new();
        for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                continue;
            }
            let Some(colon) = memchr::memchr(b':', line) else {
                return Err(MalformedUsers { line: number + 1 });
            };
            // memcached's SASL file may carry a third field.
            let password = &line[colon + 1..];
            users.push((line[..colon].to_vec(), password.to_vec()));
        }
        Ok(Users { users })
    }

    /// Nobody can log in.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Whether the password is the user's. Takes the same time wherever a
    /// wrong password differs.
    pub fn check(&self, user: &[u8], password: &[u8]) -> bool {
        let mut found = false;
        for (name, secret) in &self.users {
            let bare = name.split(|byte| *byte == b'@').next().unwrap_or(name);
            let named = same(name, user) | same(bare, user);
            found |= named & same(secret, password);
        }
        found
    }
}

fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |sum, (l, r)| sum | (l ^ r)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_checked_by_name_and_password() {
        let users = Users::parse(b"anna:secret\r\nbert@host:a:b\n").unwrap();
        assert!(users.check(b"anna", b"secret"));
        assert!(users.check(b"bert", b"a:b"));
        assert!(users.check(b"bert@host", b"a:b"));
        assert!(!users.check(b"anna", b"secre"));
        assert!(!users.check(b"an", b"secret"));
        assert_eq!(Users::parse(b"a:b\nnothing\n").unwrap_err(), MalformedUsers { line: 2 });
    }
}
