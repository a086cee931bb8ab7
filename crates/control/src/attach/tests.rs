//! Reports, one by one.

use std::cell::{Cell, RefCell};

use futures_util::FutureExt as _;
use tokio::sync::Notify;

use super::*;

#[tokio::test]
async fn a_stream_that_is_replaced_finishes_the_report_it_is_at() {
    let (over, slow) = (Notify::new(), Notify::new());
    let (read, applied) = (Cell::new(0), RefCell::new(Vec::new()));
    let reports = futures_util::stream::iter(1..).inspect(|report| read.set(*report));
    let apply = |report| {
        let (slow, applied) = (&slow, &applied);
        async move {
            slow.notified().await;
            applied.borrow_mut().push(report);
        }
    };
    let reading = one_by_one(Box::pin(over.notified()), reports, apply);
    let mut reading = std::pin::pin!(reading);
    assert!(reading.as_mut().now_or_never().is_none());
    slow.notify_one();
    assert!(reading.as_mut().now_or_never().is_none());
    over.notify_one();
    assert!(reading.as_mut().now_or_never().is_none(), "the second is not applied yet");
    slow.notify_one();
    reading.await;
    assert_eq!((read.get(), applied.take()), (2, vec![1, 2]));
}
