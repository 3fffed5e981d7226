//! Sorted sets: what a range of ranks, scores or members selects.

use crate::testing::server::commands::keys::{is, range};
use crate::testing::server::commands::sorted_sets::all_scored;
use crate::testing::server::database::Database;
use crate::testing::server::resp::{Answer, Refusal, Reply, SYNTAX, integer_arg};
use crate::testing::server::sorted_set::SortedSet;

pub(super) fn zrange(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    list(database, args, None, None, out)
}

pub(super) fn zrevrange(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    list(database, args, Some(By::Rank), Some(true), out)
}

pub(super) fn zrangebyscore(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    list(database, args, Some(By::Score), Some(false), out)
}

pub(super) fn zrevrangebyscore(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    list(database, args, Some(By::Score), Some(true), out)
}

pub(super) fn zrangebylex(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    list(database, args, Some(By::Member), Some(false), out)
}

pub(super) fn zrevrangebylex(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    list(database, args, Some(By::Member), Some(true), out)
}

/// What the command's name leaves open, its options may choose.
fn list(
    database: &Database,
    args: &[&[u8]],
    by: Option<By>,
    reverse: Option<bool>,
    out: &mut Reply,
) -> Answer {
    let options = Options::parse(&args[4..], by, reverse)?;
    let by = options.by.unwrap_or(By::Rank);
    let reverse = options.reverse.unwrap_or(false);
    // Scores and members are given as they are listed: the highest first in a reverse range.
    let (min, max) = match by {
        By::Score | By::Member if reverse => (args[3], args[2]),
        _ => (args[2], args[3]),
    };
    let range = Selection::parse(by, min, max)?;
    let set = database.read::<SortedSet>(args[1])?;
    let mut selected = set.map_or_else(Vec::new, |set| range.of(set, reverse));
    if by != By::Rank {
        options.limit(&mut selected);
    }
    if options.with_scores {
        all_scored(selected.into_iter(), out);
    } else {
        out.bulks(selected.into_iter().map(|(member, _)| member));
    }
    Ok(())
}

#[derive(Debug)]
struct Options {
    by: Option<By>,
    reverse: Option<bool>,
    with_scores: bool,
    offset: i64,
    count: i64,
}

impl Options {
    fn parse(args: &[&[u8]], by: Option<By>, reverse: Option<bool>) -> Result<Self, Refusal> {
        let mut options = Self {
            by,
            reverse,
            with_scores: false,
            offset: 0,
            count: -1,
        };
        let mut rest = args;
        while let [option, after @ ..] = rest {
            rest = after;
            match (*option, after) {
                (name, _) if is(name, "withscores") => options.with_scores = true,
                (name, [offset, count, after @ ..]) if is(name, "limit") => {
                    options.offset = integer_arg(offset)?;
                    options.count = integer_arg(count)?;
                    rest = after;
                }
                (name, _) if options.reverse.is_none() && is(name, "rev") => {
                    options.reverse = Some(true);
                }
                (name, _) if options.by.is_none() && is(name, "bylex") => {
                    options.by = Some(By::Member);
                }
                (name, _) if options.by.is_none() && is(name, "byscore") => {
                    options.by = Some(By::Score);
                }
                _ => return Err(SYNTAX),
            }
        }
        let by_rank = matches!(options.by, None | Some(By::Rank));
        if options.count != -1 && by_rank {
            return Err(Refusal::new(
                "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or \
                 BYLEX",
            ));
        }
        if options.with_scores && options.by == Some(By::Member) {
            return Err(Refusal::new(
                "ERR syntax error, WITHSCORES not supported in combination with BYLEX",
            ));
        }
        Ok(options)
    }

    /// A negative offset is beyond the end, a negative count no limit.
    fn limit<T>(&self, selected: &mut Vec<T>) {
        let offset = usize::try_from(self.offset).unwrap_or(usize::MAX);
        selected.drain(..offset.min(selected.len()));
        if let Ok(count) = usize::try_from(self.count) {
            selected.truncate(count);
        }
    }
}

pub(super) fn zcount(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    count(database, args, By::Score, out)
}

pub(super) fn zlexcount(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    count(database, args, By::Member, out)
}

fn count(database: &Database, args: &[&[u8]], by: By, out: &mut Reply) -> Answer {
    let range = Selection::parse(by, args[2], args[3])?;
    let set = database.read::<SortedSet>(args[1])?;
    out.size(set.map_or(0, |set| range.of(set, false).len()));
    Ok(())
}

