//! `?after=&limit=`: long lists, page by page.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use serde_json::{Value, json};
use spyglass_media::UserId;

use super::operation::Operation;
use super::problem::Problem;
use crate::panel::Panel;

/// Entries of a page when nothing is asked for, and at most.
pub const LIMITS: (usize, usize) = (100, 1_000);

/// Which page of a list of users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The last of the page before.
    pub after: Option<UserId>,
    /// Entries at most.
    pub limit: usize,
}

impl Page {
    fn parse(query: &str) -> Result<Self, Problem> {
        let mut page = Self { after: None, limit: LIMITS.0 };
        for pair in query.split('&') {
            if let Some(text) = pair.strip_prefix("after=") {
                let id = text.parse();
                let refused = |_| Problem::bad("query `after`: give the `next` of a page");
                page.after = Some(id.map_err(refused)?);
            } else if let Some(text) = pair.strip_prefix("limit=") {
                let limit = text.parse().ok().filter(|limit| (1..=LIMITS.1).contains(limit));
                let refused = || Problem::bad("query `limit`: give 1 to 1000");
                page.limit = limit.ok_or_else(refused)?;
            }
        }
        Ok(page)
    }
}

impl FromRequestParts<Arc<Panel>> for Page {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Panel>) -> Result<Self, Problem> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }
}

/// Says that an operation answers page by page.
pub fn paged(operation: Operation) -> Operation {
    let id: Value = super::schemas::reference("Id");
    operation.query("after", id, "the `next` of the page before").query(
        "limit",
        json!({"type": "integer", "minimum": 1, "maximum": LIMITS.1}),
        "entries of the page, 100 when left out",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_from_the_query() {
        assert_eq!(Page::parse("").unwrap(), Page { after: None, limit: 100 });
        let page = Page::parse("limit=7&after=0123456789abc&other=1").unwrap();
        assert_eq!(page, Page { after: "0123456789abc".parse().ok(), limit: 7 });
        for wrong in ["limit=0", "limit=1001", "limit=x", "after=x", "limit="] {
            assert!(Page::parse(wrong).is_err(), "{wrong}");
        }
    }
}
