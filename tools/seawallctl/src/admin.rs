//! The admin HTTP port: requests that answer with JSON.

use std::time::Duration;

use serde_json::Value;
use ureq::Agent;

use crate::error::{CtlError, plain};

/// Longest answer that is read.
const BODY_BYTES_MAX: u64 = 64 << 20;

/// A client of one node.
pub struct Admin {
    address: String,
    agent: Agent,
}

/// A status and what came with it.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body as text.
    pub body: String,
}

impl Admin {
    /// Connects lazily.
    pub fn new(address: &str, timeout: Duration) -> Admin {
        let agent = Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .proxy(None)
            .build()
            .into();
        Admin { address: address.into(), agent }
    }

    fn request(&self, method: &str, path: &str) -> Result<Answer, CtlError> {
        let url = format!("http://{}{path}", self.address);
        let failed = |error: ureq::Error| CtlError::Admin {
            address: self.address.clone(),
            error: match error {
                ureq::Error::Io(error) => plain(&error),
                ureq::Error::Timeout(_) => "no answer in time".into(),
                other => other.to_string(),
            },
        };
        let response = match method {
            "POST" => self.agent.post(&url).send_empty(),
            _ => self.agent.get(&url).call(),
        };
        let mut response = response.map_err(failed)?;
        let body = response
            .body_mut()
            .with_config()
            .limit(BODY_BYTES_MAX)
            .read_to_string()
            .map_err(failed)?;
        Ok(Answer { status: response.status().as_u16(), body })
    }

    /// The answer to a `GET`, whatever its status.
    pub fn get(&self, path: &str) -> Result<Answer, CtlError> {
        self.request("GET", path)
    }

    /// The JSON of a `GET`.
    pub fn get_json(&self, path: &str) -> Result<Value, CtlError> {
        json(&format!("GET {path}"), self.request("GET", path)?)
    }

    /// The JSON of a `POST`.
    pub fn post_json(&self, path: &str) -> Result<Value, CtlError> {
        json(&format!("POST {path}"), self.request("POST", path)?)
    }
}

fn json(request: &str, answer: Answer) -> Result<Value, CtlError> {
    if !(200..300).contains(&answer.status) {
        return Err(CtlError::Refused {
            request: request.into(),
            status: answer.status,
            text: answer.body.lines().next().unwrap_or("").into(),
        });
    }
    serde_json::from_str(&answer.body).map_err(|error| CtlError::Unexpected {
        request: request.into(),
        found: format!("it is not JSON ({error})"),
    })
}

/// The list in an answer: the answer itself, or its field `name`.
pub fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    let list = value.as_array().or_else(|| value.get(name)?.as_array());
    list.map_or(&[], Vec::as_slice)
}

/// A field as a whole number; 0 where it is missing.
pub fn count(value: &Value, name: &str) -> u64 {
    let field = value.get(name);
    field.and_then(|field| field.as_u64().or_else(|| Some(field.as_f64()? as u64))).unwrap_or(0)
}

/// A field as text; numbers and words alike, nothing where it is missing.
pub fn text(value: &Value, name: &str) -> String {
    match value.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}
