//! What stands behind the question mark, where that is more than [`super::paging`]
//! reads: each name known, each value refused with what to give.

use super::paging::LIMITS;
use super::problem::Problem;

/// The values of a query, each name once; nothing in them is escaped, since no
/// value that is understood holds anything to escape.
#[derive(Debug, Default)]
pub struct Query<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Query<'a> {
    /// Reads what stands behind the question mark; a name that is not `known`
    /// is refused, so that a misspelt filter does not list everything.
    pub fn parse(text: Option<&'a str>, known: &[&str]) -> Result<Self, Problem> {
        let mut values = Vec::new();
        for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !known.contains(&name) || values.iter().any(|(had, _)| *had == name) {
                let detail = format!("in the query may stand, each once: {}", known.join(", "));
                return Err(Problem::bad(detail));
            }
            values.push((name, value));
        }
        Ok(Self(values))
    }

    /// The value with this name, read by `read`; `advice` says what to give.
    pub fn read<T>(
        &self,
        name: &str,
        advice: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some((_, value)) = self.0.iter().find(|(had, _)| *had == name) else { return Ok(None) };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err(Problem::bad(format!("query `{name}`: give {advice}"))),
        }
    }

    /// How many entries are asked for.
    pub fn limit(&self) -> Result<usize, Problem> {
        let read = |text: &str| text.parse().ok().filter(|limit| (1..=LIMITS.1).contains(limit));
        Ok(self.read("limit", "how many, 1 to 1000", read)?.unwrap_or(LIMITS.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_and_a_misspelt_name_refused() {
        let parse = |text| Query::parse(Some(text), &["all", "limit"]);
        let query = parse("all=true&limit=7").unwrap();
        assert_eq!(query.limit().unwrap(), 7);
        assert_eq!(
            query.read("all", "true", |text| text.parse::<bool>().ok()).unwrap(),
            Some(true)
        );
        assert_eq!(parse("").unwrap().limit().unwrap(), LIMITS.0);
        assert!(Query::parse(None, &[]).is_ok());
        for wrong in ["al=1", "all=1&all=2", "limit"] {
            assert!(parse(wrong).is_err() || parse(wrong).unwrap().limit().is_err(), "{wrong}");
        }
        for wrong in ["limit=0", "limit=1001", "limit=x", "limit=-1"] {
            assert!(parse(wrong).unwrap().limit().is_err(), "{wrong}");
        }
    }
}
