//! One connection: the requests that wait for their answers, in order, and the
//! [`Tally`] in which answers are counted.

use std::collections::VecDeque;

use hdrhistogram::Histogram;

use crate::wire::{Book, Ending, Garbage, Sink, Wire};

/// A request without its answer.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// What was asked.
    pub request: Request,
    /// When it should have been sent, in nanoseconds since the run began.
    pub due_ns: u64,
}

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// One key.
    Get(u64),
    /// So many keys at once.
    Multiget(u32),
    /// One key.
    Set(u64),
    /// So many quiet sets and a fence.
    QuietSets(u32),
}

/// Counts and latencies of one worker in one interval, or of sums of those.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Gets answered, a multiget counting once.
    pub gets: u64,
    /// Sets answered, quiet ones included.
    pub sets: u64,
    /// Keys that were found.
    pub hits: u64,
    /// Keys that were not.
    pub misses: u64,
    /// Sets that the server declined without an error.
    pub not_stored: u64,
    /// Requests that the server answered with an error, or that were lost with
    /// their connection.
    pub errors: u64,
    /// Values that were not what had been written.
    pub corrupt: u64,
    /// Connections that broke.
    pub disconnects: u64,
    /// Bytes that came.
    pub received_bytes: u64,
    /// The first error's text.
    pub error_example: Option<String>,
    /// Latency of gets, in nanoseconds.
    pub get_ns: Histogram<u64>,
    /// Latency of sets, in nanoseconds.
    pub set_ns: Histogram<u64>,
    /// How late the generator itself sent requests that were due.
    pub lateness_ns: Histogram<u64>,
}

/// The longest latency that is distinguished from longer ones: ten minutes.
const LATENCY_NS_MAX: u64 = 600_000_000_000;

impl Default for Tally {
    fn default() -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)
                .expect("bounds and precision are in range")
        };
        Tally {
            gets: 0,
            sets: 0,
            hits: 0,
            misses: 0,
            not_stored: 0,
            errors: 0,
            corrupt: 0,
            disconnects: 0,
            received_bytes: 0,
            error_example: None,
            get_ns: histogram(),
            set_ns: histogram(),
            lateness_ns: histogram(),
        }
    }
}

impl Tally {
    /// Requests answered.
    pub fn requests(&self) -> u64 {
        self.gets + self.sets
    }

    /// Keys read or written.
    pub fn keys(&self) -> u64 {
        self.hits + self.misses + self.sets
    }

    /// The share of keys read that were found, or none where none was read.
    pub fn hit_ratio(&self) -> Option<f64> {
        let reads = self.hits + self.misses;
        (reads > 0).then(|| self.hits as f64 / reads as f64)
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Tally) {
        self.gets += other.gets;
        self.sets += other.sets;
        self.hits += other.hits;
        self.misses += other.misses;
        self.not_stored += other.not_stored;
        self.errors += other.errors;
        self.corrupt += other.corrupt;
        self.disconnects += other.disconnects;
        self.received_bytes += other.received_bytes;
        if self.error_example.is_none() {
            self.error_example.clone_from(&other.error_example);
        }
        for (mine, theirs) in [
            (&mut self.get_ns, &other.get_ns),
            (&mut self.set_ns, &other.set_ns),
            (&mut self.lateness_ns, &other.lateness_ns),
        ] {
            mine.add(theirs).expect("all histograms have the same bounds");
        }
    }

    /// Notes an error; only the first one's text is kept.
    pub fn error(&mut self, text: impl FnOnce() -> String) {
        self.errors += 1;
        if self.error_example.is_none() {
            self.error_example = Some(text());
        }
    }
}

