//! `ctl delay`: a broadcast's delay by stage, as a table with a picture.

use serde_json::Value;
use spyglass_media::delay::{Stage, Tier};

use super::table::{Cell, View, rows};
use super::words::cell;

/// Places of the picture.
const WIDTH: usize = 40;

/// The table of both tiers.
pub fn shown(view: View, answer: &Value) -> String {
    let mut text = Vec::new();
    for tier in Tier::ALL {
        let of_tier = &answer[tier.as_str()];
        if Stage::ALL.into_iter().all(|stage| measured(of_tier, stage).is_null()) {
            text.push(format!("{}: nobody has measured lately", tier.as_str()));
            continue;
        }
        text.push(of(view, tier, of_tier));
    }
    text.push(format!("seconds; the last {} s", cell(&answer["window_seconds"])));
    text.join("\n\n")
}

fn measured(of_tier: &Value, stage: Stage) -> &Value {
    match stage {
        Stage::Total => &of_tier["total"],
        stage => &of_tier["stages"][stage.as_str()],
    }
}

/// Stages under one another; in the picture each begins where the one before
/// ends, by their medians.
fn of(view: View, tier: Tier, of_tier: &Value) -> String {
    let p50 = |stage: Stage| measured(of_tier, stage)["p50"].as_f64().unwrap_or(0.0).max(0.0);
    let stages = || Stage::ALL.into_iter().filter(|stage| stage.is_of(tier));
    let sum: f64 = stages().filter(|stage| *stage != Stage::Total).map(p50).sum();
    let whole = sum.max(p50(Stage::Total));
    let mut begin = 0.0;
    let table: Vec<Vec<Cell>> = stages()
        .map(|stage| {
            let found = measured(of_tier, stage);
            let from = if stage == Stage::Total { 0.0 } else { begin };
            begin += p50(stage);
            let seconds = |name: &str| match found[name].as_f64() {
                Some(seconds) => Cell::right(format!("{seconds:.3}")),
                None => Cell::right("?"),
            };
            let bar = match found.is_null() {
                true => String::new(),
                false => picture(from, from + p50(stage), whole),
            };
            vec![
                Cell::new(stage.as_str().replace('_', " ")),
                seconds("p50"),
                seconds("p95"),
                seconds("p99"),
                Cell::right(cell(&found["count"])),
                Cell::new(bar),
            ]
        })
        .collect();
    rows(view, &[&tier.as_str().to_uppercase(), "P50", "P95", "P99", "COUNT", "WHERE"], &table)
}

/// A bar from one moment to another, in [`WIDTH`] places for `whole`.
fn picture(from: f64, to: f64, whole: f64) -> String {
    if whole <= 0.0 {
        return "▏".to_owned();
    }
    let place = |at: f64| ((at / whole) * WIDTH as f64).round() as usize;
    let (from, to) = (place(from).min(WIDTH), place(to).min(WIDTH));
    let bar = if to > from { "█".repeat(to - from) } else { "▏".to_owned() };
    format!("{}{bar}", " ".repeat(from))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PLAIN: View = View { colours: false, now_ms: 0 };

    #[test]
    fn each_stage_begins_where_the_one_before_ends() {
        let stage = |p50: f64| json!({"p50": p50, "p95": p50, "p99": p50, "count": 7});
        let answer = json!({
            "window_seconds": 60,
            "push": {"stages": {"upload": null, "last_mile": null, "buffering": null}, "total": null},
            "hls": {
                "stages": {
                    "upload": stage(0.0), "chunking": stage(3.0), "transfer": null,
                    "polling": stage(1.0), "last_mile": stage(0.0), "buffering": stage(6.0),
                },
                "total": stage(10.0),
            },
        });
        let text = shown(PLAIN, &answer);
        let line = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).expect(name);
            line.chars().collect::<String>()
        };
        assert!(text.starts_with("push: nobody has measured lately"), "{text}");
        assert_eq!(line("chunking").matches('█').count(), 12);
        assert!(line("buffering").ends_with(&format!("{}{}", " ".repeat(16), "█".repeat(24))));
        assert_eq!(line("total").matches('█').count(), WIDTH);
        assert!(line("transfer").contains('?') && line("polling").contains("1.000"), "{text}");
        assert!(shown(PLAIN, &json!({})).contains("nobody"), "an older control");
    }
}
