//! What control says, as words for people: times that are relative, sizes in
//! human units, and text that cannot steer the terminal. Pure.

use serde_json::Value;

/// Nothing is known.
const NONE: &str = "-";

/// Text from outside: without what moves the cursor, changes colours or turns
/// the direction of what stands beside it; one line.
pub fn plain(text: &str) -> String {
    text.chars().filter(|&c| !steers(c)).collect()
}

fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A title: cut where it would push everything else off the screen.
pub fn short(text: &str, longest: usize) -> String {
    let text = plain(text);
    if text.chars().count() <= longest {
        return text;
    }
    text.chars().take(longest.saturating_sub(1)).chain(['…']).collect()
}

/// A value in one cell.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => NONE.to_owned(),
        Value::String(text) => plain(text),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => format!("{}", (float * 1000.0).round() / 1000.0),
            _ => number.to_string(),
        },
        Value::Array(values) if values.is_empty() => NONE.to_owned(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(members) => {
            let parts = members.iter().filter(|(_, value)| !value.is_null());
            let parts = parts.map(|(name, value)| format!("{}={}", plain(name), cell(value)));
            parts.collect::<Vec<_>>().join(" ")
        }
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
    }
}

/// How long ago a time (RFC 3339) was, or how long until it comes.
pub fn ago(value: &Value, now_ms: i64) -> String {
    let Some(text) = value.as_str() else { return NONE.to_owned() };
    let Some(ms) = millis(text) else { return plain(text) };
    let seconds = now_ms.saturating_sub(ms) / 1000;
    match seconds {
        0 => "now".to_owned(),
        1.. => format!("{} ago", duration(seconds.unsigned_abs())),
        _ => format!("in {}", duration(seconds.unsigned_abs())),
    }
}

/// Between two times, the second now when it is not there.
pub fn lasted(from: &Value, to: &Value, now_ms: i64) -> String {
    let at = |value: &Value| value.as_str().and_then(millis);
    let Some(from) = at(from) else { return NONE.to_owned() };
    duration(at(to).unwrap_or(now_ms).saturating_sub(from).max(0).unsigned_abs() / 1000)
}

/// The two largest units.
pub fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

/// Bits a second.
pub fn rate(bits: u64) -> String {
    let scaled = |unit: f64, name: &str| format!("{:.1} {name}bit/s", bits as f64 / unit);
    match bits {
        0 => NONE.to_owned(),
        1..1_000_000 => scaled(1e3, "k"),
        1_000_000..1_000_000_000 => scaled(1e6, "M"),
        _ => scaled(1e9, "G"),
    }
}

/// Of one.
pub fn percent(value: &Value) -> String {
    value.as_f64().map_or_else(|| NONE.to_owned(), |part| format!("{:.0} %", part * 100.0))
}

/// A bar of `width` places, full at `most`.
pub fn bar(value: u64, most: u64, width: usize) -> String {
    let width_of = |value: u64| (value as f64 / most.max(1) as f64 * width as f64).round() as usize;
    let full = if value == 0 { 0 } else { width_of(value).clamp(1, width) };
    format!("{}{}", "█".repeat(full), "·".repeat(width - full))
}

/// `2026-01-02T03:04:05Z`, with or without a fraction, in milliseconds since
/// the Unix epoch.
fn millis(text: &str) -> Option<i64> {
    let (date, rest) = text.strip_suffix('Z')?.split_once('T')?;
    let (clock, fraction) = rest.split_once('.').unwrap_or((rest, "0"));
    let three = |text: &str, sign: char| -> Option<[i64; 3]> {
        let parts: Option<Vec<i64>> = text.split(sign).map(|part| part.parse().ok()).collect();
        parts?.try_into().ok()
    };
    let [year, month, day] = three(date, '-')?;
    let [hour, minute, second] = three(clock, ':')?;
    let sound = (0..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && [hour, minute, second].iter().all(|part| (0..=60).contains(part));
    let fraction: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    // Days since 1970 of the Gregorian calendar, whose years here begin in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = y.div_euclid(400);
    let of_era = y.rem_euclid(400);
    let days = of_era * 365 + of_era / 4 - of_era / 100 + (153 * m + 2) / 5 + day - 1;
    let days = era * 146_097 + days - 719_468;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    sound.then_some(seconds * 1000 + fraction)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use spyglass_media::UtcTime;

    use super::*;

    #[test]
    fn a_title_cannot_steer_the_terminal() {
        assert_eq!(cell(&json!("a\u{1b}[2Jb\n\u{9b}1m\u{202e}c")), "a[2Jb1mc");
        assert_eq!(short("abcdef", 4), "abc…");
        assert_eq!(short("abc\u{7}d", 4), "abcd");
        assert_eq!(cell(&json!({"a\u{1b}": [1, true]})), "a=1,yes");
    }

    #[test]
    fn times_are_relative() {
        for ms in [0, 951_782_400_000, 1_709_164_800_123, 4_102_444_799_999] {
            assert_eq!(millis(&UtcTime::from_millis(ms).rfc3339()), Some(ms));
        }
        let now = millis("2026-01-02T03:04:05Z").unwrap();
        let at = |text: &str| ago(&json!(text), now);
        assert_eq!(at("2026-01-02T03:04:05.000Z"), "now");
        assert_eq!(at("2026-01-02T03:03:00Z"), "1m 5s ago");
        assert_eq!(at("2026-01-02T05:04:05Z"), "in 2h 0m");
        assert_eq!(at("2025-12-30T01:04:05Z"), "3d 2h ago");
        assert_eq!(at("yester\u{1b}day"), "yesterday");
        assert_eq!(ago(&Value::Null, now), "-");
        assert_eq!(lasted(&json!("2026-01-02T03:03:05Z"), &Value::Null, now), "1m 0s");
        for wrong in ["", "Z", "2026-13-01T00:00:00Z", "2026-01-01T00:00Z", "é-1-1T0:0:0.éZ"] {
            assert_eq!(millis(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn units_are_human() {
        assert_eq!(rate(0), "-");
        assert_eq!(rate(12_345), "12.3 kbit/s");
        assert_eq!(rate(2_500_000_000), "2.5 Gbit/s");
        assert_eq!(percent(&json!(0.256)), "26 %");
        assert_eq!(bar(1, 1000, 4), "█···");
        assert_eq!(bar(3, 4, 4), "███·");
        assert_eq!((bar(0, 0, 2), bar(9, 4, 2)), ("··".to_owned(), "██".to_owned()));
    }
}
