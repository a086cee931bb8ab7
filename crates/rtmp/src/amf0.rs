//! Action Message Format 0: values of commands and data messages.
//!
//! The reader bounds nesting and the number of values before it goes deeper
//! and never allocates by a count that the input claims. References (2.9) read
//! as undefined, XML as text, a typed object as its members; AMF3 values
//! (2.18) are refused.

use bytes::{BufMut, BytesMut};

use crate::{Error, Limits};

mod marker {
    pub const NUMBER: u8 = 0x00;
    pub const BOOLEAN: u8 = 0x01;
    pub const STRING: u8 = 0x02;
    pub const OBJECT: u8 = 0x03;
    pub const NULL: u8 = 0x05;
    pub const UNDEFINED: u8 = 0x06;
    pub const REFERENCE: u8 = 0x07;
    pub const ECMA_ARRAY: u8 = 0x08;
    pub const OBJECT_END: u8 = 0x09;
    pub const STRICT_ARRAY: u8 = 0x0a;
    pub const DATE: u8 = 0x0b;
    pub const LONG_STRING: u8 = 0x0c;
    pub const UNSUPPORTED: u8 = 0x0d;
    pub const XML: u8 = 0x0f;
    pub const TYPED_OBJECT: u8 = 0x10;
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// 2.2
    Number(f64),
    /// 2.3
    Boolean(bool),
    /// 2.4, 2.14 and 2.17; what is not UTF-8 is replaced.
    String(String),
    /// 2.5 and 2.18, in the order sent; names may repeat.
    Object(Vec<(String, Value)>),
    /// 2.10, likewise.
    EcmaArray(Vec<(String, Value)>),
    /// 2.12
    StrictArray(Vec<Value>),
    /// 2.13: milliseconds since the Unix epoch, UTC.
    Date(f64),
    /// 2.7
    Null,
    /// 2.8, also references and unsupported values.
    Undefined,
}

impl Value {
    /// A text value.
    pub fn string(text: impl Into<String>) -> Self {
        Self::String(text.into())
    }

