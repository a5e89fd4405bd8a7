//! Rows that show what a model is given, with or without what it should answer.

use crate::fhe::network::MAX_INPUTS;

/// Largest file that is read.
pub const MAX_CALIBRATION_BYTES: usize = 64 << 20;
/// Most rows.
pub const MAX_CALIBRATION_ROWS: usize = 100_000;
/// Most values in all rows.
const MAX_VALUES: usize = 1 << 24;
/// Names of a last column that is the label.
const LABELS: [&str; 3] = ["label", "target", "class"];

/// Rows of values, each with the right answer where it is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    pub(super) rows: Vec<Vec<f64>>,
    pub(super) labels: Option<Vec<String>>,
}

/// Why rows cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CalibrationError {
    /// Nothing to learn from.
    #[error("the calibration has no rows")]
    Empty,
    /// More than is read.
    #[error("the calibration has more than {most} {of}")]
    TooLarge {
        /// Of what.
        of: &'static str,
        /// The limit.
        most: usize,
    },
    /// No table.
    #[error("line {line}: {problem}")]
    Line {
        /// Which, from 1.
        line: u64,
        /// What is wrong.
        problem: String,
    },
    /// A field that is no number.
    #[error("line {line}, column {column}: \"{found}\" is not a finite number")]
    Number {
        /// Which line, from 1.
        line: u64,
        /// Which column, from 1, and its name where there is one.
        column: String,
        /// What is there.
        found: String,
    },
    /// A column that is not there.
    #[error("there is no column \"{0}\": the file has to begin with a line of names")]
    NoColumn(String),
    /// Rows of different lengths, or not one label for each.
    #[error("row {row} has {found} values, where the first has {expected}")]
    Uneven {
        /// Which, from 1.
        row: usize,
        /// Its values.
        found: usize,
        /// Those of the first.
        expected: usize,
    },
    /// Not one label for each row.
    #[error("there are {labels} labels for {rows} rows")]
    Labels {
        /// Of labels.
        labels: usize,
        /// Of rows.
        rows: usize,
    },
}

impl Calibration {
    /// Takes rows, and a label for each.
    pub fn new(rows: Vec<Vec<f64>>, labels: Option<Vec<String>>) -> Result<Self, CalibrationError> {
        let expected = rows.first().map_or(0, Vec::len);
        if expected == 0 {
            return Err(CalibrationError::Empty);
        }
        let too_large = |of, most| Err(CalibrationError::TooLarge { of, most });
        if rows.len() > MAX_CALIBRATION_ROWS {
            return too_large("rows", MAX_CALIBRATION_ROWS);
        }
        if expected > MAX_INPUTS {
            return too_large("columns", MAX_INPUTS);
        }
        if rows.len() * expected > MAX_VALUES {
            return too_large("values", MAX_VALUES);
        }
        for (place, row) in rows.iter().enumerate() {
            if row.len() != expected {
                return Err(CalibrationError::Uneven { row: place + 1, found: row.len(), expected });
            }
            if let Some((column, value)) = row.iter().enumerate().find(|(_, value)| !is_usable(**value)) {
                let (line, column) = (place as u64 + 1, (column + 1).to_string());
                return Err(CalibrationError::Number { line, column, found: value.to_string() });
            }
        }
        if let Some(labels) = labels.as_ref().filter(|labels| labels.len() != rows.len()) {
            return Err(CalibrationError::Labels { labels: labels.len(), rows: rows.len() });
        }
        Ok(Self { rows, labels })
    }

