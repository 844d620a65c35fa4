//! Waiting for an event of another process: polling with a short, growing pause and a deadline.
//!
//! The only place in the repository that sleeps. Inside our own code one waits for the event itself; another process
//! offers nothing to wait on but what it shows outside. A kill at any moment needs the moment.

use std::time::{Duration, Instant};

const PAUSE_FIRST: Duration = Duration::from_millis(5);
/// The longest pause between two looks: what a wait may cost beyond the event itself.
pub const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Looks until `look` returns a value; `None` when the deadline has passed (it looks at least once).
pub fn poll<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    let mut pause = PAUSE_FIRST;
    loop {
        if let Some(value) = look() {
            return Some(value);
        }
        if start.elapsed() >= deadline {
            return None;
        }
        #[expect(clippy::disallowed_methods, reason = "another process gives no event to wait for")]
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Waits for `what`, or fails the test and says what it waited for.
#[track_caller]
pub fn wait_until<T>(what: &str, deadline: Duration, look: impl FnMut() -> Option<T>) -> T {
    match poll(deadline, look) {
        Some(value) => value,
        None => panic!("waited {} s in vain for: {what}", deadline.as_secs_f64()),
    }
}

/// Lets a moment pass before a kill that is to come at any time, whatever the other process is doing then. Not for
/// waiting until something has happened.
#[expect(clippy::disallowed_methods, reason = "a moment is all that is wanted")]
pub fn let_pass(moment: Duration) {
    std::thread::sleep(moment);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_until_it_sees_or_the_deadline_passes() {
        let mut looks = 0;
        let seen = poll(Duration::from_secs(10), || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(seen, Some(3));
        assert_eq!(poll(Duration::ZERO, || None::<()>), None);
    }

    #[test]
    #[should_panic(expected = "in vain for: the sun")]
    fn names_what_did_not_come() {
        wait_until("the sun", Duration::ZERO, || None::<()>);
    }
}
