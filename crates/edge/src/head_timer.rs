//! hyper's time-out for a request's header, without a timer for each request.
//!
//! hyper arms one for every header it waits for and drops it when the header is
//! there. In the runtime's wheel that costs a lock and a registration for each
//! request, for something that nearly never fires. Here it is no more than a
//! moment to compare with: hyper looks at it whenever the connection's task
//! runs, and the one timer that each connection has anyway (`http.rs`) makes it
//! run when the moment may have come.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

/// Gives moments that wake nobody.
#[derive(Clone, Copy, Debug)]
pub struct HeadTimer;

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Moment(deadline))
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

struct Moment(Instant);

impl Future for Moment {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if HeadTimer.now() < self.0 { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Sleep for Moment {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_moment_comes_and_wakes_nobody() {
        let mut moment = HeadTimer.sleep(Duration::from_secs(1));
        let woken = tokio::time::timeout(Duration::from_secs(5), &mut moment).await;
        // Only the time-out ran the task, and then it had come.
        assert!(woken.is_ok());
        assert_eq!(HeadTimer.now(), HeadTimer.now());
        let mut moment = HeadTimer.sleep(Duration::from_secs(1));
        assert!(futures_ready(&mut moment).is_pending());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(futures_ready(&mut moment).is_ready());
    }

    fn futures_ready(moment: &mut Pin<Box<dyn Sleep>>) -> Poll<()> {
        moment.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()))
    }
}
