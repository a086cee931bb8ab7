//! Documents and deployment files are tested too: what they name exists, and
//! what is generated equals its source.

#[path = "documents/api.rs"]
mod api;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_yaml_ng::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `docs/protocol.md` says what the comments in `proto/` say. To make it anew:
/// `UPDATE_DOCS=1 cargo test -p spyglass-tests --test documents`.
#[test]
fn the_protocol_page_equals_the_comments_in_proto() {
    let mut page = String::from(
        "# The gRPC between the services\n\n\
         Generated from the comments in [proto/](../proto); do not edit. What apps, encoders and players use is HTTP and RTMP: \
         see [operate.md](operate.md).\n",
    );
    for service in ["upstream", "control"] {
        let source = read(format!("proto/spyglass/{service}/v1/{service}.proto"));
        page.push_str(&protocol_page(&source));
    }
    let path = root().join("docs/protocol.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    assert!(read("docs/protocol.md") == page, "docs/protocol.md is old: run with UPDATE_DOCS=1");
}

/// `docs/api.md` says what control says of itself; made anew in the same way.
#[test]
fn the_api_page_equals_the_description_of_control() {
    let page = api::page(&spyglass_control::openapi());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(root().join("docs/api.md"), &page).unwrap();
    }
    assert!(read("docs/api.md") == page, "docs/api.md is old: run with UPDATE_DOCS=1");
}

/// Services, messages and enums in their order, each with its comment.
fn protocol_page(source: &str) -> String {
    let mut page = String::new();
    let mut comment: Vec<&str> = Vec::new();
    let mut inside = false;
    for line in source.lines() {
        let text = line.trim();
        if let Some(words) = text.strip_prefix("//") {
            comment.push(words.trim());
            continue;
        }
        let said = comment.join(" ").replace("  ", "\n\n");
        let mut words = text.split_whitespace();
        match words.next() {
            Some("package") => {
                let name = text.trim_start_matches("package ").trim_end_matches(';');
                let _ = write!(page, "\n## {name}\n\n{said}\n");
            }
            Some(kind @ ("service" | "message" | "enum")) => {
                let name = words.next().unwrap_or_default();
                let _ = write!(page, "\n### {kind} {name}\n");
                if !said.is_empty() {
                    let _ = write!(page, "\n{said}\n");
                }
                inside = !text.ends_with("{}");
                if inside {
                    page.push('\n');
                }
            }
            Some("}") if !line.starts_with(' ') => inside = false,
            Some("rpc") => {
                let _ = writeln!(
                    page,
                    "- `{}`: {}",
                    text.trim_end_matches(';'),
                    said.replace('\n', " ")
                );
            }
            Some(_) if inside && text.ends_with(';') => {
                let declaration = text.trim_end_matches(';');
                let (field, number) = declaration.rsplit_once(" = ").unwrap_or((declaration, ""));
                let _ = write!(page, "- {number}: `{field}`");
                let _ = if said.is_empty() { writeln!(page) } else { writeln!(page, ": {said}") };
            }
            Some("oneof") => {
                let _ = writeln!(page, "- one of these:");
            }
            _ => {}
        }
        if !text.is_empty() || !inside {
            comment.clear();
        }
    }
    page
}

/// Every relative link in a document leads to a file.
#[test]
fn links_lead_somewhere() {
    let mut pages = vec![root().join("README.md")];
    pages.extend(fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    for page in pages.iter().filter(|page| page.extension().is_some_and(|ext| ext == "md")) {
        let text = fs::read_to_string(page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.starts_with('#') {
                continue;
            }
            let file = page.parent().unwrap().join(link.split('#').next().unwrap());
            assert!(file.exists(), "{}: {link}", page.display());
        }
    }
}

/// Tests that the architecture names by file exist.
#[test]
fn tests_named_by_the_architecture_exist() {
    let text = read("docs/architecture.md");
    let promises = root().join("tests/tests/promises");
    let named: Vec<&str> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| {
            word.contains('_') && !word.contains(['.', '/', '(', ' ']) && word.is_ascii()
        })
        .filter(|word| !["next_deadline"].contains(word) && !word.starts_with("on_"))
        .collect();
    assert!(named.len() >= 8, "{named:?}");
    for name in named {
        assert!(promises.join(format!("{name}.rs")).exists(), "docs/architecture.md names {name}");
    }
}

fn compose() -> Value {
    let mut value: Value = serde_yaml_ng::from_str(&read("deploy/compose.yaml")).unwrap();
    // What is merged in may merge in turn.
    for _ in 0..3 {
        value.apply_merge().unwrap();
    }
    value
}

