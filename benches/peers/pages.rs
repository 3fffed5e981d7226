//! The figures as they are kept, and what the README and the book show of them.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::overhead::CALLERS;
use crate::picture::{self, Theme};
use crate::player::{ALL, DEFAULTS, Who};
use crate::replies::REPLIES;
use crate::table::{self, Table};

const KEPT: &str = "docs/src/peers/figures.jsonl";
const README: &str = "README.md";
const BOOK: &str = "docs/src/figures.md";
const BEGIN: &str = "<!-- made by `cargo bench --bench peers -- --write` -->\n";
const END: &str = "<!-- until here -->\n";

/// Writes them down, one JSON object a line.
pub(crate) fn keep(figures: &[Value]) -> Result<(), String> {
    let lines: Vec<String> = figures.iter().map(|json| format!("{json}\n")).collect();
    save(KEPT, &lines.concat())
}

/// What was written down.
pub(crate) fn kept() -> Result<Vec<Value>, String> {
    let text = load(KEPT)?;
    let figures = text.lines().map(serde_json::from_str);
    figures
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{KEPT}: {error}"))
}

pub(crate) fn write(figures: &[Value]) -> Result<(), String> {
    for (path, text) in made(figures)? {
        save(path, &text)?;
    }
    Ok(())
}

/// Refuses a page or a picture that says something else than the figures.
pub(crate) fn check(figures: &[Value]) -> Result<(), String> {
    for (path, text) in made(figures)? {
        if load(path)? != text {
            return Err(format!(
                "{path} is not what {KEPT} says: cargo bench --bench peers -- --redraw"
            ));
        }
    }
    Ok(())
}

/// Every file that shows figures, as it should be.
fn made(figures: &[Value]) -> Result<Vec<(&'static str, String)>, String> {
    let figures = Figures(figures);
    Ok(vec![
        (README, filled(README, &[readme(&figures)?])?),
        (BOOK, filled(BOOK, &[waits(&figures)?, counts(&figures)?])?),
        (
            "docs/src/peers/light.svg",
            picture::draw(&figures, Theme::Light)?,
        ),
        (
            "docs/src/peers/dark.svg",
            picture::draw(&figures, Theme::Dark)?,
        ),
    ])
}

/// The page with these tables in its gaps.
fn filled(path: &str, tables: &[String]) -> Result<String, String> {
    let page = load(path)?;
    let parts: Vec<&str> = page.split(BEGIN).collect();
    if parts.len() != tables.len() + 1 {
        return Err(format!("{path} needs {} times {BEGIN}", tables.len()));
    }
    let mut filled = parts[0].to_owned();
    for (part, table) in parts[1..].iter().zip(tables) {
        let (_, rest) = part
            .split_once(END)
            .ok_or_else(|| format!("{path} needs {END}"))?;
        filled.extend([BEGIN, table, END, rest]);
    }
    Ok(filled)
}

