//! A duration as a person would say it: for exits, errors and the log.
//!
//! Two units at most, cut off rather than rounded, so that `0.9 s` never reads as a limit of `1 s` that
//! was reached. It is text for people: nothing parses it back.

use std::fmt;
use std::time::Duration;

/// `250 µs`, `20 ms`, `1.2 s`, `60 s`, `2 min 5 s`, `3 h 20 min`, `4 d 2 h`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readable(pub(crate) Duration);

impl fmt::Display for Readable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        const DAY: u64 = 24 * HOUR;
        let seconds = self.0.as_secs();
        match seconds {
            0 if self.0.is_zero() => f.write_str("0 s"),
            0 if self.0.as_millis() == 0 => write!(f, "{} µs", self.0.as_micros()),
            0 => write!(f, "{} ms", self.0.as_millis()),
            // 60 s and 90 s are what people write as limits; they come back as they were written.
            1..100 => match self.0.subsec_millis() / 100 {
                0 => write!(f, "{seconds} s"),
                tenths => write!(f, "{seconds}.{tenths} s"),
            },
            100..HOUR => two(f, (seconds / MINUTE, "min"), (seconds % MINUTE, "s")),
            HOUR..DAY => two(f, (seconds / HOUR, "h"), (seconds % HOUR / MINUTE, "min")),
            DAY.. => two(f, (seconds / DAY, "d"), (seconds % DAY / HOUR, "h")),
        }
    }
}

fn two(f: &mut fmt::Formatter<'_>, large: (u64, &str), small: (u64, &str)) -> fmt::Result {
    write!(f, "{} {}", large.0, large.1)?;
    match small {
        (0, _) => Ok(()),
        (count, unit) => write!(f, " {count} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_well() {
        let cases = [
            (Duration::ZERO, "0 s"),
            (Duration::from_micros(250), "250 µs"),
            (Duration::from_millis(20), "20 ms"),
            (Duration::from_micros(999_999), "999 ms"),
            (Duration::from_millis(1_000), "1 s"),
            (Duration::from_millis(1_290), "1.2 s"),
            (Duration::from_secs(60), "60 s"),
            (Duration::from_millis(99_990), "99.9 s"),
            (Duration::from_secs(125), "2 min 5 s"),
            (Duration::from_secs(12_000), "3 h 20 min"),
            (Duration::from_secs(86_400), "1 d"),
            (Duration::from_secs(353_000), "4 d 2 h"),
        ];
        for (duration, text) in cases {
            assert_eq!(Readable(duration).to_string(), text);
        }
    }
}
