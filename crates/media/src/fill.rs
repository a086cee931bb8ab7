//! What makes an edge fetch.

use serde::{Deserialize, Serialize};

/// What makes an edge fetch what a notice speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fill {
    /// The first viewer who asks or waits for it.
    Pull,
    /// The notice itself, as long as the broadcast has viewers there.
    Prefetch,
}

impl Fill {
    /// Both, in the words of the API and of configuration.
    pub const WORDS: [&str; 2] = [Self::Pull.as_str(), Self::Prefetch.as_str()];

    /// The word of the API and of configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Prefetch => "prefetch",
        }
    }

    /// From its word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Pull, Self::Prefetch].into_iter().find(|fill| fill.as_str() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_means_the_same_everywhere() {
        for word in Fill::WORDS {
            let fill = Fill::parse(word).unwrap();
            assert_eq!(fill.as_str(), word);
        }
        assert_eq!(Fill::parse("push"), None);
    }
}
