//! Many viewers who ask at the same moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Barrier;

use crate::http::Client;

/// Viewers that share some connection pools, as browsers behind proxies do.
#[derive(Debug)]
pub struct Herd {
    viewers: usize,
    clients: Vec<Client>,
}

impl Herd {
    /// So many viewers.
    pub fn new(viewers: usize) -> Self {
        Self { viewers, clients: (0..20).map(|_| Client::default()).collect() }
    }

    /// All ask for `url` at once; bodies (as lossy text) and delays.
    ///
    /// # Panics
    /// When one is answered by anything but 200.
    pub async fn ask(&self, url: &str) -> Vec<(String, Duration)> {
        let start = Arc::new(Barrier::new(self.viewers));
        let tasks: Vec<_> = (0..self.viewers)
            .map(|viewer| {
                let client = self.clients[viewer % self.clients.len()].clone();
                let (start, url) = (Arc::clone(&start), url.to_owned());
                tokio::spawn(async move {
                    start.wait().await;
                    let begun = Instant::now();
                    let answer = client.get(&url).await.expect(200);
                    (answer.text(), begun.elapsed())
                })
            })
            .collect();
        let mut answers = Vec::with_capacity(tasks.len());
        for task in tasks {
            answers.push(task.await.unwrap());
        }
        answers
    }
}
