//! The page about the HTTP API, made from the description that control serves.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// `docs/api.md`.
pub fn page(document: &Value) -> String {
    let mut page = String::from(
        "# The HTTP API of control\n\n\
         Generated from the description that every control serves at `/openapi.json`; do not edit. \
         How to use it by hand: [operate.md](operate.md).\n\n",
    );
    let _ = writeln!(page, "{}", text(&document["info"]["description"]));
    for tag in document["tags"].as_array().into_iter().flatten() {
        let _ = write!(page, "\n## {}\n\n{}.\n\n", text(&tag["name"]), text(&tag["description"]));
        page.push_str("| request | who may | does | body | answers |\n|---|---|---|---|---|\n");
        for (path, methods) in members(&document["paths"]) {
            for (method, operation) in members(methods) {
                if operation["tags"][0] == tag["name"] {
                    row(&mut page, path, method, operation);
                }
            }
        }
    }
    page.push_str("\n## Shapes\n");
    for (name, shape) in members(&document["components"]["schemas"]) {
        let _ = write!(page, "\n### {name}\n\n");
        if shape["properties"].is_object() {
            let _ = writeln!(page, "{}\n", text(&shape["description"]));
            fields(&mut page, "", shape);
        } else {
            let about = text(&shape["description"]);
            let _ = writeln!(
                page,
                "{}{}{about}",
                kind(shape),
                if about.is_empty() { "" } else { ": " }
            );
        }
    }
    page
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn row(page: &mut String, path: &str, method: &str, operation: &Value) {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let query: Vec<String> = parameters
        .filter(|parameter| parameter["in"] != "path")
        .map(|parameter| {
            format!("`{}`: {}", text(&parameter["name"]), text(&parameter["description"]))
        })
        .collect();
    let words = text(&operation["description"]);
    let (who, more) = words.split_once('.').unwrap_or((&words, ""));
    let who = who.trim_start_matches("Who may: ");
    let mut does = format!("{}.{more}", text(&operation["summary"]));
    if !query.is_empty() {
        let _ = write!(does, " Query and headers: {}.", query.join("; "));
    }
    let body = shape_of(&operation["requestBody"]);
    let mut answers = Vec::new();
    let mut refusals = Vec::new();
    for (status, response) in members(&operation["responses"]) {
        match response["$ref"].is_string() {
            true => refusals.push(status.clone()),
            false => answers.push(format!("{status} {}", shape_of(response)).trim_end().to_owned()),
        }
    }
    let answers = answers.join(", ");
    let refusals =
        if refusals.is_empty() { String::new() } else { format!("; or {}", refusals.join(", ")) };
    let _ = writeln!(
        page,
        "| `{} {path}` | {who} | {} | {body} | {answers}{refusals} |",
        method.to_uppercase(),
        does.replace('|', "\\|"),
    );
}

/// The shape in some content, else its media type.
fn shape_of(holder: &Value) -> String {
    let Some((media, content)) = members(&holder["content"]).next() else { return String::new() };
    let name = linked(&content["schema"]);
    match name {
        Some(name) if media == "text/event-stream" => format!("events of {name}"),
        Some(name) => name,
        None => media.clone(),
    }
}

/// A shape that has a name, as a link.
fn linked(schema: &Value) -> Option<String> {
    let name = schema["$ref"].as_str()?.rsplit('/').next()?;
    Some(format!("[{name}](#{})", name.to_lowercase()))
}

/// What a value is, in few words.
fn kind(schema: &Value) -> String {
    if let Some(linked) = linked(schema) {
        return linked;
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        return choices.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ");
    }
    let range = match (&schema["minimum"], &schema["maximum"]) {
        (Value::Null, Value::Null) => String::new(),
        (least, Value::Null) => format!(" from {least}"),
        (Value::Null, most) => format!(" to {most}"),
        (least, most) => format!(" {least} to {most}"),
    };
    match &schema["type"] {
        Value::Array(kinds) => kinds.iter().map(text).collect::<Vec<_>>().join(" or "),
        Value::String(kind) if kind == "array" => {
            format!("list of {}", self::kind(&schema["items"]))
        }
        Value::String(kind) => match schema["pattern"].as_str() {
            Some(pattern) => format!("{kind} `{pattern}`"),
            None => format!("{kind}{range}"),
        },
        _ => "anything".to_owned(),
    }
}

fn fields(page: &mut String, prefix: &str, shape: &Value) {
    let required = shape["required"].as_array();
    for (name, field) in members(&shape["properties"]) {
        let always = required.is_some_and(|names| names.iter().any(|other| other == name));
        let maybe = if always { "" } else { ", may be absent" };
        let about = text(&field["description"]);
        let about = if about.is_empty() { about } else { format!(": {about}") };
        let path = format!("{prefix}{name}");
        let _ = writeln!(page, "- `{path}` ({}{maybe}){about}", kind(field));
        let inner = if field["items"].is_object() { &field["items"] } else { field };
        if inner["properties"].is_object() {
            let mark = if field["items"].is_object() { "[]." } else { "." };
            fields(page, &format!("{path}{mark}"), inner);
        }
    }
}
