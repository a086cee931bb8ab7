//! `ctl users`, `keys`, `webhooks`, `events`: what is kept, and what happens.

use anyhow::Context as _;
use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};
use spyglass_client::Error;
use spyglass_client::api::Api;
use spyglass_media::UserId;

use super::screen::Screen;
use super::table::{View, entries, of_entries};
use super::words::{ago, cell, plain};
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
            Self::Revoke { id } => format!("key {} is refused from now on", plain(id)),
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
    let mut all = Vec::new();
    let mut page = api.get(&format!("{path}?limit=1000")).await?;
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

/// Writes events as they come, for ever.
pub async fn events(api: &Api, screen: Screen, after: Option<String>) -> anyhow::Result<()> {
    let mut events = api.events("/v1/events", after);
    loop {
        let event = match events.next().await {
            Err(error) if matches!(error.status(), Some(404 | 405)) => {
                return known(Err(error), "tell events").map(drop);
            }
            event => event?,
        };
        let data: Value = serde_json::from_str(&event.data).unwrap_or(Value::String(event.data));
        let whole = json!({ "id": event.id, "event": event.event, "data": data });
        screen.entry(&whole, |view| line(view, &whole));
    }
}

/// One event on one line.
fn line(view: View, event: &Value) -> String {
    let data = &event["data"];
    let at = if data["at"].is_string() { ago(&data["at"], view.now_ms) } else { String::new() };
    let mut rest = data.clone();
    if let Some(members) = rest.as_object_mut() {
        members.retain(|name, _| name != "at" && name != "type");
    }
    format!("{:<24} {}  {at}", cell(&event["event"]), cell(&rest)).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let view = View { colours: true, now_ms: 5_000 };
        let event = json!({"id": "1", "event": "broadcast.live",
            "data": {"at": "1970-01-01T00:00:00Z", "title": "a\u{1b}[2J\nb"}});
        assert_eq!(line(view, &event), "broadcast.live           title=a[2Jb  5s ago");
    }

    #[test]
    fn what_stands_in_a_path_is_checked() {
        assert_eq!(segment("abc-1_x.y"), Some("abc-1_x.y"));
        for wrong in ["", "..", "a/b", "a?b", "a%2f", "é"] {
            assert_eq!(segment(wrong), None, "{wrong}");
        }
    }
}
