//! The calendar, in UTC, without a time zone database.

use std::env;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

/// A moment as calendar fields, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Civil {
    year: i64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    millisecond: u32,
}

impl Civil {
    /// The calendar fields of a time since 1970 (Howard Hinnant's `civil_from_days`).
    pub fn from_unix(since_epoch: Duration) -> Self {
        let (days, rest) = (since_epoch.as_secs() / 86_400, since_epoch.as_secs() % 86_400);
        let shifted = days + 719_468;
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        Self {
            year: i64::try_from(year).unwrap_or(i64::MAX),
            month,
            day: day_of_year - (153 * march_month + 2) / 5 + 1,
            hour: rest / 3_600,
            minute: rest % 3_600 / 60,
            second: rest % 60,
            millisecond: since_epoch.subsec_millis(),
        }
    }

    /// Now.
    pub fn now() -> Self {
        Self::from_unix(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// `2026-11-22T17:43:12.345Z`, or without the fraction when it is zero seconds exact (RFC 3339).
    pub fn rfc3339(&self) -> String {
        let Self { year, month, day, hour, minute, second, millisecond } = self;
        match millisecond {
            0 => format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"),
            ms => format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z"),
        }
    }

    /// `2026-11-22T17:43:12.345Z`, always with milliseconds.
    pub fn rfc3339_millis(&self) -> String {
        let Self { year, month, day, hour, minute, second, millisecond: ms } = self;
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
    }

    /// `2026-11-22 17:43:12,345`, as Python's `logging` writes it.
    pub fn python_log(&self) -> String {
        let Self { year, month, day, hour, minute, second, millisecond: ms } = self;
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02},{ms:03}")
    }
}

/// The latest time, in seconds since 1970, that anything in an image may carry: `SOURCE_DATE_EPOCH`, else 0.
///
/// Fails when the variable is there but not a number of seconds (reproducible-builds.org's specification).
pub fn source_date_epoch() -> Result<u64> {
    match env::var_os("SOURCE_DATE_EPOCH") {
        None => Ok(0),
        Some(value) => value
            .to_str()
            .and_then(|v| v.parse().ok())
            .with_context(|| format!("SOURCE_DATE_EPOCH={} is not a number of seconds", value.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calendar_is_right_at_its_corners() {
        for (name, seconds, expected) in [
            ("the epoch", 0, "1970-01-01T00:00:00Z"),
            ("a leap day", 951_782_400, "2000-02-29T00:00:00Z"),
            ("the day after", 951_868_800, "2000-03-01T00:00:00Z"),
            ("a year's last second", 1_798_761_599, "2026-12-31T23:59:59Z"),
            ("no leap day in 2100", 4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(Civil::from_unix(Duration::from_secs(seconds)).rfc3339(), expected, "{name}");
        }
        let moment = Civil::from_unix(Duration::from_millis(1_795_369_392_345));
        assert_eq!(moment.python_log(), "2026-11-22 17:43:12,345");
        assert_eq!(moment.rfc3339(), "2026-11-22T17:43:12.345Z");
    }
}