/// One connection's state between two turns.
#[derive(Debug)]
pub struct Connection<W> {
    /// Requests being written; the driver takes it whole.
    pub out: Vec<u8>,
    /// Requests without their answer, oldest first.
    pub pending: VecDeque<Pending>,
    /// Keys that were missed, to be set next (`--fill`).
    pub missed: Vec<u64>,
    /// Keys of the outstanding multigets whose place in the answer is not yet
    /// read; only with `--verify`, and where answers don't name their keys.
    pub asked: VecDeque<u64>,
    /// Whether there is a socket.
    pub open: bool,
    /// Whether the server has answered anything on this socket.
    pub answered: bool,
    /// Whether `out` is to be offered at the end of this turn.
    pub dirty: bool,
    wire: W,
    /// The beginning of an answer whose rest has not come.
    carry: Vec<u8>,
    answer: Answer,
}

/// What is known of the answer that is being read.
#[derive(Clone, Copy, Debug, Default)]
struct Answer {
    values: u32,
    /// Keys of a multiget that an answer without names has declared missing.
    absent: u32,
    number: Option<u64>,
    corrupt: bool,
}

/// What reading needs beside the connection.
#[derive(Debug)]
pub struct ReadContext<'a> {
    /// Keys and values, for checks.
    pub book: &'a Book,
    /// Whether to check values.
    pub verify: bool,
    /// Whether to remember missed keys.
    pub fill: bool,
    /// When the bytes came.
    pub now_ns: u64,
    /// Where answers are counted.
    pub tally: &'a mut Tally,
}

impl<W: Wire> Connection<W> {
    /// Without a socket yet.
    pub fn new(pipeline: usize) -> Self {
        Connection {
            out: Vec::new(),
            pending: VecDeque::with_capacity(pipeline.min(1024)),
            missed: Vec::new(),
            asked: VecDeque::new(),
            open: false,
            answered: false,
            dirty: false,
            wire: W::default(),
            carry: Vec::new(),
            answer: Answer::default(),
        }
    }

    /// Forgets everything about the socket before.
    pub fn reset(&mut self) {
        self.out.clear();
        self.pending.clear();
        self.missed.clear();
        self.asked.clear();
        self.open = false;
        self.answered = false;
        self.wire = W::default();
        self.carry.clear();
        self.answer = Answer::default();
    }

    /// Counts the answers in `bytes`.
    #[inline]
    pub fn read(&mut self, bytes: &[u8], context: ReadContext<'_>) -> Result<(), Garbage> {
        context.tally.received_bytes += bytes.len() as u64;
        self.answered = true;
        let mut reader = Reader::<W> {
            pending: &mut self.pending,
            missed: &mut self.missed,
            asked: &mut self.asked,
            answer: &mut self.answer,
            context,
            lost: false,
            wire: std::marker::PhantomData,
        };
        if self.carry.is_empty() {
            let taken = self.wire.read(bytes, &mut reader)?;
            self.carry.extend_from_slice(&bytes[taken..]);
        } else {
            self.carry.extend_from_slice(bytes);
            let taken = self.wire.read(&self.carry, &mut reader)?;
            self.carry.drain(..taken);
        }
        if reader.lost { Err(Garbage) } else { Ok(()) }
    }

    /// The beginning of what could not be read, for an error text.
    pub fn unread<'a>(&'a self, bytes: &'a [u8]) -> &'a [u8] {
        let bytes = if self.carry.is_empty() { bytes } else { &self.carry };
        &bytes[..bytes.len().min(80)]
    }
}

/// Matches answers with requests.
struct Reader<'a, W> {
    pending: &'a mut VecDeque<Pending>,
    missed: &'a mut Vec<u64>,
    asked: &'a mut VecDeque<u64>,
    answer: &'a mut Answer,
    context: ReadContext<'a>,
    /// An answer matched no request: the two sides no longer agree.
    lost: bool,
    wire: std::marker::PhantomData<W>,
}

