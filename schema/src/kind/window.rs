//! When a host may be rebooted: a recurring window, in UTC. It knows the calendar; the time is given to it.

use std::{fmt, str::FromStr};

use jiff::{Span, Timestamp, civil::Weekday, tz::TimeZone};
use serde::{Deserialize, Serialize};

use super::value::{ValueError, string_form};

const MINUTES_A_DAY: u16 = 24 * 60;
const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

/// `02:00-04:30`, `sat,sun 22:00-02:00`, `mon-fri 03:00-04:00`; in UTC. The days are those on which it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RebootWindow {
    /// Monday first.
    days: [bool; 7],
    /// Minute of the day at which it opens.
    from: u16,
    /// Minute of the day at which it closes; not after `from`: on the next day.
    to: u16,
}

impl RebootWindow {
    /// For how many minutes it is open.
    fn minutes(self) -> u16 {
        if self.to > self.from {
            self.to - self.from
        } else {
            MINUTES_A_DAY - self.from + self.to
        }
    }

    /// When it opens on the day `offset` days from `now`'s, if it does on that day.
    fn opening(self, now: Timestamp, offset: i64) -> Option<Timestamp> {
        let midnight = now
            .to_zoned(TimeZone::UTC)
            .start_of_day()
            .ok()?
            .checked_add(Span::new().days(offset))
            .ok()?;
        let day = usize::try_from(midnight.weekday().to_monday_zero_offset()).ok()?;
        let open = *self.days.get(day)?;
        let at = midnight
            .checked_add(Span::new().minutes(i64::from(self.from)))
            .ok()?;
        open.then(|| at.timestamp())
    }

    /// Is it open?
    #[must_use]
    pub fn is_open(self, now: Timestamp) -> bool {
        let long = std::time::Duration::from_secs(u64::from(self.minutes()) * 60);
        // Yesterday's may last past midnight.
        [-1, 0]
            .into_iter()
            .filter_map(|day| self.opening(now, day))
            .any(|at| at <= now && now < at + long)
    }

    /// When it opens next, after `now`.
    #[must_use]
    pub fn next_opening(self, now: Timestamp) -> Option<Timestamp> {
        (0..=7)
            .filter_map(|day| self.opening(now, day))
            .find(|at| *at > now)
    }
}

fn wrong(text: &str) -> ValueError {
    ValueError(format!("`{text}` is not a window"))
}

fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |s: &str, max: u16| {
        let plain = s.len() == 2 && s.bytes().all(|b| b.is_ascii_digit());
        s.parse::<u16>().ok().filter(|n| plain && *n <= max)
    };
    Some(number(hour, 23)? * 60 + number(minute, 59)?)
}

fn day(word: &str) -> Option<usize> {
    DAYS.iter().position(|(name, _)| *name == word)
}

fn days(text: &str) -> Option<[bool; 7]> {
    let mut out = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut at, last) = (day(first)?, day(last)?);
        loop {
            out[at] = true;
            if at == last {
                break;
            }
            at = (at + 1) % 7;
        }
    }
    Some(out)
}

impl FromStr for RebootWindow {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let words: Vec<&str> = text.split(' ').collect();
        let (on, hours) = match words.as_slice() {
            [hours] => (Some([true; 7]), *hours),
            [on, hours] => (days(on), *hours),
            _ => (None, ""),
        };
        let (from, to) = hours.split_once('-').ok_or_else(|| wrong(text))?;
        let made = || {
            Some(Self {
                days: on?,
                from: minute(from)?,
                to: minute(to)?,
            })
        };
        made().ok_or_else(|| wrong(text))
    }
}

impl fmt::Display for RebootWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days != [true; 7] {
            let named = DAYS.iter().zip(self.days).filter(|(_, on)| *on);
            let names: Vec<&str> = named.map(|((name, _), _)| *name).collect();
            write!(f, "{} ", names.join(","))?;
        }
        let (from, to) = (self.from, self.to);
        write!(
            f,
            "{:02}:{:02}-{:02}:{:02}",
            from / 60,
            from % 60,
            to / 60,
            to % 60
        )
    }
}

string_form!(
    RebootWindow,
    "When a host may be rebooted, in UTC: `02:00-04:30`, `sat,sun 22:00-02:00`, `mon-fri 03:00-04:00`.",
    "^([a-z]{3}([,-][a-z]{3})* )?[0-9]{2}:[0-9]{2}-[0-9]{2}:[0-9]{2}$"
);

#[cfg(test)]
mod tests {
    use super::*;

    fn window(text: &str) -> RebootWindow {
        text.parse().unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_window_reads_and_writes_the_same() {
        for text in ["02:00-04:30", "sat,sun 22:00-02:00", "00:00-00:00"] {
            assert_eq!(window(text).to_string(), text);
        }
        assert_eq!(
            window("fri-mon 03:00-04:00").to_string(),
            "mon,fri,sat,sun 03:00-04:00"
        );
        for bad in [
            "",
            "2:00-3:00",
            "24:00-01:00",
            "xyz 02:00-03:00",
            "mon 02:00",
            "mon  02:00-03:00",
            "02:60-03:00",
        ] {
            assert!(bad.parse::<RebootWindow>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_window_past_midnight_belongs_to_the_day_on_which_it_opens() {
        // 2026-11-21 is a Saturday.
        let w = window("sat 22:00-02:00");
        assert!(!w.is_open(at("2026-11-21T21:59:59Z")));
        assert!(w.is_open(at("2026-11-21T22:00:00Z")));
        assert!(w.is_open(at("2026-11-22T01:59:59Z")));
        assert!(!w.is_open(at("2026-11-22T02:00:00Z")));
        assert!(!w.is_open(at("2026-11-22T23:00:00Z")));
        assert!(
            !w.is_open(at("2026-11-21T01:00:00Z")),
            "that is Friday's night"
        );
    }

    #[test]
    fn it_says_when_it_opens_next() {
        let w = window("sat 22:00-02:00");
        assert_eq!(
            w.next_opening(at("2026-11-21T21:00:00Z")),
            Some(at("2026-11-21T22:00:00Z"))
        );
        assert_eq!(
            w.next_opening(at("2026-11-21T22:00:00Z")),
            Some(at("2026-11-28T22:00:00Z"))
        );
        assert_eq!(
            window("02:00-02:00").next_opening(at("2026-11-21T03:00:00Z")),
            Some(at("2026-11-22T02:00:00Z"))
        );
    }
}
