//! How long each client was without an answer, as a picture: every run a dot, on a scale where each line is ten
//! times the one before.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde_json::Value;

use crate::outage::FAULTS;
use crate::pages::Figures;
use crate::player::{ALL, OURS, OURS_FAST, THEIRS, Who};
use crate::table;

/// A picture is looked at on white or on black.
#[derive(Clone, Copy)]
pub(crate) enum Theme {
    Light,
    Dark,
}

struct Colors {
    ground: RGBColor,
    text: RGBColor,
    faint: RGBColor,
    line: RGBColor,
    ours: RGBColor,
    theirs: RGBColor,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const SIZE: (u32, u32) = (880, 470);
const LEFT: i32 = 142;
/// Where 10 s are; what is above has room until the medians.
const RIGHT: i32 = 740;
const TOP: i32 = 62;
const ROW: i32 = 23;
const GROUP: i32 = 128;
const TICKS: [(f64, &str); 5] = [
    (1.0, "1 ms"),
    (10.0, "10 ms"),
    (100.0, "100 ms"),
    (1e3, "1 s"),
    (1e4, "10 s"),
];

pub(crate) fn draw(figures: &Figures<'_>, theme: Theme) -> Result<String, String> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    let told = |error: Box<dyn std::error::Error>| format!("the picture: {error}");
    paint(&area, figures, &theme.colors()).map_err(told)?;
    drop(area);
    Ok(svg)
}

impl Theme {
    fn colors(self) -> Colors {
        match self {
            Self::Light => Colors {
                ground: RGBColor(255, 255, 255),
                text: RGBColor(31, 35, 40),
                faint: RGBColor(89, 99, 110),
                line: RGBColor(222, 227, 232),
                ours: RGBColor(9, 105, 218),
                theirs: RGBColor(202, 97, 0),
            },
            Self::Dark => Colors {
                ground: RGBColor(13, 17, 23),
                text: RGBColor(230, 237, 243),
                faint: RGBColor(145, 152, 161),
                line: RGBColor(42, 48, 56),
                ours: RGBColor(88, 166, 255),
                theirs: RGBColor(240, 160, 70),
            },
        }
    }
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn paint(area: &Area<'_>, figures: &Figures<'_>, colors: &Colors) -> Drawn {
    area.fill(&colors.ground)?;
    let title = "From the fault to the first answer of the other database";
    write(area, title, (16, 12), 17, colors.text, HPos::Left)?;
    let note = "a dot is a run, a bar the median";
    let edge = SIZE.0 as i32 - 16;
    write(area, note, (edge, 16), 12, colors.faint, HPos::Right)?;
    let groups = [
        ("killed", FAULTS[0]),
        ("hung", FAULTS[1]),
        ("killed, a subscriber's first message", ""),
    ];
    for (group, (name, fault)) in groups.into_iter().enumerate() {
        let top = TOP + group as i32 * GROUP;
        write(area, name, (16, top - 10), 13, colors.text, HPos::Left)?;
        for (ms, _) in TICKS {
            let line = [
                (across(ms), top + 10),
                (across(ms), top + row_at(ALL.len()) - 8),
            ];
            area.draw(&PathElement::new(line, colors.line))?;
        }
        for (row, who) in ALL.into_iter().enumerate() {
            let seen = match fault {
                "" => figures.heard(who)?,
                fault => figures.outage(fault, who)?,
            };
            one(area, top + row_at(row), who, seen, colors)?;
        }
    }
    let bottom = TOP + groups.len() as i32 * GROUP;
    for (ms, name) in TICKS {
        write(
            area,
            name,
            (across(ms), bottom - 4),
            12,
            colors.faint,
            HPos::Center,
        )?;
    }
    area.present()?;
    Ok(())
}

fn row_at(row: usize) -> i32 {
    24 + row as i32 * ROW
}

/// The runs of one client.
fn one(area: &Area<'_>, y: i32, who: Who, seen: &Value, colors: &Colors) -> Drawn {
    let color = if who.client == OURS.client {
        colors.ours
    } else {
        colors.theirs
    };
    let name = match who {
        OURS => "multidb",
        OURS_FAST => "multidb, Fast",
        THEIRS => "redis-py",
        _ => "redis-py, tuned",
    };
    write(area, name, (LEFT - 14, y - 5), 12, color, HPos::Right)?;
    let runs = seen["all"].as_array().into_iter().flatten();
    let runs: Vec<f64> = runs.filter_map(Value::as_f64).collect();
    for ms in &runs {
        let dot = color.mix(0.45).filled();
        area.draw(&Circle::new((across(*ms), y), 4, dot))?;
    }
    let middle = seen["median"].as_f64().ok_or("no median")?;
    let x = across(middle);
    area.draw(&Rectangle::new(
        [(x - 1, y - 9), (x + 2, y + 9)],
        color.filled(),
    ))?;
    let label = (SIZE.0 as i32 - 16, y - 5);
    write(
        area,
        &table::time(middle),
        label,
        12,
        colors.text,
        HPos::Right,
    )
}

fn across(ms: f64) -> i32 {
    let decades = ms.max(1.0).log10() / 1e4_f64.log10();
    LEFT + (decades * f64::from(RIGHT - LEFT)) as i32
}

fn write(
    area: &Area<'_>,
    text: &str,
    at: (i32, i32),
    size: i32,
    color: RGBColor,
    side: HPos,
) -> Drawn {
    let style = TextStyle::from(("sans-serif", size).into_font())
        .color(&color)
        .pos(Pos::new(side, VPos::Top));
    area.draw(&Text::new(text.to_owned(), at, style))?;
    Ok(())
}
