//! JSON as tables for people.

use serde_json::Value;

/// Rows under headings, columns as wide as they need to be.
pub fn rows(headings: &[String], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = headings.iter().map(|text| text.chars().count()).collect();
    for row in rows {
        for (width, text) in widths.iter_mut().zip(row) {
            *width = text.chars().count().max(*width);
        }
    }
    let mut lines = vec![line(headings, &widths)];
    lines.extend(rows.iter().map(|row| line(row, &widths)));
    lines.join("\n")
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let cells: Vec<String> =
        cells.iter().zip(widths).map(|(text, width)| format!("{text:<width$}")).collect();
    cells.join("  ").trim_end().to_owned()
}

/// The entries of a list, whether it stands alone or under `key`.
pub fn entries<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.as_array().or_else(|| value.get(key)?.as_array()).map_or(&[], Vec::as_slice)
}

/// One row for each entry: the columns that any entry has, by name.
pub fn of_entries(entries: &[Value], columns: &[&str]) -> String {
    let columns: Vec<&str> = columns
        .iter()
        .copied()
        .filter(|name| entries.iter().any(|entry| entry.get(name).is_some_and(|v| !v.is_null())))
        .collect();
    let headings: Vec<String> =
        columns.iter().map(|name| name.replace('_', " ").to_uppercase()).collect();
    let cells = |entry: &Value| columns.iter().map(|name| cell(&entry[name])).collect();
    rows(&headings, &entries.iter().map(cells).collect::<Vec<_>>())
}

/// A line for each value of an object, nested names joined by a blank.
pub fn of_object(value: &Value) -> String {
    let mut lines = Vec::new();
    flatten("", value, &mut lines);
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let lines: Vec<String> =
        lines.into_iter().map(|(name, text)| format!("{name:<width$}  {text}")).collect();
    lines.join("\n")
}

fn flatten(prefix: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, value) in members {
                let name = name.replace('_', " ");
                let name = if prefix.is_empty() { name } else { format!("{prefix} {name}") };
                flatten(&name, value, lines);
            }
        }
        other => lines.push((prefix.to_owned(), cell(other))),
    }
}

/// A value in one cell; control characters, which a title may hold, are left out.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.chars().filter(|c| !c.is_control()).collect(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => format!("{}", (float * 1000.0).round() / 1000.0),
            _ => number.to_string(),
        },
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(members) => {
            let parts = members.iter().filter(|(_, value)| !value.is_null());
            parts
                .map(|(name, value)| format!("{name}={}", cell(value)))
                .collect::<Vec<_>>()
                .join(" ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_that_nobody_has_are_left_out() {
        let nodes = json!({"nodes": [
            {"id": "origin-1", "role": "origin", "location": {"lat": 1.5, "lon": 2}, "x": null},
            {"id": "e", "role": "edge", "load": {"cpu": 0.123456}},
        ]});
        let table = of_entries(entries(&nodes, "nodes"), &["id", "role", "location", "load", "x"]);
        assert_eq!(
            table,
            "ID        ROLE    LOCATION       LOAD\n\
             origin-1  origin  lat=1.5 lon=2  -\n\
             e         edge    -              cpu=0.123"
        );
    }

    #[test]
    fn an_object_is_a_line_for_each_value() {
        let shown = of_object(&json!({"id": "x", "viewers": {"push": 1, "hls": null}, "a_b": []}));
        let lines: Vec<_> = shown.lines().collect();
        assert!(
            lines.contains(&"viewers push  1") && lines.contains(&"viewers hls   -"),
            "{shown}"
        );
        assert!(lines.contains(&"id            x"), "{shown}");
    }

    #[test]
    fn a_title_cannot_steer_the_terminal() {
        assert_eq!(cell(&json!("a\u{1b}[2Jb\n")), "a[2Jb");
        assert_eq!(entries(&json!([1, 2]), "nodes").len(), 2);
        assert!(entries(&json!(7), "nodes").is_empty());
    }
}
