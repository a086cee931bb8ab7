//! Reads JSON bodies, field by field, so that a refusal names the field.
//!
//! A field that is not known is refused: a misspelt `private_to` must not make
//! a broadcast public.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use http::StatusCode;
use serde_json::{Map, Value};
use spyglass_media::{Location, UserId};

use super::MAX_BODY;
use super::problem::Problem;

/// Time for a body to arrive.
const BODY: Duration = Duration::from_secs(5);

/// Users that one broadcast may name.
const MAX_NAMED: usize = 1_000;

/// What stands in a body; none at all is an empty object.
#[derive(Debug, Default)]
pub struct Fields(Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = tokio::time::timeout(BODY, Bytes::from_request(request, state)).await;
        let slow = |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the body took longer than 5 s");
        let body = body.map_err(slow)?.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                let detail = format!("a body has {MAX_BODY} bytes at most");
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
            }
            _ => Problem::bad("the body did not arrive whole"),
        })?;
        Self::parse(&body)
    }
}

impl Fields {
    /// From the bytes of a body.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        if body.is_empty() {
            return Ok(Self::default());
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(Problem::bad("the body must be a JSON object: {\"name\": value, …}")),
            Err(error) => Err(Problem::bad(format!("the body is not JSON: {error}"))),
        }
    }

    /// `null` counts as absent.
    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// One line of text of 1 to `longest` characters.
    pub fn text(&mut self, name: &str, longest: usize) -> Result<String, Problem> {
        let taken = self.take(name);
        // A misspelt name is likely among those that are there.
        let others = match &taken {
            None => self.0.keys().take(8).map(|other| format!("`{}`", named(other))).collect(),
            Some(_) => Vec::new(),
        };
        let advice = || {
            let rule = format!("field `{name}`: give one line of text, 1 to {longest} characters");
            Problem::bad(match &others[..] {
                [] => rule,
                others => format!("{rule}; it is missing, there is {}", others.join(", ")),
            })
        };
        match taken {
            Some(Value::String(text)) => {
                let fits = !text.trim().is_empty()
                    && text.chars().count() <= longest
                    && !text.chars().any(char::is_control);
                if fits { Ok(text) } else { Err(advice()) }
            }
            _ => Err(advice()),
        }
    }

    /// A number.
    pub fn number(&mut self, name: &str, advice: &str) -> Result<Option<f64>, Problem> {
        let refused = || Problem::bad(format!("field `{name}`: {advice}"));
        self.take(name).map(|value| value.as_f64().ok_or_else(refused)).transpose()
    }

    /// A whole number from 0 to `most`.
    pub fn count(&mut self, name: &str, most: u32) -> Result<Option<u32>, Problem> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let count = value.as_u64().and_then(|count| u32::try_from(count).ok());
        let advice = || Problem::bad(format!("field `{name}`: give a whole number up to {most}"));
        count.filter(|count| *count <= most).map(Some).ok_or_else(advice)
    }

    /// `true` or `false`.
    pub fn flag(&mut self, name: &str) -> Result<Option<bool>, Problem> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let advice = || Problem::bad(format!("field `{name}`: give true or false"));
        value.as_bool().map(Some).ok_or_else(advice)
    }

    /// One of `words`.
    pub fn word(&mut self, name: &str, words: &[&str]) -> Result<Option<String>, Problem> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let word = value.as_str().filter(|word| words.contains(word));
        let advice = || Problem::bad(format!("field `{name}`: give one of {}", words.join(", ")));
        word.map(|word| Some(word.to_owned())).ok_or_else(advice)
    }

    /// `location: {lat, lon}`.
    pub fn location(&mut self) -> Result<Option<Location>, Problem> {
        let Some(value) = self.take("location") else { return Ok(None) };
        let coordinate = |name: &str| value.get(name).and_then(Value::as_f64);
        let parsed = coordinate("lat").zip(coordinate("lon"));
        let parsed = parsed.and_then(|(lat, lon)| Location::new(lat, lon).ok());
        let known = value.as_object().is_some_and(|fields| fields.len() == 2);
        match parsed.filter(|_| known) {
            Some(location) => Ok(Some(location)),
            None => Err(Problem::bad(
                "field `location`: give {\"lat\": -90 to 90, \"lon\": -180 to 180} in degrees",
            )),
        }
    }

    /// A list of users.
    pub fn users(&mut self, name: &str) -> Result<Option<Vec<UserId>>, Problem> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let id = |value: &Value| value.as_str()?.parse::<UserId>().ok();
        let list = value.as_array().filter(|list| list.len() <= MAX_NAMED);
        let ids = list.and_then(|list| list.iter().map(id).collect::<Option<Vec<_>>>());
        let advice = format!("field `{name}`: give a list of at most {MAX_NAMED} user ids");
        ids.map(Some).ok_or_else(|| Problem::bad(advice))
    }

    /// A list of anything.
    pub fn list(&mut self, name: &str, most: usize) -> Result<Vec<Value>, Problem> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) if list.len() <= most => Ok(list),
            Some(_) => {
                Err(Problem::bad(format!("field `{name}`: give a list of at most {most} objects")))
            }
        }
    }

    /// A list of words.
    pub fn words(&mut self, name: &str, most: usize) -> Result<Vec<String>, Problem> {
        let Some(value) = self.take(name) else { return Ok(Vec::new()) };
        let list = value.as_array().filter(|list| list.len() <= most);
        let words = list.and_then(|list| {
            list.iter().map(|word| word.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        let advice = format!("field `{name}`: give a list of at most {most} words");
        words.ok_or_else(|| Problem::bad(advice))
    }

    /// Refuses what no one asked for; `known` is what the body may have.
    pub fn finish(self, known: &str) -> Result<(), Problem> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => {
                let name = named(name);
                Err(Problem::bad(format!("field `{name}` is not known; the fields are {known}")))
            }
        }
    }
}

