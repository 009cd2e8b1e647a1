//! The protocols as a client speaks them: writers that append to a
//! buffer, and incremental readers that tell a [`Sink`] what they see and
//! keep nothing but the position inside a value. None of them allocates.
//!
//! A request with a *fence* is a series of quiet commands (those that answer
//! only when there is something to say) followed by one that always answers:
//! binary and meta multigets work that way, and so do the quiet sets that
//! preload a server. RESP has no quiet sets; there a series is answered in
//! full, and the fence still tells its end.

mod binary;
mod lines;
mod meta;
mod resp;
mod text;

pub use binary::Binary;
pub use meta::Meta;
pub use resp::Resp;
pub use text::Text;

use crate::keys::{KeySpace, Values};

/// What requests are made of.
#[derive(Clone, Debug)]
pub struct Book {
    /// Number to key and back.
    pub keys: KeySpace,
    /// Number to value.
    pub values: Values,
    /// Seconds until written items expire; 0: never.
    pub ttl: u32,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending<'a> {
    /// No more values follow (`END`, or the last element of an array).
    Values,
    /// The key is not there; inside an array, one of the keys.
    Miss,
    /// The item was stored.
    Stored,
    /// The item was not stored, without an error.
    NotStored,
    /// The command after the quiet ones.
    Fence,
    /// The server's error text.
    Error(&'a [u8]),
}

/// Hears what a reader finds.
pub trait Sink {
    /// A value begins.
    fn value(&mut self, key: Option<&[u8]>, value_bytes: u64);
    /// A piece of the value, at `offset`.
    fn data(&mut self, offset: u64, bytes: &[u8]);
    /// All of the value has been seen.
    fn value_end(&mut self);
    /// A line or packet without a value.
    fn ending(&mut self, ending: Ending<'_>);
}

/// The bytes are not this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garbage;

/// One protocol: its writers and its reader, whose state `Self` is.
pub trait Wire: Default {
    /// Whether a value ends the answer of a lone get. (In the classic text
    /// protocol `END` does.)
    const VALUE_ENDS_GET: bool;
    /// Whether a fence ends the answer of a multiget. (Else `END` does.)
    const FENCE_ENDS_MULTIGET: bool;
    /// Whether every value of a multiget comes with its key. (Else there is a
    /// value or a miss for each key, in the order of the keys.)
    const MULTIGET_NAMES_KEYS: bool = true;
    /// Whether a quiet set answers only when it fails.
    const SETS_CAN_BE_QUIET: bool = true;
    /// The protocol's name.
    const NAME: &'static str;

    /// Appends a get of one key.
    fn write_get(book: &Book, number: u64, out: &mut Vec<u8>);
    /// Appends one get of several keys.
    fn write_multiget(book: &Book, numbers: &[u64], out: &mut Vec<u8>);
    /// Appends a set. A quiet one answers at most when it fails, where the
    /// protocol knows quiet ones.
    fn write_set(book: &Book, number: u64, quiet: bool, out: &mut Vec<u8>);
    /// Appends a command that always answers.
    fn write_fence(out: &mut Vec<u8>);

    /// Reads as much of `input` as is complete and says how much that was.
    /// The rest is to be offered again with more bytes behind it.
    fn read<S: Sink>(&mut self, input: &[u8], sink: &mut S) -> Result<usize, Garbage>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Plan, Span};

    /// Writes events down as text.
    #[derive(Default)]
    struct Notes(String, Vec<u8>);

    impl Sink for Notes {
        fn value(&mut self, key: Option<&[u8]>, value_bytes: u64) {
            let key = key.map(|key| key.escape_ascii().to_string()).unwrap_or_default();
            self.0 += &format!("value({key},{value_bytes}) ");
        }
        fn data(&mut self, offset: u64, bytes: &[u8]) {
            assert_eq!(offset, self.1.len() as u64);
            self.1.extend_from_slice(bytes);
        }
        fn value_end(&mut self) {
            self.0 += &format!("[{}] ", self.1.escape_ascii());
            self.1.clear();
        }
        fn ending(&mut self, ending: Ending<'_>) {
            self.0 += &match ending {
                Ending::Error(text) => format!("error({}) ", text.escape_ascii()),
                other => format!("{other:?} "),
            };
        }
    }

