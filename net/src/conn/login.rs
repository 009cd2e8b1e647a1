//! Logging in: by a first `set` in the text protocol (`-Y`), by SASL PLAIN in
//! the binary one (`-S`).

use super::{Conn, Flow, Next, Phase};
use crate::core::Core;
use crate::limits::LINE_BYTES_MAX;
use crate::proto::binary::{Frame, Status, put_error, put_message};
use crate::proto::number::parse_u32;
use crate::proto::tokens::Tokens;
use std::sync::Arc;

/// Longest "user password" that is waited for.
const CREDENTIAL_BYTES_MAX: usize = 16 * 1024;

impl Conn {
    /// The first command must be a `set` whose value is "user password". Its
    /// key, flags and expiry mean nothing.
    pub(super) fn log_in_by_text(
        &mut self,
        core: &mut Core,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> (usize, Flow) {
        let Some(newline) = memchr::memchr(b'\n', input) else {
            if input.len() > LINE_BYTES_MAX {
                self.phase = Phase::Closing;
                return (input.len(), Flow::On);
            }
            return (0, Flow::Stop(Next::Read { need: 1 }));
        };
        // The carriage return stays: it is white space behind the length.
        let tokens = Tokens::new(&input[..newline]);
        let length =
            parse_u32(tokens.get(4)).filter(|_| tokens.count() >= 6 && tokens.get(0) == b"set");
        let Some(length) = length else {
            self.write_line(out, "CLIENT_ERROR unauthenticated");
            return (newline + 1, Flow::On);
        };
        if length as usize > CREDENTIAL_BYTES_MAX {
            self.phase = Phase::Closing;
            return (input.len(), Flow::On);
        }
        let end = newline + 1 + length as usize + 2;
        let Some(body) = input.get(newline + 1..end) else {
            return (0, Flow::Stop(Next::Read { need: end - input.len() }));
        };
        let Some(body) = body.strip_suffix(b"\r\n") else {
            self.write_line(out, "CLIENT_ERROR bad command line termination");
            return (end, Flow::On);
        };
        let tokens = Tokens::new(body);
        if tokens.count() < 3 {
            self.write_line(out, "CLIENT_ERROR bad authentication token format");
        } else if self.check(core, tokens.get(0), tokens.get(1)) {
            self.write_line(out, "STORED");
        } else {
            self.write_line(out, "CLIENT_ERROR authentication failure");
        }
        (end, Flow::On)
    }

    /// SASL PLAIN: `authorize NUL user NUL password`.
    pub(super) fn sasl(
        &mut self,
        frame: Frame,
        mechanism: &[u8],
        message: &[u8],
        later: bool,
        core: &mut Core,
        out: &mut Vec<u8>,
    ) {
        let mut fields = message.splitn(3, |byte| *byte == 0);
        let (user, password) = match (fields.next(), fields.next(), fields.next()) {
            (Some(_), Some(user), Some(password)) => (user, password),
            _ => (&b""[..], &b""[..]),
        };
        // PLAIN has one step, so a later one has nothing to go on from.
        let plain = mechanism == b"PLAIN" && !later && !user.is_empty();
        self.trusted = false;
        if self.check(core, if plain { user } else { b"" }, password) && plain {
            self.write(out, |out| put_message(out, frame, Status::Ok, b"Authenticated"));
        } else {
            self.trusted = false;
            self.write(out, |out| put_error(out, frame, Status::AuthError));
        }
    }

    fn check(&mut self, core: &mut Core, user: &[u8], password: &[u8]) -> bool {
        let users = match core.shared.users.read() {
            Ok(users) => Arc::clone(&users),
            Err(poisoned) => Arc::clone(&poisoned.into_inner()),
        };
        core.stats.auth_cmds += 1;
        self.trusted = users.check(user, password);
        if !self.trusted {
            core.stats.auth_errors += 1;
        }
        self.trusted
    }
}