/// A name from outside, fit to be repeated.
fn named(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(40).collect()
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;

    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn values_are_read_and_null_is_absent() {
        let mut body = fields(
            r#"{"title":"Naïve","location":{"lat":1,"lon":-2.5},"private_to":["0123456789abc"],
                "chunk_seconds":2,"gone":null}"#,
        );
        assert_eq!(body.text("title", 5).unwrap(), "Naïve");
        assert_eq!(body.location().unwrap(), Location::new(1.0, -2.5).ok());
        assert_eq!(body.users("private_to").unwrap().unwrap().len(), 1);
        assert_eq!(body.number("chunk_seconds", "").unwrap(), Some(2.0));
        assert_eq!(body.number("gone", "").unwrap(), None);
        assert!(body.finish("none").is_ok());
        assert!(Fields::parse(b"").unwrap().finish("none").is_ok());
    }

    #[test]
    fn refusals_name_the_field() {
        let named = |result: Result<(), Problem>, name: &str| {
            let problem = format!("{:?}", result.unwrap_err());
            assert!(problem.contains(name), "{problem}");
        };
        for text in [
            r#"{}"#,
            r#"{"title":1}"#,
            r#"{"title":""}"#,
            r#"{"title":"a\nb"}"#,
            r#"{"title":"123456"}"#,
        ] {
            named(fields(text).text("title", 5).map(drop), "title");
        }
        named(fields(r#"{"titel":"x"}"#).text("title", 5).map(drop), "`titel`");
        for text in [
            r#"{"location":"here"}"#,
            r#"{"location":{"lat":91,"lon":0}}"#,
            r#"{"location":{"lat":1}}"#,
            r#"{"location":{"lat":1,"lon":2,"alt":3}}"#,
        ] {
            named(fields(text).location().map(drop), "location");
        }
        for text in [r#"{"private_to":"all"}"#, r#"{"private_to":["x"]}"#, r#"{"private_to":[1]}"#]
        {
            named(fields(text).users("private_to").map(drop), "private_to");
        }
        named(fields(r#"{"privat_to":[]}"#).finish("`private_to`"), "privat_to");
        for text in ["[]", "1", "{", "\"", "{\"a\":1}x", &"[".repeat(60_000)] {
            let refused = Fields::parse(text.as_bytes()).unwrap_err();
            assert_eq!(refused.into_response().status(), StatusCode::BAD_REQUEST);
        }
    }
}
