//! `ctl users`, `keys`, `webhooks`, `events`: what is kept, and what happens.

use anyhow::{Context as _, bail};
use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};
use spyglass_client::Error;
use spyglass_client::api::Api;
use spyglass_media::UserId;

use super::screen::Screen;
use super::table::{Cell, View, entries, of_entries, rows};
use super::words::{cell, plain};
use super::{done, known};

/// Pages that are asked for at most.
const PAGES: usize = 100;

/// `ctl users`
#[derive(Subcommand, Debug)]
pub enum Users {
    /// Everybody who is registered
    List,
    /// Register users and print their tokens, which nobody can print again
    Add {
        /// Their names
        #[arg(required = true)]
        name: Vec<String>,
    },
    /// One user
    Show {
        /// The user
        id: UserId,
    },
    /// Remove a user; broadcasts go on until they are ended
    Remove {
        /// The user
        id: UserId,
    },
    /// Give a user a new token; the old one is refused from then on
    Token {
        /// The user
        id: UserId,
    },
    /// Make a user follow another
    Follow {
        /// Who follows
        id: UserId,
        /// Who is followed
        other: UserId,
    },
    /// Make a user follow another no longer
    Unfollow {
        /// Who follows
        id: UserId,
        /// Who is followed
        other: UserId,
    },
    /// Who follows a user
    Followers {
        /// The user
        id: UserId,
    },
    /// Whom a user follows
    Following {
        /// The user
        id: UserId,
    },
}

impl Users {
    /// Asks control.
    pub async fn ask(&self, api: &Api) -> anyhow::Result<Value> {
        Ok(match self {
            Self::List => known(pages(api, "/v1/users", "users").await, "list users")?,
            Self::Add { name } => {
                let mut users = Vec::new();
                for name in name {
                    users.push(serde_json::to_value(api.create_user(name).await?)?);
                }
                json!({ "users": users })
            }
            Self::Show { id } => api.get(&format!("/v1/users/{id}")).await?,
            Self::Remove { id } => {
                done(api, Method::DELETE, &format!("/v1/users/{id}")).await?;
                json!({ "removed": id })
            }
            Self::Token { id } => {
                api.call(Method::POST, &format!("/v1/users/{id}/token"), None).await?
            }
            Self::Follow { id, other } => {
                api.follow(*id, *other).await?;
                json!({ "user": id, "follows": other })
            }
            Self::Unfollow { id, other } => {
                api.unfollow(*id, *other).await?;
                json!({ "user": id, "unfollows": other })
            }
            Self::Followers { id } => {
                pages(api, &format!("/v1/users/{id}/followers"), "users").await?
            }
            Self::Following { id } => {
                pages(api, &format!("/v1/users/{id}/following"), "users").await?
            }
        })
    }

    /// The answer for people.
    pub fn shown(&self, view: View, answer: &Value) -> String {
        const USER: [&str; 2] = ["id", "name"];
        match self {
            Self::List => list(view, answer, "users", &USER, "nobody is registered"),
            Self::Add { .. } => list(view, answer, "users", &USER, ""),
            Self::Show { .. } | Self::Token { .. } => {
                of_entries(view, std::slice::from_ref(answer), &USER)
            }
            Self::Remove { id } => format!("user {id} is removed"),
            Self::Follow { id, other } => format!("user {id} follows {other}"),
            Self::Unfollow { id, other } => format!("user {id} does not follow {other}"),
            Self::Followers { .. } => list(view, answer, "users", &USER, "nobody follows"),
            Self::Following { .. } => list(view, answer, "users", &USER, "follows nobody"),
        }
    }
}

/// `ctl keys`
#[derive(Subcommand, Debug)]
pub enum Keys {
    /// Keys that verify tokens, and which one signs
    List,
    /// Make a new key that signs from now on; tokens of the old one stay good
    Rotate,
    /// Refuse every token that this key signed
    Revoke {
        /// The key, as `list` shows it
        id: String,
    },
}

impl Keys {
    /// Asks control.
    pub async fn ask(&self, api: &Api) -> anyhow::Result<Value> {
        match self {
            Self::List => known(api.get("/v1/keys").await, "list keys"),
            Self::Rotate => {
                known(api.call(Method::POST, "/v1/keys/rotate", None).await, "rotate keys")
            }
            Self::Revoke { id } => {
                let id = segment(id).context("that is no key's id: `ctl keys list` shows them")?;
                Ok(api.call(Method::DELETE, &format!("/v1/keys/{id}"), None).await?)
            }
        }
    }

