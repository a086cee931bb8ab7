//! Command messages (RTMP 7.1.1, 7.2) and the data messages beside them.

use bytes::{Buf, Bytes, BytesMut};

use crate::amf0::{self, Reader, Value};
use crate::{Error, Limits};

/// A remote call, an answer to one, or a status.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Command {
    pub name: String,
    /// Zero when no answer is wanted, or none was sent.
    pub transaction: f64,
    /// Null when none was sent.
    pub object: Value,
    pub arguments: Vec<Value>,
}

impl Command {
    /// What is missing at the end is null: some encoders leave it out.
    pub fn read(body: &[u8], limits: &Limits) -> Result<Self, Error> {
        let mut reader = Reader::new(body, limits);
        let Some(Value::String(name)) = reader.read()? else {
            return Err(Error::CommandWithoutName);
        };
        let transaction = reader.read()?.and_then(|value| value.as_number()).unwrap_or_default();
        let object = reader.read()?.unwrap_or(Value::Null);
        let mut arguments = Vec::new();
        while let Some(value) = reader.read()? {
            arguments.push(value);
        }
        Ok(Self { name, transaction, object, arguments })
    }

    /// An argument that is text.
    pub fn text(&self, index: usize) -> Option<&str> {
        self.arguments.get(index)?.as_str()
    }

    /// `code` and `description` of a status or an error.
    pub fn status(&self) -> (&str, &str) {
        let member = |name| self.arguments.first()?.get(name)?.as_str();
        (member("code").unwrap_or_default(), member("description").unwrap_or_default())
    }

    /// Whether a status or an answer says that something went wrong.
    pub fn is_error(&self) -> bool {
        let level = self.arguments.first().and_then(|info| info.get("level"));
        self.name == "_error" || level.and_then(Value::as_str) == Some("error")
    }
}

/// The body of a command.
pub(crate) fn encode(name: &str, transaction: f64, values: &[Value]) -> BytesMut {
    let mut body = BytesMut::new();
    amf0::write(&mut body, &Value::string(name));
    amf0::write(&mut body, &Value::Number(transaction));
    for value in values {
        amf0::write(&mut body, value);
    }
    body
}

/// The object of `onStatus` and of answers to `connect` (RTMP 7.2.2).
pub(crate) fn info(level: &str, code: &str, description: &str) -> Value {
    Value::object([
        ("level", Value::string(level)),
        ("code", Value::string(code)),
        ("description", Value::string(description)),
    ])
}

/// What a data message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    Metadata(Bytes),
    Other(Bytes),
}

/// Reads a data message: the name of what it sets stands in front of it in
/// those that encoders send. `None` when there is nothing in it, it is not
/// whole or it only clears.
pub(crate) fn data(mut body: Bytes, limits: &Limits) -> Option<Data> {
    let mut reader = Reader::new(&body, limits);
    let mut name = reader.read().ok()??;
    if name.as_str() == Some("@setDataFrame") {
        let read = body.len() - reader.rest().len();
        name = reader.read().ok()??;
        while reader.read().ok()?.is_some() {}
        body.advance(read);
    } else {
        while reader.read().ok()?.is_some() {}
    }
    match name.as_str()? {
        "@clearDataFrame" => None,
        "onMetaData" => Some(Data::Metadata(body)),
        _ => Some(Data::Other(body)),
    }
}

/// The body of a data message as a publisher sends it.
pub(crate) fn set_data_frame(body: &[u8]) -> BytesMut {
    let mut message = BytesMut::with_capacity(body.len() + 16);
    amf0::write(&mut message, &Value::string("@setDataFrame"));
    message.extend_from_slice(body);
    message
}