/// The short form.
fn readme(figures: &Figures<'_>) -> Result<String, String> {
    let versions = figures.find(&[("figure", "versions")])?;
    let runs = figures.outage("sigkill", DEFAULTS[0])?["runs"].to_string();
    let theirs = format!("redis-py {}", word(&versions["redis-py"]));
    let mut table = Table::new(&[
        &format!("median and worst of {runs}"),
        "multidb",
        "its `Fast`",
        &theirs,
        "tuned",
    ]);
    for (fault, what) in [
        ("sigkill", "killed: the first answer elsewhere after"),
        ("sigstop", "hung: the first answer elsewhere after"),
    ] {
        table.row(
            what,
            &ALL.map(|who| Ok(waited(figures.outage(fault, who)?))),
        )?;
    }
    table.row(
        "killed: a subscriber's first message from elsewhere after",
        &ALL.map(|who| Ok(waited(figures.heard(who)?))),
    )?;
    table.row(
        "a subscriber's lost messages, of 100 a second",
        &ALL.map(|who| Ok(lost(figures.heard(who)?))),
    )?;
    let [ours, theirs] = DEFAULTS;
    table.row(
        "false alarms: had left before there was a fault",
        &ALL.map(|who| {
            let seen = [
                figures.outage("sigkill", who)?,
                figures.outage("sigstop", who)?,
                figures.heard(who)?,
            ];
            Ok(format!(
                "{} of {}",
                sum(&seen, "early")?,
                sum(&seen, "runs")?
            ))
        }),
    )?;
    table.defaults(
        &format!("the reply to an INCR is lost, {REPLIES} times: run twice, failed"),
        &[ours, theirs].map(|who| {
            let seen = [
                figures.of("replies_lost", who)?,
                figures.of("replies_cut", who)?,
            ];
            let (twice, failed) = (sum(&seen, "executed_twice")?, sum(&seen, "failed_calls")?);
            Ok(format!("{twice}, {failed}"))
        }),
    )?;
    table.defaults(
        "20 planned switches under 16 callers of INCR: run twice, failed",
        &[ours, theirs].map(|who| {
            let seen = figures.of("planned_switches", who)?;
            Ok(format!(
                "{}, {}",
                seen["executed_twice"], seen["failed_calls"]
            ))
        }),
    )?;
    table.defaults(
        "GETs per second beside the bare client of the same language, 1 and 32 callers",
        &[ours, theirs].map(|who| {
            let ratios = CALLERS.map(|callers| figures.overhead(who, callers));
            let [one, many] = ratios;
            Ok(format!(
                "{}, {}",
                ratio(one?, "ratio")?,
                ratio(many?, "ratio")?
            ))
        }),
    )?;
    Ok(table.text())
}

/// How long it takes, for the book.
fn waits(figures: &Figures<'_>) -> Result<String, String> {
    let mut table = Table::new(&[
        "figure",
        "",
        "multidb",
        "`Sensitivity::Fast`",
        "redis-py",
        "tuned",
    ]);
    for fault in ["sigkill", "sigstop"] {
        let name = format!("`first_answer_ms`, {fault} | ");
        table.row(
            &format!("{name}first answer elsewhere: median, max"),
            &ALL.map(|who| Ok(waited(figures.outage(fault, who)?))),
        )?;
        table.row(
            &format!("{name}runs in which it had left before the fault"),
            &ALL.map(|who| early(figures.outage(fault, who)?)),
        )?;
        table.row(
            &format!("{name}failed calls in all runs; the longest call"),
            &ALL.map(|who| {
                let seen = figures.outage(fault, who)?;
                let longest = table::time(seen["longest_call_ms"].as_f64().unwrap_or(f64::NAN));
                Ok(format!("{}; {longest}", seen["failed_calls"]))
            }),
        )?;
    }
    let name = "`first_message_ms`, sigkill | ";
    table.row(
        &format!("{name}first message from elsewhere: median, max"),
        &ALL.map(|who| Ok(waited(figures.heard(who)?))),
    )?;
    table.row(
        &format!("{name}runs in which it had left before the fault"),
        &ALL.map(|who| early(figures.heard(who)?)),
    )?;
    table.row(
        &format!("{name}lost messages: median, max"),
        &ALL.map(|who| Ok(lost(figures.heard(who)?))),
    )?;
    Ok(table.text())
}

/// What was counted, for the book.
fn counts(figures: &Figures<'_>) -> Result<String, String> {
    let versions = figures.find(&[("figure", "versions")])?;
    let mut table = Table::new(&["figure", "", "multidb", "redis-py"]);
    for (name, what) in [
        (
            "replies_lost",
            "an INCR of each of 16 callers, all replies swallowed",
        ),
        (
            "replies_cut",
            "200 INCRs, every tenth reply cut off by a reset",
        ),
        (
            "planned_switches",
            "INCRs of 16 callers during 20 planned switches",
        ),
    ] {
        table.row(
            &format!("`{name}` | {what}: issued, acknowledged, failed, run twice"),
            &DEFAULTS.map(|who| {
                let seen = figures.of(name, who)?;
                let count = |of: &str| whole(seen, of).map(|count| count.to_string());
                Ok(format!(
                    "{}, {}, {}, **{}**",
                    count("issued")?,
                    count("acknowledged")?,
                    count("failed_calls")?,
                    count("executed_twice")?,
                ))
            }),
        )?;
    }
    for callers in CALLERS {
        table.row(
            &format!("`overhead` | GETs per second beside the bare client, by {callers} at a time (bare beside itself)"),
            &DEFAULTS.map(|who| {
                let seen = figures.overhead(who, callers)?;
                Ok(format!("{} ({})", ratio(seen, "ratio")?, ratio(seen, "noise")?))
            }),
        )?;
    }
    let used = [
        "redis-server",
        "redis-rs",
        "rustc",
        "redis-py",
        "pybreaker",
        "python",
    ];
    let used = used.map(|name| format!("{name} {}", word(&versions[name])));
    Ok(format!(
        "{}\n`versions`: {}; {} cores, a load of {} before it began.\n",
        table.text(),
        used.join(", "),
        versions["cores"],
        versions["load"],
    ))
}