    /// An object with these members.
    pub fn object<K: Into<String>>(members: impl IntoIterator<Item = (K, Value)>) -> Self {
        Self::Object(members.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }

    /// The first member of that name, of an object or an ECMA array.
    pub fn get(&self, name: &str) -> Option<&Value> {
        match self {
            Self::Object(members) | Self::EcmaArray(members) => {
                members.iter().find(|(member, _)| member == name).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    /// Its text, if it is text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// Its number, if it is a number.
    pub const fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }
}

/// Reads the values of one message.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    nesting: usize,
    values: usize,
}

impl<'a> Reader<'a> {
    /// Reads `bytes` within [`Limits::amf_nesting`] and [`Limits::amf_values`].
    pub const fn new(bytes: &'a [u8], limits: &Limits) -> Self {
        Self { rest: bytes, nesting: limits.amf_nesting, values: limits.amf_values }
    }

    /// What is not read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next value; `None` at the end.
    ///
    /// # Errors
    /// When the bytes are no AMF0 value or one over the limits.
    pub fn read(&mut self) -> Result<Option<Value>, Error> {
        if self.rest.is_empty() { Ok(None) } else { self.value().map(Some) }
    }

    fn value(&mut self) -> Result<Value, Error> {
        self.values = self.values.checked_sub(1).ok_or(Error::AmfValues)?;
        let [marker] = self.take()?;
        Ok(match marker {
            marker::NUMBER => Value::Number(f64::from_be_bytes(self.take()?)),
            marker::BOOLEAN => Value::Boolean(self.take::<1>()? != [0]),
            marker::STRING => Value::String(self.short_text()?),
            marker::LONG_STRING | marker::XML => {
                let length = u32::from_be_bytes(self.take()?);
                Value::String(self.text(length as usize)?)
            }
            marker::OBJECT => Value::Object(self.nested(Self::members)?),
            marker::TYPED_OBJECT => {
                self.short_text()?;
                Value::Object(self.nested(Self::members)?)
            }
            marker::ECMA_ARRAY => {
                // The count is a hint (2.10); the end mark decides.
                self.take::<4>()?;
                Value::EcmaArray(self.nested(Self::members)?)
            }
            marker::STRICT_ARRAY => Value::StrictArray(self.nested(Self::elements)?),
            marker::DATE => {
                let date = f64::from_be_bytes(self.take()?);
                self.take::<2>()?;
                Value::Date(date)
            }
            marker::NULL => Value::Null,
            marker::UNDEFINED | marker::UNSUPPORTED => Value::Undefined,
            marker::REFERENCE => {
                self.take::<2>()?;
                Value::Undefined
            }
            other => return Err(Error::AmfMarker(other)),
        })
    }

    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        self.nesting = self.nesting.checked_sub(1).ok_or(Error::AmfNesting)?;
        let value = read(self)?;
        self.nesting += 1;
        Ok(value)
    }

    fn members(&mut self) -> Result<Vec<(String, Value)>, Error> {
        let mut members = Vec::new();
        loop {
            let name = self.short_text()?;
            if name.is_empty() && self.rest.first() == Some(&marker::OBJECT_END) {
                self.rest = &self.rest[1..];
                return Ok(members);
            }
            members.push((name, self.value()?));
        }
    }

    fn elements(&mut self) -> Result<Vec<Value>, Error> {
        let count = u32::from_be_bytes(self.take()?);
        let mut elements = Vec::new();
        for _ in 0..count {
            elements.push(self.value()?);
        }
        Ok(elements)
    }

    fn short_text(&mut self) -> Result<String, Error> {
        let length = u16::from_be_bytes(self.take()?);
        self.text(usize::from(length))
    }

    fn text(&mut self, length: usize) -> Result<String, Error> {
        let (text, rest) = self.rest.split_at_checked(length).ok_or(Error::AmfTruncated)?;
        self.rest = rest;
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or(Error::AmfTruncated)?;
        self.rest = rest;
        Ok(*bytes)
    }
}

/// Appends a value. Member names are cut at 65,535 bytes.
pub fn write(out: &mut BytesMut, value: &Value) {
    match value {
        Value::Number(number) => {
            out.put_u8(marker::NUMBER);
            out.put_f64(*number);
        }
        Value::Boolean(boolean) => out.put_slice(&[marker::BOOLEAN, u8::from(*boolean)]),
        Value::String(text) => write_text(out, text),
        Value::Object(members) => {
            out.put_u8(marker::OBJECT);
            write_members(out, members);
        }
        Value::EcmaArray(members) => {
            out.put_u8(marker::ECMA_ARRAY);
            out.put_u32(members.len() as u32);
            write_members(out, members);
        }
        Value::StrictArray(elements) => {
            out.put_u8(marker::STRICT_ARRAY);
            out.put_u32(elements.len() as u32);
            for element in elements {
                write(out, element);
            }
        }
        Value::Date(date) => {
            out.put_u8(marker::DATE);
            out.put_f64(*date);
            out.put_u16(0);
        }
        Value::Null => out.put_u8(marker::NULL),
        Value::Undefined => out.put_u8(marker::UNDEFINED),
    }
}

fn write_text(out: &mut BytesMut, text: &str) {
    match u16::try_from(text.len()) {
        Ok(length) => {
            out.put_u8(marker::STRING);
            out.put_u16(length);
        }
        Err(_) => {
            out.put_u8(marker::LONG_STRING);
            out.put_u32(text.len() as u32);
        }
    }
    out.put_slice(text.as_bytes());
}

fn write_members(out: &mut BytesMut, members: &[(String, Value)]) {
    for (name, value) in members {
        let name = &name.as_bytes()[..name.len().min(usize::from(u16::MAX))];
        out.put_u16(name.len() as u16);
        out.put_slice(name);
        write(out, value);
    }
    out.put_slice(&[0, 0, marker::OBJECT_END]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_all(bytes: &[u8]) -> Result<Vec<Value>, Error> {
        let limits = Limits::default();
        let mut reader = Reader::new(bytes, &limits);
        let mut values = Vec::new();
        while let Some(value) = reader.read()? {
            values.push(value);
        }
        Ok(values)
    }

    /// `levels` arrays within one another, the innermost empty.
    fn nested(levels: usize) -> Vec<u8> {
        let mut bytes = [marker::STRICT_ARRAY, 0, 0, 0, 1].repeat(levels);
        if let Some(count) = bytes.last_mut() {
            *count = 0;
        }
        bytes
    }

    #[test]
    fn nesting_at_the_limit_and_beyond() {
        assert!(read_all(&nested(16)).is_ok());
        assert_eq!(read_all(&nested(17)), Err(Error::AmfNesting));
        assert_eq!(read_all(&nested(13_000)), Err(Error::AmfNesting));
        let objects = b"\x03\x00\x01a".repeat(5000);
        assert_eq!(read_all(&objects), Err(Error::AmfNesting));
    }

    #[test]
    fn nesting_counts_depth_and_not_siblings() {
        assert_eq!(read_all(&nested(16).repeat(4)).map(|values| values.len()), Ok(4));
    }

    #[test]
    fn values_at_the_limit_and_beyond() {
        assert!(read_all(&[marker::NULL; 1024]).is_ok());
        assert_eq!(read_all(&[marker::NULL; 1025]), Err(Error::AmfValues));
        let mut array = vec![marker::STRICT_ARRAY, 0, 0, 4, 0];
        array.extend([marker::NULL; 1024]);
        assert_eq!(read_all(&array), Err(Error::AmfValues));
    }

    #[test]
    fn a_claimed_count_allocates_nothing() {
        assert_eq!(
            read_all(&[marker::STRICT_ARRAY, 0xff, 0xff, 0xff, 0xff]),
            Err(Error::AmfTruncated)
        );
        assert_eq!(
            read_all(&[marker::LONG_STRING, 0xff, 0xff, 0xff, 0xff, b'a']),
            Err(Error::AmfTruncated)
        );
    }

    #[test]
    fn rare_values_are_read() {
        let bytes = b"\x07\x00\x01\x0d\x0f\x00\x00\x00\x01x\x10\x00\x01T\x00\x01k\x05\x00\x00\x09\x02\x00\x01\xff";
        assert_eq!(
            read_all(bytes),
            Ok(vec![
                Value::Undefined,
                Value::Undefined,
                Value::string("x"),
                Value::object([("k", Value::Null)]),
                Value::string("\u{fffd}"),
            ])
        );
    }

    #[test]
    fn an_empty_name_is_a_name_unless_the_end_follows() {
        assert_eq!(
            read_all(b"\x03\x00\x00\x05\x00\x00\x09"),
            Ok(vec![Value::object([("", Value::Null)])])
        );
    }

    #[test]
    fn amf3_and_unknown_markers_are_refused() {
        for marker in [0x04, 0x0e, 0x11, 0x12, 0xff] {
            assert_eq!(read_all(&[marker]), Err(Error::AmfMarker(marker)));
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i32>().prop_map(|number| Value::Number(f64::from(number))),
            any::<bool>().prop_map(Value::Boolean),
            "[a-z]{0,9}|\\PC{0,5}".prop_map(Value::String),
            Just(Value::string("a".repeat(65_536))),
            any::<u32>().prop_map(|date| Value::Date(f64::from(date))),
            Just(Value::Null),
            Just(Value::Undefined),
        ];
        leaf.prop_recursive(5, 40, 5, |inner| {
            let members = proptest::collection::vec(("[a-z]{0,4}", inner.clone()), 0..5);
            prop_oneof![
                members.clone().prop_map(Value::Object),
                members.prop_map(Value::EcmaArray),
                proptest::collection::vec(inner, 0..5).prop_map(Value::StrictArray),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value in value()) {
            let mut bytes = BytesMut::new();
            write(&mut bytes, &value);
            prop_assert_eq!(read_all(&bytes), Ok(vec![value]));
        }

        #[test]
        fn a_value_cut_anywhere_is_an_error(value in value(), cut in any::<proptest::sample::Index>()) {
            let mut bytes = BytesMut::new();
            write(&mut bytes, &value);
            let cut = cut.index(bytes.len());
            prop_assert_eq!(read_all(&bytes[..cut]).is_err(), cut > 0);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_all(&bytes);
        }
    }
}