impl<W: Wire> Reader<'_, W> {
    #[inline]
    fn finish(&mut self) {
        let Some(pending) = self.pending.pop_front() else {
            self.lost = true;
            return;
        };
        let tally = &mut *self.context.tally;
        let latency = self.context.now_ns.saturating_sub(pending.due_ns).max(1);
        match pending.request {
            Request::Get(_) | Request::Multiget(_) => {
                tally.gets += 1;
                tally.get_ns.saturating_record(latency);
            }
            Request::Set(_) => {
                tally.sets += 1;
                tally.set_ns.saturating_record(latency);
            }
            Request::QuietSets(count) => {
                tally.sets += u64::from(count);
                tally.set_ns.saturating_record(latency);
            }
        }
        tally.corrupt += u64::from(self.answer.corrupt);
        *self.answer = Answer::default();
    }

    #[inline]
    fn missed(&mut self) {
        self.context.tally.misses += 1;
        if self.context.fill
            && let Some(Pending { request: Request::Get(number), .. }) = self.pending.front()
        {
            self.missed.push(*number);
        }
    }

    /// The key whose place in an answer without names comes next.
    #[inline]
    fn next_asked(&mut self) -> Option<u64> {
        match self.pending.front() {
            Some(Pending { request: Request::Multiget(_), .. }) => self.asked.pop_front(),
            _ => None,
        }
    }

    /// Checks the head of a value: the key, where it came along, and the length.
    fn check_head(&mut self, key: Option<&[u8]>, value_bytes: u64) {
        let book = self.context.book;
        let told = match key {
            None if !W::MULTIGET_NAMES_KEYS => self.next_asked().map(Some),
            key => key.map(|key| book.keys.number(key)),
        };
        let number = match (self.pending.front().map(|pending| pending.request), told) {
            (Some(Request::Get(asked)), None) => Some(asked),
            (Some(Request::Get(asked)), Some(told)) => told.filter(|told| *told == asked),
            (Some(Request::Multiget(_)), Some(told)) => told,
            _ => None,
        };
        self.answer.number = number;
        if number.is_none_or(|number| book.values.value_bytes(number) != value_bytes) {
            self.answer.corrupt = true;
        }
    }
}

