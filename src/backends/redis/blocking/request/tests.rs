use ::redis::{Arg, pipe};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

type Words = Vec<Vec<u8>>;

proptest! {
    #[test]
    fn commands_are_read_back_as_they_were_packed(commands in vec(words(), 0..8), atomic: bool) {
        let packed = pack(&commands, atomic).get_packed_pipeline();
        let read = read_batch(&packed).unwrap();
        prop_assert_eq!(read.is_transaction(), atomic);
        prop_assert_eq!(read.cmd_iter().map(words_of).collect::<Vec<_>>(), commands);
        prop_assert_eq!(read.get_packed_pipeline(), packed);
    }

    #[test]
    fn one_command_is_read_back_as_it_was_packed(command in words()) {
        let packed = pack(std::slice::from_ref(&command), false).get_packed_pipeline();
        prop_assert_eq!(words_of(&read_one(&packed).unwrap()), command);
    }

    #[test]
    fn a_cursor_is_read_back_as_a_word(cursor: u64) {
        let mut scan = Cmd::new();
        scan.arg("SSCAN").arg("key").cursor_arg(cursor);
        let read = read_one(&scan.get_packed_command()).unwrap();
        prop_assert_eq!(words_of(&read)[2].clone(), cursor.to_string().into_bytes());
    }

    /// Not even when all that is missing is the last byte.
    #[test]
    fn what_is_cut_off_is_refused(command in words(), cut: prop::sample::Index) {
        let packed = pack(&[command], false).get_packed_pipeline();
        let cut = &packed[..cut.index(packed.len())];
        prop_assert!(read_one(cut).is_err());
        prop_assert!(cut.is_empty() || read_batch(cut).is_err());
    }

    #[test]
    fn bytes_changed_anywhere_do_no_harm(
        commands in vec(words(), 1..4),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut packed = pack(&commands, false).get_packed_pipeline();
        for (at, byte) in changes {
            let at = at.index(packed.len());
            packed[at] = byte;
        }
        // What is still in order means what it says.
        if let Ok(read) = read_batch(&packed) {
            prop_assert!(read.cmd_iter().all(|cmd| cmd.args_iter().len() > 0));
        }
        let _ = read_one(&packed);
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in vec(prop::sample::select(b"*$\r\n0123456789-+ X".to_vec()), 0..64)) {
        let _ = (read_one(&bytes), read_batch(&bytes));
    }
}

#[test]
fn numbers_that_lie_are_refused() {
    let huge = "18446744073709551615";
    let too_huge = "18446744073709551616";
    for bytes in [
        "PING\r\n".to_owned(),
        "*0\r\n".to_owned(),
        "*-1\r\n".to_owned(),
        "*+1\r\n$4\r\nPING\r\n".to_owned(),
        "*\r\n".to_owned(),
        "*1\n$4\nPING\n".to_owned(),
        "*1\r\n:4\r\n".to_owned(),
        "*1\r\n$-1\r\n".to_owned(),
        "*2\r\n$4\r\nPING\r\n".to_owned(),
        "*1\r\n$3\r\nPING\r\n".to_owned(),
        "*1\r\n$5\r\nPING\r\n".to_owned(),
        format!("*{huge}\r\n$4\r\nPING\r\n"),
        format!("*{too_huge}\r\n$4\r\nPING\r\n"),
        format!("*1\r\n${huge}\r\nPING\r\n"),
    ] {
        let error = read_batch(bytes.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Client, "{bytes:?}");
        read_one(bytes.as_bytes()).unwrap_err();
    }
}

#[test]
fn a_request_for_one_command_holds_one() {
    let ping = "*1\r\n$4\r\nPING\r\n";
    assert_eq!(words_of(&read_one(ping.as_bytes()).unwrap()), [b"PING"]);
    read_one(ping.repeat(2).as_bytes()).unwrap_err();
    read_one(b"").unwrap_err();
}

#[test]
fn only_multi_and_exec_around_all_make_a_transaction() {
    let atomic = |words: &[&str]| {
        let mut pipeline = pipe();
        for word in words {
            pipeline.cmd(word);
        }
        let read = read_batch(&pipeline.get_packed_pipeline()).unwrap();
        (read.is_transaction(), read.len())
    };
    assert_eq!(atomic(&["MULTI", "PING", "EXEC"]), (true, 1));
    assert_eq!(atomic(&["multi", "exec"]), (true, 0));
    assert_eq!(atomic(&["MULTI", "PING"]), (false, 2));
    assert_eq!(atomic(&["PING", "EXEC"]), (false, 2));
    assert_eq!(atomic(&["EXEC"]), (false, 1));
    assert_eq!(atomic(&["MULTI", "EXEC", "PING"]), (false, 3));
}

fn words() -> impl Strategy<Value = Words> {
    let word = prop_oneof![
        vec(any::<u8>(), 0..16),
        vec(prop::sample::select(b"\r\n$*0123".to_vec()), 0..16),
    ];
    // A name of its own, so that none is taken for MULTI or EXEC.
    ("[a-z]{6,12}", vec(word, 0..6))
        .prop_map(|(name, words)| std::iter::once(name.into_bytes()).chain(words).collect())
}

fn pack(commands: &[Words], atomic: bool) -> Pipeline {
    let mut pipeline = pipe();
    if atomic {
        pipeline.atomic();
    }
    for words in commands {
        let mut cmd = Cmd::new();
        for word in words {
            cmd.arg(word);
        }
        pipeline.add_command(cmd);
    }
    pipeline
}

fn words_of(cmd: &Cmd) -> Words {
    cmd.args_iter()
        .map(|arg| match arg {
            Arg::Simple(word) => word.to_vec(),
            other => panic!("{other:?}"),
        })
        .collect()
}
