//! A small blocking client of the memcached port: one command, one answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use base64::Engine;

use crate::error::CtlError;

/// Longest answer line: a metadump line with a key of 250 escaped bytes, and
/// `config get cluster` of a large cluster.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// A connection to the server.
pub struct Client {
    address: String,
    input: BufReader<Box<dyn Stream>>,
}

trait Stream: Read + Write {}
impl Stream for TcpStream {}
impl Stream for UnixStream {}

impl Client {
    /// Connects to `HOST:PORT` or `unix:PATH`.
    pub fn connect(address: &str, timeout: Duration) -> Result<Client, CtlError> {
        let failed = |error| CtlError::Server { address: address.into(), error };
        let stream: Box<dyn Stream> = match address.strip_prefix("unix:") {
            Some(path) => {
                let stream = UnixStream::connect(path).map_err(failed)?;
                stream.set_read_timeout(Some(timeout)).map_err(failed)?;
                stream.set_write_timeout(Some(timeout)).map_err(failed)?;
                Box::new(stream)
            }
            None => {
                let stream = connect_tcp(address, timeout).map_err(failed)?;
                stream.set_nodelay(true).map_err(failed)?;
                stream.set_read_timeout(Some(timeout)).map_err(failed)?;
                stream.set_write_timeout(Some(timeout)).map_err(failed)?;
                Box::new(stream)
            }
        };
        Ok(Client { address: address.into(), input: BufReader::with_capacity(64 * 1024, stream) })
    }

    fn failed(&self, error: io::Error) -> CtlError {
        CtlError::Server { address: self.address.clone(), error }
    }

    /// Sends raw bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), CtlError> {
        self.input.get_mut().write_all(bytes).map_err(|error| self.failed(error))
    }

    /// Reads one line, without its end, into `line`.
    pub fn read_line(&mut self, line: &mut Vec<u8>) -> Result<(), CtlError> {
        line.clear();
        let count = Read::take(&mut self.input, LINE_BYTES_MAX).read_until(b'\n', line);
        match count {
            Ok(_) if line.last() == Some(&b'\n') => {
                line.pop();
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                Ok(())
            }
            Ok(_) => Err(self.failed(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Reads exactly so many bytes.
    pub fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), CtlError> {
        self.input.read_exact(bytes).map_err(|error| self.failed(error))
    }

    /// Sends a command and reads its first line; error lines become errors.
    pub fn command(&mut self, command: &str) -> Result<String, CtlError> {
        self.send(format!("{command}\r\n").as_bytes())?;
        self.answer(command)
    }

    /// Reads the answer's first line; error lines become errors.
    pub fn answer(&mut self, command: &str) -> Result<String, CtlError> {
        let mut line = Vec::new();
        self.read_line(&mut line)?;
        let answer = String::from_utf8_lossy(&line).into_owned();
        check(command, &answer)?;
        Ok(answer)
    }

    /// Asks for statistics: names and values, in the server's order.
    pub fn stats(&mut self, group: &str) -> Result<Vec<(String, String)>, CtlError> {
        let command = if group.is_empty() { "stats".into() } else { format!("stats {group}") };
        self.send(format!("{command}\r\n").as_bytes())?;
        let mut stats = Vec::new();
        let mut line = Vec::new();
        loop {
            self.read_line(&mut line)?;
            let text = String::from_utf8_lossy(&line);
            if text == "END" || text == "RESET" {
                return Ok(stats);
            }
            check(&command, &text)?;
            let Some((name, value)) =
                text.strip_prefix("STAT ").map(|rest| rest.split_once(' ').unwrap_or((rest, "")))
            else {
                return Err(CtlError::Unexpected { request: command, found: text.into_owned() });
            };
            stats.push((name.to_owned(), value.to_owned()));
        }
    }

    /// Deletes a key; true if it was there.
    pub fn delete(&mut self, key: &str) -> Result<bool, CtlError> {
        let plain = key.bytes().all(|byte| byte > b' ' && byte != 0x7f);
        let command = if plain {
            format!("delete {key}")
        } else {
            // Spaces and control characters travel in base64.
            format!("md {} b", base64::engine::general_purpose::STANDARD.encode(key))
        };
        let answer = self.command(&command)?;
        match answer.split(' ').next() {
            Some("DELETED" | "HD") => Ok(true),
            Some("NOT_FOUND" | "NF") => Ok(false),
            _ => Err(CtlError::Unexpected { request: command, found: answer }),
        }
    }
}

fn connect_tcp(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "this is no HOST:PORT");
    if !address.contains(':') {
        return Err(last);
    }
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Error lines become errors.
pub fn check(command: &str, answer: &str) -> Result<(), CtlError> {
    let is_error = answer == "ERROR"
        || answer.starts_with("ERROR ")
        || answer.starts_with("CLIENT_ERROR")
        || answer.starts_with("SERVER_ERROR");
    if is_error {
        return Err(CtlError::Answer { command: command.into(), answer: answer.into() });
    }
    Ok(())
}
