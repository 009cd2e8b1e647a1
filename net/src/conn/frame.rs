//! Binary commands that are not about one key.

use super::gather::{Then, write_stats};
use super::{CloseReason, Conn, Flow, Next, Wait};
use crate::VERSION;
use crate::control::ControlOp;
use crate::core::Core;
use crate::proto::binary::{Command, Frame, Status, put_error, put_header, put_message};
use crate::stats::Kind;
use engine::Now;
use std::sync::atomic::Ordering;

impl Conn {
    pub(super) fn frame(
        &mut self,
        command: &Command<'_>,
        core: &mut Core,
        out: &mut Vec<u8>,
    ) -> Flow {
        match *command {
            Command::Noop(frame) => {
                self.write(out, |out| put_header(out, frame, Status::Ok, 0, 0, 0, 0))
            }
            Command::Version(frame) => {
                self.write(out, |out| put_message(out, frame, Status::Ok, VERSION.as_bytes()));
            }
            Command::Quit(frame) => {
                if !frame.quiet {
                    self.write(out, |out| put_header(out, frame, Status::Ok, 0, 0, 0, 0));
                }
                self.leave(CloseReason::Normal);
            }
            Command::Flush(frame, _) if !core.shared.settings.flush => {
                self.write(out, |out| put_error(out, frame, Status::AuthError));
            }
            Command::Flush(frame, seconds) => {
                let at = self.flush_at(seconds, core);
                return self.counted(
                    |core| core.stats.cmd_flush += 1,
                    ControlOp::Flush { at },
                    Then::Frame(frame),
                    core,
                );
            }
            Command::Stat(frame, kind) => return self.stat(frame, kind, core, out),
            Command::SaslList(frame) => {
                self.write(out, |out| put_message(out, frame, Status::Ok, b"PLAIN"));
            }
            Command::Sasl(frame, mechanism, message, later) => {
                self.sasl(frame, mechanism, message, later, core, out);
            }
            Command::Invalidate(frame, name, namespace) => {
                let names = vec![name.to_vec()];
                let op = if namespace {
                    ControlOp::InvalidateNamespaces(names)
                } else {
                    ControlOp::InvalidateTags(names)
                };
                return self.gather(op, Then::Invalidated(Some(frame)), core);
            }
        }
        Flow::On
    }

    /// Gathers, and counts the command once.
    pub(super) fn counted(
        &mut self,
        count: impl FnOnce(&mut Core),
        op: ControlOp,
        then: Then,
        core: &mut Core,
    ) -> Flow {
        let flow = self.gather(op, then, core);
        if matches!(flow, Flow::On) {
            count(core);
        }
        flow
    }

    /// When a flush with this delay takes effect.
    pub(super) fn flush_at(&self, seconds: i64, core: &Core) -> Now {
        const RELATIVE_SECONDS_MAX: i64 = 60 * 60 * 24 * 30;
        if seconds <= 0 {
            // At once, whatever each core's clock says: one that is behind would take
            // another core's "now" for later, and kill what is stored until then.
            Now(0)
        } else if seconds <= RELATIVE_SECONDS_MAX {
            // Whole seconds, as all expiries.
            Now((core.now.seconds() + seconds as u64) * 1000)
        } else {
            Now((seconds as u64 * 1000).max(core.now.0))
        }
    }

    fn stat(&mut self, frame: Frame, kind: &[u8], core: &mut Core, out: &mut Vec<u8>) -> Flow {
        if !self.answers.is_empty() {
            self.wait = Wait::Empty;
            return Flow::Stop(Next::Blocked);
        }
        let some = Some(frame);
        match kind {
            b"" => self.gather(ControlOp::Stats, Then::Stats(Kind::General, some), core),
            b"items" => self.gather(ControlOp::Stats, Then::Stats(Kind::Items, some), core),
            b"slabs" => self.gather(ControlOp::Stats, Then::Stats(Kind::Slabs, some), core),
            b"sizes" => self.gather(ControlOp::Sizes, Then::Stats(Kind::Sizes, some), core),
            b"sizes_enable" | b"sizes_disable" => {
                let on = track_sizes(kind, core);
                self.gather(ControlOp::TrackSizes(on), Then::Stats(Kind::SizesSwitch, some), core)
            }
            b"conns" => {
                self.gather(ControlOp::Connections, Then::Stats(Kind::Connections, some), core)
            }
            kind if kind.starts_with(b"reset") => {
                self.gather(ControlOp::ResetStats, Then::Stats(Kind::Empty, some), core)
            }
            kind if kind.starts_with(b"settings") => {
                self.gather(ControlOp::Stats, Then::Stats(Kind::Settings, some), core)
            }
            kind if kind.starts_with(b"detail dump") => {
                self.gather(ControlOp::Detail, Then::Detail(some), core)
            }
            kind if kind.starts_with(b"detail on") || kind.starts_with(b"detail off") => {
                core.shared.detail.store(kind.starts_with(b"detail on"), Ordering::Relaxed);
                write_stats(&[], some, true, out);
                Flow::On
            }
            _ => {
                put_error(out, frame, Status::NotFound);
                Flow::On
            }
        }
    }
}

/// `stats sizes_enable|sizes_disable`, for the whole node. Whether it is on now.
pub(super) fn track_sizes(switch: &[u8], core: &Core) -> bool {
    let on = switch == b"sizes_enable";
    core.shared.track_sizes.store(on, Ordering::Relaxed);
    on
}
