//! The spellings of time that YAML and sops know, to the one canonical form. There is no clock here.

/// A point in time as written: civil fields, fraction digits, offset in minutes.
struct Civil {
    date: (u32, u32, u32),
    clock: (u32, u32, u32),
    fraction: String,
    offset: Option<i32>,
}

impl Civil {
    fn is_possible(&self) -> bool {
        let (year, month, day) = self.date;
        let leap =
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let days = match month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 if leap => 29,
            2 => 28,
            _ => return false,
        };
        let (hour, minute, second) = self.clock;
        (1..=days).contains(&day) && hour < 24 && minute < 60 && second < 60
    }

    fn print(&self, with_fraction: bool) -> String {
        let ((year, month, day), (hour, minute, second)) = (self.date, self.clock);
        let fraction = self
            .fraction
            .get(..9)
            .unwrap_or(&self.fraction)
            .trim_end_matches('0');
        let fraction = if fraction.is_empty() || !with_fraction {
            String::new()
        } else {
            format!(".{fraction}")
        };
        let zone = match self.offset.unwrap_or(0) {
            0 => "Z".to_owned(),
            minutes => {
                let sign = if minutes < 0 { '-' } else { '+' };
                format!("{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
            }
        };
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}{zone}")
    }
}

/// A strict RFC 3339 time (what sops writes), printed canonically with its fraction.
pub(crate) fn rfc3339(text: &str) -> Option<String> {
    strict(text).map(|civil| civil.print(true))
}

/// The same in whole seconds: how `lastmodified` enters the MAC.
pub(crate) fn rfc3339_seconds(text: &str) -> Option<String> {
    strict(text).map(|civil| civil.print(false))
}

/// A YAML timestamp: a date alone, with a clock and a zone after `T` or `t`, or with a clock after blanks, which is UTC.
pub(crate) fn yaml(text: &str) -> Option<String> {
    // A quick no for nearly every scalar: four digits and a dash.
    let head = text.as_bytes().get(..5)?;
    if !head[..4].iter().all(u8::is_ascii_digit) || head[4] != b'-' {
        return None;
    }
    let mut rest = text;
    let date = (digits(&mut rest, 4, 4)?, dash(&mut rest)?, dash(&mut rest)?);
    let mut civil = Civil {
        date,
        clock: (0, 0, 0),
        fraction: String::new(),
        offset: None,
    };
    if rest.is_empty() {
        return civil.is_possible().then(|| civil.print(true));
    }
    let after = rest.trim_start_matches(' ');
    let has_zone = after.len() == rest.len();
    rest = if has_zone {
        rest.strip_prefix(['T', 't'])?
    } else {
        after
    };
    civil.clock = (
        digits(&mut rest, 1, 2)?,
        colon(&mut rest, 1)?,
        colon(&mut rest, 1)?,
    );
    civil.fraction = fraction(&mut rest)?;
    // go-yaml wants a zone after `T` and none after a blank; what is between those is a string to it.
    civil.offset = if has_zone {
        Some(zone(rest)?)
    } else {
        rest.is_empty().then_some(None)?
    };
    civil.is_possible().then(|| civil.print(true))
}

fn strict(text: &str) -> Option<Civil> {
    let mut rest = text;
    let date = (
        digits(&mut rest, 4, 4)?,
        two(&mut rest, '-')?,
        two(&mut rest, '-')?,
    );
    rest = rest.strip_prefix('T')?;
    let clock = (
        digits(&mut rest, 2, 2)?,
        colon(&mut rest, 2)?,
        colon(&mut rest, 2)?,
    );
    let fraction = fraction(&mut rest)?;
    let offset = Some(zone(rest)?);
    let civil = Civil {
        date,
        clock,
        fraction,
        offset,
    };
    civil.is_possible().then_some(civil)
}

fn digits(rest: &mut &str, min: usize, max: usize) -> Option<u32> {
    let count = rest
        .bytes()
        .take(max)
        .take_while(u8::is_ascii_digit)
        .count();
    if count < min {
        return None;
    }
    let (number, tail) = rest.split_at(count);
    *rest = tail;
    number.parse().ok()
}

fn dash(rest: &mut &str) -> Option<u32> {
    *rest = rest.strip_prefix('-')?;
    digits(rest, 1, 2)
}

fn two(rest: &mut &str, mark: char) -> Option<u32> {
    *rest = rest.strip_prefix(mark)?;
    digits(rest, 2, 2)
}

fn colon(rest: &mut &str, min: usize) -> Option<u32> {
    *rest = rest.strip_prefix(':')?;
    digits(rest, min, 2)
}

fn fraction(rest: &mut &str) -> Option<String> {
    let Some(tail) = rest.strip_prefix('.') else {
        return Some(String::new());
    };
    let count = tail.bytes().take_while(u8::is_ascii_digit).count();
    if count == 0 {
        return None;
    }
    *rest = &tail[count..];
    Some(tail[..count].to_owned())
}

fn zone(rest: &str) -> Option<i32> {
    if rest == "Z" {
        return Some(0);
    }
    let (sign, mut tail) = match rest.split_at_checked(1)? {
        ("+", tail) => (1, tail),
        ("-", tail) => (-1, tail),
        _ => return None,
    };
    let hours = digits(&mut tail, 2, 2)?;
    let minutes = colon(&mut tail, 2)?;
    if !tail.is_empty() || hours > 24 || minutes > 59 {
        return None;
    }
    i32::try_from(hours * 60 + minutes)
        .ok()
        .map(|all| sign * all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_times_reach_one_canonical_form() {
        let table = [
            ("2020-01-02", Some("2020-01-02T00:00:00Z")),
            ("2020-1-2", Some("2020-01-02T00:00:00Z")),
            (
                "2001-12-14t21:59:43.10-05:00",
                Some("2001-12-14T21:59:43.1-05:00"),
            ),
            ("2001-12-15 2:59:43.1", Some("2001-12-15T02:59:43.1Z")),
            ("2001-12-14 21:59:43.10 -5", None),
            ("2001-12-14T21:59:43", None),
            ("2001-12-14 21:59:43Z", None),
            ("2021-02-29", None),
            ("2020-01-02x", None),
            ("12:30:45", None),
        ];
        for (text, canonical) in table {
            assert_eq!(yaml(text).as_deref(), canonical, "{text}");
        }
    }

    #[test]
    fn a_zero_offset_is_the_same_as_z() {
        assert_eq!(
            rfc3339_seconds("2026-11-21T04:36:52.5+00:00").as_deref(),
            Some("2026-11-21T04:36:52Z")
        );
        assert_eq!(rfc3339("yesterday"), None);
    }
}