    /// The answer for people.
    pub fn shown(&self, view: View, answer: &Value) -> String {
        match self {
            Self::List => list(view, answer, "keys", &["id", "state"], "there is no key"),
            Self::Rotate => format!("key {} is made", cell(&answer["id"])),
            Self::Revoke { id } => {
                let signs = answer["signing"].as_str().map(plain);
                let signs = signs.map_or_else(String::new, |key| format!("; {key} signs now"));
                format!("key {} is refused from now on{signs}", plain(id))
            }
        }
    }
}

/// `ctl webhooks`
#[derive(Subcommand, Debug)]
pub enum Webhooks {
    /// Who is told
    List,
    /// Tell this address; prints the secret that signs, which nobody can print again
    Add {
        /// Where to send events, http:// or https://
        url: String,
        /// Only events of this kind; may be given more than once
        #[arg(long, value_name = "KIND")]
        event: Vec<String>,
    },
    /// Tell it no longer
    Remove {
        /// The webhook, as `list` shows it
        id: String,
    },
}

impl Webhooks {
    /// Asks control.
    pub async fn ask(&self, api: &Api) -> anyhow::Result<Value> {
        match self {
            Self::List => known(api.get("/v1/webhooks").await, "have webhooks"),
            Self::Add { url, event } => {
                let mut body = json!({ "url": url });
                if !event.is_empty() {
                    body["events"] = json!(event);
                }
                known(api.call(Method::POST, "/v1/webhooks", Some(&body)).await, "have webhooks")
            }
            Self::Remove { id } => {
                let id = segment(id)
                    .context("that is no webhook's id: `ctl webhooks list` shows them")?;
                done(api, Method::DELETE, &format!("/v1/webhooks/{id}")).await?;
                Ok(json!({ "removed": id }))
            }
        }
    }

    /// The answer for people.
    pub fn shown(&self, view: View, answer: &Value) -> String {
        match self {
            Self::List => list(view, answer, "webhooks", &["id", "url"], "nobody is told"),
            Self::Add { .. } => of_entries(view, std::slice::from_ref(answer), &["id", "url"]),
            Self::Remove { id } => format!("webhook {} is removed", plain(id)),
        }
    }
}

/// A list whose entries may have more than is known here.
pub fn list(view: View, answer: &Value, key: &str, first: &[&str], none: &str) -> String {
    match entries(answer, key) {
        [] => none.to_owned(),
        entries => of_entries(view, entries, first),
    }
}

/// All pages of a list as one.
pub async fn pages(api: &Api, path: &str, key: &str) -> Result<Value, Error> {
    pages_after(api, path, key, None).await
}

/// As [`pages`], from behind `after` on; that must be fit for a query.
async fn pages_after(
    api: &Api,
    path: &str,
    key: &str,
    after: Option<&str>,
) -> Result<Value, Error> {
    let mut all = Vec::new();
    let after = after.map_or_else(String::new, |after| format!("&after={after}"));
    let mut page = api.get(&format!("{path}?limit=1000{after}")).await?;
    for _ in 0..PAGES {
        all.extend_from_slice(entries(&page, key));
        let next = match &page["next"] {
            Value::String(next) if segment(next).is_some() => next.clone(),
            Value::Number(next) => next.to_string(),
            _ => break,
        };
        page = api.get(&format!("{path}?limit=1000&after={next}")).await?;
    }
    Ok(json!({ key: all }))
}

/// Something that can stand in a path as it is.
fn segment(text: &str) -> Option<&str> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (!text.is_empty() && !text.starts_with('.') && text.bytes().all(fits)).then_some(text)
}

/// Writes events as they come, for ever: all, or those of these `types`.
pub async fn events(
    api: &Api,
    screen: Screen,
    after: Option<String>,
    types: &[String],
) -> anyhow::Result<()> {
    if let Some(name) = types.iter().find(|name| segment(name).is_none()) {
        bail!("--type {}: that is no event's name", plain(name));
    }
    let path = match types {
        [] => "/v1/events".to_owned(),
        types => format!("/v1/events?types={}", types.join(",")),
    };
    let mut events = api.events(&path, after);
    loop {
        let event = match events.next().await {
            Err(error) if matches!(error.status(), Some(404 | 405)) => {
                return known(Err(error), "tell events").map(drop);
            }
            event => event?,
        };
        let data: Value = serde_json::from_str(&event.data).unwrap_or(Value::String(event.data));
        let whole = json!({ "id": event.id, "event": event.event, "data": data });
        screen.entry(&whole, |_| line(&whole));
    }
}

/// What `--after` of events takes: 0, or an id as events have it.
pub fn event_id(text: &str) -> Result<String, String> {
    let known = text.rsplit_once('-').is_some_and(|(log, number)| {
        segment(log).is_some() && !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit())
    });
    if known || text == "0" {
        return Ok(text.to_owned());
    }
    Err("give an id as `ctl events` shows it, or 0 for all that are kept".to_owned())
}

