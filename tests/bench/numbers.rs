//! Numbers of repeated runs: smallest, median, greatest; the table, the JSON, and promises that hold or not. It measures
//! nothing itself.

use serde_json::{Value, json};

/// One measured thing, over all runs. Each benchmark has one unit for a series, named in its label.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series(Vec<f64>);

impl Series {
    pub fn add(&mut self, value: f64) {
        self.0.push(value);
    }
    pub fn len(&self) -> usize {
        self.0.len()
    }
    fn sorted(&self) -> Vec<f64> {
        let mut all = self.0.clone();
        all.sort_by(f64::total_cmp);
        all
    }
    pub fn min(&self) -> f64 {
        self.sorted().first().copied().unwrap_or(f64::NAN)
    }
    pub fn max(&self) -> f64 {
        self.sorted().last().copied().unwrap_or(f64::NAN)
    }
    /// Of an even number of runs: the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        let all = self.sorted();
        match all.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => all[n / 2],
            n => f64::midpoint(all[n / 2 - 1], all[n / 2]),
        }
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// What a benchmark says in the end.
#[derive(Debug, Default)]
pub struct Outcome {
    rows: Vec<(String, &'static str, Series)>,
    promises: Vec<(String, bool)>,
    notes: Vec<String>,
}

impl Outcome {
    pub fn row(&mut self, label: impl Into<String>, unit: &'static str, series: Series) {
        self.rows.push((label.into(), unit, series));
    }
    /// `said` has the numbers in it, whether the promise holds or not.
    pub fn promise(&mut self, said: impl Into<String>, holds: bool) {
        self.promises.push((said.into(), holds));
    }
    /// What a reader of the numbers has to know.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }
    pub fn holds(&self) -> bool {
        self.promises.iter().all(|(_, holds)| *holds)
    }

    pub fn table(&self) -> String {
        let wide = self.rows.iter().map(|(l, ..)| l.chars().count()).max();
        let wide = wide.unwrap_or(0).max("what".len());
        let mut out = format!(
            "{:<wide$}  {:>9}  {:>9}  {:>9}  {:>4}  unit\n",
            "what", "min", "median", "max", "runs"
        );
        for (label, unit, s) in &self.rows {
            out += &format!(
                "{label:<wide$}  {:>9}  {:>9}  {:>9}  {:>4}  {unit}\n",
                shown(s.min()),
                shown(s.median()),
                shown(s.max()),
                s.len()
            );
        }
        for note in &self.notes {
            out += &format!("  {note}\n");
        }
        for (said, holds) in &self.promises {
            out += &format!("{} {said}\n", if *holds { "✓" } else { "✗" });
        }
        out
    }

    pub fn json(&self, name: &str) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|(label, unit, s)| {
                json!({ "what": label, "unit": unit, "min": s.min(), "median": s.median(), "max": s.max(), "runs": s.0 })
            })
            .collect();
        let promises: Vec<Value> = self
            .promises
            .iter()
            .map(|(said, holds)| json!({ "said": said, "holds": holds }))
            .collect();
        json!({ "bench": name, "rows": rows, "promises": promises, "notes": self.notes })
    }
}

/// Three digits that mean something.
fn shown(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