pub(super) fn zremrangebyrank(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    remove(database, args, By::Rank, out)
}

pub(super) fn zremrangebyscore(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    remove(database, args, By::Score, out)
}

pub(super) fn zremrangebylex(database: &mut Database, args: &[&[u8]], out: &mut Reply) -> Answer {
    remove(database, args, By::Member, out)
}

fn remove(database: &mut Database, args: &[&[u8]], by: By, out: &mut Reply) -> Answer {
    let range = Selection::parse(by, args[2], args[3])?;
    let Some(set) = database.write::<SortedSet>(args[1])? else {
        out.size(0);
        return Ok(());
    };
    let selected = range.of(set, false);
    let going: Vec<_> = selected.iter().map(|(member, _)| member.to_vec()).collect();
    for member in &going {
        set.remove(member);
    }
    if !going.is_empty() {
        database.changed(args[1]);
    }
    out.size(going.len());
    Ok(())
}

/// What a range is a range of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Member,
}

#[derive(Debug)]
enum Selection<'a> {
    Ranks(i64, i64),
    Scores(ScoreEnd, ScoreEnd),
    Members(MemberEnd<'a>, MemberEnd<'a>),
}

impl<'a> Selection<'a> {
    fn parse(by: By, min: &'a [u8], max: &'a [u8]) -> Result<Self, Refusal> {
        match by {
            By::Rank => Ok(Self::Ranks(integer_arg(min)?, integer_arg(max)?)),
            By::Score => ScoreEnd::parse(min)
                .zip(ScoreEnd::parse(max))
                .map(|(min, max)| Self::Scores(min, max))
                .ok_or(Refusal::new("ERR min or max is not a float")),
            By::Member => MemberEnd::parse(min)
                .zip(MemberEnd::parse(max))
                .map(|(min, max)| Self::Members(min, max))
                .ok_or(Refusal::new("ERR min or max not valid string range item")),
        }
    }

    /// The selected members in order. In a reverse range, ranks count from the highest.
    fn of<'s>(&self, set: &'s SortedSet, reverse: bool) -> Vec<(&'s [u8], f64)> {
        let mut all: Vec<_> = set.iter().collect();
        if reverse {
            all.reverse();
        }
        match self {
            Self::Ranks(start, stop) => all[range(*start, *stop, set.len())].to_vec(),
            Self::Scores(min, max) => {
                all.retain(|(_, score)| min.is_below(*score) && max.is_above(*score));
                all
            }
            Self::Members(min, max) => {
                all.retain(|(member, _)| min.is_below(member) && max.is_above(member));
                all
            }
        }
    }
}

#[derive(Debug)]
struct ScoreEnd {
    score: f64,
    excluded: bool,
}

impl ScoreEnd {
    fn parse(text: &[u8]) -> Option<Self> {
        let (excluded, text) = match text {
            [b'(', text @ ..] => (true, text),
            _ => (false, text),
        };
        let text = std::str::from_utf8(text).ok()?;
        // As C's `strtod` has it, nothing at all is 0 and spaces may come first.
        let score = match text {
            "" => 0.0,
            _ => text.trim_ascii_start().parse::<f64>().ok()?,
        };
        (!score.is_nan()).then_some(Self { score, excluded })
    }

    fn is_below(&self, score: f64) -> bool {
        self.score < score || !self.excluded && self.score <= score
    }

    fn is_above(&self, score: f64) -> bool {
        self.score > score || !self.excluded && self.score >= score
    }
}

#[derive(Debug)]
enum MemberEnd<'a> {
    Lowest,
    Highest,
    Including(&'a [u8]),
    Excluding(&'a [u8]),
}

impl<'a> MemberEnd<'a> {
    fn parse(text: &'a [u8]) -> Option<Self> {
        match text {
            b"-" => Some(Self::Lowest),
            b"+" => Some(Self::Highest),
            [b'[', member @ ..] => Some(Self::Including(member)),
            [b'(', member @ ..] => Some(Self::Excluding(member)),
            _ => None,
        }
    }

    fn is_below(&self, member: &[u8]) -> bool {
        match *self {
            Self::Lowest => true,
            Self::Highest => false,
            Self::Including(end) => end <= member,
            Self::Excluding(end) => end < member,
        }
    }

    fn is_above(&self, member: &[u8]) -> bool {
        match *self {
            Self::Lowest => false,
            Self::Highest => true,
            Self::Including(end) => end >= member,
            Self::Excluding(end) => end > member,
        }
    }
}