    /// Reads a CSV. A first line without numbers is one of names. The column of labels is the one called `label`, or
    /// else the last, if it is called label, target or class or is not of numbers in a file without names.
    pub fn from_csv(bytes: &[u8], label: Option<&str>) -> Result<Self, CalibrationError> {
        if bytes.len() > MAX_CALIBRATION_BYTES {
            return Err(CalibrationError::TooLarge { of: "bytes", most: MAX_CALIBRATION_BYTES });
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut reader = csv::ReaderBuilder::new().has_headers(false).trim(csv::Trim::All).from_reader(bytes);
        let mut record = csv::StringRecord::new();
        let mut names: Option<Vec<String>> = None;
        let mut label_column = None;
        let mut rows: Vec<Vec<f64>> = Vec::new();
        let mut labels = Vec::new();
        let mut first = true;
        while reader.read_record(&mut record).map_err(|error| malformed(&error))? {
            let line = record.position().map_or(0, csv::Position::line);
            if record.len() > MAX_INPUTS + 1 {
                return Err(CalibrationError::TooLarge { of: "columns", most: MAX_INPUTS });
            }
            let named = first && is_header(&record, label);
            if first {
                label_column = find_label(&record, named, label)?;
                first = false;
            }
            if named {
                names = Some(record.iter().map(str::to_owned).collect());
                continue;
            }
            if rows.len() == MAX_CALIBRATION_ROWS {
                return Err(CalibrationError::TooLarge { of: "rows", most: MAX_CALIBRATION_ROWS });
            }
            let mut row = Vec::with_capacity(record.len());
            for (column, field) in record.iter().enumerate() {
                if Some(column) == label_column {
                    labels.push(tidy(field));
                    continue;
                }
                row.push(field.parse().ok().filter(|value| is_usable(*value)).ok_or_else(|| {
                    let name = names.as_ref().and_then(|names| names.get(column));
                    let name = name.map(|name| format!(" ({})", shown(name))).unwrap_or_default();
                    CalibrationError::Number { line, column: format!("{}{name}", column + 1), found: shown(field) }
                })?);
            }
            if (rows.len() + 1) * row.len() > MAX_VALUES {
                return Err(CalibrationError::TooLarge { of: "values", most: MAX_VALUES });
            }
            rows.push(row);
        }
        Self::new(rows, label_column.map(|_| labels))
    }

    /// How many values a row has.
    pub fn columns(&self) -> usize {
        self.rows.first().map_or(0, Vec::len)
    }

    /// The rows.
    pub fn rows(&self) -> &[Vec<f64>] {
        &self.rows
    }

    /// The label of each row, where there are labels.
    pub fn labels(&self) -> Option<&[String]> {
        self.labels.as_deref()
    }
}

fn is_usable(value: f64) -> bool {
    value.is_finite() && value.abs() < 1e12
}

/// True for a line of names: no field is a number, or the column asked for is one.
fn is_header(record: &csv::StringRecord, label: Option<&str>) -> bool {
    let is_number = |field: &str| field.parse::<f64>().is_ok();
    let known = |field: &str| LABELS.iter().any(|name| field.eq_ignore_ascii_case(name));
    !record.iter().any(is_number)
        || record.iter().next_back().is_some_and(known)
        || label.is_some_and(|label| record.iter().any(|field| field == label))
}

fn find_label(
    record: &csv::StringRecord,
    named: bool,
    label: Option<&str>,
) -> Result<Option<usize>, CalibrationError> {
    if let Some(label) = label {
        let place = record.iter().position(|field| named && field == label);
        return place.map(Some).ok_or_else(|| CalibrationError::NoColumn(shown(label)));
    }
    let last = record.iter().next_back().unwrap_or_default();
    let found = if named {
        LABELS.iter().any(|name| last.eq_ignore_ascii_case(name))
    } else {
        last.parse::<f64>().is_err()
    };
    Ok(found.then(|| record.len() - 1))
}

/// A label as models write it: whole numbers without a fraction.
pub(super) fn tidy(label: &str) -> String {
    match label.parse::<f64>() {
        Ok(value) if value.fract() == 0.0 && value.abs() < 9e15 => format!("{}", value as i64),
        _ => label.to_owned(),
    }
}

/// The beginning of a foreign text, on one line.
fn shown(text: &str) -> String {
    text.chars().filter(|of| !of.is_control()).take(40).collect()
}

fn malformed(error: &csv::Error) -> CalibrationError {
    let line = error.position().map_or(0, csv::Position::line);
    let problem = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("it has {len} fields, where the first line has {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => "it is not text in UTF-8".to_owned(),
        _ => "it is not a line of a CSV file".to_owned(),
    };
    CalibrationError::Line { line, problem }
}