/// Looked up by what they are of.
pub(crate) struct Figures<'a>(&'a [Value]);

impl Figures<'_> {
    pub(crate) fn outage(&self, fault: &str, who: Who) -> Result<&Value, String> {
        self.find(&[
            ("figure", "first_answer_ms"),
            ("fault", fault),
            ("client", who.client),
            ("tuning", who.tuning),
        ])
    }

    pub(crate) fn heard(&self, who: Who) -> Result<&Value, String> {
        self.of("first_message_ms", who)
    }

    fn of(&self, figure: &str, who: Who) -> Result<&Value, String> {
        self.find(&[
            ("figure", figure),
            ("client", who.client),
            ("tuning", who.tuning),
        ])
    }

    fn overhead(&self, who: Who, callers: usize) -> Result<&Value, String> {
        let all = self.0.iter().filter(|json| json["callers"] == callers);
        one(all, &[("figure", "overhead"), ("client", who.client)])
    }

    fn find(&self, what: &[(&str, &str)]) -> Result<&Value, String> {
        one(self.0.iter(), what)
    }
}

fn one<'a>(
    mut figures: impl Iterator<Item = &'a Value>,
    what: &[(&str, &str)],
) -> Result<&'a Value, String> {
    figures
        .find(|json| what.iter().all(|(key, value)| json[*key] == *value))
        .ok_or_else(|| format!("no figure of {what:?}"))
}

fn waited(seen: &Value) -> String {
    let [middle, most] =
        ["median", "max"].map(|name| table::time(seen[name].as_f64().unwrap_or(f64::NAN)));
    format!("{middle}, {most}")
}

fn early(seen: &Value) -> Result<String, String> {
    Ok(format!(
        "{} of {}",
        whole(seen, "early")?,
        whole(seen, "runs")?
    ))
}

fn lost(seen: &Value) -> String {
    format!(
        "{}, {}",
        plain(&seen["lost_median"]),
        plain(&seen["lost_max"])
    )
}

/// Without the `.0` of a whole number, or the half of a large one.
fn plain(number: &Value) -> String {
    match number.as_f64().unwrap_or(f64::NAN) {
        many if many > 100.0 => format!("{many:.0}"),
        few => few.to_string(),
    }
}

fn ratio(seen: &Value, name: &str) -> Result<String, String> {
    let ratio = seen[name].as_f64();
    ratio
        .map(|ratio| format!("{ratio:.2}"))
        .ok_or_else(|| format!("no {name} in {seen}"))
}

fn sum(seen: &[&Value], name: &str) -> Result<u64, String> {
    seen.iter().map(|seen| whole(seen, name)).sum()
}

fn whole(seen: &Value, name: &str) -> Result<u64, String> {
    seen[name]
        .as_u64()
        .ok_or_else(|| format!("no {name} in {seen}"))
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn load(path: &str) -> Result<String, String> {
    fs::read_to_string(of_the_repository(path)).map_err(|error| format!("{path}: {error}"))
}

fn save(path: &str, text: &str) -> Result<(), String> {
    let whole = of_the_repository(path);
    let folder = whole.parent().map_or(Ok(()), fs::create_dir_all);
    folder
        .and_then(|()| fs::write(&whole, text))
        .map_err(|error| format!("{path}: {error}"))
}

fn of_the_repository(path: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), path].iter().collect()
}
