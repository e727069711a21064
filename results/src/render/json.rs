//! A frame as JSON: what the read commands print with `--json`.

use polars::prelude::{AnyValue, DataFrame};
use serde_json::{Map, Value};

/// An array with one object for each row, keys in the order of the columns. A value that is absent or not finite is null.
#[must_use]
pub fn json(frame: &DataFrame) -> Value {
    let row = |index: usize| {
        let cells = frame.columns().iter().map(|column| {
            let cell = column.get(index).map_or(Value::Null, |cell| value(&cell));
            (column.name().to_string(), cell)
        });
        Value::Object(cells.collect::<Map<String, Value>>())
    };
    Value::Array((0..frame.height()).map(row).collect())
}

/// The tables hold text, switches, counts and floats.
fn value(cell: &AnyValue<'_>) -> Value {
    match cell {
        AnyValue::Null => Value::Null,
        AnyValue::Boolean(switch) => Value::from(*switch),
        AnyValue::UInt64(count) => Value::from(*count),
        AnyValue::Float64(number) => Value::from(*number),
        AnyValue::String(text) => Value::from(*text),
        AnyValue::StringOwned(text) => Value::from(text.as_str()),
        other => Value::from(other.to_string()),
    }
}