impl<W: Wire> Sink for Reader<'_, W> {
    #[inline]
    fn value(&mut self, key: Option<&[u8]>, value_bytes: u64) {
        self.context.tally.hits += 1;
        self.answer.values += 1;
        if self.context.verify {
            self.check_head(key, value_bytes);
        }
    }

    #[inline]
    fn data(&mut self, offset: u64, bytes: &[u8]) {
        if self.context.verify
            && let Some(number) = self.answer.number
            && !self.context.book.values.matches(number, offset, bytes)
        {
            self.answer.corrupt = true;
        }
    }

    #[inline]
    fn value_end(&mut self) {
        match self.pending.front().map(|pending| pending.request) {
            Some(Request::Get(_)) if W::VALUE_ENDS_GET => self.finish(),
            Some(Request::Get(_) | Request::Multiget(_)) => {}
            _ => self.lost = true,
        }
    }

    #[inline]
    fn ending(&mut self, ending: Ending<'_>) {
        let Some(Pending { request, .. }) = self.pending.front().copied() else {
            self.lost = true;
            return;
        };
        match (ending, request) {
            (Ending::Values, Request::Get(_)) if !W::VALUE_ENDS_GET => {
                if self.answer.values == 0 {
                    self.missed();
                }
                self.finish();
            }
            (Ending::Miss, Request::Get(_)) if W::VALUE_ENDS_GET => {
                self.missed();
                self.finish();
            }
            (Ending::Miss, Request::Multiget(_)) if !W::MULTIGET_NAMES_KEYS => {
                self.answer.absent += 1;
                self.next_asked();
            }
            // An answer without names is of no use unless it is complete.
            (Ending::Values, Request::Multiget(keys))
                if !W::MULTIGET_NAMES_KEYS && self.answer.values + self.answer.absent != keys =>
            {
                self.lost = true;
            }
            (Ending::Values, Request::Multiget(keys)) if !W::FENCE_ENDS_MULTIGET => {
                self.context.tally.misses += u64::from(keys.saturating_sub(self.answer.values));
                self.finish();
            }
            (Ending::Fence, Request::Multiget(keys)) if W::FENCE_ENDS_MULTIGET => {
                self.context.tally.misses += u64::from(keys.saturating_sub(self.answer.values));
                self.finish();
            }
            (Ending::Fence, Request::QuietSets(_)) | (Ending::Stored, Request::Set(_)) => {
                self.finish()
            }
            (Ending::Stored, Request::QuietSets(_)) if !W::SETS_CAN_BE_QUIET => {}
            (Ending::NotStored, Request::Set(_)) => {
                self.context.tally.not_stored += 1;
                self.finish();
            }
            (Ending::NotStored, Request::QuietSets(_)) => self.context.tally.not_stored += 1,
            (Ending::Error(text), _) => {
                self.context.tally.error(|| String::from_utf8_lossy(text).into_owned());
                // Behind a fence the rest of the series is still to come.
                let fenced = match request {
                    Request::QuietSets(_) => true,
                    Request::Multiget(_) => W::FENCE_ENDS_MULTIGET,
                    Request::Get(_) | Request::Set(_) => false,
                };
                if let Request::Multiget(keys) = request
                    && !W::MULTIGET_NAMES_KEYS
                {
                    self.asked.drain(..self.asked.len().min(keys as usize));
                }
                if !fenced {
                    self.finish();
                }
            }
            _ => self.lost = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{KeySpace, Values};
    use crate::plan::{Plan, Span};
    use crate::wire::{Meta, Resp, Text};

    fn book() -> Book {
        let plan = Plan { keys: 100, key_bytes: 6, ..Plan::default() };
        Book {
            keys: KeySpace::new(&plan).expect("fits"),
            values: Values::new(Span::fixed(12)),
            ttl: 0,
        }
    }

    fn answer<W: Wire>(requests: &[Request], bytes: &[u8]) -> (Tally, usize, Result<(), Garbage>) {
        let book = book();
        let mut connection = Connection::<W>::new(8);
        for request in requests {
            connection.pending.push_back(Pending { request: *request, due_ns: 100 });
            if let Request::Multiget(keys) = *request
                && !W::MULTIGET_NAMES_KEYS
            {
                connection.asked.extend(7..7 + u64::from(keys));
            }
        }
        let mut tally = Tally::default();
        let context =
            ReadContext { book: &book, verify: true, fill: true, now_ns: 350, tally: &mut tally };
        let result = connection.read(bytes, context);
        (tally, connection.pending.len(), result)
    }

    fn value(number: u64) -> Vec<u8> {
        let mut value = Vec::new();
        book().values.write(number, &mut value);
        value
    }

    #[test]
    fn hits_and_misses_meet_their_requests() {
        let bytes =
            [b"VALUE key:07 0 12\r\n", &value(7)[..], b"\r\nEND\r\nEND\r\nSTORED\r\n"].concat();
        let (tally, left, result) =
            answer::<Text>(&[Request::Get(7), Request::Get(8), Request::Set(9)], &bytes);
        assert_eq!((left, result), (0, Ok(())));
        assert_eq!((tally.hits, tally.misses, tally.gets, tally.sets), (1, 1, 2, 1));
        assert_eq!((tally.corrupt, tally.errors), (0, 0));
        assert_eq!(tally.get_ns.max(), 250);
    }

    #[test]
    fn multigets_end_with_end_or_a_fence() {
        let bytes = [b"VALUE key:07 0 12\r\n", &value(7)[..], b"\r\nEND\r\n"].concat();
        let (tally, left, _) = answer::<Text>(&[Request::Multiget(3)], &bytes);
        assert_eq!((tally.hits, tally.misses, tally.gets, left), (1, 2, 1, 0));
        let bytes = [b"VA 12 kkey:07\r\n", &value(7)[..], b"\r\nMN\r\n"].concat();
        let (tally, left, _) = answer::<Meta>(&[Request::Multiget(3)], &bytes);
        assert_eq!((tally.hits, tally.misses, tally.gets, left), (1, 2, 1, 0));
    }

    /// An array with the values of these keys, or nothing.
    fn array(numbers: &[Option<u64>]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", numbers.len()).into_bytes();
        for number in numbers {
            match number {
                Some(number) => {
                    bytes.extend_from_slice(&[b"$12\r\n", &value(*number)[..], b"\r\n"].concat())
                }
                None => bytes.extend_from_slice(b"$-1\r\n"),
            }
        }
        bytes
    }

    #[test]
    fn arrays_are_checked_by_the_order_of_their_keys() {
        let multigets = [Request::Multiget(3), Request::Multiget(3)];
        let good = array(&[Some(7), None, Some(9)]);
        let (tally, left, result) = answer::<Resp>(&multigets, &[&good[..], &good[..]].concat());
        assert_eq!((left, result), (0, Ok(())));
        assert_eq!((tally.hits, tally.misses, tally.gets, tally.corrupt), (4, 2, 2, 0));
        // An error stands for all three keys; the next answer is checked as before.
        let (tally, left, _) = answer::<Resp>(&multigets, &[b"-ERR no\r\n", &good[..]].concat());
        assert_eq!((tally.errors, tally.gets, tally.corrupt, left), (1, 2, 0, 0));
        // The same values at other places are wrong.
        let (tally, _, _) = answer::<Resp>(&multigets[..1], &array(&[None, Some(7), Some(9)]));
        assert_eq!((tally.hits, tally.corrupt), (2, 1));
    }

    #[test]
    fn arrays_of_another_length_are_garbage() {
        for numbers in [&[][..], &[None, None], &[None; 4], &[Some(7), Some(8), Some(9), Some(10)]]
        {
            let (_, _, result) = answer::<Resp>(&[Request::Multiget(3)], &array(numbers));
            assert_eq!(result, Err(Garbage), "{numbers:?}");
        }
        assert_eq!(answer::<Resp>(&[Request::Get(7)], b"*1\r\n$-1\r\n").2, Err(Garbage));
    }

    #[test]
    fn resp_answers_every_set_before_a_fence() {
        let bytes = b"+OK\r\n-OOM command not allowed\r\n+OK\r\n+PONG\r\n+OK\r\n$-1\r\n";
        let requests = [Request::QuietSets(3), Request::Set(1), Request::Get(2)];
        let (tally, left, result) = answer::<Resp>(&requests, bytes);
        assert_eq!((left, result), (0, Ok(())));
        assert_eq!((tally.errors, tally.sets, tally.misses), (1, 4, 1));
    }

    #[test]
    fn wrong_values_are_noticed() {
        for (key, data) in
            [("key:07", value(8)), ("key:08", value(8)), ("key:07", value(7)[..11].to_vec())]
        {
            let head = format!("VALUE {key} 0 {}\r\n", data.len());
            let bytes = [head.as_bytes(), &data, b"\r\nEND\r\n"].concat();
            let (tally, _, _) = answer::<Text>(&[Request::Get(7)], &bytes);
            assert_eq!((tally.hits, tally.corrupt), (1, 1), "{key}");
        }
    }

    #[test]
    fn errors_of_quiet_sets_wait_for_the_fence() {
        let bytes = b"SERVER_ERROR out of memory\r\nVERSION 1\r\n";
        let (tally, left, _) = answer::<Text>(&[Request::QuietSets(64)], bytes);
        assert_eq!((tally.errors, tally.sets, left), (1, 64, 0));
        assert_eq!(tally.error_example.as_deref(), Some("SERVER_ERROR out of memory"));
    }

    #[test]
    fn an_answer_to_nothing_is_garbage() {
        assert_eq!(answer::<Text>(&[], b"END\r\n").2, Err(Garbage));
        assert_eq!(answer::<Text>(&[Request::Set(1)], b"END\r\n").2, Err(Garbage));
        assert_eq!(answer::<Meta>(&[Request::Get(1)], b"MN\r\n").2, Err(Garbage));
    }
}
