//! A panic costs one connection, and is counted.

use std::panic::PanicHookInfo;
use std::sync::{Once, Weak};

use parking_lot::Mutex;
use tracing::error;

use crate::admin::{Admin, Inner};

/// Every service of this process that counts panics. A panic cannot be told to
/// one service, so each counts all of them.
static COUNTING: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());

static HOOK: Once = Once::new();

/// The most of a panic's message that is logged, in bytes: it may quote input.
const MESSAGE: usize = 200;

/// Counts panics of the process in `admin` as `spyglass_panics_total` and logs
/// where they happened.
pub fn install(admin: &Admin) {
    let mut counting = COUNTING.lock();
    counting.retain(|other| other.strong_count() > 0);
    counting.push(admin.downgrade());
    drop(counting);
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            on_panic(info);
            if !tracing::dispatcher::has_been_set() {
                // Nobody reads the log: a test, which has to see it.
                before(info);
            }
        }));
    });
}

fn on_panic(info: &PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let message = info.payload_as_str().unwrap_or("(no message)");
    let end = message.floor_char_boundary(MESSAGE);
    let thread = std::thread::current();
    error!(location, thread = thread.name().unwrap_or(""), message = &message[..end], "panic");
    for admin in COUNTING.lock().iter().filter_map(Weak::upgrade) {
        admin.count_panic();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_counted_by_every_service() {
        let (first, second) = (Admin::new(), Admin::new());
        install(&first);
        install(&second);
        let _ = std::thread::spawn(|| panic!("on purpose")).join();
        for admin in [first, second] {
            assert!(admin.metrics().contains("spyglass_panics_total 1"), "{}", admin.metrics());
        }
    }
}
