use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

struct Golden {
    case: String,
    metadata: String,
    batch: String,
    rows: Vec<Vec<String>>,
}

/// What a real Thrift library made and the connector for Python read, microseconds and all digits kept.
fn golden() -> Vec<Golden> {
    let cases: Vec<serde_json::Value> = serde_json::from_str(include_str!("golden.json")).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let list = |value: &serde_json::Value| value.as_array().unwrap().clone();
    let golden = cases.iter().map(|case| Golden {
        case: text(&case["case"]),
        metadata: text(&case["metadata"]),
        batch: text(&case["batch"]),
        rows: list(&case["rows"])
            .iter()
            .map(|row| list(row).iter().map(text).collect())
            .collect(),
    });
    golden.collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn shown(batch: &Batch) -> Vec<Vec<String>> {
    let row = |row: Row| row.values().map(|value| value.to_string()).collect();
    batch.rows().map(row).collect()
}

#[test]
fn what_the_connector_reads_is_read_the_same() {
    for golden in golden() {
        let metadata = metadata(&bytes(&golden.metadata)).unwrap();
        assert_eq!(metadata.rows as usize, golden.rows.len(), "{}", golden.case);
        let batch = batch(&bytes(&golden.batch), &metadata).unwrap().unwrap();
        assert_eq!(shown(&batch), golden.rows, "{}", golden.case);
    }
}

#[test]
fn whatever_is_cut_off_or_changed_is_an_error_or_another_result_and_never_a_panic() {
    for golden in golden() {
        let (columns, rows) = (bytes(&golden.metadata), bytes(&golden.batch));
        for end in 0..columns.len() {
            metadata(&columns[..end]).unwrap_err();
        }
        let known = metadata(&columns).unwrap();
        for end in 1..rows.len() {
            batch(&rows[..end], &known).unwrap_err();
        }
        for at in 0..rows.len() {
            for flip in [1_u8, 0x80, 0xFF] {
                let mut changed = rows.clone();
                changed[at] ^= flip;
                if let Ok(Some(batch)) = batch(&changed, &known) {
                    for index in [0, batch.len() / 2, batch.len() - 1] {
                        let row = batch.row(index).unwrap();
                        let _ = format!("{row:?}");
                    }
                }
            }
        }
    }
}

// --- lies and bombs ---

fn one(kind: ColumnType) -> Metadata {
    Metadata {
        rows: 1,
        columns: [Column::new("c", kind)].into(),
    }
}

#[test]
fn a_length_that_lies_is_found_before_anything_is_made_of_it() {
    let whole = encode::batch(
        &one(ColumnType::Long).columns,
        &[vec![Value::Long(7)]],
        false,
    );
    // Of the list of vectors, and of the list of longs.
    let mark = |needle: &[u8]| {
        whole
            .windows(needle.len())
            .position(|w| w == needle)
            .unwrap()
            + needle.len()
    };
    for at in [mark(&[15, 0, 2, 12]), mark(&[15, 0, 1, 10])] {
        for lie in [i32::MAX, -1, 1_000_000, 2] {
            let mut lying = whole.clone();
            lying[at..at + 4].copy_from_slice(&lie.to_be_bytes());
            batch(&lying, &one(ColumnType::Long)).unwrap_err();
        }
    }
    let mut many = encode::metadata(1, &[]);
    many[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
    metadata(&many).unwrap_err();
}

/// `SELECT 1 FROM` a large table: a legitimate one, and it takes no room.
#[test]
fn a_constant_for_all_the_rows_there_can_be_is_one_value() {
    let columns = one(ColumnType::Long);
    let mut huge = encode::batch(&columns.columns, &[vec![Value::Long(7)]], true);
    let rows = 1_i32.to_be_bytes();
    let places: Vec<_> = (0..huge.len() - 7)
        .filter(|&at| huge[at..at + 3] == [8, 0, 1] && huge[at + 3..at + 7] == rows)
        .collect();
    assert_eq!(places.len(), 2, "of the batch and of the vector");
    for at in places {
        huge[at + 3..at + 7].copy_from_slice(&i32::MAX.to_be_bytes());
    }
    let batch = batch(&huge, &columns).unwrap().unwrap();
    assert_eq!(batch.len(), i32::MAX as usize);
    let last = batch.row(batch.len() - 1).unwrap();
    assert_eq!(last.get::<i64>(0), Ok(7));
    assert!(batch.row(batch.len()).is_none());
}

#[test]
fn what_is_nested_without_end_is_not_followed() {
    let mut deep = Vec::new();
    for _ in 0..100_000 {
        deep.extend([12, 0, 9]);
    }
    let error = batch(&deep, &one(ColumnType::Long)).unwrap_err();
    assert!(error.to_string().contains("nested"), "{error}");
}

#[test]
fn vectors_that_have_no_decoder_are_said_to_have_none() {
    let metadata = one(ColumnType::Other("INT96".into()));
    for of in [4_i32, 10, 18, -1, i32::MAX] {
        let mut bytes = encode::batch(&metadata.columns, &[vec![Value::Null]], false);
        let at = bytes
            .windows(7)
            .position(|w| w == [8, 0, 2, 0, 0, 0, 4])
            .unwrap();
        bytes[at + 3..at + 7].copy_from_slice(&of.to_be_bytes());
        let error = batch(&bytes, &metadata).unwrap_err();
        assert_eq!(error.place(), "c");
        assert!(error.to_string().contains(&of.to_string()), "{error}");
    }
}

#[test]
fn text_that_is_none_and_rows_that_are_missing_are_errors() {
    let text = one(ColumnType::String);
    let mut bytes = encode::batch(&text.columns, &[vec![Value::Text("abc".into())]], false);
    let at = bytes.windows(3).position(|w| w == b"abc").unwrap();
    bytes[at] = 0xFF;
    batch(&bytes, &text).unwrap_err();
    let two = Metadata {
        columns: [
            Column::new("a", ColumnType::Long),
            Column::new("b", ColumnType::Long),
        ]
        .into(),
        ..one(ColumnType::Long)
    };
    let narrow = encode::batch(&two.columns[..1], &[vec![Value::Long(1)]], false);
    batch(&narrow, &two).unwrap_err();
    let wide = encode::batch(&two.columns, &[vec![Value::Long(1), Value::Long(2)]], false);
    batch(&wide, &one(ColumnType::Long)).unwrap_err();
}

// --- what the connector gets wrong ---

#[test]
fn days_and_times_before_1970_are_those_days_and_times() {
    let time = |micros| DateTime { micros }.to_string();
    assert_eq!(time(-1), "1969-12-31T23:59:59.999999+00:00");
    assert_eq!(time(-86_400_000_001), "1969-12-30T23:59:59.999999+00:00");
    assert_eq!(Date::of_micros(-1).to_string(), "1969-12-31");
    assert_eq!(Date::of_micros(i64::MIN).to_string(), "-290308-12-21");
    assert_eq!(time(i64::MIN), "-290308-12-21T19:59:05.224192+00:00");
    assert_eq!(time(i64::MAX), "+294247-01-10T04:00:54.775807+00:00");
    assert_eq!(Date { days: -719_529 }.to_string(), "-0001-12-31");
    assert_eq!(Date { days: -719_528 }.to_string(), "0000-01-01");
}

#[test]
fn decimals_keep_all_their_digits_whatever_they_look_like() {
    let decimal = |unscaled, scale| Decimal { unscaled, scale }.to_string();
    assert_eq!(decimal(10_i128.pow(38) - 1, 0), "9".repeat(38));
    assert_eq!(
        decimal(-(10_i128.pow(38) - 1), 38),
        format!("-0.{}", "9".repeat(38))
    );
    assert_eq!(
        decimal(i128::MIN, 1),
        "-17014118346046923173168730371588410572.8"
    );
    assert_eq!(
        (decimal(5, -2), decimal(0, -2), decimal(-5, 3)),
        ("500".into(), "0".into(), "-0.005".into())
    );
    // Sixteen bytes that look like digits are a number all the same.
    let number = i128::from_be_bytes(*b"1234567890123456");
    let metadata = one(ColumnType::Decimal);
    let value = Value::Decimal(Decimal {
        unscaled: number,
        scale: 2,
    });
    let bytes = encode::batch(&metadata.columns, &[vec![value.clone()]], false);
    let batch = batch(&bytes, &metadata).unwrap().unwrap();
    assert_eq!(batch.row(0).unwrap().value(0), Some(value));
    assert_eq!(
        Decimal::parse("-1.50").map(|d| d.to_string()),
        Some("-1.50".into())
    );
    for bad in ["", "-", ".", "1e5", "1.2.3", " 1", "0x1", &"9".repeat(40)] {
        assert_eq!(Decimal::parse(bad), None, "{bad}");
    }
}

#[test]
fn a_zone_moves_the_time_and_a_name_of_one_does_not_pretend_to() {
    let at = |zone: &str| {
        TimestampTz {
            micros: 0,
            zone: zone.into(),
        }
        .to_string()
    };
    assert_eq!(at("+05:30"), "1970-01-01T05:30:00.000000+05:30");
    assert_eq!(at("-03:00"), "1969-12-31T21:00:00.000000-03:00");
    for utc in ["", "Z", "UTC"] {
        assert_eq!(at(utc), "1970-01-01T00:00:00.000000+00:00");
    }
    assert_eq!(
        at("Asia/Kolkata"),
        "1970-01-01T00:00:00.000000+00:00[Asia/Kolkata]"
    );
    assert_eq!(at("+99:00"), "1970-01-01T00:00:00.000000+00:00[+99:00]");
    assert_eq!(at("+é"), "1970-01-01T00:00:00.000000+00:00[+é]");
}

#[test]
fn names_may_be_in_javas_own_utf8() {
    let mut bytes = encode::metadata(0, &[Column::new("abcdefgh", ColumnType::Long)]);
    let at = bytes.windows(8).position(|w| w == b"abcdefgh").unwrap();
    // NUL in two bytes, and U+1F600 as two surrogates of three.
    bytes[at..at + 8].copy_from_slice(&[0xC0, 0x80, 0xED, 0xA0, 0xBD, 0xED, 0xB8, 0x80]);
    assert_eq!(metadata(&bytes).unwrap().columns[0].name, "\0\u{1F600}");
    bytes[at + 7] = 0x20;
    metadata(&bytes).unwrap_err();
}

#[test]
fn values_become_what_is_asked_for_or_say_why_not() {
    let columns = vec![
        Column::new("n", ColumnType::Integer),
        Column::new("s", ColumnType::String),
    ];
    let metadata = Metadata {
        rows: 1,
        columns: columns.into(),
    };
    let rows = [vec![Value::Integer(7), Value::Null]];
    let bytes = encode::batch(&metadata.columns, &rows, false);
    let row = batch(&bytes, &metadata).unwrap().unwrap().row(0).unwrap();
    assert_eq!(
        (row.get::<i32>(0), row.get::<i64>(0), row.get::<f64>(0)),
        (Ok(7), Ok(7), Ok(7.0))
    );
    assert_eq!(row.named::<Option<String>>("s"), Ok(None));
    let error = row.named::<String>("s").unwrap_err();
    assert_eq!(error.to_string(), "s: null where text was asked for");
    row.get::<bool>(0).unwrap_err();
    row.get::<i32>(2).unwrap_err();
    row.named::<i32>("x").unwrap_err();
}

// --- there and back ---

fn columns() -> impl Strategy<Value = Vec<ColumnType>> {
    vec(prop::sample::select(every_kind().to_vec()), 1..5)
}

fn value(kind: &ColumnType, n: i64, wide: i128, text: &str) -> Value {
    use ColumnType as T;
    match kind {
        T::Binary => Value::Binary(text.as_bytes().to_vec()),
        T::Boolean => Value::Boolean(n % 2 == 0),
        T::Double | T::Float => Value::Double(n as f64 / 8.0),
        T::Integer => Value::Integer(n as i32),
        T::Long => Value::Long(n),
        T::String | T::Struct | T::Map | T::Array => Value::Text(text.to_owned()),
        T::Date => Value::Date(Date::of_micros(n)),
        T::DateTime => Value::DateTime(DateTime { micros: n }),
        T::TimestampTz => Value::TimestampTz(TimestampTz {
            micros: n,
            zone: text.into(),
        }),
        T::Decimal => Value::Decimal(Decimal {
            unscaled: wide,
            scale: 9,
        }),
        T::Interval => Value::Interval(Interval { micros: n }),
        T::Null | T::Other(_) => Value::Null,
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded_the_same(
        kinds in columns(),
        rows in vec((any::<i64>(), any::<i128>(), ".{0,9}", any::<u8>()), 1..20),
        constants in any::<bool>(),
        alike in any::<bool>(),
    ) {
        let columns: Vec<_> = kinds.iter().map(|kind| Column::new("c", kind.clone())).collect();
        let metadata = metadata(&encode::metadata(7, &columns)).unwrap();
        prop_assert_eq!(&*metadata.columns, &columns[..]);
        let rows: Vec<Vec<Value>> = rows.iter().map(|row| {
            let (n, wide, text, nulls) = if alike { &rows[0] } else { row };
            kinds.iter().enumerate().map(|(at, kind)| match nulls >> at & 1 {
                1 => Value::Null,
                _ => value(kind, *n, *wide, text),
            }).collect()
        }).collect();
        let bytes = encode::batch(&columns, &rows, constants);
        let batch = batch(&bytes, &metadata).unwrap().unwrap();
        let back: Vec<Vec<Value>> = batch.rows().map(|row| row.values().collect()).collect();
        prop_assert_eq!(back, rows);
    }

    #[test]
    fn any_bytes_at_all_are_survived(bytes in vec(any::<u8>(), 0..400), kinds in columns()) {
        let _ = metadata(&bytes);
        let columns: Vec<_> = kinds.into_iter().map(|kind| Column::new("c", kind)).collect();
        let metadata = Metadata { rows: 0, columns: columns.into() };
        let _ = batch(&bytes, &metadata);
    }
}