/// One event on one line, as of a log: the time, the name, the rest, the id.
fn line(event: &Value) -> String {
    let data = &event["data"];
    let mut parts = vec![cell(&data["at"]), format!("{:<24}", cell(&event["event"]))];
    match data.as_object() {
        Some(members) => {
            let told = members
                .iter()
                .filter(|(name, value)| *name != "at" && *name != "type" && !value.is_null());
            parts.extend(told.map(|(name, value)| format!("{}={}", plain(name), quoted(value))));
        }
        None => parts.push(cell(data)),
    }
    if event["id"].as_str().is_some_and(|id| !id.is_empty()) {
        parts.push(format!("id={}", cell(&event["id"])));
    }
    parts.join(" ").trim_end().to_owned()
}

/// Text with anything but a word in it between quotes.
fn quoted(value: &Value) -> String {
    match value.as_str().map(plain) {
        Some(text) if segment(&text).is_none() => format!("{text:?}"),
        _ => cell(value),
    }
}

/// `ctl audit`
#[derive(clap::Args, Debug, Clone)]
pub struct Audit {
    /// Only entries behind this sequence
    #[arg(long, value_name = "SEQUENCE")]
    after: Option<u64>,
    /// The newest so many
    #[arg(long, value_name = "N", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Only this action, e.g. kickViewer
    #[arg(long, value_name = "NAME")]
    action: Option<String>,
    /// Only what this one did: operator, or a user's id
    #[arg(long, value_name = "WHO")]
    actor: Option<String>,
}

impl Audit {
    /// Asks control: in order, the newest last.
    pub async fn ask(&self, api: &Api) -> anyhow::Result<Value> {
        let after = self.after.unwrap_or(0).to_string();
        let all = pages_after(api, "/v1/audit", "entries", Some(&after)).await;
        Ok(self.picked(&known(all, "keep an audit")?))
    }

    fn picked(&self, answer: &Value) -> Value {
        let fits = |entry: &&Value| {
            let is = |name: &str, wanted: &Option<String>| {
                wanted.as_ref().is_none_or(|wanted| entry[name] == **wanted)
            };
            is("action", &self.action) && is("actor", &self.actor)
        };
        let all: Vec<&Value> = entries(answer, "entries").iter().filter(fits).collect();
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        json!({ "entries": all[all.len().saturating_sub(limit)..] })
    }
}

/// The audit's entries, each with its time as it is written.
pub fn audit(view: View, answer: &Value) -> String {
    let all = entries(answer, "entries");
    if all.is_empty() {
        return "nothing was done that fits".to_owned();
    }
    let names = ["sequence", "at", "actor", "action", "object", "outcome", "address", "control"];
    let headings = names.map(str::to_uppercase);
    let table: Vec<Vec<Cell>> =
        all.iter().map(|entry| names.map(|name| Cell::of(&entry[name])).into()).collect();
    rows(view, &headings.each_ref().map(String::as_str), &table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let event = json!({"id": "1", "event": "broadcast.live",
            "data": {"at": "1970-01-01T00:00:00Z", "title": "a\u{1b}[2J\n b"}});
        assert_eq!(
            line(&event),
            "1970-01-01T00:00:00Z broadcast.live           title=\"a[2J b\" id=1"
        );
        assert!(event_id("0").is_ok() && event_id("log-1-17").is_ok());
        for wrong in ["", "nonsense", "a-", "-1", "a-b"] {
            assert!(event_id(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_newest_of_the_audit_that_fit_are_picked() {
        let entry = |sequence: u64, actor: &str| json!({"sequence": sequence, "actor": actor});
        let answer = json!({"entries": [entry(1, "ann"), entry(2, "operator"), entry(3, "ann"),
            entry(4, "ann")]});
        let wanted = Audit { after: None, limit: 2, action: None, actor: Some("ann".to_owned()) };
        let picked = wanted.picked(&answer);
        assert_eq!(picked, json!({"entries": [entry(3, "ann"), entry(4, "ann")]}));
        let text = audit(View { colours: false, now_ms: 0 }, &picked);
        assert!(text.starts_with("SEQUENCE  ACTOR"), "{text}");
    }

    #[test]
    fn what_stands_in_a_path_is_checked() {
        assert_eq!(segment("abc-1_x.y"), Some("abc-1_x.y"));
        for wrong in ["", "..", "a/b", "a?b", "a%2f", "é"] {
            assert_eq!(segment(wrong), None, "{wrong}");
        }
    }
}
