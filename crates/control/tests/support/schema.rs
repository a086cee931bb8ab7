//! Holds JSON against the part of JSON Schema that the API's description uses,
//! strictly: a member that no `properties` names is a fault, and a keyword that
//! is not known here too, so that nothing passes unchecked.

use serde_json::Value;

/// What is wrong with `value`, each with its place; empty when nothing is.
pub fn faults(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    Check { document, faults: &mut faults }.at("$", schema, value);
    faults
}

struct Check<'a> {
    document: &'a Value,
    faults: &'a mut Vec<String>,
}

impl Check<'_> {
    fn at(&mut self, place: &str, schema: &Value, value: &Value) {
        let keywords = schema.as_object().unwrap_or_else(|| panic!("{place}: {schema}"));
        for (keyword, rule) in keywords {
            if let Err(fault) = self.keyword(place, schema, keyword, rule, value) {
                self.faults.push(format!("{place}: {fault}; it is {value}"));
            }
        }
    }

    fn keyword(
        &mut self,
        place: &str,
        schema: &Value,
        keyword: &str,
        rule: &Value,
        value: &Value,
    ) -> Result<(), String> {
        let number = rule.as_f64().unwrap_or_default();
        let length = value.as_str().map(|text| text.chars().count() as f64);
        let fits = match keyword {
            "description" => true,
            "$ref" => {
                let target = resolve(self.document, rule.as_str().unwrap());
                let target = target.ok_or_else(|| format!("{rule} leads nowhere"))?.clone();
                self.at(place, &target, value);
                true
            }
            "type" => match rule {
                Value::Array(kinds) => kinds.iter().any(|kind| is(kind, value)),
                kind => is(kind, value),
            },
            "const" => rule == value,
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => value.as_f64().is_none_or(|value| value >= number),
            "maximum" => value.as_f64().is_none_or(|value| value <= number),
            "minLength" => length.is_none_or(|length| length >= number),
            "maxLength" => length.is_none_or(|length| length <= number),
            "maxItems" => value.as_array().is_none_or(|items| items.len() as f64 <= number),
            "pattern" => value.as_str().is_none_or(|text| matches(rule.as_str().unwrap(), text)),
            "format" => value.as_str().is_none_or(|text| match rule.as_str().unwrap() {
                "date-time" => is_time(text),
                "uri-reference" => !text.contains(' '),
                other => panic!("{place}: format {other}"),
            }),
            "required" => {
                let names = rule.as_array().unwrap().iter().filter_map(Value::as_str);
                let mut missing =
                    names.filter(|name| value.is_object() && value.get(name).is_none());
                match missing.next() {
                    Some(name) => return Err(format!("`{name}` is missing")),
                    None => true,
                }
            }
            "properties" => {
                for (name, member) in value.as_object().into_iter().flatten() {
                    match rule.get(name) {
                        Some(schema) => self.at(&format!("{place}.{name}"), schema, member),
                        None if schema["additionalProperties"] == true => {}
                        None => return Err(format!("`{name}` is not described")),
                    }
                }
                true
            }
            "additionalProperties" => rule.is_boolean(),
            "items" => {
                for (at, item) in value.as_array().into_iter().flatten().enumerate() {
                    self.at(&format!("{place}[{at}]"), rule, item);
                }
                true
            }
            "oneOf" => {
                let fitting = rule.as_array().unwrap().iter();
                let fitting = fitting.filter(|one| faults(self.document, one, value).is_empty());
                fitting.count() == 1
            }
            other => panic!("{place}: keyword {other}"),
        };
        if fits { Ok(()) } else { Err(format!("{keyword} is {rule}")) }
    }
}

/// What a local reference leads to.
pub fn resolve<'a>(document: &'a Value, reference: &str) -> Option<&'a Value> {
    document.pointer(reference.strip_prefix('#')?)
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("type {other}"),
    }
}

/// Patterns of the form `^[class]{least,most}$`.
fn matches(pattern: &str, text: &str) -> bool {
    let inner = pattern.strip_prefix("^[").and_then(|rest| rest.strip_suffix("}$"));
    let (class, times) = inner.and_then(|inner| inner.split_once("]{")).expect(pattern);
    let (least, most) = times.split_once(',').unwrap_or((times, times));
    let (least, most): (usize, usize) = (least.parse().unwrap(), most.parse().unwrap());
    let class: Vec<char> = class.chars().collect();
    let belongs = |c: char| {
        let range = class.windows(3).any(|w| w[1] == '-' && (w[0]..=w[2]).contains(&c));
        range || class.contains(&c)
    };
    (least..=most).contains(&text.chars().count()) && text.chars().all(belongs)
}

fn is_time(text: &str) -> bool {
    let form = "0000-00-00T00:00:00";
    text.len() > form.len()
        && text.ends_with('Z')
        && form.bytes().zip(text.bytes()).all(|(form, byte)| match form {
            b'0' => byte.is_ascii_digit(),
            other => other == byte,
        })
}
