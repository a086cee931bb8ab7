//! Loopback addresses of one's own. What is killed and started again finds its
//! ports free: no other test's socket and no client's can have taken them.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU8, Ordering};

/// An address that nothing else of these tests listens on.
///
/// # Panics
/// When a process wants more than 250.
pub fn own() -> Ipv4Addr {
    static TAKEN: AtomicU8 = AtomicU8::new(1);
    let process = std::process::id();
    let taken = TAKEN.fetch_add(1, Ordering::Relaxed);
    assert!(taken < 252, "a test binary of this size wants more than one byte");
    Ipv4Addr::new(127, 1 + ((process >> 8) % 200) as u8, process as u8, taken)
}