    /// Whatever the pieces in which `input` arrives, and wherever it is cut in
    /// two, the events are the same.
    fn read_in_pieces<W: Wire>(input: &[u8]) -> String {
        let mut whole = None;
        for piece in [1, 2, 3, 5, 17, input.len()] {
            let mut wire = W::default();
            let mut notes = Notes::default();
            let mut pending = Vec::new();
            for bytes in input.chunks(piece) {
                pending.extend_from_slice(bytes);
                let taken = wire.read(&pending, &mut notes).expect("the protocol");
                pending.drain(..taken);
            }
            assert!(pending.is_empty(), "left {}", pending.escape_ascii());
            let whole = whole.get_or_insert_with(|| notes.0.clone());
            assert_eq!(*whole, notes.0, "in pieces of {piece}");
        }
        let whole = whole.unwrap_or_default();
        for cut in 0..=input.len() {
            let mut wire = W::default();
            let mut notes = Notes::default();
            let taken = wire.read(&input[..cut], &mut notes).expect("the protocol");
            let rest = wire.read(&input[taken..], &mut notes).expect("the protocol");
            assert_eq!((taken + rest, &notes.0), (input.len(), &whole), "cut at {cut}");
        }
        whole
    }

    fn book() -> Book {
        let plan = Plan { keys: 100, key_bytes: 6, ..Plan::default() };
        Book {
            keys: KeySpace::new(&plan).expect("fits"),
            values: Values::new(Span::fixed(0)),
            ttl: 60,
        }
    }

    fn written(write: impl FnOnce(&Book, &mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&book(), &mut out);
        out.escape_ascii().to_string()
    }

    #[test]
    fn text_reads_every_answer() {
        let input = b"VALUE key:01 0 5\r\na\r\nbc\r\nEND\r\nEND\r\nSTORED\r\nVALUE k 7 0 99\r\n\r\n\
            VALUE l 0 1\r\nx\r\nEND\r\nNOT_STORED\r\nSERVER_ERROR out of memory\r\nVERSION 1.6\r\nMN\r\n";
        assert_eq!(
            read_in_pieces::<Text>(input),
            "value(key:01,5) [a\\r\\nbc] Values Values Stored value(k,0) [] value(l,1) [x] Values \
             NotStored error(SERVER_ERROR out of memory) Fence Fence "
        );
    }

    #[test]
    fn meta_reads_every_answer() {
        let input = b"VA 3 kkey:02 t1\r\na\nb\r\nEN\r\nHD\r\nVA 0\r\n\r\nNS\r\nMN\r\nCLIENT_ERROR bad\r\nERROR\r\n";
        assert_eq!(
            read_in_pieces::<Meta>(input),
            "value(key:02,3) [a\\nb] Miss Stored value(,0) [] NotStored Fence \
             error(CLIENT_ERROR bad) error(ERROR) "
        );
    }

    #[test]
    fn binary_reads_every_answer() {
        let packet = |opcode: u8, key: &[u8], extras: &[u8], status: u16, value: &[u8]| {
            let body = (key.len() + extras.len() + value.len()) as u32;
            let mut packet = vec![0x81, opcode, 0, key.len() as u8, extras.len() as u8, 0];
            packet.extend_from_slice(&status.to_be_bytes());
            packet.extend_from_slice(&body.to_be_bytes());
            packet.extend_from_slice(&[0; 12]);
            packet.extend_from_slice(&[extras, key, value].concat());
            packet
        };
        let input = [
            packet(0x00, b"", &[0; 4], 0, b"hello"),
            packet(0x00, b"", b"", 1, b"Not found"),
            packet(0x01, b"", b"", 0, b""),
            packet(0x0d, b"kk", &[0; 4], 0, b""),
            packet(0x0a, b"", b"", 0, b""),
            packet(0x01, b"", b"", 0x82, b"Out of memory"),
            packet(0x11, b"", b"", 3, b"Too large."),
        ]
        .concat();
        assert_eq!(
            read_in_pieces::<Binary>(&input),
            "value(,5) [hello] Miss Stored value(kk,0) [] Fence error(Out of memory) \
             error(Too large.) "
        );
    }