/// The compose file is as an operator expects it: locked down, with health
/// checks, three edges in three places, and files that exist.
#[test]
fn the_compose_file_is_locked_down_and_complete() {
    let compose = compose();
    let services = compose["services"].as_mapping().unwrap();
    let volumes: BTreeSet<&str> =
        compose["volumes"].as_mapping().unwrap().keys().filter_map(Value::as_str).collect();
    let mut roles = BTreeMap::new();
    let mut places = BTreeSet::new();
    for (name, service) in services {
        let name = name.as_str().unwrap();
        let role = service["command"][0].as_str().unwrap();
        *roles.entry(role.to_owned()).or_insert(0) += 1;
        assert_eq!(service["read_only"], Value::Bool(true), "{name}");
        assert_eq!(service["user"].as_str(), Some("10001:10001"), "{name}");
        assert_eq!(service["cap_drop"][0].as_str(), Some("ALL"), "{name}");
        if role == "publish" {
            continue;
        }
        assert!(service["healthcheck"]["test"].is_sequence(), "{name}: health check");
        if role == "edge" {
            places.insert(service["environment"]["SPYGLASS_LOCATION"].as_str().unwrap());
        }
        for volume in service["volumes"].as_sequence().unwrap() {
            let source = volume.as_str().unwrap().split(':').next().unwrap();
            match source.strip_prefix("./") {
                Some(file) => assert!(root().join("deploy").join(file).exists(), "{name}: {file}"),
                None => assert!(volumes.contains(source), "{name}: {source}"),
            }
        }
    }
    let count = |role: &str| roles.get(role).copied().unwrap_or_default();
    assert_eq!((count("control"), count("origin"), count("edge"), count("publish")), (1, 1, 3, 1));
    assert_eq!(places.len(), 3);
    let example = read("deploy/example.env");
    for name in ["SPYGLASS_CLUSTER_KEY", "SPYGLASS_OPERATOR_KEY", "SPYGLASS_HOST"] {
        assert!(example.contains(&format!("\n{name}=")), "{name} is in example.env");
    }
}

/// Every key that the compose file sets by environment is a key of that
/// service's configuration, with the same name.
#[test]
fn the_environment_of_the_compose_file_is_understood() {
    for (name, service) in compose()["services"].as_mapping().unwrap() {
        let role = service["command"][0].as_str().unwrap();
        if role == "publish" {
            continue;
        }
        let annotated = read(format!("deploy/config/{role}.toml"));
        for key in service["environment"].as_mapping().unwrap().keys() {
            let key = key.as_str().unwrap().trim_start_matches("SPYGLASS_").to_lowercase();
            let known = annotated.lines().any(|line| {
                line.trim_start_matches(['#', ' ']).split('=').next().map(str::trim) == Some(&key)
            });
            assert!(known, "{}: {key} is not in deploy/config/{role}.toml", name.as_str().unwrap());
        }
    }
}

/// The second control of the file beside it, too.
#[test]
fn the_compose_file_of_two_controls_is_understood() {
    let text = read("deploy/compose.nats.yaml");
    let compose: Value = serde_yaml_ng::from_str(&text).unwrap();
    let annotated = read("deploy/config/control.toml");
    for control in ["control", "control-2"] {
        let service = &compose["services"][control];
        assert!(service["depends_on"]["nats"].is_mapping(), "{control}");
        for (key, value) in service["environment"].as_mapping().unwrap() {
            let key = key.as_str().unwrap().trim_start_matches("SPYGLASS_").to_lowercase();
            assert!(annotated.contains(&format!("\n#{key} = ")), "{control}: {key}");
            assert!(value.is_string(), "{control}: {key}");
        }
    }
    assert!(compose["services"]["nats"]["healthcheck"]["test"].is_sequence());
    assert!(read("docs/operate.md").contains("deploy/compose.nats.yaml"));
}

/// An annotated file is the defaults: parsed as it stands, and with every
/// line that is commented out put in, it equals a default configuration.
fn equals_defaults<C>(role: &str)
where
    C: serde::de::DeserializeOwned + serde::Serialize + Default,
{
    let text = read(format!("deploy/config/{role}.toml"));
    let given: C = toml::from_str(&text).unwrap_or_else(|error| panic!("{role}.toml: {error}"));
    let default = toml::Value::try_from(C::default()).unwrap();
    assert_eq!(toml::Value::try_from(&given).unwrap(), default, "{role}.toml");
    let keys = |value: &toml::Value| -> BTreeSet<String> {
        value.as_table().unwrap().keys().cloned().collect()
    };
    let written: BTreeSet<String> = text
        .lines()
        .filter(|line| !line.starts_with("# "))
        .filter_map(|line| line.trim_start_matches('#').split_once(" = "))
        .map(|(key, _)| key.trim().to_owned())
        .collect();
    for key in keys(&default) {
        assert!(written.contains(&key), "{role}.toml does not explain {key}");
    }
    // A line that is commented out has a key that exists and an example that parses.
    for line in
        text.lines().filter_map(|line| line.strip_prefix('#')).filter(|line| !line.starts_with(' '))
    {
        if line.contains(" = ") {
            toml::from_str::<C>(line)
                .unwrap_or_else(|error| panic!("{role}.toml: {line}: {error}"));
        }
    }
}

#[test]
fn the_annotated_configurations_are_the_defaults() {
    equals_defaults::<spyglass_control::Config>("control");
    equals_defaults::<spyglass_origin::Config>("origin");
    equals_defaults::<spyglass_edge::Config>("edge");
}
