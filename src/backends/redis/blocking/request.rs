//! Commands out of the bytes that redis-rs's synchronous trait passes.

use ::redis::{Arg, Cmd, ErrorKind, Pipeline, RedisError, RedisResult, pipe};

/// One command, as `Cmd::get_packed_command` writes it.
pub(super) fn command(bytes: &[u8]) -> RedisResult<Cmd> {
    let mut commands = commands(bytes)?.into_iter();
    match (commands.next(), commands.next()) {
        (Some(command), None) => Ok(command),
        _ => Err(malformed()),
    }
}

/// A pipeline, as `Pipeline::get_packed_pipeline` writes it: with MULTI and EXEC around it, if it is a
/// transaction.
pub(super) fn pipeline(bytes: &[u8]) -> RedisResult<Pipeline> {
    let mut commands = commands(bytes)?;
    let mut pipeline = pipe();
    let is = |command: Option<&Cmd>, name: &[u8]| {
        let words: Vec<_> = command.into_iter().flat_map(Cmd::args_iter).collect();
        matches!(words.as_slice(), [Arg::Simple(word)] if *word == name)
    };
    if is(commands.first(), b"MULTI") && is(commands.last(), b"EXEC") && commands.len() > 1 {
        commands.remove(0);
        commands.pop();
        pipeline.atomic();
    }
    for command in commands {
        pipeline.add_command(command);
    }
    Ok(pipeline)
}

fn commands(mut rest: &[u8]) -> RedisResult<Vec<Cmd>> {
    let mut commands = Vec::new();
    while !rest.is_empty() {
        let words = number(&mut rest, b'*').ok_or_else(malformed)?;
        let mut command = Cmd::new();
        for _ in 0..words {
            command.arg(word(&mut rest).ok_or_else(malformed)?);
        }
        commands.push(command);
    }
    Ok(commands)
}

/// `$3\r\nGET\r\n`
fn word<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = number(rest, b'$')?;
    let (word, after) = rest.split_at_checked(length)?;
    *rest = after.strip_prefix(b"\r\n")?;
    Some(word)
}

/// `*2\r\n`
fn number(rest: &mut &[u8], kind: u8) -> Option<usize> {
    let line = rest.strip_prefix(&[kind])?;
    let end = line.windows(2).position(|pair| pair == b"\r\n")?;
    let digits = std::str::from_utf8(&line[..end]).ok()?;
    *rest = &line[end + 2..];
    digits.parse().ok()
}

fn malformed() -> RedisError {
    (ErrorKind::Client, "these bytes are not commands").into()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn words(command: &Cmd) -> Vec<Vec<u8>> {
        let words = command.args_iter().map(|arg| match arg {
            Arg::Simple(word) => word.to_vec(),
            other => panic!("{other:?}"),
        });
        words.collect()
    }

    proptest! {
        #[test]
        fn what_the_driver_packs_is_read_back(
            commands in vec(vec(vec(any::<u8>(), 0..12), 1..5), 0..6),
            atomic: bool,
        ) {
            let mut packed = pipe();
            if atomic {
                packed.atomic();
            }
            for command in &commands {
                let mut cmd = Cmd::new();
                for word in command {
                    cmd.arg(word.as_slice());
                }
                prop_assert_eq!(&words(&super::command(&cmd.get_packed_command()).unwrap()), command);
                packed.add_command(cmd);
            }
            let read = pipeline(&packed.get_packed_pipeline()).unwrap();
            prop_assert_eq!(read.is_transaction(), atomic);
            let read: Vec<_> = read.cmd_iter().map(words).collect();
            prop_assert_eq!(read, commands);
        }

        #[test]
        fn other_bytes_are_an_error(bytes in vec(any::<u8>(), 1..40), cut in 1..20usize) {
            let _ = pipeline(&bytes);
            let whole = ::redis::cmd("SET").arg("key").arg("value").get_packed_command();
            prop_assert!(super::command(&whole[..whole.len() - cut]).is_err());
            prop_assert!(super::command(&[&whole[..], &whole[..]].concat()).is_err());
        }
    }
}