    #[test]
    fn resp_reads_every_answer() {
        let input = b"$5\r\na\r\nbc\r\n$-1\r\n+OK\r\n$0\r\n\r\n*3\r\n$1\r\nx\r\n$-1\r\n$0\r\n\r\n\
            *1\r\n$-1\r\n*0\r\n-OOM command not allowed\r\n+PONG\r\n";
        assert_eq!(
            read_in_pieces::<Resp>(input),
            "value(,5) [a\\r\\nbc] Miss Stored value(,0) [] value(,1) [x] Miss value(,0) [] Values \
             Miss Values Values error(OOM command not allowed) Fence "
        );
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let mut notes = Notes::default();
        assert_eq!(Text::default().read(b"HTTP/1.1 400 Bad Request\r\n", &mut notes), Err(Garbage));
        assert_eq!(Meta::default().read(b"STORED\r\n", &mut notes), Err(Garbage));
        assert_eq!(Binary::default().read(&[b'E'; 24], &mut notes), Err(Garbage));
        assert_eq!(Text::default().read(&[b'x'; 100_000], &mut notes), Err(Garbage));
        assert_eq!(Text::default().read(b"VALUE k 0 2\r\nabc\r\n", &mut notes), Err(Garbage));
        for foreign in [
            "ERROR\r\n",
            "$x\r\n",
            "$-2\r\n",
            "+QUEUED\r\n",
            "*1\r\n+OK\r\n",
            "\r\n",
            "$1\r\nab\r\n",
        ] {
            let read = Resp::default().read(foreign.as_bytes(), &mut Notes::default());
            assert_eq!(read, Err(Garbage), "{foreign:?}");
        }
    }

    #[test]
    fn requests_are_written() {
        assert_eq!(written(|b, o| Text::write_get(b, 7, o)), r"get key:07\r\n");
        assert_eq!(written(|b, o| Text::write_multiget(b, &[7, 8], o)), r"get key:07 key:08\r\n");
        assert_eq!(written(|b, o| Text::write_set(b, 7, false, o)), r"set key:07 0 60 0\r\n\r\n");
        assert_eq!(
            written(|b, o| Text::write_set(b, 7, true, o)),
            r"set key:07 0 60 0 noreply\r\n\r\n"
        );
        assert_eq!(written(|b, o| Meta::write_get(b, 7, o)), r"mg key:07 v\r\n");
        assert_eq!(
            written(|b, o| Meta::write_multiget(b, &[7, 8], o)),
            r"mg key:07 k q v\r\nmg key:08 k q v\r\nmn\r\n"
        );
        assert_eq!(written(|b, o| Meta::write_set(b, 7, false, o)), r"ms key:07 0 T60\r\n\r\n");
        assert_eq!(written(|b, o| Meta::write_set(b, 7, true, o)), r"ms key:07 0 q T60\r\n\r\n");
        assert_eq!(
            written(|b, o| Resp::write_get(b, 7, o)),
            r"*2\r\n$3\r\nGET\r\n$6\r\nkey:07\r\n"
        );
        assert_eq!(
            written(|b, o| Resp::write_multiget(b, &[7, 8], o)),
            r"*3\r\n$4\r\nMGET\r\n$6\r\nkey:07\r\n$6\r\nkey:08\r\n"
        );
        assert_eq!(
            written(|b, o| Resp::write_set(b, 7, true, o)),
            r"*5\r\n$3\r\nSET\r\n$6\r\nkey:07\r\n$0\r\n\r\n$2\r\nEX\r\n$2\r\n60\r\n"
        );
        assert_eq!(
            written(|b, o| Resp::write_set(&Book { ttl: 0, ..b.clone() }, 7, false, o)),
            r"*3\r\n$3\r\nSET\r\n$6\r\nkey:07\r\n$0\r\n\r\n"
        );
        let mut set = Vec::new();
        Binary::write_set(&book(), 7, true, &mut set);
        assert_eq!(set[..12], [0x80, 0x11, 0, 6, 8, 0, 0, 0, 0, 0, 0, 14]);
        assert_eq!(set[24..], *b"\0\0\0\0\0\0\0\x3ckey:07");
    }
}
