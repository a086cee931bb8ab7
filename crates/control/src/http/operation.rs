//! An operation of the API: what answers it, and what is said of it.
//!
//! The router and the OpenAPI document are both made from the same list of
//! these ([`super::operations`]), so there is no route without a description and
//! no description without a route. That the words are true is what
//! `tests/openapi.rs` shows by calling every one of them. How the document looks
//! lives in [`super::openapi`], the shapes in [`super::schemas`].

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodFilter, MethodRouter, on};
use serde_json::Value;

use super::audit;
use crate::panel::Panel;

/// In whose name an operation may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Credentials are not looked at.
    Anyone,
    /// Nobody in particular; a private broadcast needs somebody it names.
    AnyoneOrListed,
    /// A user, or the operator.
    User,
    /// That user, or the operator.
    ThatUser,
    /// Whose broadcast it is, or the operator.
    Owner,
    /// The viewer itself.
    ThatViewer,
    /// The viewer itself, the broadcast's owner, or the operator.
    ViewerOrOwner,
    /// The operator alone.
    Operator,
}

impl Who {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anyone => "anyone",
            Self::AnyoneOrListed => "anyone; for a private broadcast somebody it names",
            Self::User => "a user or the operator",
            Self::ThatUser => "that user or the operator",
            Self::Owner => "the broadcast's owner or the operator",
            Self::ThatViewer => "that viewer",
            Self::ViewerOrOwner => "that viewer, the broadcast's owner or the operator",
            Self::Operator => "the operator",
        }
    }

    /// Names of the security schemes that do; whether none does too.
    pub const fn schemes(self) -> (&'static [&'static str], bool) {
        match self {
            Self::Anyone => (&[], true),
            Self::AnyoneOrListed => (&["operatorKey", "userToken", "viewerToken"], true),
            Self::User | Self::ThatUser | Self::Owner => (&["operatorKey", "userToken"], false),
            Self::ThatViewer => (&["viewerToken"], false),
            Self::ViewerOrOwner => (&["operatorKey", "userToken", "viewerToken"], false),
            Self::Operator => (&["operatorKey"], false),
        }
    }
}

/// What an answer carries.
#[derive(Clone, Debug)]
pub enum Content {
    /// JSON of the shape with this name in [`super::schemas`].
    Json(&'static str),
    /// Server-sent events; their data are JSON of the shape with this name.
    Events(&'static str),
    /// Something that is not read by programs of ours, of this media type.
    Other(&'static str),
    /// No body.
    Nothing,
}

/// Where a parameter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `?name=`
    Query,
    /// A header.
    Header,
}

/// A parameter that may be left out.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Where it stands.
    pub place: Place,
    /// Its name.
    pub name: &'static str,
    /// JSON Schema.
    pub schema: Value,
    /// What it does.
    pub about: &'static str,
}

/// A route and its description.
pub struct Operation {
    route: MethodRouter<Arc<Panel>>,
    /// `get`, `post`, `put` or `delete`.
    pub method: &'static str,
    /// With `{names}`.
    pub path: &'static str,
    /// Unique; what generated clients call it.
    pub id: &'static str,
    /// Who may.
    pub who: Who,
    /// One line.
    pub summary: &'static str,
    /// More than one line; may be empty.
    pub details: &'static str,
    /// Beside those of the path.
    pub parameters: Vec<Parameter>,
    /// Name of the body's shape.
    pub body: Option<&'static str>,
    /// What is answered when it is done.
    pub answers: Vec<(u16, Content)>,
    /// Statuses that are refusals, beside those that follow from the rest.
    pub refusals: Vec<u16>,
    /// The answer's Location header, when it has one: what it says.
    pub location: Option<&'static str>,
}

/// A route that cannot be mounted yet: nothing is said of it.
#[must_use]
pub struct Undescribed {
    route: MethodRouter<Arc<Panel>>,
    method: &'static str,
    path: &'static str,
}

fn route<H, T>(
    filter: MethodFilter,
    method: &'static str,
    path: &'static str,
    handler: H,
) -> Undescribed
where
    H: Handler<T, Arc<Panel>>,
    T: 'static,
{
    Undescribed { route: on(filter, handler), method, path }
}

/// Answers GET, and HEAD without the body.
pub fn get<H: Handler<T, Arc<Panel>>, T: 'static>(path: &'static str, handler: H) -> Undescribed {
    route(MethodFilter::GET, "get", path, handler)
}

/// Answers POST.
pub fn post<H: Handler<T, Arc<Panel>>, T: 'static>(path: &'static str, handler: H) -> Undescribed {
    route(MethodFilter::POST, "post", path, handler)
}

/// Answers PUT.
pub fn put<H: Handler<T, Arc<Panel>>, T: 'static>(path: &'static str, handler: H) -> Undescribed {
    route(MethodFilter::PUT, "put", path, handler)
}

/// Answers DELETE.
pub fn delete<H: Handler<T, Arc<Panel>>, T: 'static>(
    path: &'static str,
    handler: H,
) -> Undescribed {
    route(MethodFilter::DELETE, "delete", path, handler)
}

impl Undescribed {
    /// Says who may do it, what it does, and what is answered when it is done.
    pub fn is(
        self,
        id: &'static str,
        who: Who,
        summary: &'static str,
        status: u16,
        content: Content,
    ) -> Operation {
        Operation {
            route: self.route,
            method: self.method,
            path: self.path,
            id,
            who,
            summary,
            details: "",
            parameters: Vec::new(),
            body: None,
            answers: vec![(status, content)],
            refusals: Vec::new(),
            location: None,
        }
    }
}

impl Operation {
    /// More about it.
    pub fn details(mut self, details: &'static str) -> Self {
        self.details = details;
        self
    }

    /// It takes a JSON body of the shape with this name.
    pub fn body(mut self, shape: &'static str) -> Self {
        self.body = Some(shape);
        self
    }

    /// It takes `?name=`.
    pub fn query(mut self, name: &'static str, schema: Value, about: &'static str) -> Self {
        self.parameters.push(Parameter { place: Place::Query, name, schema, about });
        self
    }

    /// It takes a header.
    pub fn header(mut self, name: &'static str, schema: Value, about: &'static str) -> Self {
        self.parameters.push(Parameter { place: Place::Header, name, schema, about });
        self
    }

    /// It may answer this too.
    pub fn or(mut self, status: u16, content: Content) -> Self {
        self.answers.push((status, content));
        self
    }

    /// Its answer has a Location header.
    pub fn location(mut self, about: &'static str) -> Self {
        self.location = Some(about);
        self
    }

    /// It may be refused with this status, which does not follow from the rest.
    pub fn refuses(mut self, status: u16) -> Self {
        self.refusals.push(status);
        self
    }

    /// Names in the path.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('{').skip(1).filter_map(|rest| rest.split('}').next())
    }
}

/// Every operation's route; those that change something are written down.
pub fn router(operations: Vec<Operation>, panel: &Arc<Panel>) -> Router<Arc<Panel>> {
    operations.into_iter().fold(Router::new(), |router, operation| {
        let route = if audit::is_audited(&operation) {
            let state = (Arc::clone(panel), operation.id);
            operation.route.layer(from_fn_with_state(state, audit::write_down))
        } else {
            operation.route
        };
        router.route(operation.path, route)
    })
}
