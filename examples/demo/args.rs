//! The command line.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// How to perform.
#[derive(Clone, Debug)]
pub(crate) struct Args {
    pub(crate) redis: bool,
    pub(crate) json: bool,
    /// Lines instead of the live view.
    pub(crate) plain: bool,
    pub(crate) plot: Option<PathBuf>,
    pub(crate) seconds: u64,
    pub(crate) tasks: u64,
    pub(crate) seed: u64,
}

pub(crate) enum Wish {
    Run(Args),
    Help,
}

/// Reads the arguments; an error says which one is wrong and why.
pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Result<Wish, String> {
    let mut wanted = Args {
        redis: false,
        json: false,
        plain: false,
        plot: None,
        seconds: 30,
        tasks: 64,
        seed: 1,
    };
    let mut args = args.map(|arg| arg.to_string_lossy().into_owned());
    while let Some(arg) = args.next() {
        let (name, attached) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        if name == "--plot" {
            let file = attached.or_else(|| args.next());
            wanted.plot = Some(file.ok_or("--plot needs a file")?.into());
            continue;
        }
        let mut number = |allowed: RangeInclusive<u64>| {
            let value = attached.clone().or_else(|| args.next());
            let value = value.ok_or_else(|| format!("{name} needs a number"))?;
            let (min, max) = (allowed.start(), allowed.end());
            match value.parse() {
                Ok(number) if allowed.contains(&number) => Ok(number),
                Ok(_) if name == "--seconds" => Err(format!(
                    "--seconds {value} is not possible: every fault takes its time, so {min} is \
                     the least, and {max} the most"
                )),
                Ok(_) => Err(format!("{name} {value} is not between {min} and {max}")),
                Err(_) => Err(format!("{name} needs a whole number, not {value:?}")),
            }
        };
        match name {
            "--seconds" => wanted.seconds = number(5..=300)?,
            "--tasks" => wanted.tasks = number(1..=10_000)?,
            "--seed" => wanted.seed = number(0..=u64::MAX)?,
            _ if attached.is_some() => return Err(format!("unknown argument {arg:?}")),
            "--redis" => wanted.redis = true,
            "--json" => wanted.json = true,
            "--plain" => wanted.plain = true,
            "--help" | "-h" => return Ok(Wish::Help),
            _ => return Err(format!("unknown argument {arg:?}")),
        }
    }
    Ok(Wish::Run(wanted))
}

pub(crate) const HELP: &str = "\
Many tasks write through one client while the database it serves from is killed, hung, cut off and
more, again and again. In the end both databases are read back and compared with what the writers
were told. On a terminal it is shown live, and any key of those at the bottom takes the script over.

Usage: cargo run --release --example demo -- [OPTION]...

  --redis      use two real redis-servers (from PATH, appendfsync always) instead of the ones built
               into this program, each behind a proxy that can swallow its traffic
  --seconds N  how long the whole run is planned to take, 5 to 300; default 30. A machine too slow
               for it takes longer rather than skip a fault; a fault that the client does not
               survive within 5 s ends the run
  --tasks N    how many tasks write at the same time, 1 to 10000; default 64
  --seed N     seeds the writers' pauses and the client's jitter; default 1
  --plot FILE  draw what happened as a picture (SVG)
  --plain      lines as it happens, on a terminal too
  --json       print nothing but one JSON object, at the end
  --help       this text

What is measured
  write          an RPUSH of a token that exists only once, or an INCR of a counter
  first success  from just before the fault was made to the completion of the first RPUSH whose
                 token is on the other database in the end; calls that were still under way there
                 from an earlier switch do not count
  failed calls   calls that returned an error between this fault and the next one
  lost           acknowledged, and on neither database in the end (or missing in the counters)
  applied twice  found twice, on one database or on both (or too much in the counters)
  unknown        cut off under way: the client says that it may have run, and does not repeat it

Ends with 0 if nothing was lost or applied twice, nothing was found that was reported as not run,
and every fault was followed by a success on the other database; otherwise with 1. Wrong arguments
end with 2, an interrupt with 130.
";
